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

from ansible_collections.verl.baremetal.plugins.module_utils.record import normalise

STAMPS = ".layers"
_PIN = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)\s*==\s*(?P<version>[^\s;]+)\s*(?:;\s*(?P<marker>.*))?$")
_HASH = re.compile(r"--hash=(?P<hash>[a-z0-9]+:[0-9a-fA-F]+)")
_SHA256 = re.compile(r"^sha256:[0-9a-f]{64}$")
_TOKEN = re.compile(
    r"\s*(?:(?P<op><=|>=|==|!=|~=|===|<|>)|(?P<paren>[()])|(?P<word>[A-Za-z_.]+)|(?P<text>'[^']*'|\"[^\"]*\"))"
)
_VERSION = re.compile(
    r"^v?(?:(?P<epoch>\d+)!)?(?P<release>\d+(?:\.\d+)*)"
    r"(?P<pre>[-_.]?(?:alpha|beta|preview|pre|rc|a|b|c)[-_.]?\d*)?"
    r"(?P<post>-\d+|[-_.]?(?:post|rev|r)[-_.]?\d*)?"
    r"(?P<dev>[-_.]?dev[-_.]?\d*)?(?:\+(?P<local>[a-z0-9]+(?:[-_.][a-z0-9]+)*))?$"
)
_VERSION_NAMES = ("python_version", "python_full_version", "implementation_version")


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
    return {
        "implementation_name": "cpython",
        "implementation_version": python_version,
        "os_name": "posix",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": python_version,
        "python_version": ".".join(python_version.split(".")[:2]),
        "sys_platform": "linux",
        "extra": "",
    }


def evaluate(marker: str, env: Dict[str, str]) -> bool:
    """Whether a marker holds in an environment; an empty one does."""
    if not marker:
        return True
    tokens = _tokens(marker)
    value, rest = _or(tokens, marker, env)
    if rest:
        raise LayerError(f"the marker {marker!r} has something after its end: {rest[0][1]!r}")
    return value


_Tokens = List[Tuple[str, str]]


def _tokens(marker: str) -> _Tokens:
    tokens: _Tokens = []
    position = 0
    while marker[position:].strip():
        match = _TOKEN.match(marker, position)
        if match is None:
            raise LayerError(f"the marker {marker!r} cannot be read at {marker[position:]!r}")
        kind = str(match.lastgroup)
        tokens.append((kind, match.group(kind)))
        position = match.end()
    return tokens


def _or(tokens: _Tokens, marker: str, env: Dict[str, str]) -> Tuple[bool, _Tokens]:
    value, tokens = _and(tokens, marker, env)
    while tokens and tokens[0] == ("word", "or"):
        other, tokens = _and(tokens[1:], marker, env)
        value = value or other
    return value, tokens


def _and(tokens: _Tokens, marker: str, env: Dict[str, str]) -> Tuple[bool, _Tokens]:
    value, tokens = _atom(tokens, marker, env)
    while tokens and tokens[0] == ("word", "and"):
        other, tokens = _atom(tokens[1:], marker, env)
        value = value and other
    return value, tokens


def _atom(tokens: _Tokens, marker: str, env: Dict[str, str]) -> Tuple[bool, _Tokens]:
    if tokens and tokens[0] == ("paren", "("):
        value, tokens = _or(tokens[1:], marker, env)
        if not tokens or tokens[0] != ("paren", ")"):
            raise LayerError(f"the marker {marker!r} lacks a closing parenthesis")
        return value, tokens[1:]
    if len(tokens) >= 4 and tokens[1] == ("word", "not") and tokens[2] == ("word", "in"):
        tokens = [tokens[0], ("op", "not in"), *tokens[3:]]
    elif len(tokens) >= 3 and tokens[1] == ("word", "in"):
        tokens = [tokens[0], ("op", "in"), *tokens[2:]]
    if len(tokens) < 3 or tokens[1][0] != "op":
        raise LayerError(f"the marker {marker!r} has an incomplete comparison")
    left, left_name = _operand(tokens[0], marker, env)
    right, right_name = _operand(tokens[2], marker, env)
    versions = left_name in _VERSION_NAMES or right_name in _VERSION_NAMES
    return _compare(left, tokens[1][1], right, versions, marker), tokens[3:]


def _operand(token: Tuple[str, str], marker: str, env: Dict[str, str]) -> Tuple[str, str]:
    kind, text = token
    if kind == "text":
        return text[1:-1], ""
    if kind == "word" and text in env:
        return env[text], text
    raise LayerError(f"the marker {marker!r} uses {text!r}, which is unknown here")


def _compare(left: str, operator: str, right: str, versions: bool, marker: str) -> bool:
    if operator == "in":
        return left in right
    if operator == "not in":
        return left not in right
    if not versions:
        if operator not in ("==", "!="):
            raise LayerError(f"the marker {marker!r} compares texts with {operator}")
        return (left == right) == (operator == "==")
    if operator in ("==", "!=") and right.endswith(".*"):
        prefix = right[:-2].split(".")
        return (left.split(".")[: len(prefix)] == prefix) == (operator == "==")
    low, high = _numbers(left, marker), _numbers(right, marker)
    if operator == "~=":
        return low >= high and left.split(".")[: right.count(".")] == right.split(".")[:-1]
    return {
        "==": low == high,
        "===": left == right,
        "!=": low != high,
        "<": low < high,
        "<=": low <= high,
        ">": low > high,
        ">=": low >= high,
    }[operator]


def _numbers(text: str, marker: str) -> Tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", text)
    if match is None:
        raise LayerError(f"the marker {marker!r} compares with {text!r}, which is no version")
    numbers = [int(part) for part in match.group(0).split(".")]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


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


def canonical_version(version: str) -> str:
    """A version in one spelling (PEP 440): two spellings of one version become equal texts."""
    match = _VERSION.match(version.strip().lower())
    if match is None:
        return version
    release = [str(int(part)) for part in match.group("release").split(".")]
    while len(release) > 1 and release[-1] == "0":
        release.pop()
    text = f"{int(match.group('epoch'))}!" if match.group("epoch") and int(match.group("epoch")) else ""
    text += ".".join(release)
    for group, letters in (
        ("pre", (("alpha", "a"), ("beta", "b"), ("preview", "rc"), ("pre", "rc"), ("rc", "rc"), ("c", "rc"))),
        ("post", (("post", "post"), ("rev", "post"), ("r", "post"))),
        ("dev", (("dev", "dev"),)),
    ):
        part = match.group(group)
        if not part:
            continue
        number = re.search(r"\d+$", part)
        word = re.sub(r"[^a-z]", "", part) or "post"
        word = dict(letters).get(word, word)
        text += ("" if group == "pre" else ".") + word + str(int(number.group(0)) if number else 0)
    if match.group("local"):
        text += "+" + re.sub(r"[-_]", ".", match.group("local"))
    return text


def same_version(one: str, other: str) -> bool:
    """Whether two texts name the same version; the local part counts (2.7.1 is not 2.7.1+cu128)."""
    return canonical_version(one) == canonical_version(other)


def difference(wanted: Dict[str, str], installed: Dict[str, str], formerly: Iterable[str] = ()) -> Difference:
    """What an environment lacks of a layer; formerly are names that the layer had before and has no more."""
    added = {name: version for name, version in wanted.items() if name not in installed}
    changed = {
        name: (installed[name], version)
        for name, version in wanted.items()
        if name in installed and not same_version(installed[name], version)
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
