#!/usr/bin/python
# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Installs a pinned set of NVIDIA's packages in one careful transaction of apt."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: nvidia_packages
short_description: Installs a pinned set of NVIDIA's packages in one careful transaction
description:
  - Waits for dpkg's lock and says who holds it, finishes an interrupted dpkg, looks at a simulation before anything is
    done, keeps needrestart from restarting services, and asks apt afterwards whether it would move the set.
  - With O(branch) the set is a driver. NVIDIA's pinning package is installed first, every package gets the same
    version (packages of other branches go), and the version is written into C(/etc/apt/preferences.d), so that neither
    C(apt upgrade) nor unattended-upgrades moves it.
  - Without O(branch) exact versions (C(name=version)) are installed and, with O(hold), put on hold.
  - Metapackages that drag a driver or another toolkit in (C(cuda), C(cuda-12-8), C(cuda-runtime-12-8) and others) never
    get in.
author: the verl.baremetal authors (@verl-baremetal)
version_added: 0.1.0
options:
  packages:
    description: Packages, as C(name) or C(name=version). The first one decides the version of a driver.
    type: list
    elements: str
    default: []
  optional:
    description: Packages of the driver that are taken where the repository has them at its version.
    type: list
    elements: str
    default: []
  exact:
    description: Packages that must have exactly the driver's version.
    type: list
    elements: str
    default: []
  headers:
    description: Packages that must be there in any version.
    type: list
    elements: str
    default: []
  branch:
    description: The driver's branch; V(0) is a set that is no driver.
    type: int
    default: 0
  version:
    description: The driver's full version; empty takes the newest of the branch.
    type: str
    default: ""
  pinning:
    description: NVIDIA's pinning package, installed before the driver.
    type: str
    default: ""
  toolkit:
    description: The full version of a CUDA toolkit, C(12.8.1), which adds its package at that version to O(packages).
    type: str
    default: ""
  cudnn:
    description: The full version of cuDNN, C(9.8.0.87), which adds the library and its headers for the toolkit's CUDA.
    type: str
    default: ""
  hold:
    description: Put the packages on hold.
    type: bool
    default: false
  denied:
    description: Patterns of package names that must not be brought in by a dependency.
    type: list
    elements: str
    default: []
  state:
    description: V(absent) purges every package of a driver and its pin.
    type: str
    choices: [present, absent]
    default: present
  lock_timeout:
    description: Seconds to wait for dpkg's lock.
    type: int
    default: 600
attributes:
  check_mode:
    support: full
    description: Says what would be installed.
  diff_mode:
    support: full
    description: Shows the versions before and after.
"""

EXAMPLES = r"""
- name: Install the newest driver of branch 570 on Debian 12
  verl.baremetal.nvidia_packages:
    branch: 570
    pinning: nvidia-driver-pinning-570
    packages: [nvidia-driver-cuda, nvidia-kernel-open-dkms]

- name: Install CUDA 12.8 and cuDNN 9.8 beside other toolkits
  verl.baremetal.nvidia_packages:
    toolkit: 12.8.1
    cudnn: 9.8.0.87
    hold: true
"""

RETURN = r"""
home:
  description: The toolkit's folder; empty without O(toolkit).
  returned: always
  type: str
  sample: /usr/local/cuda-12.8
version:
  description: The driver's version; empty for a set that is no driver.
  returned: always
  type: str
  sample: 570.133.20
packages:
  description: The installed packages of the set and their versions.
  returned: always
  type: dict
  sample: {nvidia-driver-cuda: 570.133.20-1}
removed:
  description: Packages that went.
  returned: always
  type: list
  elements: str
repaired:
  description: Packages that an interrupted dpkg had left half done.
  returned: always
  type: list
  elements: str
waited:
  description: Seconds that the lock was waited for.
  returned: always
  type: int
  sample: 0
restart:
  description: Services that needrestart would have restarted; nothing was restarted.
  returned: always
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.verl.baremetal.plugins.module_utils.nvidia import tables
from ansible_collections.verl.baremetal.plugins.module_utils.nvidia.transaction import Refused, Transaction, Wanted


def main() -> None:
    """Take the options, do the transaction."""
    module = AnsibleModule(
        argument_spec={
            "packages": {"type": "list", "elements": "str", "default": []},
            "optional": {"type": "list", "elements": "str", "default": []},
            "exact": {"type": "list", "elements": "str", "default": []},
            "headers": {"type": "list", "elements": "str", "default": []},
            "branch": {"type": "int", "default": 0},
            "version": {"type": "str", "default": ""},
            "pinning": {"type": "str", "default": ""},
            "toolkit": {"type": "str", "default": ""},
            "cudnn": {"type": "str", "default": ""},
            "hold": {"type": "bool", "default": False},
            "denied": {"type": "list", "elements": "str", "default": []},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "lock_timeout": {"type": "int", "default": 600},
        },
        required_by={"cudnn": ["toolkit"]},
        supports_check_mode=True,
    )
    options = dict(module.params)
    state = options.pop("state")
    toolkit, cudnn = options.pop("toolkit"), options.pop("cudnn")
    home = ""
    if toolkit:
        wanted = tables.toolkit(toolkit)
        home = wanted.home
        options["packages"] = [*options["packages"], f"{wanted.package}={wanted.version}"]
        if cudnn:
            options["packages"] += tables.cudnn_packages(cudnn, int(toolkit.split(".")[0]))
    work = Transaction(Wanted(**options), check=module.check_mode)
    try:
        outcome = work.ensure() if state == "present" else work.remove(options["packages"])
    except Refused as error:
        module.fail_json(msg=str(error), waited=work.waited, repaired=work.repaired)
    restart = work.needrestart() if outcome.changed and not module.check_mode else []
    answer = {
        "changed": outcome.changed,
        "home": home,
        "version": outcome.version,
        "packages": outcome.packages,
        "removed": outcome.removed,
        "repaired": outcome.repaired,
        "waited": outcome.waited,
        "restart": restart,
    }
    for note in outcome.notes:
        module.warn(note)
    if module._diff and outcome.changed:
        answer["diff"] = {
            "before": "".join(f"{name}={version}\n" for name, version in sorted(outcome.before.items())),
            "after": "".join(f"{name}={version}\n" for name, version in sorted(outcome.packages.items())),
        }
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
