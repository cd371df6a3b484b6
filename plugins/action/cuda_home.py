# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Tells the module cuda_home which run it belongs to, and people how far it is."""

from __future__ import annotations

from ansible_collections.verl.baremetal.plugins.plugin_utils.progress_action import ProgressAction


class ActionModule(ProgressAction):
    """The action of verl.baremetal.cuda_home."""

    MODULE = "verl.baremetal.cuda_home"
