# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""What an action plugin tells its module about the run."""

from __future__ import annotations


class ModuleDocFragment:
    """Options that the action plugins set; people leave them alone."""

    DOCUMENTATION = r"""
options:
  owner:
    description:
      - The run that holds the lock of the stack_root. Set by the action plugin.
    type: dict
  probe:
    description:
      - Only say whether there is something to do. Set by the action plugin.
    type: bool
    default: false
  progress_file:
    description:
      - File on the host into which the module writes how far it is. Set by the action plugin.
    type: path
  lock_takeover:
    description:
      - A run whose process the controller found dead, so that its lock may be taken over. Set by the action plugin.
    type: str
    default: ""
"""
