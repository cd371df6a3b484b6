# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Small readers that the probes share: a file that is not there is None, never an exception."""

from __future__ import annotations

import os
import re
from typing import Dict, List, Optional

_LIMIT = 1024 * 1024


def text(path: str, limit: int = _LIMIT) -> Optional[str]:
    """The beginning of a file as text, or None where it cannot be read."""
    try:
        with open(path, "rb") as stream:
            return stream.read(limit).decode("utf-8", "replace")
    except OSError:
        return None


def line(path: str) -> Optional[str]:
    """The content of a file of one line (as in /sys), or None where it cannot be read or is empty."""
    content = text(path, 4096)
    return content.strip() or None if content is not None else None


def number(path: str) -> Optional[int]:
    """A decimal or 0x number in a file of one line."""
    content = line(path)
    try:
        return int(content, 0) if content else None
    except ValueError:
        return None


def macro(path: str, name: str) -> Optional[int]:
    """The number that a C header defines under `name`."""
    found = macros(path, [name])
    return found.get(name)


def macros(path: str, wanted: List[str]) -> Dict[str, int]:
    """The numbers that a C header defines under these names; those that it does not define are left out."""
    content = text(path) or ""
    found: Dict[str, int] = {}
    for name in wanted:
        # A toolkit's headers have a megabyte: only the lines with the name are compared.
        definition = re.compile(rf"[ \t]*#[ \t]*define[ \t]+{name}[ \t]+\(?(\d+)\b")
        place = content.find(name)
        while place >= 0:
            match = definition.match(content, content.rfind("\n", 0, place) + 1)
            if match:
                found[name] = int(match.group(1))
                break
            place = content.find(name, place + len(name))
    return found


def names(path: str) -> List[str]:
    """The sorted entries of a folder, none where it cannot be read."""
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []
