#!/usr/bin/python
# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Documentation of the action plugin of the same name, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: rollout_plan
short_description: Decides which hosts a rollout prepares and activates
description:
  - Runs on the controller alone and reads the rollout's journal there. Part of C(playbooks/rollout.yml).
author: the verl.baremetal authors (@verl-baremetal)
version_added: 0.1.0
options:
  state:
    description:
      - V(start) takes the rollout for this run, and refuses when another run has it.
      - V(survey) says which hosts have something to do.
      - V(batches) puts the prepared hosts in order and cuts them into batches.
    type: str
    choices: [start, survey, batches]
    required: true
  journal:
    description: The rollout's folder on the controller.
    type: str
    required: true
  direction:
    description: Whether a new release comes or the previous one comes back.
    type: str
    choices: [activate, rollback]
  release:
    description: The release that a rollback goes back to. Empty means each host's previous one.
    type: str
  hosts:
    description: All hosts of the play.
    type: list
    elements: str
  batches:
    description: Numbers of hosts or percentages; the last entry repeats.
    type: list
    elements: raw
  max_fail_percentage:
    description: More unprepared hosts than this percentage stop the rollout before anything live is touched.
    type: float
  claim_seconds:
    description: How long a claim lasts.
    type: int
    default: 3600
attributes:
  check_mode:
    support: full
    description: Nobody is chosen.
  diff_mode:
    support: none
    description: Nothing is configured.
"""

EXAMPLES = r"""
- name: Cut the prepared hosts into batches
  verl.baremetal.rollout_plan:
    state: batches
    journal: ~/.local/state/verl-baremetal/rollout
    batches: [1, "10%", "25%"]
    max_fail_percentage: 10
  register: plan
"""

RETURN = r"""
hosts:
  description: The hosts of the next play, or the pattern of nobody.
  returned: with survey and batches
  type: list
  elements: str
  sample: [node001, node002]
serial:
  description: The sizes of the batches.
  returned: with batches
  type: list
  elements: int
  sample: [1, 10, 25]
stop:
  description: Why nothing is activated, or null.
  returned: with batches
  type: str
  sample: null
"""
