# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Which host builds a wheel: a lease in the controller's cache, one for each key, that the others wait for.

A lease belongs to a host in a run. It ends when it is given back, when its run's process is gone, or when whoever waits
for it has heard no beat for a while: then its host is not at work. Beside it are noted the builds that failed in this run,
so that a thousand hosts do not repeat one after the other what cannot succeed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import threading
import time
import typing as t

from ansible_collections.verl.baremetal.plugins.module_utils import lock
from ansible_collections.verl.baremetal.plugins.module_utils.wheels import cache, key

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

    def holder(self) -> dict[str, t.Any] | None:
        """Who is at work with it, None when nobody is."""
        with self._guarded():
            holder = self.read()
            return None if holder is None or self._over(holder, time.time()) else holder

    def mine(self) -> bool:
        """Whether this host took it in this run."""
        return self._ours(self.read() or {})

    def _ours(self, holder: dict[str, t.Any]) -> bool:
        return bool(holder.get("run") == self.owner["run"] and holder.get("holder") == self.host)

    def _over(self, holder: dict[str, t.Any], now: float) -> bool:
        if self._ours(holder) or lock.is_dead(holder):
            return True
        beat = holder.get("beat")
        return not isinstance(beat, (int, float)) or now - max(beat, self.waiting_since) > SILENCE

    def beat(self) -> None:
        """Say that we are at work, unless another host took over meanwhile."""
        with self._guarded():
            if self.mine():
                self._write(time.time())

    @contextlib.contextmanager
    def beating(self) -> t.Iterator[None]:
        """Beat while something takes long that cannot say so itself."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(SILENCE / 4):
                self.beat()

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def release(self) -> None:
        """Give it back when it is ours."""
        with self._guarded():
            if self.mine():
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.path)

    def failures(self) -> dict[str, str]:
        """Hosts on which the build failed in this run, and why."""
        try:
            with open(self.path + ".failed", encoding="utf-8") as handle:
                noted = json.load(handle)
            return dict(noted["hosts"]) if noted["run"] == self.owner["run"] else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def failed(self, why: str) -> None:
        """Note that the build failed on this host."""
        with self._guarded():
            cache.write_json(self.path + ".failed", {"run": self.owner["run"], "hosts": {**self.failures(), self.host: why}})
