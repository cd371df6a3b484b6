#!/usr/bin/python
# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Adds one of NVIDIA's apt repositories with its checked key."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: nvidia_repository
short_description: Adds one of NVIDIA's apt repositories with its checked key
description:
  - Fetches the repository's public key and trusts it only if its fingerprint is an expected one. The fingerprint is
    read from the key's packets by the module itself; neither gpg nor apt-key is used.
  - Writes a deb822 source with Signed-By and explicit preferences, reads the lists of this repository, and then takes
    away what named it before, such as lists of the package cuda-keyring and a retired key.
  - A wrong key or an unreadable repository leaves apt as it was.
author: the verl.baremetal authors (@verl-baremetal)
version_added: 0.1.0
options:
  name:
    description: The name of the files in C(/etc/apt).
    type: str
    required: true
  state:
    description: Whether the repository is known to apt.
    type: str
    choices: [present, absent]
    default: present
  url:
    description: The repository's address. This or O(base) is needed unless O(state=absent).
    type: str
  base:
    description: The address below which NVIDIA's folders for each system are; the host's own is chosen.
    type: str
  key_url:
    description: Where its public key is; empty is the file C(3bf863cc.pub) beside the packages.
    type: str
    default: ""
  fingerprints:
    description: Fingerprints of the keys that are trusted, spaces allowed.
    type: list
    elements: str
    default: [EB693B3035CD5710E231E123A4B469963BF863CC]
  suite:
    description: The suite; V(/) is a flat repository.
    type: str
    default: /
  components:
    description: Components of the suite.
    type: list
    elements: str
    default: []
  priority:
    description: The priority in apt's preferences of NVIDIA's packages, known by their names, from this address's host.
    type: int
    default: 600
  replaces:
    description: Parts of addresses; sources that contain one are taken out of other files.
    type: list
    elements: str
    default: []
  retired_keys:
    description: Ends of fingerprints whose keyrings are removed.
    type: list
    elements: str
    default: [7fa2af80]
  proxy:
    description: An HTTP proxy for this repository.
    type: str
    default: ""
  ca_file:
    description: A file of certificate authorities for this repository.
    type: str
    default: ""
  max_age:
    description: Seconds after which the lists are read again.
    type: int
    default: 3600
  lock_timeout:
    description: Seconds to wait for another apt.
    type: int
    default: 600
  timeout:
    description: Seconds after which a server that does not answer is given up.
    type: int
    default: 30
attributes:
  check_mode:
    support: full
    description: Says what would change, without fetching the key.
  diff_mode:
    support: full
    description: Shows the files.
"""

EXAMPLES = r"""
- name: Add NVIDIA's repository for this system from a mirror
  verl.baremetal.nvidia_repository:
    name: verl-nvidia
    base: https://mirror.example.com/cuda/repos
    replaces:
      - developer.download.nvidia.com/compute/cuda/repos
"""

RETURN = r"""
url:
  description: The repository's address.
  returned: always
  type: str
fingerprint:
  description: The fingerprint of the key in use.
  returned: when known
  type: str
  sample: EB693B3035CD5710E231E123A4B469963BF863CC
files:
  description: The files that changed or would change.
  returned: always
  type: list
  elements: str
  sample: [/etc/apt/sources.list.d/verl-nvidia.sources]
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.verl.baremetal.plugins.module_utils import uv
from ansible_collections.verl.baremetal.plugins.module_utils.nvidia import tables
from ansible_collections.verl.baremetal.plugins.module_utils.nvidia.decide import repository_url
from ansible_collections.verl.baremetal.plugins.module_utils.nvidia.repository import Repository, Source
from ansible_collections.verl.baremetal.plugins.module_utils.nvidia.transaction import Refused
from ansible_collections.verl.baremetal.plugins.module_utils.probes import system


def main() -> None:
    """Take the options, bring the files to them."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "url": {"type": "str"},
            "base": {"type": "str"},
            "key_url": {"type": "str", "default": "", "no_log": False},
            "fingerprints": {
                "type": "list",
                "elements": "str",
                "default": [tables.KEY_FINGERPRINT],
            },
            "suite": {"type": "str", "default": "/"},
            "components": {"type": "list", "elements": "str", "default": []},
            "priority": {"type": "int", "default": 600},
            "replaces": {"type": "list", "elements": "str", "default": []},
            "retired_keys": {"type": "list", "elements": "str", "default": [tables.RETIRED_KEY], "no_log": False},
            "proxy": {"type": "str", "default": ""},
            "ca_file": {"type": "str", "default": ""},
            "max_age": {"type": "int", "default": 3600},
            "lock_timeout": {"type": "int", "default": 600},
            "timeout": {"type": "int", "default": 30},
        },
        required_if=[("state", "present", ["url", "base"], True)],
        mutually_exclusive=[("url", "base")],
        supports_check_mode=True,
    )
    options = dict(module.params)
    state = options.pop("state")
    url = options.pop("url") or ""
    base = options.pop("base")
    if base:
        release = system.os_release()
        distribution = tables.distribution(release["id"] or "", release["version"] or "")
        if distribution is None:
            module.fail_json(
                msg=f"found {release['name'] or 'an unknown system'}, but NVIDIA's repository is used only on "
                f"{tables.supported_names()}; set url to the folder that fits, or take CUDA from another source"
            )
        url = repository_url(base, distribution.folder if distribution else "")
    key_url = options.pop("key_url") or url.rstrip("/") + "/" + tables.KEY_FILE
    source = Source(Repository(url=url, key_url=key_url, **options), check=module.check_mode)
    try:
        changed = source.ensure() if state == "present" else source.absent()
    except Refused as error:
        module.fail_json(msg=str(error))
    answer = {"changed": changed, "url": uv.redact(url), "files": [change.path for change in source.changes]}
    if source.fingerprint:
        answer["fingerprint"] = source.fingerprint
    for note in source.notes:
        module.warn(note)
    if module._diff:
        answer["diff"] = [
            {
                "before_header": change.path,
                "after_header": change.path,
                "before": uv.redact(change.before),
                "after": uv.redact(change.after),
            }
            for change in source.changes
        ]
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
