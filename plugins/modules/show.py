#!/usr/bin/python
# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: show
author: the verl.baremetal authors (@verl-baremetal)
short_description: Print a text as it is
description:
  - Prints lines on the controller's terminal without the decoration of a result, so that a table stays readable in 80 columns.
  - Runs on the controller alone, in the action plugin of the same name.
version_added: 0.1.0
options:
  text:
    description: The text; a list is printed a line each.
    type: raw
    required: true
  title:
    description: A line above the text, before the host's name. Empty prints the host's name alone.
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
- name: Show the version check
  verl.baremetal.show:
    title: version check
    text: "{{ verl_version_check.table }}"
"""

RETURN = r"""
"""
