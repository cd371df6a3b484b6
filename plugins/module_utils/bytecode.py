# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Compiles every module that an environment's RECORDs name, and keeps the result: the same file is compiled once.

The environment's own Python runs this file as a program (see seal.py), so it needs the standard library alone:

    python -I -c SOURCE SITE_PACKAGES JOBS [CACHE [DIST-INFO ...]]

What a module compiles to depends on its source and on the Python alone: the path in it is replaced by Python when the
module is imported, and the source's time and size are in the head of the file. So compiled modules are kept in CACHE
under the hashes of their sources, which were read and compared, and the next release takes them from there.
"""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import csv
import ctypes
import gc
import hashlib
import importlib.util
import marshal
import multiprocessing
import os
import signal
import sys
import warnings
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

# Modules of one job and of one file in the cache.
TOGETHER = 48
# Nobody imports the tests that packages bring along; whoever runs them has Python compile them.
LEFT_OUT = "tests"


class Job(NamedTuple):
    """Some modules of one package."""

    key: str
    """What stands for the paths and hashes of their sources."""
    weight: int
    """Bytes of source."""
    files: List[Tuple[str, str]]
    """Path below site-packages and sha256, as the RECORD writes it."""


def _modules(record: str) -> List[Tuple[str, str, int]]:
    """(path, sha256, size) of the modules in a RECORD's text."""
    found = []
    for row in csv.reader(record.splitlines()):
        if len(row) != 3 or not row[0].endswith(".py") or row[0].startswith(("/", "../")):
            continue
        if LEFT_OUT not in row[0].split("/"):
            found.append((row[0], row[1], int(row[2]) if row[2].isdigit() else 0))
    return sorted(found)


def plan(site: str, dists: Sequence[str] = ()) -> List[Job]:
    """The jobs of a site-packages folder, the longest first; of some packages, where their dist-info folders are named."""
    jobs = []
    for name in sorted(dists or os.listdir(site)):
        if not name.endswith(".dist-info"):
            continue
        try:
            with open(os.path.join(site, name, "RECORD"), encoding="utf-8", errors="replace", newline="") as handle:
                modules = _modules(handle.read())
        except (OSError, csv.Error):
            continue  # the proof of the RECORDs says so in words
        for start in range(0, len(modules), TOGETHER):
            part = modules[start : start + TOGETHER]
            text = "".join(f"{path},{digest}\n" for path, digest, _size in part)
            key = hashlib.sha256(text.encode("utf-8")).hexdigest()
            jobs.append(Job(key, sum(size for _p, _d, size in part), [(path, digest) for path, digest, _s in part]))
    return sorted(jobs, key=lambda job: (-job.weight, job.key))


def folder(cache: str) -> str:
    """The part of the cache that belongs to the Python that runs this."""
    return os.path.join(cache, f"{sys.implementation.cache_tag}-{importlib.util.MAGIC_NUMBER.hex()}")


def load(path: str) -> Dict[str, bytes]:
    """What an earlier run kept; nothing where it kept nothing or it is not whole."""
    try:
        with open(path, "rb") as handle:
            data = handle.read()
        if hashlib.sha256(data[32:]).digest() == data[:32]:
            kept = marshal.loads(data[32:])
            return kept if isinstance(kept, dict) else {}
    except (OSError, ValueError, EOFError, TypeError):
        pass
    return {}


def replace(path: str, data: bytes, mode: int, temporary: str = "") -> None:
    """Write a file in one rename: whoever reads it meanwhile sees all of it or none."""
    temporary = temporary or path + ".new"  # what a kill leaves there, the next run writes over
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def compiled(source: bytes, path: str) -> bytes:
    """A module as Python keeps it, b"" for one that does not compile: some packages hold templates and old syntax."""
    try:
        return marshal.dumps(compile(source, path, "exec", dont_inherit=True))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return b""


def work(site: str, job: Job, cache: str) -> None:
    """Compile the modules of a job, or take them from the cache; those that are compiled already stay."""
    entry = os.path.join(cache, job.key) if cache else ""
    kept = load(entry) if entry else {}
    made: Dict[str, bytes] = {}
    as_recorded = True
    for name, digest in job.files:
        path = os.path.join(site, name)
        target = importlib.util.cache_from_source(path)
        try:
            with open(path, "rb") as handle:
                status = os.fstat(handle.fileno())
                source = handle.read() if name not in kept else b""
        except OSError:
            as_recorded = False
            continue  # the proof of the RECORDs says so in words
        head = importlib.util.MAGIC_NUMBER + bytes(4)
        head += (int(status.st_mtime) & 0xFFFFFFFF).to_bytes(4, "little")
        head += (status.st_size & 0xFFFFFFFF).to_bytes(4, "little")
        code, there = kept.get(name), _read(target, head)
        if code is None:
            encoded = base64.urlsafe_b64encode(hashlib.sha256(source).digest()).decode("ascii").rstrip("=")
            as_recorded = as_recorded and digest == "sha256=" + encoded
            code = compiled(source, name) if there is None else there
        made[name] = code
        if there is None and code:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            replace(target, head + code, (status.st_mode & 0o666) | 0o200)
    if entry and not kept and as_recorded:
        data = marshal.dumps(made)
        replace(entry, hashlib.sha256(data).digest() + data, 0o600, f"{entry}.{os.getpid()}")


def _read(path: str, head: bytes) -> Optional[bytes]:
    """The code in a compiled module that belongs to its source, None where there is none."""
    try:
        with open(path, "rb") as handle:
            return handle.read() if handle.read(len(head)) == head else None
    except OSError:
        return None


def _begin(parent: int) -> None:
    """A worker whose parent was killed would wait for work for ever, and hold the release's flock."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    gc.disable()
    warnings.simplefilter("ignore")


def say(done: int, total: int) -> None:
    """How far it is, for who started this program."""
    sys.stdout.write(f"{done} {total}\n")
    sys.stdout.flush()


def main(arguments: List[str]) -> None:
    """Compile all; one line "done total" for every job."""
    site, number, cache = arguments[0], int(arguments[1]), (arguments[2:] or [""])[0]
    if cache:
        cache = folder(cache)
        os.makedirs(cache, mode=0o700, exist_ok=True)
    jobs = plan(site, arguments[3:])
    say(0, len(jobs))
    context = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(
        number, mp_context=context, initializer=_begin, initargs=(os.getpid(),)
    ) as pool:
        waiting = [pool.submit(work, site, job, cache) for job in jobs]
        for done, job in enumerate(concurrent.futures.as_completed(waiting), 1):
            job.result()
            say(done, len(jobs))


if __name__ == "__main__":
    main(sys.argv[1:])
