#!/usr/bin/python
# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Reports the NVIDIA GPUs of a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_info
short_description: Report the NVIDIA GPUs, NVSwitches and the driver of a host
description:
  - Finds GPUs by PCI in C(/sys), without a driver and without other programs, and completes them by asking
    NVIDIA's management library (NVML) where a driver is loaded. No CUDA context is created and no setting is changed.
  - What is not there is reported as V(null) or an empty list with the reason in RV(reason), never as a failure.
author:
  - the verl.baremetal authors (@verl-baremetal)
version_added: 0.1.0
options:
  nvml:
    description:
      - Ask NVML for names, compute capability, memory, errors and links.
      - Without it only C(/sys) and C(/proc) are read.
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
  - module: verl.baremetal.version_check
"""

EXAMPLES = r"""
- name: Find the GPUs
  verl.baremetal.gpu_info:
  register: gpus

- name: Show the compute capabilities of the host
  ansible.builtin.debug:
    msg: "{{ gpus.gpus | map(attribute='compute_capability') | unique }}"
"""

RETURN = r"""
gpus:
  description: The GPUs, in the order of their PCI addresses.
  returned: always
  type: list
  elements: dict
  sample:
    - pci: "0000:0f:00.0"
      device_id: "2330"
      name: NVIDIA H100 80GB HBM3
      compute_capability: "9.0"
      generation: Hopper
      memory_mb: 81559
      bound_to: nvidia
      numa_node: 0
  contains:
    pci:
      description: Address on the PCI bus.
      type: str
      returned: always
    device_id:
      description: PCI device id, four hexadecimal digits.
      type: str
      returned: always
    name:
      description: Name by the driver, or by a table of device ids.
      type: str
      returned: always
    compute_capability:
      description: For example V(9.0); V(null) where neither the driver nor the table tells.
      type: str
      returned: always
    generation:
      description: Chip family, for example Hopper; V(null) where it is unknown.
      type: str
      returned: always
    memory_mb:
      description: Memory in MiB; V(null) without a driver.
      type: int
      returned: always
    bound_to:
      description: The kernel driver that holds the device.
      type: str
      returned: always
    numa_node:
      description: NUMA node of the slot, V(null) where there is none.
      type: int
      returned: always
nvswitches:
  description: Number of NVSwitches on the PCI bus.
  returned: always
  type: int
  sample: 4
driver:
  description: The driver in its four places; V(null) where there is no trace of one.
  returned: always
  type: dict
  sample:
    loaded: 570.133.20
    kind: open
    userspace: 570.133.20
    running_kernel: 6.8.0-60-generic
    newest_kernel: 6.8.0-60-generic
    on_disk:
      - kernel: 6.8.0-60-generic
        version: 570.133.20
        open: true
        path: /lib/modules/6.8.0-60-generic/updates/dkms/nvidia.ko
    packages:
      nvidia-open-570: 570.133.20
nvml:
  description: What NVML says of driver and CUDA, or why it does not answer; V(null) where it was not asked.
  returned: always
  type: dict
  sample:
    driver: 570.133.20
    nvml: 12.570.133.20
    cuda: "12.8"
    error: null
    code: 0
    remedy: null
reason:
  description: Why GPUs or details of them are missing; V(null) where nothing is.
  returned: always
  type: str
  sample: no NVIDIA GPU on the PCI bus
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.verl.baremetal.plugins.module_utils.probes import collect


def main() -> None:
    module = AnsibleModule(argument_spec={"nvml": {"type": "bool", "default": True}}, supports_check_mode=True)
    module.exit_json(changed=False, **collect.gpu_facts(ask=collect.ask_nvml if module.params["nvml"] else None))


if __name__ == "__main__":
    main()
