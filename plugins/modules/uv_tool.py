#!/usr/bin/python
# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
---
module: uv_tool
short_description: Bring the pinned uv to a host
description:
  - Fetches uv's wheel with the hash of the lock and unpacks the program into a folder, in one rename. No
    environment and no pip are left behind.
  - A wheel in a folder of O(find_links) is taken without any network.
version_added: 0.1.0
options:
  path:
    description:
      - Folder of the program, C(<stack_root>/tools/uv-<version>). The program is C(bin/uv) in it.
    type: path
    required: true
  requirements:
    description:
      - Lines of uv's lock.
    type: list
    elements: str
    required: true
extends_documentation_fragment:
  - verl.baremetal.index
attributes:
  check_mode:
    support: full
    description: Says whether uv would be fetched.
  diff_mode:
    support: none
    description: There is nothing to compare.
  idempotent:
    support: full
    description: A uv that answers with the pinned version is left alone.
author: the verl.baremetal authors (@verl-baremetal)
"""

EXAMPLES = r"""
- name: Bring uv
  verl.baremetal.uv_tool:
    path: /opt/verl/tools/uv-0.13.9
    requirements: "{{ lookup('ansible.builtin.file', 'locks/uv.txt').splitlines() }}"
"""

RETURN = r"""
uv:
  description: The program.
  returned: success
  type: str
  sample: /opt/verl/tools/uv-0.13.9/bin/uv
version:
  description: Its version.
  returned: success
  type: str
  sample: 0.13.9
"""

from typing import Any, Dict, Mapping

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.verl.baremetal.plugins.module_utils import arguments, layer, uv, uv_fetch
from ansible_collections.verl.baremetal.plugins.module_utils.progress import Progress


def run(params: Mapping[str, Any], check: bool) -> Dict[str, Any]:
    """The module's work without AnsibleModule."""
    arguments.share_files()
    path = params["path"].rstrip("/")
    wanted = uv_fetch.pinned(params["requirements"])
    changed = uv_fetch.version_of(path) != wanted.version
    if changed and not check:
        uv_fetch.fetch(path, params["requirements"], arguments.sources(params), Progress(None))
    return {"changed": changed, "uv": uv_fetch.executable(path), "version": wanted.version}


def main() -> None:
    """Entry point."""
    spec: Dict[str, Any] = {
        "path": {"type": "path", "required": True},
        "requirements": {"type": "list", "elements": "str", "required": True},
    }
    spec.update(arguments.INDEX)
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    try:
        result = run(module.params, module.check_mode)
    except (uv_fetch.FetchError, layer.LayerError) as error:
        module.fail_json(msg=f"uv: {error}")
    except OSError as error:
        module.fail_json(msg="uv: " + uv.explain_os_error(error, module.params["path"]))
    else:
        module.exit_json(**result)


if __name__ == "__main__":
    main()
