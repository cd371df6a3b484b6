# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Python package versions and version specifiers as PEP 440 defines them, without third-party code."""

from __future__ import annotations

import functools
import re
from typing import Optional, Tuple, Union

_PRE = {"a": 0, "alpha": 0, "b": 1, "beta": 1, "c": 2, "rc": 2, "pre": 2, "preview": 2}
_SHAPE = re.compile(
    r"v?(?:(\d+)!)?"  # epoch
    r"(\d+(?:\.\d+)*)"  # release
    r"(?:[-_.]?(alpha|a|beta|b|preview|pre|rc|c)[-_.]?(\d*))?"  # pre-release
    r"(?:-(\d+)|[-_.]?(post|rev|r)[-_.]?(\d*))?"  # post-release
    r"(?:[-_.]?(dev)[-_.]?(\d*))?"  # development release
    r"(?:\+([a-z0-9]+(?:[-_.][a-z0-9]+)*))?",  # local version
    re.IGNORECASE,
)
_CLAUSE = re.compile(r"\s*(===|==|~=|!=|<=|>=|<|>)\s*([A-Za-z0-9.*+!_-]+)\s*")

LocalPart = Tuple[int, Union[int, str]]
Key = Tuple[
    int,
    Tuple[int, ...],
    Tuple[int, int, int],
    Tuple[int, int],
    Tuple[int, int],
    Tuple[LocalPart, ...],
]


class InvalidVersion(ValueError):
    """The text is no version (or specifier) of PEP 440."""


class Version:
    """One version; compares, and tells its parts."""

    def __init__(self, text: str) -> None:
        match = _SHAPE.fullmatch(text.strip())
        if match is None:
            raise InvalidVersion(f"{text!r} is not a version (example: 2.8.0.post2)")
        epoch, release, pre_word, pre_number, dash_post, post_word, post_number, dev_word, dev_number, local = (
            match.groups()
        )
        self.epoch = int(epoch or 0)
        self.release: Tuple[int, ...] = tuple(int(part) for part in release.split("."))
        self.pre: Optional[Tuple[int, int]] = (_PRE[pre_word.lower()], int(pre_number or 0)) if pre_word else None
        self.post: Optional[int] = None
        if dash_post is not None:
            self.post = int(dash_post)
        elif post_word:
            self.post = int(post_number or 0)
        self.dev: Optional[int] = int(dev_number or 0) if dev_word else None
        self.local: Optional[str] = re.sub("[-_]", ".", local.lower()) if local else None
        self._text = text.strip()

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"Version({self._text!r})"

    @property
    def is_prerelease(self) -> bool:
        return self.pre is not None or self.dev is not None

    @functools.cached_property
    def public_key(self) -> Key:
        """Sort key without the local part."""
        release = self.release
        while len(release) > 1 and release[-1] == 0:
            release = release[:-1]
        if self.pre is not None:
            pre = (0, self.pre[0], self.pre[1])
        elif self.post is None and self.dev is not None:
            pre = (-1, 0, 0)  # 1.0.dev1 sorts before 1.0a1
        else:
            pre = (1, 0, 0)
        post = (0, 0) if self.post is None else (1, self.post)
        dev = (1, 0) if self.dev is None else (0, self.dev)
        return (self.epoch, release, pre, post, dev, ())

    @functools.cached_property
    def key(self) -> Key:
        local: Tuple[LocalPart, ...] = ()
        if self.local is not None:
            local = tuple((1, int(part)) if part.isdigit() else (0, part) for part in self.local.split("."))
        return (*self.public_key[:5], local)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __lt__(self, other: Version) -> bool:
        return self.key < other.key

    def __le__(self, other: Version) -> bool:
        return self.key <= other.key

    def __gt__(self, other: Version) -> bool:
        return self.key > other.key

    def __ge__(self, other: Version) -> bool:
        return self.key >= other.key


@functools.lru_cache(maxsize=4096)
def parse(text: Optional[str]) -> Optional[Version]:
    """The version in `text`, or None where there is none."""
    if not text:
        return None
    try:
        return Version(text)
    except InvalidVersion:
        return None


def same(left: Optional[str], right: Optional[str]) -> bool:
    """Whether both texts are the same version (2.8 and 2.8.0 are); texts that are no versions compare as texts."""
    one, two = parse(left), parse(right)
    if one is None or two is None:
        return left == right
    return one == two


def same_public(left: Optional[str], right: Optional[str]) -> bool:
    """As `same`, without the local part (2.7.1+cu128 and 2.7.1 are the same)."""
    one, two = parse(left), parse(right)
    if one is None or two is None:
        return left == right
    return one.public_key == two.public_key


@functools.lru_cache(maxsize=4096)
def _read(text: str) -> Version:
    """As the constructor, each text once: the packages of an environment ask for few versions of each other."""
    return Version(text)


def _prefix_matches(version: Version, prefix: Version) -> bool:
    """`==1.2.*`: the release begins with the prefix, padded with zeros."""
    width = len(prefix.release)
    padded = (version.release + (0,) * width)[:width]
    if version.epoch != prefix.epoch or padded != prefix.release:
        return False
    # "==1.2a1.*" is rare but legal: then the pre-release must be the same
    return prefix.pre is None or version.pre == prefix.pre


def _clause_allows(operator: str, wanted: str, text: str, version: Optional[Version]) -> bool:
    if operator == "===":
        return text.lower() == wanted.lower()
    if version is None:
        return False
    if wanted.endswith(".*") and operator in ("==", "!="):
        return _prefix_matches(version, Version(wanted[:-2])) == (operator == "==")
    target = _read(wanted)
    if operator in ("==", "!="):
        equal = version == target if target.local else version.public_key == target.public_key
        return equal == (operator == "==")
    if operator == "~=":
        if len(target.release) < 2:
            raise InvalidVersion(f"~={wanted} needs at least two numbers")
        stem = Version(f"{target.epoch}!" + ".".join(str(part) for part in target.release[:-1]))
        return version.public_key >= target.public_key and _prefix_matches(version, stem)
    if operator == "<=":
        return version.public_key <= target.public_key
    if operator == ">=":
        return version.public_key >= target.public_key
    base_equal = version.epoch == target.epoch and _prefix_equal(version, target)
    if operator == "<":
        if version.public_key >= target.public_key:
            return False
        return not (base_equal and version.is_prerelease and not target.is_prerelease)
    if version.public_key <= target.public_key:
        return False
    return not (base_equal and version.post is not None and target.post is None)


def _prefix_equal(one: Version, two: Version) -> bool:
    width = max(len(one.release), len(two.release))
    return one.release + (0,) * (width - len(one.release)) == two.release + (0,) * (width - len(two.release))


def allows(specifier: str, version: str) -> bool:
    """Whether `version` satisfies `specifier` (">=1.0,!=1.5"). Pre-releases count: what is installed is installed.

    Raises InvalidVersion where the specifier is malformed.
    """
    if not specifier.strip():
        return True
    parsed = parse(version)
    for part in specifier.split(","):
        if not part.strip():
            continue
        match = _CLAUSE.fullmatch(part)
        if match is None:
            raise InvalidVersion(f"{part.strip()!r} is not a version clause (example: >=1.0)")
        if not _clause_allows(match.group(1), match.group(2), version, parsed):
            return False
    return True
