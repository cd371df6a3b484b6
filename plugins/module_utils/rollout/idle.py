# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Which processes hold a GPU: read from /proc, without NVIDIA's tools, so that it also works while they are broken."""

from __future__ import annotations

import fnmatch
import glob
import os
from typing import Any, Dict, List, Sequence


def users_of(devices: Sequence[str], ignore: Sequence[str], proc: str = "/proc") -> List[Dict[str, Any]]:
    """Processes that have one of the device files open, without those whose name is to be ignored."""
    found: List[Dict[str, Any]] = []
    for entry in sorted(_entries(proc), key=int):
        held = _held(os.path.join(proc, entry, "fd"), devices)
        if not held:
            continue
        name = _name(os.path.join(proc, entry, "comm"))
        if not any(fnmatch.fnmatch(name, pattern) for pattern in ignore):
            found.append({"pid": int(entry), "name": name, "devices": held})
    return found


def hidden(devices: Sequence[str], proc: str = "/proc") -> int:
    """How many processes this user cannot look into; none where there is no device that they could hold."""
    if not any(glob.glob(pattern) for pattern in devices):
        return 0
    count = 0
    for entry in _entries(proc):
        try:
            os.listdir(os.path.join(proc, entry, "fd"))
        except PermissionError:
            count += 1
        except OSError:
            continue
    return count


def describe(users: Sequence[Dict[str, Any]], limit: int = 5) -> str:
    """The processes in one line of words."""
    shown = [f"{user['name']} ({user['pid']})" for user in users[:limit]]
    more = len(users) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _entries(proc: str) -> List[str]:
    try:
        return [name for name in os.listdir(proc) if name.isdigit()]
    except OSError:
        return []


def _held(folder: str, devices: Sequence[str]) -> List[str]:
    held = set()
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    for name in names:
        try:
            target = os.readlink(os.path.join(folder, name))
        except OSError:
            continue
        if any(fnmatch.fnmatch(target, pattern) for pattern in devices):
            held.add(target)
    return sorted(held)


def _name(path: str) -> str:
    try:
        with open(path, "rb") as stream:
            return stream.read(64).decode("utf-8", "replace").strip()
    except OSError:
        return "?"
