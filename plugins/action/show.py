# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Prints a text as it is; nothing runs on the host."""

from __future__ import annotations

import typing as t

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display


class ActionModule(ActionBase):
    """Writes the lines to the terminal in one piece, so that hosts do not mix."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Print and report nothing changed."""
        result = super().run(tmp, task_vars)
        _checked, args = self.validate_argument_spec(
            argument_spec={"text": {"type": "raw", "required": True}, "title": {"type": "str", "default": ""}}
        )
        text = args["text"]
        lines = [str(line) for line in text] if isinstance(text, list) else str(text).splitlines()
        host = str((task_vars or {}).get("inventory_hostname", ""))
        head = ", ".join(part for part in (args["title"], host) if part)
        Display().display("\n".join(["", head, "", *lines]))
        result.update(changed=False)
        return result
