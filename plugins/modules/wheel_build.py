#!/usr/bin/python
# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Module: one wheel of a compiled extension, from a cache or built."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: wheel_build
short_description: Have the wheel of a CUDA or C++ extension, from a cache or built once
description:
  - Computes the key of a wheel from everything that decides its content, package, version, source hash, Python, Torch
    with its CUDA and C++ ABI,
    compiler, GPU architectures, flags, operating system and C library, and has a wheel of that key on the host.
  - It is looked up on the host, then in the controller's cache, then at O(cache_url). Where none is found, one host
    for each key compiles, the
    others wait for its wheel. The wheel then lies in all these caches. Its sha256 is checked at every hop.
  - A build goes on in its folder where an earlier one was interrupted. It runs in a process of its own, so a lost
    connection does not end it.
    When the kernel kills a compiler for memory, the build goes on with half the jobs.
  - Nothing is installed. Install RV(requirement) with the folder of RV(wheel) as a place of wheels.
author: the verl.baremetal authors (@verl-baremetal)
version_added: 0.1.0
options:
  name:
    description: Name of the distribution.
    type: str
    required: true
  version:
    description: Its version.
    type: str
    required: true
  source:
    description: Where the source is taken from.
    type: dict
    required: true
    suboptions:
      kind:
        description: A source distribution checked by its sha256, or a git commit.
        type: str
        choices: [sdist, git]
        required: true
      url:
        description:
          - URL, or path on the host. For an sdist it may be left out, the client's package index and O(find_links)
            then have it.
        type: str
        default: ''
      hashes:
        description: Accepted sha256 sums of the sdist, in hexadecimal, with or without V(sha256:) before them.
        type: list
        elements: str
        default: []
      commit:
        description: The whole commit id, 40 digits. A branch or a tag is refused.
        type: str
        default: ''
  python:
    description:
      - Interpreter of the virtual environment that the wheel is for. Torch and the build's own tools (setuptools,
        wheel, ninja) are taken from it.
    type: path
    required: true
  cuda_home:
    description: Folder of the CUDA toolkit to compile with. Empty for extensions without CUDA.
    type: str
    default: ''
  cudnn_home:
    description: Folder with include/cudnn.h. Empty takes the wheel of cuDNN beside Torch, then O(cuda_home).
    type: str
    default: ''
  architectures:
    description: GPU architectures, as V(9.0), V(90) or V(sm_90).
    type: list
    elements: str
    default: []
  device_code:
    description:
      - Whether the extension holds code for GPUs. Without it the headers in O(cuda_home) suffice, and architectures
        do not belong to the key.
    type: bool
    default: true
  env:
    description: Further variables of the build's environment, which is otherwise empty.
    type: dict
    default: {}
  options:
    description:
      - Options of the package's build. V({jobs}) and V({parallel}) in them are replaced.
    type: list
    elements: str
    default: []
  parallel:
    description: How many extensions of the package are built side by side; they share the jobs.
    type: int
    default: 1
  units:
    description:
      - Translation units that the package is known to have, for the progress before the build tells. 0 when
        unknown.
    type: int
    default: 0
  gb_per_job:
    description: Memory that one compile job may need, in GB.
    type: float
    default: 3
  reserve_gb:
    description: Memory that the build leaves free, in GB.
    type: float
    default: 2
  jobs:
    description: Most compile jobs at a time. 0 takes what cores and memory allow.
    type: int
    default: 0
  compiler:
    description: Host C++ compiler, name or path. Empty takes g++.
    type: str
    default: ''
  build:
    description: Whether a missing wheel may be built on this host.
    type: bool
    default: true
  background:
    description:
      - Start what has to be built and return without waiting. A later task with the same options and without this one
        collects the wheel.
    type: bool
    default: false
  keep:
    description: Whether the source and the objects stay in the build folder after success.
    type: bool
    default: false
  build_root:
    description: Folder of the build folders.
    type: path
    required: true
  cache:
    description: The host's cache of wheels.
    type: path
    required: true
  cache_controller:
    description: The controller's cache of wheels. Empty does without it, then every host builds for itself what O(cache_url) does not have.
    type: str
    default: ~/.cache/verl-baremetal/wheels
  cache_url:
    description: A further cache, URL or shared folder as the controller sees it, only read.
    type: str
    default: ''
  uv:
    description: The uv that knows the package index.
    type: str
    default: uv
  index_url:
    description: The package index. Empty takes the client's configuration.
    type: str
    default: ''
  extra_index_urls:
    description: Further package indexes.
    type: list
    elements: str
    default: []
  find_links:
    description: Folders on the host, or URLs, in which the sdist may lie.
    type: list
    elements: str
    default: []
  ca_file:
    description: File with the certificate authorities.
    type: str
    default: ''
  proxy:
    description: Proxy for downloads.
    type: str
    default: ''
  offline:
    description: Never ask a network for the source.
    type: bool
    default: false
  step:
    description: Set by the action plugin, which runs this module several times.
    type: str
    choices: [inspect, start, wait, take]
    default: inspect
  seconds:
    description: Set by the action plugin.
    type: float
    default: 0
  key:
    description: Set by the action plugin.
    type: str
    default: ''
  incoming:
    description: Set by the action plugin.
    type: path
  entry:
    description: Set by the action plugin.
    type: dict
attributes:
  check_mode:
    description: Tells whether a wheel would be built or fetched.
    support: full
  diff_mode:
    description: There is no difference to show.
    support: none
  idempotent:
    description: A wheel that is in the host's cache is only checked.
    support: full
"""

EXAMPLES = r"""
- name: Have FlashAttention for Hopper GPUs
  verl.baremetal.wheel_build:
    name: flash-attn
    version: 2.8.0.post2
    source:
      kind: sdist
      hashes: [b51d7015eb78f7ab2c332ec7c36681d7e97834f010b52eb4db1f118351982f58]
    python: /opt/verl/releases/example/venv/bin/python
    cuda_home: /usr/local/cuda-12.8
    architectures: ["9.0"]
    env: {FLASH_ATTENTION_FORCE_BUILD: "TRUE"}
    units: 73
    gb_per_job: 6
    build_root: /opt/verl/build
    cache: /opt/verl/wheels
  register: __wheel

- name: Have Apex of one commit
  verl.baremetal.wheel_build:
    name: apex
    version: "0.1"
    source:
      kind: git
      url: https://github.com/NVIDIA/apex
      commit: d8200a1bec8d29fe3f44d96b0a9e7b7fba850c77
    python: /opt/verl/releases/example/venv/bin/python
    cuda_home: /usr/local/cuda-12.8
    architectures: ["8.0", "9.0"]
    options: [--cpp_ext, --cuda_ext]
    build_root: /opt/verl/build
    cache: /opt/verl/wheels
"""

RETURN = r"""
key:
  description: The short key, which is also in the wheel's file name.
  returned: always
  type: str
  sample: 1a2b3c4d5e6f
wheel:
  description:
    - The wheel on the host. Empty while a build goes on in the background, and in check mode where there is none
      yet.
  returned: always
  type: str
  sample: /opt/verl/wheels/flash_attn-2.8.0.post2-0k1a2b3c4d5e6f-cp312-cp312-linux_x86_64.whl
requirement:
  description: The line that installs exactly this wheel.
  returned: when there is a wheel
  type: str
  sample: flash-attn==2.8.0.post2 --hash=sha256:4f0c5f3e...
origin:
  description:
    - Where the wheel was found, V(host), V(controller), V(url) or V(built); V(building) while a build goes on in
      the background.
  returned: always
  type: str
  sample: controller
entry:
  description:
    - What lies beside the wheel. The key's parts, sha256, size, architectures, and how it was built (time,
      memory, units, log).
  returned: when there is a wheel
  type: dict
  sample: {"key": "1a2b3c4d5e6f", "architectures": {"sass": ["90"], "ptx": []}}
refusal:
  description: Why the wheel cannot be built on this host. Empty where it can.
  returned: always
  type: str
  sample: there is no C++ compiler (g++); install g++
damaged:
  description: Wheels that were found but are not what their entry says.
  returned: always
  type: list
  elements: str
  sample: []
"""

import os
from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.verl.baremetal.plugins.module_utils.wheels import (
    builder,
    cache,
    key,
    source,
    toolchain,
    worker,
)


def request_of(params: Dict[str, Any]) -> builder.Request:
    """The module's options as the builder takes them."""
    return builder.Request(
        name=params["name"],
        version=params["version"],
        kind=params["source"]["kind"],
        url=params["source"]["url"],
        hashes=params["source"]["hashes"],
        commit=params["source"]["commit"],
        python=params["python"],
        cuda_home=os.path.expanduser(params["cuda_home"]),
        cudnn_home=os.path.expanduser(params["cudnn_home"]),
        archs=params["architectures"],
        device_code=params["device_code"],
        env={str(name): str(value) for name, value in params["env"].items()},
        options=params["options"],
        parallel=params["parallel"],
        units=params["units"],
        gb_per_job=params["gb_per_job"],
        reserve_gb=params["reserve_gb"],
        jobs=params["jobs"],
        compiler=params["compiler"],
        keep=params["keep"],
        client=source.Client(
            uv=os.path.expanduser(params["uv"]),
            index_url=params["index_url"],
            extra_index_urls=params["extra_index_urls"],
            find_links=params["find_links"],
            ca_file=params["ca_file"],
            proxy=params["proxy"],
            offline=params["offline"],
        ),
    )


def inspect(params: Dict[str, Any]) -> Dict[str, Any]:
    """The key on this host, and the wheel in its own cache."""
    context = builder.examine(request_of(params))
    found, damaged = cache.lookup(params["cache"], context.parts)
    return {
        "key": key.digest(context.parts),
        "parts": context.parts,
        "refusal": context.refusal or "",
        "wheel": found.path if found else "",
        "entry": found.entry if found else None,
        "damaged": damaged,
    }


def folder_of(params: Dict[str, Any], short: str) -> str:
    """The build folder of a key."""
    return os.path.join(params["build_root"], key.normalise(params["name"]) + "-" + short)


def start(params: Dict[str, Any]) -> Dict[str, Any]:
    """Start the build unless it is running."""
    request = request_of(params)
    context = builder.examine(request)
    folder = folder_of(params, key.digest(context.parts))
    os.makedirs(params["cache"], exist_ok=True)
    return {"started": worker.start(request, context, folder, params["cache"]), "folder": folder}


def wait(params: Dict[str, Any]) -> Dict[str, Any]:
    """Wait a little for the end of the build."""
    folder = folder_of(params, params["key"])
    answer = worker.wait(folder, params["seconds"])
    answer.update(text=worker.describe(answer["status"]), folder=folder)
    return answer


def take(params: Dict[str, Any]) -> Dict[str, Any]:
    """Take a wheel that was copied here into the host's cache."""
    found = cache.store(params["cache"], params["incoming"], params["entry"], move=True)
    return {"wheel": found.path, "entry": found.entry, "changed": True}


def main() -> None:
    """Entry point."""
    text = {"type": "str", "default": ""}
    texts = {"type": "list", "elements": "str", "default": []}
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "version": {"type": "str", "required": True},
            "source": {
                "type": "dict",
                "required": True,
                "options": {
                    "kind": {"type": "str", "choices": ["sdist", "git"], "required": True},
                    "url": text,
                    "hashes": texts,
                    "commit": text,
                },
            },
            "python": {"type": "path", "required": True},
            "cuda_home": text,
            "cudnn_home": text,
            "architectures": texts,
            "device_code": {"type": "bool", "default": True},
            "env": {"type": "dict", "default": {}},
            "options": texts,
            "parallel": {"type": "int", "default": 1},
            "units": {"type": "int", "default": 0},
            "gb_per_job": {"type": "float", "default": 3},
            "reserve_gb": {"type": "float", "default": 2},
            "jobs": {"type": "int", "default": 0},
            "compiler": text,
            "build": {"type": "bool", "default": True},
            "background": {"type": "bool", "default": False},
            "keep": {"type": "bool", "default": False},
            "build_root": {"type": "path", "required": True},
            "cache": {"type": "path", "required": True},
            "cache_controller": {"type": "str", "default": "~/.cache/verl-baremetal/wheels"},
            "cache_url": text,
            "uv": {"type": "str", "default": "uv"},
            "index_url": text,
            "extra_index_urls": texts,
            "find_links": texts,
            "ca_file": text,
            "proxy": text,
            "offline": {"type": "bool", "default": False},
            "step": {"type": "str", "choices": ["inspect", "start", "wait", "take"], "default": "inspect"},
            "seconds": {"type": "float", "default": 0},
            "key": {"type": "str", "default": "", "no_log": False},
            "incoming": {"type": "path"},
            "entry": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    steps = {"inspect": inspect, "start": start, "wait": wait, "take": take}
    if module.check_mode and module.params["step"] != "inspect":
        module.exit_json(changed=True)
    try:
        answer = steps[module.params["step"]](module.params)
    except toolchain.ToolchainError as error:
        if module.check_mode:
            # What the wheel would be compiled with is not installed yet: then it would be built or fetched.
            module.exit_json(changed=True, key="", parts={}, refusal=str(error), wheel="", entry=None, damaged=[])
        module.fail_json(msg=str(error))
    except (
        builder.BuildError,
        source.SourceError,
        cache.CacheError,
        key.ArchitectureError,
        OSError,
    ) as error:
        module.fail_json(msg=str(error))
    answer.setdefault("changed", False)
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
