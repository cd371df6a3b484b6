# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Which of a distribution's files serves a CPython on x86_64 Linux, told from the files' names alone (PEP 425, 600)."""

from __future__ import annotations

import re
from typing import Iterable, List, NamedTuple, Optional, Tuple

_WHEEL = re.compile(
    r"^(?P<name>[^-]+)-(?P<version>[^-]+)(?:-(?P<build>\d[^-]*))?-(?P<python>[^-]+)-(?P<abi>[^-]+)-(?P<platform>[^-]+)\.whl$"
)
_OLD = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
SDISTS = (".tar.gz", ".zip", ".tar.bz2", ".tar.xz", ".tgz")


class Target(NamedTuple):
    """For whom a file is chosen."""

    python: str  # 3.11
    glibc: Tuple[int, int] = (2, 28)
    machine: str = "x86_64"


def is_sdist(name: str) -> bool:
    """Whether a file's name is that of a source distribution."""
    return name.endswith(SDISTS)


def _platform(tag: str, target: Target) -> Optional[int]:
    """How specific a platform's tag is, the smaller the better; None when it does not serve."""
    if tag == "any":
        return 1000
    if not tag.endswith("_" + target.machine):
        return None
    head = tag[: -len(target.machine) - 1]
    if head == "linux":
        return 900
    if head in _OLD:
        needed = _OLD[head]
    else:
        match = re.match(r"^manylinux_(\d+)_(\d+)$", head)
        if match is None:
            return None
        needed = (int(match.group(1)), int(match.group(2)))
    if needed > target.glibc:
        return None
    return 100 * (target.glibc[0] - needed[0]) + target.glibc[1] - needed[1]


def _interpreter(python: str, abi: str, target: Target) -> Optional[int]:
    """How specific a pair of interpreter and ABI is; None when it does not serve."""
    major, minor = (int(part) for part in target.python.split(".")[:2])
    own = f"cp{major}{minor}"
    match = re.match(r"^(cp|py)(\d)(\d*)$", python)
    if match is None:
        return None
    kind, found_major, found_minor = match.group(1), int(match.group(2)), match.group(3)
    if found_major != major:
        return None
    older = minor - int(found_minor) if found_minor else 50
    if older < 0:
        return None
    if abi == own and python == own:
        return 0
    if abi == "abi3" and kind == "cp" and found_minor:
        return 1 + older
    if abi == "none":
        if python == own:
            return 200
        if kind == "py":
            return 300 + older
    return None


def rank(name: str, target: Target) -> Optional[Tuple[int, int]]:
    """How well a wheel serves, the smaller the better; None when it does not."""
    match = _WHEEL.match(name)
    if match is None:
        return None
    best: Optional[Tuple[int, int]] = None
    for python in match.group("python").split("."):
        for abi in match.group("abi").split("."):
            first = _interpreter(python, abi, target)
            if first is None:
                continue
            for platform in match.group("platform").split("."):
                second = _platform(platform, target)
                if second is not None and (best is None or (first, second) < best):
                    best = (first, second)
    return best


def choose(names: Iterable[str], target: Target) -> Optional[str]:
    """The best wheel; a source distribution where no wheel serves; None where nothing does."""
    given: List[str] = sorted(set(names))
    ranked = sorted((found, name) for name in given for found in [rank(name, target)] if found is not None)
    if ranked:
        return ranked[0][1]
    sources = [name for name in given if is_sdist(name)]
    return sources[0] if sources else None
