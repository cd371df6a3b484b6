# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Progress of a long step, written as one JSON line to a file that the action plugin polls."""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import Any, Dict, Optional

_INTERVAL = 0.2


class Progress:
    """Writes what is being done, how far it is and since when; without a path it does nothing."""

    def __init__(self, path: Optional[str]) -> None:
        self.path = path
        self.started = time.time()
        self._last_write = 0.0
        self._last_what = ""

    def step(self, what: str, done: Optional[int] = None, total: Optional[int] = None) -> None:
        """Say what is going on; the same step is written at most five times a second."""
        if not self.path:
            return
        now = time.time()
        if what == self._last_what and done != total and now - self._last_write < _INTERVAL:
            return
        self._last_what = what
        self._last_write = now
        data = {"pid": os.getpid(), "what": what, "done": done, "total": total, "started": self.started, "time": now}
        temporary = f"{self.path}.{os.getpid()}.new"
        # Telling how far we are is never a reason to fail: a full disk will be reported by the step itself.
        with contextlib.suppress(OSError):
            with open(temporary, "w", encoding="utf-8") as handle:
                handle.write(json.dumps(data) + "\n")
            os.replace(temporary, self.path)


def parse(text: str) -> Optional[Dict[str, Any]]:
    """The content of a progress file, None for anything that is none (empty, truncated, foreign)."""
    try:
        data = json.loads(text)
    except ValueError:
        return None
    if not isinstance(data, dict) or not isinstance(data.get("what"), str):
        return None
    return data


def describe(data: Dict[str, Any], elapsed: float) -> str:
    """One line for people: what, how far, how long."""
    text = str(data["what"])
    done, total = data.get("done"), data.get("total")
    if isinstance(done, int) and isinstance(total, int) and total > 0:
        text += f", {done} of {total} ({100 * done // total} %)"
    elif isinstance(done, int):
        text += f", {done}"
    return f"{text}, {duration(elapsed)}"


def duration(seconds: float) -> str:
    """Seconds as people write them: 42 s, 3 min 05 s, 1 h 02 min."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
