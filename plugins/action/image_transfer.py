# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Tells people how far the module image_transfer is."""

from __future__ import annotations

from ansible_collections.verl.baremetal.plugins.plugin_utils.progress_action import ProgressAction


class ActionModule(ProgressAction):
    """The action of verl.baremetal.image_transfer."""

    MODULE = "verl.baremetal.image_transfer"
