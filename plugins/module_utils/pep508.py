# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Requirement lines and environment markers as PEP 508 defines them, as far as package metadata uses them."""

from __future__ import annotations

import re
from typing import Dict, FrozenSet, Iterable, List, Mapping, NamedTuple, Optional

from . import pep440
from .record import normalise

_NAME = re.compile(r"\s*([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*")
_EXTRAS = re.compile(r"\[([^\]]*)\]\s*")
_TOKEN = re.compile(
    r"\s*(?:(?P<paren>[()])|(?P<op>===|==|~=|!=|<=|>=|<|>)|(?P<text>'[^']*'|\"[^\"]*\")|(?P<word>[A-Za-z_][A-Za-z0-9_.]*))"
)
_VARIABLES = frozenset(
    (
        "python_version",
        "python_full_version",
        "os_name",
        "sys_platform",
        "platform_release",
        "platform_system",
        "platform_version",
        "platform_machine",
        "platform_python_implementation",
        "implementation_name",
        "implementation_version",
        "extra",
    )
)
_AS_VERSION = frozenset(("python_version", "python_full_version", "implementation_version", "platform_release"))


class InvalidRequirement(ValueError):
    """The text is no requirement (or marker) of PEP 508."""


class Requirement(NamedTuple):
    name: str
    """As written; see record.normalise."""
    extras: FrozenSet[str]
    specifier: str
    marker: str
    url: str


def parse_requirement(text: str) -> Requirement:
    """One `Requires-Dist` value or requirements line, without hashes and options."""
    match = _NAME.match(text)
    if match is None:
        raise InvalidRequirement(f"{text!r} begins with no package name")
    name, rest = match.group(1), text[match.end() :]
    extras: FrozenSet[str] = frozenset()
    bracket = _EXTRAS.match(rest)
    if bracket is not None:
        extras = frozenset(normalise(part.strip()) for part in bracket.group(1).split(",") if part.strip())
        rest = rest[bracket.end() :]
    if rest.startswith("@"):
        url, _sep, marker = rest[1:].partition(" ;")
        return Requirement(name, extras, "", marker.strip(), url.strip())
    specifier, _sep, marker = rest.partition(";")
    specifier = specifier.strip()
    if specifier.startswith("(") and specifier.endswith(")"):
        specifier = specifier[1:-1].strip()
    if specifier and not all(pep440._CLAUSE.fullmatch(part) for part in specifier.split(",") if part.strip()):
        raise InvalidRequirement(f"{text!r}: {specifier!r} is no version specifier")
    return Requirement(name, extras, specifier, marker.strip(), "")


def _tokens(marker: str) -> List[str]:
    found: List[str] = []
    position = 0
    while marker[position:].strip():
        match = _TOKEN.match(marker, position)
        if match is None:
            raise InvalidRequirement(f"marker {marker!r} is not understood at {marker[position:]!r}")
        found.append(match.group(0).strip())
        position = match.end()
    return found


class _Marker:
    """Recursive descent over: or, and, (…), left operator right."""

    def __init__(self, marker: str, environment: Mapping[str, str]) -> None:
        self._marker = marker
        self._tokens = _tokens(marker)
        self._at = 0
        self._environment = environment

    def evaluate(self) -> bool:
        value = self._either()
        if self._at != len(self._tokens):
            raise InvalidRequirement(f"marker {self._marker!r} has something left after its end")
        return value

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _next(self) -> str:
        token = self._peek()
        if not token:
            raise InvalidRequirement(f"marker {self._marker!r} ends too early")
        self._at += 1
        return token

    def _either(self) -> bool:
        value = self._both()
        while self._peek() == "or":
            self._next()
            value = self._both() or value
        return value

    def _both(self) -> bool:
        value = self._one()
        while self._peek() == "and":
            self._next()
            value = self._one() and value
        return value

    def _one(self) -> bool:
        if self._peek() == "(":
            self._next()
            value = self._either()
            if self._next() != ")":
                raise InvalidRequirement(f"marker {self._marker!r} misses a closing bracket")
            return value
        left = self._next()
        operator = self._next()
        if operator == "not":
            if self._next() != "in":
                raise InvalidRequirement(f"marker {self._marker!r}: 'not' without 'in'")
            operator = "not in"
        right = self._next()
        return self._compare(left, operator, right)

    def _value(self, token: str) -> str:
        if token[0] in "'\"":
            return token[1:-1]
        name = token.replace(".", "_")
        if name not in _VARIABLES:
            raise InvalidRequirement(f"marker {self._marker!r}: unknown variable {token!r}")
        return self._environment.get(name, "")

    def _compare(self, left: str, operator: str, right: str) -> bool:
        one, two = self._value(left), self._value(right)
        if operator == "in":
            return one in two
        if operator == "not in":
            return one not in two
        variable = (left if left[0] not in "'\"" else right).replace(".", "_")
        if variable == "extra":
            one, two = normalise(one), normalise(two)
        if variable in _AS_VERSION and pep440.parse(one) is not None:
            try:
                return pep440.allows(operator + two, one)
            except pep440.InvalidVersion:
                pass  # not a version after all (platform_release of a distribution): compare as text
        return _compare_text(one, operator, two, self._marker)


def _compare_text(one: str, operator: str, two: str, marker: str) -> bool:
    if operator in ("==", "===", "<=", ">="):
        return one == two
    if operator == "!=":
        return one != two
    if operator in ("<", ">"):
        return False  # texts have no order
    raise InvalidRequirement(f"marker {marker!r}: operator {operator!r} compares no texts")


def evaluate_marker(marker: str, environment: Mapping[str, str], extras: Iterable[str] = ()) -> bool:
    """Whether the marker holds, without an extra or with one of `extras`."""
    if not marker.strip():
        return True
    return any(_Marker(marker, {**environment, "extra": extra}).evaluate() for extra in ("", *extras))


def marker_environment(python_full_version: str, platform: Optional[Mapping[str, str]] = None) -> Dict[str, str]:
    """The marker variables of CPython on Linux; `platform` overrides what differs."""
    environment = {
        "python_version": ".".join(python_full_version.split(".")[:2]),
        "python_full_version": python_full_version,
        "os_name": "posix",
        "sys_platform": "linux",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
        "implementation_version": python_full_version,
    }
    environment.update(platform or {})
    return environment
