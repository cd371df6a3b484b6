#!/usr/bin/python
# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Decides which NVIDIA driver a host gets."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: driver_plan
short_description: Decides which NVIDIA driver a host gets
description:
  - Finds GPUs, NVSwitches, kernels, Secure Boot and the driver that is there in C(/sys), C(/proc) and dpkg's status
    file, runs no program, and answers with a decision in words and in package names.
  - Fails where the driver must not be installed, and says what was found, what is needed and what to do.
author: the verl.baremetal authors (@verl-baremetal)
version_added: 0.1.0
options:
  branch:
    description: The driver's branch.
    type: int
    default: 570
  version:
    description: A full version of the driver, C(570.133.20); empty takes the newest of the branch.
    type: str
    default: ""
  kernel_modules:
    description: Open or proprietary kernel modules; V(auto) chooses by the oldest GPU.
    type: str
    choices: [auto, open, proprietary]
    default: auto
  compute_only:
    description: Leave out everything for displays.
    type: bool
    default: true
  fabric_manager:
    description: Whether the fabric manager is installed; V(auto) is where NVSwitches are found.
    type: str
    choices: [auto, present, absent]
    default: auto
  update:
    description: Change a driver that is there and new enough to the wanted branch, version and kind of kernel modules.
    type: bool
    default: false
  state:
    description: Whether a driver is wanted at all.
    type: str
    choices: [present, absent]
    default: present
  secure_boot:
    description: What to do where Secure Boot is on; V(sign) needs O(mok_key) and O(mok_certificate).
    type: str
    choices: [refuse, sign, ignore]
    default: refuse
  mok_key:
    description: The machine owner key's private part, a file on the host.
    type: path
  mok_certificate:
    description: The machine owner key's certificate (DER), a file on the host.
    type: path
  allow_busy:
    description: Change the driver while processes use the GPUs.
    type: bool
    default: false
  busy_ignore:
    description: Names of processes, with wildcards, that may use the GPUs while the driver is changed.
    type: list
    elements: str
    default: []
  gpus:
    description: PCI device ids (C(2330)) to decide for instead of the devices found; those of NVSwitches too.
    type: list
    elements: str
    default: []
  kernels:
    description: Kernels to have modules for instead of the running and the newest one.
    type: list
    elements: str
    default: []
  repository_base:
    description: The address below which the repository's folders are.
    type: str
    default: https://developer.download.nvidia.com/compute/cuda/repos
attributes:
  check_mode:
    support: full
    description: Nothing is ever changed.
  diff_mode:
    support: none
    description: Nothing is changed.
"""

EXAMPLES = r"""
- name: Decide for this host
  verl.baremetal.driver_plan:
    branch: 580
  register: decision

- name: Decide for eight H100 and four NVSwitches, on a machine without any
  verl.baremetal.driver_plan:
    gpus: ["2330", "2330", "2330", "2330", "2330", "2330", "2330", "2330", "22a3", "22a3", "22a3", "22a3"]
"""

RETURN = r"""
plan:
  description: The decision.
  returned: always
  type: dict
  contains:
    action:
      description: V(skip), V(keep), V(install), V(remove) or V(refuse).
      type: str
      sample: install
    reason:
      description: Why, in one line.
      type: str
      sample: driver branch 570 (newest), open kernel modules, for 8 GPU(s)
    problems:
      description: Everything that speaks against an installation.
      type: list
      elements: str
    branch:
      description: The driver's branch.
      type: int
      sample: 570
    version:
      description: The driver's version as far as it is fixed.
      type: str
      sample: 570.133.20
    kernel_modules:
      description: V(open) or V(proprietary).
      type: str
    repository:
      description: The repository's address.
      type: str
    packages:
      description: The driver's packages.
      type: list
      elements: str
    optional:
      description: Packages that are taken where the repository has them at the driver's version.
      type: list
      elements: str
    exact:
      description: Further packages that must have exactly the driver's version.
      type: list
      elements: str
    headers:
      description: The packages of kernel headers.
      type: list
      elements: str
    pinning:
      description: NVIDIA's pinning package.
      type: str
    fabric_manager:
      description: Whether the fabric manager belongs to it.
      type: bool
    reboot_required:
      description: Whether the loaded driver is another than the installed one, or of another kind.
      type: bool
kernels:
  description: The kernels that need modules.
  returned: always
  type: list
  elements: str
root:
  description: Whether the module ran as root, who sees more.
  returned: always
  type: bool
systemd:
  description: Whether systemd runs the host.
  returned: always
  type: bool
"""

import os
import platform

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.verl.baremetal.plugins.module_utils.nvidia import dkms, host, tables, transaction
from ansible_collections.verl.baremetal.plugins.module_utils.nvidia.decide import Found, Request, decide
from ansible_collections.verl.baremetal.plugins.module_utils.probes import system


def main() -> None:
    """Ask, decide, answer."""
    module = AnsibleModule(
        argument_spec={
            "branch": {"type": "int", "default": 570},
            "version": {"type": "str", "default": ""},
            "kernel_modules": {"type": "str", "choices": ["auto", "open", "proprietary"], "default": "auto"},
            "compute_only": {"type": "bool", "default": True},
            "fabric_manager": {"type": "str", "choices": ["auto", "present", "absent"], "default": "auto"},
            "update": {"type": "bool", "default": False},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "secure_boot": {"type": "str", "choices": ["refuse", "sign", "ignore"], "default": "refuse"},
            "mok_key": {"type": "path", "no_log": False},
            "mok_certificate": {"type": "path"},
            "allow_busy": {"type": "bool", "default": False},
            "busy_ignore": {"type": "list", "elements": "str", "default": []},
            "gpus": {"type": "list", "elements": "str", "default": []},
            "kernels": {"type": "list", "elements": "str", "default": []},
            "repository_base": {
                "type": "str",
                "default": "https://developer.download.nvidia.com/compute/cuda/repos",
            },
        },
        supports_check_mode=True,
    )
    options = module.params
    devices = host.devices_of(options["gpus"]) if options["gpus"] else host.pci_devices()
    kernels = options["kernels"] or host.kernels(os.uname().release)
    systemd = os.path.isdir("/run/systemd/system")
    request = Request(**{name: options[name] for name in Request._fields})
    if not devices.gpus and request.state == "present":
        # The way of every host without a GPU: nothing more is read.
        plan = decide("", "", "", request, [], 0)
        module.exit_json(
            changed=False,
            msg=plan.reason,
            plan=plan.as_dict(),
            kernels=kernels,
            root=os.geteuid() == 0,
            systemd=systemd,
        )
    release = system.os_release()
    files = [options["mok_key"], options["mok_certificate"]]
    packages = transaction.Transaction(transaction.Wanted())
    try:
        status = packages.status()
    except transaction.Refused:
        status = {}
    have = packages.driver_set(status)
    loaded = host.loaded_driver()
    version = tables.upstream(transaction.kernel_module_package(have))
    builds = dkms.from_tree()
    found = Found(
        loaded=loaded,
        package=transaction.kernel_module_package(have),
        loaded_modules=host.loaded_modules(),
        package_modules=transaction.kernel_module_kind(have),
        packages=sorted(have),
        managed=packages.managed(),
        complete=packages.complete(status) and all(dkms.has_module(builds, kernel, version) for kernel in kernels),
        fabric_manager=next((have[name] for name in sorted(have) if name.startswith("nvidia-fabricmanager")), ""),
        secure_boot=bool(system.secure_boot()),
        # Another user cannot see root's files: then the role looks again as root before it changes anything.
        mok_ready=os.geteuid() != 0 or all(name and os.path.exists(name) for name in files),
        busy=host.gpu_processes(ignore=options["busy_ignore"]) if loaded else [],
        kernels=kernels,
        header_metapackages=host.header_metapackages(packages.installed(status)),
    )
    plan = decide(
        release["id"] or "unknown", release["version"] or "", platform.machine(), request, devices.gpus,
        devices.nvswitches, found,
    )
    answer = {
        "changed": False,
        "plan": plan.as_dict(),
        "kernels": kernels,
        "root": os.geteuid() == 0,
        "systemd": systemd,
    }
    if plan.action == "refuse":
        module.fail_json(msg="The NVIDIA driver is not installed: " + "; ".join(plan.problems), **answer)
    module.exit_json(msg=plan.reason, **answer)


if __name__ == "__main__":
    main()
