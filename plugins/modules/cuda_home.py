#!/usr/bin/python
# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cuda_home
short_description: Give a release its CUDA home
description:
  - With O(source=pypi) NVIDIA's wheels are installed into a folder of their own and laid out, with links, as a
    usable CUDA home (C(include), C(lib64), C(bin), C(nvvm), C(version.json)), cuDNN included. For CUDA 12 these
    wheels hold no C(nvcc), so such a home serves headers and libraries, not the compilation of CUDA sources.
  - With O(source=existing) a toolkit that is there is checked and linked.
version_added: 0.1.0
options:
  path:
    description:
      - Where the home will be, C(<release>/cuda).
    type: path
    required: true
  source:
    description:
      - Where CUDA comes from.
    type: str
    choices: [pypi, existing]
    required: true
  version:
    description:
      - The version that is needed. For V(existing) major and minor must agree.
    type: str
    default: ""
  cudnn_version:
    description:
      - The cuDNN version that is needed with O(source=pypi).
    type: str
    default: ""
  home:
    description:
      - The toolkit's folder, for O(source=existing).
    type: str
    default: ""
  requirements:
    description:
      - Lines of the lock of the CUDA wheels, for O(source=pypi).
    type: list
    elements: str
    default: []
  python:
    description:
      - The interpreter for which wheels are chosen.
    type: str
    default: ""
  uv:
    description:
      - The uv program.
    type: str
    default: uv
  cache_dir:
    description:
      - Folder of uv's cache.
    type: str
    default: ""
  link_mode:
    description:
      - How files come from the cache, as in M(verl.baremetal.python_layer).
    type: str
    choices: [auto, clone, copy, hardlink, symlink]
    default: auto
extends_documentation_fragment:
  - verl.baremetal.index
  - verl.baremetal.run
attributes:
  check_mode:
    support: full
    description: Says whether the home would be made.
  diff_mode:
    support: full
    description: Shows the wheels before and after.
  idempotent:
    support: full
    description: A home whose wheels and links are intact is left alone.
author: the verl.baremetal authors (@verl-baremetal)
"""

EXAMPLES = r"""
- name: Lay out CUDA from wheels
  verl.baremetal.cuda_home:
    source: pypi
    path: /opt/verl/releases/verl0.5-preview-cu128-0123456789ab/cuda
    version: 12.8.1
    requirements: "{{ lookup('ansible.builtin.file', 'locks/cuda.txt').splitlines() }}"
    uv: /opt/verl/tools/uv-0.13.9/bin/uv
    python: /usr/bin/python3

- name: Take the toolkit that is there
  verl.baremetal.cuda_home:
    source: existing
    path: /opt/verl/releases/verl0.5-preview-cu128-0123456789ab/cuda
    home: /usr/local/cuda-12.8
    version: "12.8"
"""

RETURN = r"""
home:
  description: The CUDA home.
  returned: success
  type: str
  sample: /opt/verl/releases/verl0.5-preview-cu128-0123456789ab/cuda
version:
  description: Its CUDA version, as it says itself; empty in check mode when it is not there yet.
  returned: success
  type: str
  sample: 12.8.1
cudnn_version:
  description: The cuDNN version of its headers, empty when it has none.
  returned: success
  type: str
  sample: 9.8.0
nvcc:
  description: Whether it can compile CUDA sources.
  returned: success
  type: bool
  sample: false
packages:
  description: The wheels it is made of.
  returned: success
  type: dict
  sample: {cuda-toolkit: 12.8.1}
"""

import os
from typing import Any, Dict, Mapping

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.verl.baremetal.plugins.module_utils import (
    arguments,
    cuda_layout,
    install,
    layer,
    lock,
    record,
    uv,
)
from ansible_collections.verl.baremetal.plugins.module_utils.progress import Progress


def answer(path: str, changed: bool, packages: Mapping[str, str]) -> Dict[str, Any]:
    """What the home says of itself."""
    kit = cuda_layout.read_toolkit(path)
    return {
        "changed": changed,
        "home": path,
        "version": kit.version,
        "cudnn_version": kit.cudnn,
        "nvcc": kit.nvcc,
        "packages": dict(packages),
    }


def existing(params: Mapping[str, Any], check: bool) -> Dict[str, Any]:
    """Check the toolkit and link it."""
    path, home = params["path"].rstrip("/"), params["home"].rstrip("/")
    cuda_layout.check_existing(home, params["version"])
    changed = not (os.path.islink(path) and os.readlink(path) == home)
    if changed and not check:
        arguments.renew(params, path)
        if os.path.isdir(path) and not os.path.islink(path):
            raise cuda_layout.LayoutError(f"{path} is a folder, a link to {home} is needed. Remove it and run again.")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        temporary = path + ".new"
        if os.path.lexists(temporary):
            os.unlink(temporary)
        os.symlink(home, temporary)
        os.replace(temporary, path)
    return dict(answer(home, changed, {}), home=path)


def pypi(params: Mapping[str, Any], check: bool) -> Dict[str, Any]:
    """Install the wheels and lay them out."""
    path = params["path"].rstrip("/")
    site = os.path.join(path, cuda_layout.WHEELS)
    job = install.Job(
        name="cuda",
        path=site,
        requirements=params["requirements"],
        python=params["python"],
        uv=params["uv"],
        sources=arguments.sources(params),
        link_mode=params["link_mode"],
        cache=params["cache_dir"],
        target=True,
    )
    state = install.inspect(job)
    if state.converged and cuda_layout.intact(path, site):
        return answer(path, False, state.versions)
    if check:
        result = answer(path, True, state.versions)
        result["diff"] = {"before": layer.diff_text(record.installed(site)), "after": layer.diff_text(state.versions)}
        return result
    if params["probe"]:
        return {"changed": False, "probe_pending": True}
    arguments.renew(params, path)
    before = record.installed(site)
    progress = Progress(params["progress_file"])
    if not state.converged:
        install.apply(job, progress)
    progress.step("laying out the CUDA home")
    cuda_layout.lay_out(path, site, params["version"] or state.versions.get("cuda-toolkit", ""), state.versions)
    result = answer(path, True, state.versions)
    wanted = params["cudnn_version"]
    if wanted and not (wanted + ".").startswith(result["cudnn_version"] + "."):
        raise cuda_layout.LayoutError(f"the home has cuDNN {result['cudnn_version'] or 'of no version'}, not {wanted}")
    result["diff"] = {"before": layer.diff_text(before), "after": layer.diff_text(state.versions)}
    return result


def main() -> None:
    """Entry point."""
    spec: Dict[str, Any] = {
        "path": {"type": "path", "required": True},
        "source": {"type": "str", "choices": ["pypi", "existing"], "required": True},
        "version": {"type": "str", "default": ""},
        "cudnn_version": {"type": "str", "default": ""},
        "home": {"type": "str", "default": ""},
        "requirements": {"type": "list", "elements": "str", "default": []},
        "python": {"type": "str", "default": ""},
        "uv": {"type": "str", "default": "uv"},
        "cache_dir": {"type": "str", "default": ""},
        "link_mode": {"type": "str", "choices": ["auto", "clone", "copy", "hardlink", "symlink"], "default": "auto"},
    }
    spec.update(arguments.INDEX)
    spec.update(arguments.RUN)
    module = AnsibleModule(
        argument_spec=spec,
        supports_check_mode=True,
        required_if=[("source", "pypi", ["requirements"]), ("source", "existing", ["home"])],
    )
    try:
        arguments.share_files()
        work = pypi if module.params["source"] == "pypi" else existing
        result = work(module.params, module.check_mode)
    except lock.LockHeld as error:
        module.fail_json(msg=str(error), lock_holder=error.holder)
    except (cuda_layout.LayoutError, install.InstallError, layer.LayerError, uv.UvError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg="cuda: " + uv.explain_os_error(error, module.params["path"]))
    else:
        module.exit_json(**result)


if __name__ == "__main__":
    main()
