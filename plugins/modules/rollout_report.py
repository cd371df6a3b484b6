#!/usr/bin/python
# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Documentation of the action plugin of the same name, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: rollout_report
short_description: Closes batches of a rollout and writes reports
description:
  - Runs on the controller alone. Writes C(report.json) and C(report.html), a page that needs nothing beside itself.
author: the verl.baremetal authors (@verl-baremetal)
version_added: 0.1.0
options:
  state:
    description:
      - V(open) and V(close) begin and end the batch of the host that runs the task.
      - V(rest) lists hosts that wait for another run, and those of them that an earlier one only drained.
      - V(end) writes the last report, and fails when a host is not done.
      - V(verify) writes a report of a verify run.
    type: str
    choices: [open, close, rest, end, verify]
    required: true
  journal:
    description: The rollout's folder on the controller. Not for V(verify).
    type: str
  max_fail_percentage:
    description: More failures of a batch than this percentage say stop.
    type: float
  claim_seconds:
    description: How long a claim lasts.
    type: int
    default: 3600
  hosts:
    description: The hosts of a verify run.
    type: list
    elements: str
  checks:
    description: Name of the variable in which M(verl.baremetal.version_check) was registered.
    type: str
  folder:
    description: Folder on the controller for the report of a verify run.
    type: str
  title:
    description: Title of the report of a verify run.
    type: str
attributes:
  check_mode:
    support: full
    description: Reports are written in check mode too; they lie on the controller and say what was seen.
  diff_mode:
    support: none
    description: Nothing is configured.
"""

EXAMPLES = r"""
- name: Write a page of what was found
  verl.baremetal.rollout_report:
    state: verify
    hosts: "{{ ansible_play_hosts_all }}"
    checks: verl_check
    folder: ~/verl-report
  run_once: true
"""

RETURN = r"""
page:
  description: Where the page lies.
  returned: with end and verify
  type: str
  sample: /root/.local/state/verl-baremetal/rollout/report.html
counts:
  description: How many hosts have each status.
  returned: with end and verify
  type: dict
  sample: {"done": 998, "failed": 2, "unreachable": 0, "interrupted": 0, "waiting": 0}
stop:
  description: Whether the next batch must not begin.
  returned: with close
  type: bool
  sample: false
"""
