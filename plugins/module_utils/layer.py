# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Layers: the requirement lines of a lock, what they select on a host, and what an environment lacks of them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Tuple

from ansible_collections.verl.baremetal.plugins.module_utils import pep440, pep508
from ansible_collections.verl.baremetal.plugins.module_utils.record import normalise

STAMPS = ".layers"
_PIN = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)\s*==\s*(?P<version>[^\s;]+)\s*(?:;\s*(?P<marker>.*))?$")
_HASH = re.compile(r"--hash=(?P<hash>[a-z0-9]+:[0-9a-fA-F]+)")
_SHA256 = re.compile(r"^sha256:[0-9a-f]{64}$")


class LayerError(ValueError):
    """A requirement line or a marker that cannot be used; the text says which and why."""


class Requirement(NamedTuple):
    """One pinned and hashed package of a lock."""

    name: str
    version: str
    marker: str
    hashes: Tuple[str, ...]
    line: str


class Difference(NamedTuple):
    """What must happen to an environment: name -> version, and name -> (found, wanted)."""

    added: Dict[str, str]
    removed: Dict[str, str]
    changed: Dict[str, Tuple[str, str]]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


def logical_lines(lines: Iterable[str]) -> List[str]:
    """Requirement lines with continuations joined, comments and blank lines dropped."""
    text = "\n".join(lines).replace("\\\n", " ")
    result = []
    for line in text.split("\n"):
        stripped = re.sub(r"(^|\s)#.*$", "", line).strip().rstrip("\\").strip()
        if stripped:
            result.append(" ".join(stripped.split()))
    return result


def parse(lines: Iterable[str]) -> List[Requirement]:
    """The requirements of a lock; LayerError for a line that is not pinned with == and hashed with sha256."""
    return [parse_line(line) for line in logical_lines(lines)]


def parse_line(line: str) -> Requirement:
    """One requirement from its logical line."""
    hashes = tuple(match.group("hash").lower() for match in _HASH.finditer(line))
    match = _PIN.match(_HASH.sub("", line).strip())
    if match is None:
        raise LayerError(f"the requirement line {line!r} is not of the form name==version [; marker] --hash=sha256:...")
    if not hashes or not all(_SHA256.match(item) for item in hashes):
        raise LayerError(f"the requirement {match.group('name')} needs a --hash=sha256:<64 hex digits>, found {hashes}")
    marker = (match.group("marker") or "").strip()
    return Requirement(normalise(match.group("name")), match.group("version"), marker, hashes, line)


def environment(python_version: str) -> Dict[str, str]:
    """The marker environment of CPython of that full version on x86_64 Linux."""
    return pep508.marker_environment(python_version)


def evaluate(marker: str, env: Dict[str, str]) -> bool:
    """Whether a marker holds in an environment; an empty one does. LayerError for one that cannot be read."""
    try:
        return pep508.evaluate_marker(marker, env)
    except pep508.InvalidRequirement as error:
        raise LayerError(str(error)) from error


def select(requirements: Iterable[Requirement], env: Dict[str, str]) -> Dict[str, Requirement]:
    """The requirements that hold in an environment, by name; LayerError when one name is pinned twice there."""
    chosen: Dict[str, Requirement] = {}
    for item in requirements:
        if not evaluate(item.marker, env):
            continue
        if item.name in chosen:
            raise LayerError(
                f"{item.name} is pinned twice for this Python: {chosen[item.name].version}, {item.version}"
            )
        chosen[item.name] = item
    return chosen


def difference(wanted: Dict[str, str], installed: Dict[str, str], formerly: Iterable[str] = ()) -> Difference:
    """What an environment lacks of a layer; formerly are names that the layer had before and has no more."""
    added = {name: version for name, version in wanted.items() if name not in installed}
    changed = {
        name: (installed[name], version)
        for name, version in wanted.items()
        if name in installed and not pep440.same(installed[name], version)
    }
    removed = {name: installed[name] for name in formerly if name in installed and name not in wanted}
    return Difference(added, removed, changed)


def digest(requirements: Iterable[Requirement], build: Iterable[str] = ()) -> str:
    """What stands for the content of a layer: changes with any pin, marker, hash or way of building."""
    body = json.dumps([sorted(item.line for item in requirements), sorted(build)])
    return hashlib.sha256(body.encode("utf-8")).hexdigest()


def stamp_path(folder: str, name: str) -> str:
    """Where the proof of a layer's verification lies: in the environment itself, so that it goes with it."""
    return os.path.join(folder, STAMPS, name + ".json")


def read_stamp(folder: str, name: str) -> Optional[Dict[str, Any]]:
    """The stamp of a layer, None when there is none that can be read."""
    try:
        with open(stamp_path(folder, name), encoding="utf-8") as handle:
            data = json.load(handle)
    except (OSError, ValueError):
        return None
    if not isinstance(data, dict) or not isinstance(data.get("packages"), dict) or "digest" not in data:
        return None
    return data


def write_stamp(folder: str, name: str, layer_digest: str, packages: Dict[str, str]) -> None:
    """Say that a layer was installed and verified, in one rename."""
    path = stamp_path(folder, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".new", "w", encoding="utf-8") as handle:
        handle.write(json.dumps({"digest": layer_digest, "packages": packages}, indent=1, sort_keys=True) + "\n")
    os.replace(path + ".new", path)


def drop_stamp(folder: str, name: str) -> None:
    """Take the proof away before the layer is touched."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(stamp_path(folder, name))


def diff_text(packages: Dict[str, str]) -> str:
    """Packages as the two sides of a diff show them."""
    return "".join(f"{name}=={version}\n" for name, version in sorted(packages.items()))
