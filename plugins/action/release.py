# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Tells the module release which run it belongs to, and people how far it is."""

from __future__ import annotations

from ansible_collections.verl.baremetal.plugins.plugin_utils.progress_action import ProgressAction


class ActionModule(ProgressAction):
    """The action of verl.baremetal.release."""

    MODULE = "verl.baremetal.release"

    def is_long(self, arguments: dict[str, object]) -> bool:
        """Only sealing takes long."""
        return arguments.get("state") == "seal"
