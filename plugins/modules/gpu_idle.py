#!/usr/bin/python
# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Waits until no process holds a GPU."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: gpu_idle
short_description: Waits until no process holds a GPU
description:
  - Looks in C(/proc) for processes that have a device file of a GPU open. Needs no tool of NVIDIA's, so it also works
    while the driver is half-upgraded.
  - Without root only the caller's own processes can be looked into. Where there is a GPU and other users have processes,
    nobody knows then whether it is idle, and the module fails.
author: the verl.baremetal authors (@verl-baremetal)
version_added: 0.1.0
options:
  devices:
    description: Patterns of the device files; an empty list asks for none.
    type: list
    elements: str
    default: ["/dev/nvidia[0-9]*"]
  ignore:
    description: Patterns of the names of processes that may hold a GPU, such as NVIDIA's own daemons.
    type: list
    elements: str
    default: [nvidia-persiste*, nv-hostengine, dcgm-exporter, nv-fabricmanag*]
  timeout:
    description: Seconds to wait.
    type: int
    default: 600
  poll:
    description: Seconds between two looks.
    type: int
    default: 5
attributes:
  check_mode:
    support: full
    description: Looks once and does not wait or fail.
  diff_mode:
    support: none
    description: Nothing is changed.
"""

EXAMPLES = r"""
- name: Wait five minutes for the GPUs to become idle
  verl.baremetal.gpu_idle:
    timeout: 300
"""

RETURN = r"""
idle:
  description: Whether no process holds a GPU, as far as every process could be looked into.
  returned: always
  type: bool
  sample: true
hidden:
  description: How many processes could not be looked into; always 0 for root, and where there is no GPU.
  returned: always
  type: int
  sample: 0
users:
  description: The processes that hold one, at most 20.
  returned: always
  type: list
  elements: dict
  sample: [{"pid": 4242, "name": "python3", "devices": ["/dev/nvidia0"]}]
waited:
  description: Seconds waited.
  returned: always
  type: int
  sample: 0
"""

import os
import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.verl.baremetal.plugins.module_utils.rollout import idle


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "devices": {"type": "list", "elements": "str", "default": ["/dev/nvidia[0-9]*"]},
            "ignore": {
                "type": "list",
                "elements": "str",
                "default": ["nvidia-persiste*", "nv-hostengine", "dcgm-exporter", "nv-fabricmanag*"],
            },
            "timeout": {"type": "int", "default": 600},
            "poll": {"type": "int", "default": 5},
        },
        supports_check_mode=True,
    )
    start = time.monotonic()
    while True:
        users = idle.users_of(module.params["devices"], module.params["ignore"])
        hidden = idle.hidden(module.params["devices"]) if os.geteuid() != 0 else 0
        waited = int(time.monotonic() - start)
        answer = {"idle": not users and not hidden, "hidden": hidden, "users": users[:20], "waited": waited}
        if answer["idle"] or module.check_mode:
            module.exit_json(changed=False, **answer)
        if hidden:
            module.fail_json(
                msg=f"{hidden} processes of other users cannot be looked into without root, so nobody knows whether they"
                " hold a GPU; use become, or ask for no devices (drain_idle_devices: [] in a rollout)",
                **answer,
            )
        if waited >= module.params["timeout"]:
            module.fail_json(
                msg=f"GPUs are still held by {idle.describe(users)} after {waited} s; end these processes, or raise"
                " the timeout (drain_idle_timeout in a rollout)",
                **answer,
            )
        time.sleep(min(module.params["poll"], max(1, module.params["timeout"] - waited)))


if __name__ == "__main__":
    main()
