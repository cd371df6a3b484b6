# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""RECORD files: good ones, bad ones, and environments that differ from them."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils import record


def encoded(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def make(site: Path, name: str, version: str, files: dict[str, bytes]) -> Path:
    """An installed distribution as an installer leaves it."""
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    files = {**files, f"{info.name}/METADATA": f"Name: {name}\nVersion: {version}\n".encode()}
    lines = []
    for path, data in files.items():
        target = (site / path).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        lines.append(f"{path},{encoded(data)},{len(data)}")
    (info / "RECORD").write_text("\n".join([*lines, f"{info.name}/RECORD,,"]) + "\n")
    return info


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A virtual environment's site-packages with one package that has a script."""
    (tmp_path / "pyvenv.cfg").write_text("version_info = 3.11.7\n")
    folder = tmp_path / "lib" / "python3.11" / "site-packages"
    files = {"toolz/__init__.py": b"x = 1\n", "toolz/core.py": b"y = 2\n", "../../../bin/toolz": b"#!/bin/sh\n"}
    make(folder, "toolz", "1.0.0", files)
    return folder


def only(site: Path) -> record.Distribution:
    (found,) = record.distributions(str(site))
    return found


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Flash_Attn", "flash-attn"), ("ruamel.yaml", "ruamel-yaml"), ("a--b__c", "a-b-c"), ("six", "six")],
)
def test_normalise(name: str, expected: str) -> None:
    assert record.normalise(name) == expected


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("torch-2.7.1+cu128.dist-info", ("torch", "2.7.1+cu128")),
        ("antlr4_python3_runtime-4.9.3.dist-info", ("antlr4-python3-runtime", "4.9.3")),
        ("six-1.17.0.dist-info", ("six", "1.17.0")),
        ("six", None),
        ("six.dist-info", None),
        ("six-1.17.0.egg-info", None),
    ],
)
def test_split_dist_info(folder: str, expected: tuple[str, str] | None) -> None:
    assert record.split_dist_info(folder) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("only,two\n", "2 fields"),
        ("a.py,sha256=AAAA,1\n", "sha256 of 3 bytes"),
        ("a.py,,many\n", "'many'"),
        (",,\n", "fields"),
    ],
)
def test_bad_records(text: str, words: str) -> None:
    with pytest.raises(record.RecordError, match=words):
        record.parse_record(text)


def test_parse_record() -> None:
    text = f'six.py,{encoded(b"x")},1\n"a,b.py",md5=0,\nsix-1.dist-info/RECORD,,\n'
    assert record.parse_record(text) == [
        record.Entry("six.py", hashlib.sha256(b"x").hexdigest(), 1),
        record.Entry("a,b.py", "", None),
        record.Entry("six-1.dist-info/RECORD", "", None),
    ]


def test_intact(site: Path) -> None:
    for mode in (record.MODE_FILES, record.MODE_HASHES):
        report = record.verify(str(site), mode=mode)
        assert (report.problems, report.distributions, report.files) == ([], 1, 5)


@pytest.mark.parametrize("damage", ["missing", "size", "hash", "record", "script", "empty record"])
def test_damage_is_found(site: Path, damage: str) -> None:
    dist = only(site)
    expected = damage
    if damage == "missing":
        (site / "toolz/core.py").unlink()
    elif damage == "size":
        (site / "toolz/core.py").write_text("")
    elif damage == "hash":
        (site / "toolz/core.py").write_bytes(b"y = 3\n")
        assert record.verify(str(site), mode=record.MODE_FILES).problems == []
    elif damage == "record":
        Path(dist.path, "RECORD").unlink()
    elif damage == "empty record":
        Path(dist.path, "RECORD").write_text("")
        expected = "record"
    else:
        (site / "../../../bin/toolz").resolve().unlink()
        expected = "missing"
    report = record.verify(str(site), mode=record.MODE_HASHES)
    assert [(problem.name, problem.kind) for problem in report.problems] == [("toolz", expected)]
    assert report.broken == ["toolz"]


def test_named_but_absent_and_doubled(site: Path) -> None:
    assert record.verify(str(site), ["six", "Toolz"]).broken == ["six"]
    make(site, "toolz", "0.9.0", {})
    assert record.installed(str(site)) == {"toolz": "0.9.0|1.0.0"}
    assert "duplicate" in {problem.kind for problem in record.verify(str(site)).problems}


def test_progress_is_told(site: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    record.verify(str(site), progress=lambda *step: seen.append(step))
    assert seen == [("toolz", 1, 1)]


def test_remove_takes_all_and_only_its_own(site: Path, tmp_path: Path) -> None:
    outside = tmp_path.parent / "outside.txt"
    outside.write_text("mine")
    dist = only(site)
    with open(Path(dist.path, "RECORD"), "a", encoding="utf-8") as handle:
        handle.write(f"../../../../outside.txt,,\n{outside},,\n")
    (site / "toolz/__pycache__").mkdir()
    (site / "toolz/__pycache__/core.pyc").write_bytes(b"")
    (site / "other.py").write_text("")
    record.remove(dist)
    assert sorted(path.name for path in site.iterdir()) == ["other.py"]
    assert not (tmp_path / "bin" / "toolz").exists()
    assert outside.read_text() == "mine"


def test_nothing_there(tmp_path: Path) -> None:
    assert record.site_packages(str(tmp_path)) is None
    assert record.distributions(str(tmp_path / "no")) == []
