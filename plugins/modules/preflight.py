#!/usr/bin/python
# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: preflight
author: the verl.baremetal authors (@verl-baremetal)
short_description: Plan the installation of a stack on a host and name all that stands against it
description:
  - Asks the host what it is and has, decides on the controller what will be installed and how, and reports every failed
    precondition together, each with what was found, what is needed and what to do.
  - Changes nothing. The same in check mode.
  - The decisions are made by the action plugin of the same name, which reads the stack file on the controller; the options
    below are what the module itself asks the host for.
version_added: 0.1.0
options:
  stack_root:
    description:
      - Folder of the installation on the host.
      - Empty takes V(/opt/verl) for root and V(~/verl) for anyone else.
    type: path
    default: ""
  options:
    description:
      - Variables of the roles that take part in the decision, by their names, for example C(venv_python).
      - The role's own defaults are taken for those not given.
    type: dict
    default: {}
  with_driver:
    description:
      - Whether this run installs the driver where a GPU has none.
      - Where it does not, a host with a GPU and no driver is refused, since the release's gate would refuse it after the build.
    type: bool
    default: true
  pythons:
    description: Minor versions of Python to look for. Set by the action plugin.
    type: list
    elements: str
    default: []
  python_paths:
    description: Further interpreters to look at.
    type: list
    elements: str
    default: []
  cuda_homes:
    description: Further CUDA toolkits to look at.
    type: list
    elements: str
    default: []
  libraries:
    description: Libraries of the system to look for. Set by the action plugin.
    type: list
    elements: str
    default: []
  find_links:
    description: Folders and URLs with further wheels, to look whether they are there. Set by the action plugin.
    type: list
    elements: str
    default: []
  index_urls:
    description:
      - Package indexes that must answer. An empty string stands for the client's configured default.
      - Set by the action plugin when something has to be installed.
    type: list
    elements: str
    default: []
  bundle:
    description: Folder or URL of the bundle that everything is taken from, as the host sees it.
    type: str
    default: ""
  bundle_uses:
    description: Parts of the bundle that must be whole. Set by the action plugin.
    type: list
    elements: str
    default: []
  bundle_requirements:
    description: Requirement lines for which the bundle must have files. Set by the action plugin.
    type: list
    elements: str
    default: []
  ca_file:
    description: File with the certificate authorities that the indexes' certificates are checked with.
    type: str
    default: ""
  proxy:
    description: Proxy for the indexes, as URL.
    type: str
    default: ""
attributes:
  check_mode:
    description: The module changes nothing.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Plan the installation and check what it needs
  verl.baremetal.preflight:
    options:
      venv_python: "3.12"
  register: verl_plan
"""

RETURN = r"""
facts:
  description: What the host is and has.
  returned: always
  type: dict
  sample: {"architecture": "x86_64", "cores": 16, "glibc": "2.39", "root": true, "writable": true}
id:
  description: The release's id, from the stack's name and all that decides its content.
  returned: success
  type: str
  sample: verl0.5-preview-cu128-4f0c9a1b2d3e
left_out:
  description: Components that will not be installed, with the reason.
  returned: success
  type: dict
  sample: {"apex": "no nvcc of CUDA 12 on this host"}
failures:
  description: Every failed precondition. Not empty only together with a failure.
  returned: always
  type: list
  elements: dict
  sample: [{"name": "memory", "found": "2 GB", "needed": "8 GB", "remedy": "take a larger machine"}]
unreachable_indexes:
  description: Indexes that did not answer, with the reason.
  returned: when indexes were asked for
  type: dict
"""

from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.verl.baremetal.plugins.module_utils import arguments, bundle, bundle_pull, host, index
from ansible_collections.verl.baremetal.plugins.module_utils.probes import driver, gpus


def look_at_bundle(params: Dict[str, Any]) -> Dict[str, Any]:
    """The bundle as this host sees it, or why it cannot be read."""
    place = bundle_pull.Place(params["bundle"], params["ca_file"], params["proxy"])
    try:
        return bundle_pull.look(place, params["bundle_uses"] or None, params["bundle_requirements"])
    except (bundle.BundleError, OSError) as error:
        return {"error": str(error)}


def main() -> None:
    """Report the host's facts; the action plugin decides."""
    module = AnsibleModule(
        argument_spec={
            "stack_root": {"type": "path", "default": ""},
            "options": {"type": "dict", "default": {}},
            "with_driver": {"type": "bool", "default": True},
            "pythons": {"type": "list", "elements": "str", "default": []},
            "python_paths": {"type": "list", "elements": "str", "default": []},
            "cuda_homes": {"type": "list", "elements": "str", "default": []},
            "libraries": {"type": "list", "elements": "str", "default": []},
            "find_links": {"type": "list", "elements": "str", "default": []},
            "index_urls": {"type": "list", "elements": "str", "default": []},
            "bundle": {"type": "str", "default": ""},
            "bundle_uses": {"type": "list", "elements": "str", "default": []},
            "bundle_requirements": {"type": "list", "elements": "str", "default": []},
            "ca_file": {"type": "str", "default": ""},
            "proxy": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    params = module.params
    facts = host.facts(
        host.stack_root(params["stack_root"]),
        params["pythons"],
        params["python_paths"],
        params["cuda_homes"],
        params["libraries"],
    )
    facts["gpus"] = gpus.scan()["gpus"]
    facts["driver"] = bool(facts["gpus"]) and driver.probe() is not None
    own = facts["stack_root"] + "/wheels"  # it is made by this run
    facts["absent_folders"] = [p for p in params["find_links"] if not arguments.there(p) and p.rstrip("/") != own]
    if params["bundle"]:
        facts["bundle"] = look_at_bundle(params)
    unreachable = {}
    for named in params["index_urls"]:
        for url in [named] if named else host.default_indexes(facts["stack_root"], params["find_links"]):
            reason = host.reach(url, params["ca_file"], params["proxy"])
            if reason:
                unreachable[index.without_password(url)] = reason
    module.exit_json(changed=False, facts=facts, failures=[], unreachable_indexes=unreachable)


if __name__ == "__main__":
    main()
