# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""A build that goes on when the connection is lost: a process of its own, one for each build folder.

The process holds the flock of the folder and hands it to the package's build backend as standard input. So a second builder
of the same key waits, also for the backend of a builder that was killed, and then takes over what they left. Compilers that
outlive both are ended first: ninja, which would note what they make, is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sys
import time
import traceback
from typing import Any, Callable, Dict, List, Optional

from ..progress import duration
from . import builder, cache, jobs, source, toolchain

LOCK = "lock"
STATUS = "status.json"
RESULT = "result.json"
WORKER = "worker.json"


def _read(path: str) -> Optional[Dict[str, Any]]:
    try:
        with open(path, encoding="utf-8") as handle:
            value = json.load(handle)
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def status_of(folder: str) -> Dict[str, Any]:
    """The last word of the builder in this folder."""
    return _read(os.path.join(folder, STATUS)) or {}


def result_of(folder: str) -> Optional[Dict[str, Any]]:
    """How the last build in this folder ended, None while there is no end."""
    return _read(os.path.join(folder, RESULT))


def _try_lock(folder: str) -> Optional[int]:
    descriptor = os.open(os.path.join(folder, LOCK), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def is_free(folder: str) -> bool:
    """Whether nobody works in this folder, the build backend of a killed builder included."""
    descriptor = _try_lock(folder)
    if descriptor is None:
        return False
    os.close(descriptor)
    return True


def work(request: builder.Request, context: builder.Context, folder: str, cache_folder: str) -> Dict[str, Any]:
    """Build in this process, which holds the lock; returns the result, also of a failure."""
    last: Dict[str, Any] = {}

    def tell(news: Dict[str, Any]) -> None:
        if "note" in news:
            last["note"] = news["note"]
        else:
            note = last.get("note")
            last.clear()
            last.update(news)
            if note:
                last["note"] = note
        with contextlib.suppress(OSError):
            cache.write_json(os.path.join(folder, STATUS), dict(last, time=time.time()))

    try:
        found, _damaged = cache.lookup(cache_folder, context.parts)
        if found is None:
            build = builder.Build(request, context, folder, tell)
            entry = build.run()
            found = cache.store(cache_folder, os.path.join(folder, "out", entry["wheel"]), entry)
            if not request.keep:
                build.clean()
        result = {"ok": True, "wheel": found.path, "entry": found.entry}
    except (
        builder.BuildError,
        source.SourceError,
        toolchain.ToolchainError,
        jobs.NotEnoughMemory,
        cache.CacheError,
    ) as error:
        result = {"ok": False, "message": str(error)}
    except Exception as error:
        result = {"ok": False, "message": f"The builder itself failed: {error!r}.\n{traceback.format_exc()[-1500:]}"}
    return result


def start(request: builder.Request, context: builder.Context, folder: str, cache_folder: str) -> bool:
    """Start a builder unless somebody is at work in the folder. True when one was started."""
    os.makedirs(folder, exist_ok=True)
    for _attempt in range(10):
        descriptor = _try_lock(folder)
        if descriptor is not None:
            break
        time.sleep(0.1)  # whoever only looks whether the folder is free has the lock for a moment
    else:
        return False
    for name in (RESULT, STATUS):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, name))
    detach(
        lambda: _main(request, context, folder, cache_folder, descriptor),
        descriptor,
        os.path.join(folder, "worker.log"),
    )
    os.close(descriptor)
    return True


def _main(request: builder.Request, context: builder.Context, folder: str, cache_folder: str, descriptor: int) -> None:
    os.dup2(descriptor, 0)
    os.set_inheritable(0, True)
    if descriptor != 0:
        os.close(descriptor)
    cache.write_json(os.path.join(folder, WORKER), {"pid": os.getpid(), "started": time.time()})
    # Other work goes first. Where the scheduler groups processes by session, nice counts within a session alone.
    with contextlib.suppress(OSError):
        os.nice(5)
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "w", encoding="ascii") as handle:
        handle.write("5")
    end_orphans(folder)
    result = work(request, context, folder, cache_folder)
    cache.write_json(os.path.join(folder, RESULT), result)


def orphans(folder: str) -> List[int]:
    """Processes of an earlier build in this folder: their environment names its folder for temporary files."""
    mark = f"TMPDIR={os.path.join(folder, 'tmp')}".encode()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as handle:
                if mark in handle.read().split(b"\0"):
                    found.append(int(name))
    return found


def end_orphans(folder: str) -> None:
    """Kill them: what they write would meet what the next compilers write. The caller holds the folder's lock."""
    left = orphans(folder)
    while left:
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
        left = orphans(folder)


def detach(main: Callable[[], None], keep: int, log: str) -> None:
    """Run main in a process of its own session, which belongs to nobody."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.umask(0o022)
        os.chdir("/")
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        for descriptor in range(3, 1024):
            if descriptor != keep:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        main()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def wait(folder: str, seconds: float) -> Dict[str, Any]:
    """Wait at most so long for the end of the work in the folder.

    ended: nobody works there. result: how it ended, None when the builder was killed before it could say.
    """
    end = time.monotonic() + seconds
    while True:
        if is_free(folder):
            return {"ended": True, "result": result_of(folder), "status": status_of(folder)}
        if time.monotonic() >= end:
            return {"ended": False, "result": None, "status": status_of(folder)}
        time.sleep(min(0.5, max(0.01, end - time.monotonic())))


def describe(status: Dict[str, Any]) -> str:
    """One line for people: units done of all, elapsed, estimate."""
    text = str(status.get("what") or "starting")
    done, total = status.get("done"), status.get("total")
    if isinstance(done, int) and isinstance(total, int) and total:
        text += f": {done} of {total} units"
    if status.get("jobs"):
        text += f", {status['jobs']} at a time"
    if isinstance(status.get("elapsed"), (int, float)):
        text += f", {duration(status['elapsed'])}"
    if isinstance(status.get("left"), (int, float)):
        text += f", about {duration(status['left'])} left"
    if status.get("note"):
        text += f" ({status['note']})"
    return text
