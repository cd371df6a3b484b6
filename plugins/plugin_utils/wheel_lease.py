# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Which host builds a wheel: a lease in the controller's cache, one for each key, that the others wait for.

A lease belongs to a host in a run. It ends when it is given back, when its run's process is gone, or when whoever waits
for it has heard no beat for a while: then its host is not at work.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
import typing as t

from ansible_collections.verl.baremetal.plugins.module_utils import lock
from ansible_collections.verl.baremetal.plugins.module_utils.wheels import key

SILENCE = 90.0


def group(parts: dict[str, t.Any]) -> str:
    """What hosts share that one wheel can serve: the key without the compiler, which only some of them have, and without
    the architectures, since whoever builds does so for all GPUs of the play.
    """
    shared = {name: value for name, value in parts.items() if name not in ("nvcc", "flags", "architectures")}
    return "{}-{}".format(parts["package"], hashlib.sha256(key.canonical(shared).encode()).hexdigest()[: key.LENGTH])


class Lease:
    """The lease of one group, as one host of this run sees it."""

    def __init__(self, folder: str, name: str, host: str, main: int) -> None:
        os.makedirs(folder, exist_ok=True)
        self.path = os.path.join(folder, "." + name + ".lease")
        self.host = host
        self.owner = lock.owner_of(main)
        self.waiting_since = time.time()

    @contextlib.contextmanager
    def _guarded(self) -> t.Iterator[None]:
        with open(self.path + ".guard", "a", encoding="utf-8") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            yield

    def read(self) -> dict[str, t.Any] | None:
        """Who holds it, None when nobody does."""
        try:
            with open(self.path, encoding="utf-8") as handle:
                data = json.load(handle)
        except (OSError, ValueError):
            return None
        return data if isinstance(data, dict) else None

    def _write(self, now: float) -> None:
        temporary = f"{self.path}.{os.getpid()}.new"
        with open(temporary, "w", encoding="utf-8") as handle:
            json.dump(dict(self.owner, holder=self.host, beat=now), handle)
        os.replace(temporary, self.path)

    def acquire(self) -> dict[str, t.Any] | None:
        """Take it; None when it is ours now, otherwise who holds it."""
        now = time.time()
        with self._guarded():
            holder = self.read()
            if holder is not None and not self._over(holder, now):
                return holder
            self._write(now)
            return None

    def _over(self, holder: dict[str, t.Any], now: float) -> bool:
        if holder.get("run") == self.owner["run"] and holder.get("holder") == self.host:
            return True
        if lock.is_dead(holder):
            return True
        beat = holder.get("beat")
        return not isinstance(beat, (int, float)) or now - max(beat, self.waiting_since) > SILENCE

    def beat(self) -> None:
        """Say that we are at work."""
        with self._guarded():
            self._write(time.time())

    def release(self) -> None:
        """Give it back when it is ours."""
        with self._guarded():
            holder = self.read()
            if holder and holder.get("run") == self.owner["run"] and holder.get("holder") == self.host:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.path)
