# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Versions and specifiers against the reference implementation (packaging), which only the tests may use."""

from __future__ import annotations

import itertools

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version as Reference

from ansible_collections.verl.baremetal.plugins.module_utils import pep440

VERSIONS = [
    "0.0", "0.1", "1", "1.0", "1.0.0", "1.0.1", "1.1", "1.10", "1.9", "2.0", "1!0.5", "2.7.1", "2.7.1+cu126", "2.7.1+cu128", "2.7.10",
    "1.0.dev1", "1.0a1", "1.0a1.dev2", "1.0b2", "1.0rc1", "1.0rc1.post1", "1.0.post1", "1.0.post1.dev3", "1.0-1", "1.0.POST2", "v1.0",
    "2.8.0.post2", "2.7.4.post1", "0.2.6.post1", "12.560.30", "9.8.0.87", "1.0+abc.5", "1.0+abc.10", "1.0+5", "2025.7.26", "1.0alpha3", "1.0-preview_2",
]  # fmt: skip
CLAUSES = [
    "==1.0", "==1", "!=1.0", "==1.*", "!=1.*", "==1.0.*", "==2.7.*", "~=1.0", "~=1.0.1", "~=2.7.1", "~=1.0a1", "<1.0", "<=1.0", ">1.0", ">=1.0",
    "<1.0rc1", ">1.0.post1", "<2", ">=2.7.1", "==2.7.1", "==2.7.1+cu128", "!=2.7.1+cu128", ">2.7.4.post1", ">=1.0,<2.0", ">=1.0,!=1.1", "===1.0",
    ">=2.4,<2.6", "==1!0.5", ">=12.560.30", " >= 1.0 , < 2 ", "",
]  # fmt: skip


@pytest.mark.parametrize("left, right", list(itertools.combinations(VERSIONS, 2)))
def test_order_is_the_references(left: str, right: str) -> None:
    one, two = pep440.Version(left), pep440.Version(right)
    assert (one < two, one == two, one > two) == (
        Reference(left) < Reference(right), Reference(left) == Reference(right), Reference(left) > Reference(right)
    )  # fmt: skip


@pytest.mark.parametrize("clause", CLAUSES)
def test_specifiers_allow_what_the_reference_allows(clause: str) -> None:
    mine = {version: pep440.allows(clause, version) for version in VERSIONS}
    assert mine == {version: SpecifierSet(clause).contains(version, prereleases=True) for version in VERSIONS}


@pytest.mark.parametrize("text", ["", "abc", "1.0.", "1..0", "1.0+", "1.0+ü", "1,0", ">=1", "\0", "1.0 2.0", None])
def test_what_is_no_version_is_none(text: str | None) -> None:
    assert pep440.parse(text) is None


@pytest.mark.parametrize("specifier", ["1.0", "=1.0", ">>1", ">=abc", "~=1", "==", ">=1.0;<2"])
def test_a_malformed_specifier_is_refused(specifier: str) -> None:
    with pytest.raises(pep440.InvalidVersion):
        pep440.allows(specifier, "1.0")


def test_no_version_satisfies_no_clause() -> None:
    assert not pep440.allows(">=1.0", "garbage")
    assert pep440.allows("", "garbage")


@pytest.mark.parametrize(
    "left, right, same, same_public",
    [
        ("2.8", "2.8.0", True, True),
        ("2.7.1+cu128", "2.7.1", False, True),
        ("2.7.1+cu128", "2.7.1+cu126", False, True),
        ("2.8.0", "2.8.0.post2", False, False),
        ("10", "8", False, False),
        ("abc", "abc", True, True),
        ("abc", "1.0", False, False),
        (None, "1.0", False, False),
        (None, None, True, True),
    ],
)
def test_same(left: str | None, right: str | None, same: bool, same_public: bool) -> None:
    assert pep440.same(left, right) is same
    assert pep440.same_public(left, right) is same_public
