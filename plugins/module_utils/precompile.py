# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Bytecode in the background: what a layer brought is compiled while the next ones are fetched and built.

A convenience for the seal, which compiles what is left and ends a compilation that still goes on. Nobody may take
files away below one: `stop` comes first.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import time
from typing import Any, Iterable, List

from ansible_collections.verl.baremetal.plugins.module_utils import bytecode, lock, record

RUNNING = ".bytecode"
_NICE = 10
_MOST = 32


def command(python: str, site: str, cache: str, dists: Iterable[str] = ()) -> List[str]:
    """The program in bytecode.py, run by the environment's Python; for all packages where none are named."""
    loader: Any = bytecode.__loader__
    source = str(loader.get_source(bytecode.__name__))
    return [python, "-I", "-c", source, site, str(min(_MOST, len(os.sched_getaffinity(0)))), cache, *dists]


def cache_of(root: str) -> str:
    """Where the compiled modules of a stack_root are kept."""
    return os.path.join(root, "cache", "bytecode")


def start(release: str, python: str, site: str, names: Iterable[str]) -> None:
    """Begin to compile the modules of some packages of a release in the making; their RECORDs were verified."""
    root = lock.root_of(site)
    wanted = set(names)
    dists = [os.path.basename(dist.path) for dist in record.distributions(site) if dist.name in wanted]
    if root is None or not dists:
        return
    # The lock is shared and the child's as long as it lives: `stop` sees its end even where its number was not noted.
    handle = os.open(os.path.join(release, RUNNING), os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        try:
            child = subprocess.Popen(
                ["nice", "-n", str(_NICE), *command(python, site, cache_of(root), dists)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(handle,),
                start_new_session=True,
            )
        except OSError:
            return  # the seal says what is wrong, if it is
        os.write(handle, f"{child.pid} {lock.process_start(child.pid) or 0}\n".encode("ascii"))
        child.returncode = 0  # it outlives this process, and is nobody's to wait for
    finally:
        os.close(handle)


def stop(release: str, wait: float = 60.0) -> None:
    """End what `start` began in a release and see it gone."""
    path = os.path.join(release, RUNNING)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        for line in os.pread(handle, 65536, 0).decode("ascii", "replace").splitlines():
            pid, _space, began = line.partition(" ")
            if pid.isdigit() and str(lock.process_start(int(pid))) == began:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(int(pid), signal.SIGKILL)
        end = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise lock.LockHeld(
                        f"a process still compiles the modules of {release} after {wait:g} s: end it, then run again"
                    ) from None
            time.sleep(0.02)
        os.unlink(path)
    finally:
        os.close(handle)
