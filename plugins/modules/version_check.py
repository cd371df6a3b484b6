#!/usr/bin/python
# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Compares a host with its stack."""

from __future__ import annotations

DOCUMENTATION = r"""
module: version_check
short_description: Compare a host with the versions and rules of its stack
description:
  - Compares every component with its pin and applies the rules between components, from package metadata, headers,
    ELF files, C(/proc), C(/sys) and NVIDIA's management library (NVML). None of the packages is imported.
  - The rules are about the driver (new enough for CUDA; loaded module, module on disk, user space and packages of one
    version), CUDA and cuDNN (one copy in use), Torch's build and C++ ABI, drift from the lock, denied packages,
    unmet requirements, known bad combinations, kernels for the GPUs in compiled extensions, the fabric manager,
    held packages, DKMS, Secure Boot and a pending reboot.
  - Fails where a check has the status V(mismatch), V(missing), V(denied) or V(conflict), unless O(policy=warn).
    A check whose facts do not exist, such as those of a GPU on a host without one, is V(skipped) with the reason.
  - Scripts on a machine that has the collection get the same checks of a release without Ansible, in half the time.
    C(python3 -m ansible_collections.verl.baremetal.plugins.module_utils.checks RELEASE) prints the report and ends with
    0 where every check passed, 1 where one failed, 2 where there is nothing to check.
author:
  - the verl.baremetal authors (@verl-baremetal)
version_added: 0.1.0
options:
  release:
    description:
      - Folder of a release, for example C(/opt/verl/current). Its own manifest holds the pins, so that an old release
        is compared with what it was built from.
      - Without it and O(stack), the live release below O(root).
    type: path
  root:
    description:
      - Folder of the installation, in which C(current) is the live release.
      - By default C(/opt/verl) for root and C(~/verl) for anyone else.
    type: path
  stack:
    description:
      - The definition of a stack, as the lookup P(verl.baremetal.stack#lookup) returns it, to compare an environment
        that is no release with.
    type: dict
  python:
    description:
      - Folder of a Python environment, or the path of its interpreter. Needed with O(stack), where it may be left out
        to check the host alone.
      - Taken instead of the environment of O(release).
    type: path
  cuda_home:
    description:
      - Folder of the CUDA toolkit that is in use. By default that of O(release), else the first in C(/usr/local).
    type: path
  variants:
    description:
      - The variant of each layer that was chosen, for example V(pypi) under the key C(torch).
      - By default those in the manifest.
    type: dict
  skipped:
    description:
      - Components that were left out on purpose, and why, by component.
      - By default those in the manifest.
    type: dict
  integrity:
    description:
      - Compare the files of the Python packages with what the installer recorded.
    type: str
    choices:
      "off": Do not look at the files.
      files: Every file exists and has its size.
      hashes: Their SHA-256 hashes too; this reads the whole environment.
    default: "off"
  policy:
    description: What a failed check does.
    type: str
    choices:
      fail: The task fails, and its message names each failed check and what to do.
      warn: The task gives a warning with that message.
    default: fail
  nvml:
    description: Ask NVML for the GPUs' details.
    type: bool
    default: true
attributes:
  check_mode:
    description: Can run in check_mode and return changed status prediction without modifying target.
    support: full
  diff_mode:
    description: Will return details on what has changed (or possibly needs changing in check_mode), when in diff mode.
    support: none
seealso:
  - module: verl.baremetal.stack_info
  - module: verl.baremetal.gpu_info
"""

EXAMPLES = r"""
- name: Check the live release
  verl.baremetal.version_check:
    release: /opt/verl/current

- name: Check every file of the live release, and go on whatever is found
  verl.baremetal.version_check:
    release: /opt/verl/current
    integrity: hashes
    policy: warn
  register: check

- name: Show the table
  ansible.builtin.debug:
    msg: "{{ check.table.splitlines() }}"

- name: Compare an environment of your own with the stack
  verl.baremetal.version_check:
    stack: "{{ lookup('verl.baremetal.stack', 'verl0.5-preview-cu128') }}"
    python: /home/me/venv
    cuda_home: /usr/local/cuda-12.8
"""

RETURN = r"""
checks:
  description: Every check with its verdict.
  returned: always
  type: list
  elements: dict
  sample:
    - name: torch
      title: Torch
      status: ok
      expected: 2.7.1+cu128
      found: 2.7.1+cu128
      source: /opt/verl/current/venv/lib/python3.12/site-packages/torch-2.7.1+cu128.dist-info
      remedy: ""
  contains:
    name:
      description: Name for programs, unique in the report.
      type: str
      returned: always
    title:
      description: Name for people.
      type: str
      returned: always
    status:
      description: One of ok, mismatch, missing, skipped, denied, conflict, warning.
      type: str
      returned: always
    expected:
      description: What the stack asks for.
      type: str
      returned: always
    found:
      description: What is there; for a skipped check the reason.
      type: str
      returned: always
    source:
      description: Where it was looked for.
      type: str
      returned: always
    remedy:
      description: What to do, empty where nothing has to be done.
      type: str
      returned: always
summary:
  description: Number of checks by status; every status is a key.
  returned: always
  type: dict
  sample: {ok: 31, mismatch: 0, missing: 0, skipped: 4, denied: 0, conflict: 0, warning: 1}
passed:
  description: Whether no check failed.
  returned: always
  type: bool
  sample: true
table:
  description: The report as text of 80 columns.
  returned: always
  type: str
fingerprint:
  description: Digest of versions and verdicts, the same on hosts that are alike.
  returned: always
  type: str
  sample: 5f2b1a7c0c7d4c0f8f0e5c6f2b1a7c0c7d4c0f8f0e5c6f2b1a7c0c7d4c0f8f0e
"""

import os
from typing import Any, Dict, Mapping

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.verl.baremetal.plugins.module_utils import host
from ansible_collections.verl.baremetal.plugins.module_utils.checks import evaluate, model, table
from ansible_collections.verl.baremetal.plugins.module_utils.probes import collect

ARGUMENTS: Dict[str, Any] = {
    "release": {"type": "path"},
    "root": {"type": "path"},
    "stack": {"type": "dict"},
    "python": {"type": "path"},
    "cuda_home": {"type": "path"},
    "variants": {"type": "dict"},
    "skipped": {"type": "dict"},
    "integrity": {"type": "str", "choices": ["off", "files", "hashes"], "default": "off"},
    "policy": {"type": "str", "choices": ["fail", "warn"], "default": "fail"},
    "nvml": {"type": "bool", "default": True},
}


def subject(params: Mapping[str, Any]) -> evaluate.Subject:
    """What the task asks to be checked."""
    if params["stack"] is None:
        release = params["release"] or os.path.join(host.stack_root(params["root"]), "current")
        chosen = evaluate.subject_of_release(release, params["cuda_home"])
        if params["python"]:
            chosen = chosen._replace(prefix=params["python"])
    else:
        chosen = evaluate.Subject(params["stack"], params["python"], params["cuda_home"], {}, {}, {})
    if params["variants"] is not None:
        chosen = chosen._replace(variants=params["variants"])
    if params["skipped"] is not None:
        chosen = chosen._replace(skipped=params["skipped"])
    return chosen


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        mutually_exclusive=[("release", "stack")],
        supports_check_mode=True,
    )
    try:
        chosen = subject(module.params)
    except evaluate.Unusable as error:
        module.fail_json(msg=str(error))
    ask = collect.ask_nvml if module.params["nvml"] else None
    context = evaluate.gather(chosen, ld_library_path=os.environ.get("LD_LIBRARY_PATH", ""), nvml=ask)
    checks = evaluate.checks(context) + evaluate.integrity(
        context, module.params["integrity"], chosen.cuda_home
    )
    dicts = model.as_dicts(checks)
    passed = model.passed(checks)
    result: Dict[str, Any] = {
        "changed": False,
        "checks": dicts,
        "summary": model.summary(checks),
        "passed": passed,
        "table": table.render(dicts),
        "fingerprint": model.fingerprint(checks, context.packages),
    }
    if not passed and module.params["policy"] == "fail":
        module.fail_json(msg=model.message(checks), **result)
    if not passed:
        module.warn(model.message(checks))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
