# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Requirement lines, markers, versions and differences."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils import layer

HASH = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64


def test_parse_joins_and_normalises() -> None:
    text = f"# a lock\nTorch_X==2.7.1+cu128 ; python_version < '3.11' \\\n    --hash={HASH} \\\n    --hash={OTHER}\n\nsix==1.17.0 --hash={HASH}  # why\n"
    first, second = layer.parse(text.split("\n"))
    assert (first.name, first.version, first.marker) == ("torch-x", "2.7.1+cu128", "python_version < '3.11'")
    assert first.hashes == (HASH, OTHER)
    assert (second.name, second.version, second.marker, second.hashes) == ("six", "1.17.0", "", (HASH,))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("six", "form name==version"),
        (f"six>=1.0 --hash={HASH}", "form name==version"),
        ("six==1.0", "needs a --hash"),
        ("six==1.0 --hash=md5:abc", "needs a --hash"),
        ("six==1.0 --hash=sha256:abc", "needs a --hash"),
        (f"-e git+https://example.org/x --hash={HASH}", "form name==version"),
    ],
)
def test_bad_lines(line: str, words: str) -> None:
    with pytest.raises(layer.LayerError, match=words):
        layer.parse([line])


@pytest.mark.parametrize(
    ("marker", "expected"),
    [
        ("", True),
        ("python_version < '3.11'", False),
        ("python_version >= '3.10'", True),
        ("python_full_version < '3.12.1'", True),
        ("'3.11' <= python_version", True),
        ("python_version == '3.12.*'", True),
        ("python_version != '3.12.*'", False),
        ("python_version ~= '3.10'", True),
        ("sys_platform == 'linux' and platform_machine == 'x86_64'", True),
        ("sys_platform == 'win32' or platform_machine == 'x86_64'", True),
        ("sys_platform == 'win32' or (os_name == 'posix' and python_version > '3.12')", False),
        ("platform_machine in 'x86_64 aarch64'", True),
        ("platform_machine not in 'x86_64 aarch64'", False),
        ('implementation_name == "cpython"', True),
    ],
)
def test_markers(marker: str, expected: bool) -> None:
    assert layer.evaluate(marker, layer.environment("3.12.0")) is expected


@pytest.mark.parametrize(
    "marker",
    [
        "python_version",
        "python_version <",
        "moon_phase == 'full'",
        "(os_name == 'posix'",
        "os_name == 'a' b",
        "&",
    ],
)
def test_bad_markers(marker: str) -> None:
    with pytest.raises(layer.LayerError, match="marker"):
        layer.evaluate(marker, layer.environment("3.12.0"))


def test_select() -> None:
    lines = [f"a==1 ; python_version < '3.12' --hash={HASH}", f"a==2 ; python_version >= '3.12' --hash={HASH}"]
    for version, expected in (("3.11.2", "1"), ("3.12.0", "2")):
        assert layer.select(layer.parse(lines), layer.environment(version))["a"].version == expected
    with pytest.raises(layer.LayerError, match="pinned twice"):
        layer.select(layer.parse([f"a==1 --hash={HASH}", f"a==2 --hash={HASH}"]), layer.environment("3.11.2"))


def test_difference() -> None:
    found = layer.difference(
        {"a": "1", "b": "2", "c": "3.0"}, {"b": "1", "c": "3", "old": "1", "foreign": "1"}, ["old", "a"]
    )
    assert (found.added, found.removed, found.changed) == ({"a": "1"}, {"old": "1"}, {"b": ("1", "2")})
    assert not layer.difference({"c": "3"}, {"c": "3.0", "foreign": "1"})


def test_digest_changes_with_everything() -> None:
    base = layer.parse([f"a==1 --hash={HASH}"])
    values = {
        layer.digest(base),
        layer.digest(base, ["a"]),
        layer.digest(layer.parse([f"a==2 --hash={HASH}"])),
        layer.digest(layer.parse([f"a==1 --hash={OTHER}"])),
    }
    assert len(values) == 4


def test_stamps(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert layer.read_stamp(folder, "torch") is None
    layer.write_stamp(folder, "torch", "digest", {"six": "1.17.0"})
    assert layer.read_stamp(folder, "torch") == {"digest": "digest", "packages": {"six": "1.17.0"}}
    for bad in ("", "{", "[]", '{"digest": 1}'):
        Path(layer.stamp_path(folder, "torch")).write_text(bad)
        assert layer.read_stamp(folder, "torch") is None
    layer.drop_stamp(folder, "torch")
    layer.drop_stamp(folder, "torch")
