#!/usr/bin/python
# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
---
module: python_layer
short_description: Install one layer of a lock into a virtual environment, and prove that it is whole
description:
  - Makes the virtual environment when it is missing and installs pinned and hashed packages with uv, never resolving.
  - After an installation every package's RECORD is verified (files and sizes), because uv is not crash-safe in
    place. What is broken is installed anew once.
  - A layer that was verified and whose packages are all there in the right version is answered in milliseconds,
    without uv.
  - Packages without a wheel are built against the environment itself, without isolation, in a clean process
    environment.
  - In a release that is being built the layer's modules are compiled in the background, while the next layers are
    fetched.
  - An environment in a verified release is never changed.
version_added: 0.1.0
options:
  name:
    description:
      - Name of the layer. Two layers of one environment must have different names.
    type: str
    required: true
  path:
    description:
      - Folder of the virtual environment.
    type: path
    required: true
  python:
    description:
      - Interpreter with which the environment is made, or a version when O(python_managed=true).
    type: str
    default: ""
  python_managed:
    description:
      - Let uv bring the Python.
    type: bool
    default: false
  python_mirror:
    description:
      - URL of a mirror of the Python builds that uv brings.
    type: str
    default: ""
  requirements:
    description:
      - Lines of a lock, C(name==version [; marker] --hash=sha256:...).
    type: list
    elements: str
    default: []
  build:
    description:
      - Names of the packages that have no wheel and are built without isolation after the others are installed.
    type: list
    elements: str
    default: []
  build_environment:
    description:
      - Variables for those builds. C(CUDA_HOME) is set to the folder C(cuda) beside the environment when there is
        one.
    type: dict
    default: {}
  uv:
    description:
      - The uv program.
    type: str
    default: uv
  cache_dir:
    description:
      - Folder of uv's cache. It must be on the file system of O(path) for hard links.
    type: str
    default: ""
  link_mode:
    description:
      - How files come from the cache. V(auto) takes hard links for root, whose cache is private, and copies for
        anybody else.
    type: str
    choices: [auto, clone, copy, hardlink, symlink]
    default: auto
  integrity:
    description:
      - Whether the verification compares files and sizes or hashes, too.
    type: str
    choices: [files, hashes]
    default: files
  state:
    description:
      - V(present) installs the layer, V(absent) takes its packages away.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment:
  - verl.baremetal.index
  - verl.baremetal.run
attributes:
  check_mode:
    support: full
    description: Lists the packages that would be added, removed and changed.
  diff_mode:
    support: full
    description: Shows the layer's packages before and after.
  idempotent:
    support: full
    description: A verified layer is left alone.
author: the verl.baremetal authors (@verl-baremetal)
"""

EXAMPLES = r"""
- name: Install the torch layer
  verl.baremetal.python_layer:
    name: torch
    path: /opt/verl/releases/verl0.5-preview-cu128-0123456789ab/venv
    python: /usr/bin/python3.12
    uv: /opt/verl/tools/uv-0.13.9/bin/uv
    cache_dir: /opt/verl/cache/uv
    requirements: "{{ lookup('ansible.builtin.file', 'locks/torch.cu128.txt').splitlines() }}"
    extra_index_urls: [https://download.pytorch.org/whl/cu128]
"""

RETURN = r"""
packages:
  description: Name and version of every package of the layer.
  returned: success
  type: dict
  sample: {torch: 2.7.1, triton: 3.3.1}
packages_added:
  description: Packages that were not there.
  returned: success
  type: dict
  sample: {torch: 2.7.1}
packages_removed:
  description: Packages that no longer belong to the layer, with the version found.
  returned: success
  type: dict
  sample: {}
packages_changed:
  description: Packages that were there in another version.
  returned: success
  type: dict
  sample: {numpy: {from: 2.3.1, to: 1.26.4}}
repaired:
  description: Packages that were there in the right version but not as their RECORD says, and were installed anew.
  returned: success
  type: list
  elements: str
  sample: [pandas]
verified:
  description: How many distributions, files and bytes were compared with their RECORD in this call.
  returned: when something was done
  type: dict
  sample: {distributions: 140, files: 41000, bytes: 6100000000}
python_version:
  description: Full version of the environment's Python.
  returned: success
  type: str
  sample: 3.12.3
"""

from typing import Any, Dict, Mapping

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.verl.baremetal.plugins.module_utils import arguments, install, layer, lock, record, uv
from ansible_collections.verl.baremetal.plugins.module_utils.progress import Progress


def job_of(params: Mapping[str, Any]) -> install.Job:
    """The work that the parameters ask for."""
    return install.Job(
        name=params["name"],
        path=params["path"].rstrip("/"),
        requirements=params["requirements"],
        python=params["python"],
        python_managed=params["python_managed"],
        python_mirror=params["python_mirror"],
        build=params["build"],
        build_environment={key: str(value) for key, value in params["build_environment"].items()},
        uv=params["uv"],
        sources=arguments.sources(params),
        link_mode=params["link_mode"],
        cache=params["cache_dir"],
        integrity=params["integrity"],
    )


def run(params: Mapping[str, Any], check: bool) -> Dict[str, Any]:
    """The module's work without AnsibleModule."""
    arguments.share_files()
    job = job_of(params)
    state = install.inspect(job)
    before = {n: v for n, v in state.installed.items() if n in state.wanted or n in state.difference.removed}
    if params["state"] == "absent":
        return absent(job, state, params, check)
    if state.converged:
        report = record.Report(0, 0, 0, [])
        result = install.result(state, before, [], report)
        result.pop("verified")
        return finish(result, job, before, False)
    if check:
        report = install.broken(state, job.integrity)
        return finish(install.result(state, before, report.broken, report), job, before, True)
    if params["probe"]:
        return {"changed": False, "probe_pending": True}
    arguments.renew(params, job.path)
    result = install.apply(job, Progress(params["progress_file"]))
    changed = bool(
        result["packages_added"] or result["packages_removed"] or result["packages_changed"] or result["repaired"]
    )
    return finish(result, job, before, changed)


def absent(job: install.Job, state: install.State, params: Mapping[str, Any], check: bool) -> Dict[str, Any]:
    """Take the layer away."""
    names = [name for name in state.wanted if name in state.installed]
    if names and not check:
        arguments.renew(params, job.path)
        names = install.remove_all(job)
    removed = {name: state.installed[name] for name in names}
    return {
        "changed": bool(removed),
        "packages": {},
        "packages_added": {},
        "packages_removed": removed,
        "packages_changed": {},
        "repaired": [],
        "python_version": install.python_of(job.path),
        "diff": {"before": layer.diff_text(removed), "after": ""},
    }


def finish(result: Dict[str, Any], job: install.Job, before: Mapping[str, str], changed: bool) -> Dict[str, Any]:
    """What all ways through the module return."""
    result["changed"] = changed
    result["python_version"] = install.python_of(job.path)
    result["diff"] = {"before": layer.diff_text(dict(before)), "after": layer.diff_text(result["packages"])}
    return result


def argument_spec() -> Dict[str, Any]:
    """What the module takes."""
    spec: Dict[str, Any] = {
        "name": {"type": "str", "required": True},
        "path": {"type": "path", "required": True},
        "python": {"type": "str", "default": ""},
        "python_managed": {"type": "bool", "default": False},
        "python_mirror": {"type": "str", "default": ""},
        "requirements": {"type": "list", "elements": "str", "default": []},
        "build": {"type": "list", "elements": "str", "default": []},
        "build_environment": {"type": "dict", "default": {}},
        "uv": {"type": "str", "default": "uv"},
        "cache_dir": {"type": "str", "default": ""},
        "link_mode": {"type": "str", "choices": ["auto", "clone", "copy", "hardlink", "symlink"], "default": "auto"},
        "integrity": {"type": "str", "choices": ["files", "hashes"], "default": "files"},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    }
    spec.update(arguments.INDEX)
    spec.update(arguments.RUN)
    return spec


def main() -> None:
    """Entry point."""
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    try:
        result = run(module.params, module.check_mode)
    except lock.LockHeld as error:
        module.fail_json(msg=str(error), lock_holder=error.holder)
    except (install.InstallError, layer.LayerError, uv.UvError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"layer {module.params['name']}: " + uv.explain_os_error(error, module.params["path"]))
    else:
        module.exit_json(**result)


if __name__ == "__main__":
    main()
