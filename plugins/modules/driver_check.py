#!/usr/bin/python
# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Checks an installed NVIDIA driver."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: driver_check
short_description: Checks that an installed NVIDIA driver has modules for every kernel and agrees with itself
description:
  - Asks DKMS for each kernel, reads the version of the module on disk, and compares the loaded module and the
    libraries with the installed version.
  - Fails where a kernel has no module, with the missing headers' package or the end of the build's log.
author: the verl.baremetal authors (@verl-baremetal)
version_added: 0.1.0
options:
  version:
    description: The version that must be there; empty takes what the packages say.
    type: str
    default: ""
  kernels:
    description: The kernels that need modules; empty is the running and the newest one.
    type: list
    elements: str
    default: []
  build:
    description: Have DKMS build what is missing, where a kernel's headers are there.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description: Nothing is built.
  diff_mode:
    support: none
    description: A build has no diff.
"""

EXAMPLES = r"""
- name: Check the driver
  verl.baremetal.driver_check:
    version: 570.133.20
  register: checked
"""

RETURN = r"""
version:
  description: The installed version.
  returned: always
  type: str
  sample: 570.133.20
loaded:
  description: The version of the loaded module, empty where none is.
  returned: always
  type: str
userspace:
  description: The version of the libraries, empty where none are found.
  returned: always
  type: str
kernels:
  description: For each kernel whether it has the driver, and from where.
  returned: always
  type: list
  elements: dict
  sample: [{kernel: 6.1.0-31-amd64, state: installed, source: dkms}]
reboot_required:
  description: Whether another driver than the installed one is loaded, or another kind of its kernel modules.
  returned: always
  type: bool
nouveau:
  description: Whether the kernel's own driver is loaded and stands in the way until a reboot.
  returned: always
  type: bool
"""

import os
from typing import List

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.verl.baremetal.plugins.module_utils.nvidia import dkms, host, tables, transaction
from ansible_collections.verl.baremetal.plugins.module_utils.nvidia.decide import differ
from ansible_collections.verl.baremetal.plugins.module_utils.probes import driver

DKMS = "/usr/sbin/dkms"


def ask_dkms() -> List[dkms.Build]:
    """What DKMS has built."""
    return dkms.parse_status(transaction.run([DKMS, "status"]).out) if os.path.exists(DKMS) else []


def main() -> None:
    """Ask, compare, answer."""
    module = AnsibleModule(
        argument_spec={
            "version": {"type": "str", "default": ""},
            "kernels": {"type": "list", "elements": "str", "default": []},
            "build": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    packages = transaction.Transaction(transaction.Wanted())
    try:
        have = packages.driver_set(packages.status())
    except transaction.Refused:
        have = {}
    version = module.params["version"] or tables.upstream(transaction.kernel_module_package(have))
    loaded = host.loaded_driver()
    names = module.params["kernels"] or host.kernels(os.uname().release)
    builds = ask_dkms()
    built = []
    for kernel in names if module.params["build"] and not module.check_mode and os.path.exists(DKMS) else []:
        if not dkms.has_module(builds, kernel, version) and os.path.exists(f"/lib/modules/{kernel}/build"):
            transaction.run([DKMS, "autoinstall", "-k", kernel])
            built.append(kernel)
    builds = ask_dkms() if built else builds
    kernels = []
    problems = []
    for kernel in names:
        there = dkms.has_module(builds, kernel, version)
        kernels.append({"kernel": kernel, "state": "installed" if there else "missing", "source": there or "none"})
        if not there:
            problems.append(dkms.explain(builds, kernel, version))
    library = next((entry["version"] for entry in driver.userspace().values()), "")
    if version and library and library != version:
        problems.append(
            f"the packages are of version {version}, but programs load libraries of {library}: look for a driver that "
            "was installed beside the packages (nvidia-uninstall removes it)"
        )
    answer = {
        "changed": any(dkms.has_module(builds, kernel, version) for kernel in built),
        "version": version,
        "loaded": loaded,
        "userspace": library,
        "kernels": kernels,
        "reboot_required": bool(version)
        and (loaded != version or differ(host.loaded_modules(), transaction.kernel_module_kind(have))),
        "nouveau": os.path.isdir("/sys/module/nouveau"),
    }
    if problems:
        module.fail_json(msg="\n".join(problems), **answer)
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
