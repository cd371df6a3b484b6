# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Tells people how far the module image_commit is."""

from __future__ import annotations

from ansible_collections.verl.baremetal.plugins.plugin_utils.progress_action import ProgressAction


class ActionModule(ProgressAction):
    """The action of verl.baremetal.image_commit."""

    MODULE = "verl.baremetal.image_commit"

    def is_long(self, arguments: dict[str, object]) -> bool:
        """Only committing takes long."""
        return arguments.get("state") == "committed"
