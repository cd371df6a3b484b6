# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""What ninja has done and has still to do in a build folder, read from its own files."""

from __future__ import annotations

import os
import re
from typing import Dict, Iterator, List, NamedTuple

_OBJECTS = (".o", ".obj")


class Count(NamedTuple):
    done: int
    total: int
    """0 while no build.ninja is there."""


def objects(text: str) -> List[str]:
    """The object files that a build.ninja makes."""
    found: List[str] = []
    for line in text.replace("$\n", " ").splitlines():
        if not line.startswith("build "):
            continue
        outputs = _split_colon(line[len("build ") :])
        found += [name for name in re.split(r"(?<!\$)\s+", outputs.strip()) if name.endswith(_OBJECTS)]
    return [name.replace("$:", ":").replace("$ ", " ").replace("$$", "$") for name in found]


def _split_colon(text: str) -> str:
    position = 0
    while True:
        position = text.find(":", position)
        if position < 0:
            return ""
        if position == 0 or text[position - 1] != "$":
            return text[:position]
        position += 1


def finished(text: str) -> Dict[str, int]:
    """Output to milliseconds of work, from a .ninja_log."""
    done: Dict[str, int] = {}
    for line in text.splitlines():
        fields = line.split("\t")
        if len(fields) == 5 and fields[0].isdigit() and fields[1].isdigit():
            done[fields[3]] = int(fields[1]) - int(fields[0])
    return done


def _folders(root: str) -> Iterator[str]:
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if not name.startswith(".git")]
        if "build.ninja" in files:
            yield folder


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            return handle.read()
    except OSError:
        return ""


def count(root: str, hint: int = 0) -> Count:
    """Finished and all units below a folder. hint is what is known before the build has told."""
    total = done = 0
    for folder in _folders(root):
        wanted = objects(_text(os.path.join(folder, "build.ninja")))
        log = finished(_text(os.path.join(folder, ".ninja_log")))
        every = set(wanted) | {name for name in log if name.endswith(_OBJECTS)}
        total += len(every)
        done += sum(1 for name in every if name in log and os.path.exists(os.path.join(folder, name)))
    return Count(done, max(total, hint))
