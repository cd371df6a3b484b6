# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Archives: compression both ways, digests, and what a failure leaves. The daemon is a fixture."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any, Iterator

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils.images import archive, bom, commit

CONTENT = os.urandom(300_000) + b"\0" * 3_000_000


def quiet(_what: str, _done: int | None, _total: int | None) -> None:
    return None


class FixtureEngine:
    """A fixture of a daemon with one image."""

    def __init__(self) -> None:
        self.loaded: list[bytes] = []
        self.there = True

    def image(self, name: str) -> dict[str, Any] | None:
        if not self.there:
            return None
        return {"Id": "sha256:abc", "Size": len(CONTENT), "Config": {"Labels": {"a": "b"}}}

    def history(self, name: str) -> list[dict[str, Any]]:
        return [{"Size": 5, "Comment": "top", "CreatedBy": ""}, {"Size": 0}, {"Size": 7, "CreatedBy": "below"}]

    def save(self, names: list[str]) -> io.BytesIO:
        return io.BytesIO(CONTENT)

    def chunks(self, answer: io.BytesIO) -> Iterator[bytes]:
        while True:
            piece = answer.read(65536)
            if not piece:
                return
            yield piece

    def load(self, pieces: Iterator[bytes], tick: Any) -> list[str]:
        self.loaded.append(b"".join(pieces))
        self.there = True
        return ["a/b:c"]

    def version(self) -> str:
        return "20.10.24"


@pytest.fixture(params=["library", "program"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the library, and with the program where that is installed."""
    if request.param == "program":
        if not shutil.which("zstd"):
            pytest.skip("the program zstd is not installed here; the scenario images has it")
        monkeypatch.setattr(archive, "zstandard", None)
    return str(request.param)


def test_there_and_back(way: str, tmp_path: Path) -> None:
    engine: Any = FixtureEngine()
    path = tmp_path / "x" / "a.tar.zst"
    info = archive.export(engine, "a/b:c", str(path), 3, quiet)
    assert info["size"] == path.stat().st_size < len(CONTENT) / 2
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (tmp_path / "x/a.tar.zst.sha256").read_text() == f"{digest}  a.tar.zst\n"
    assert archive.intact(str(path), "sha256:abc") and not archive.intact(str(path), "sha256:def")
    assert sorted(os.listdir(tmp_path / "x")) == ["a.tar.zst", "a.tar.zst.json", "a.tar.zst.sha256"]
    assert archive.load(engine, str(path), "", quiet, False)["changed"] is False
    engine.there = False
    assert archive.load(engine, str(path), "", quiet, True)["changed"] is True and engine.loaded == []
    assert archive.load(engine, str(path), "", quiet, False)["changed"] is True
    assert engine.loaded == [CONTENT]


@pytest.mark.parametrize("given", ["", "sha256:" + "0" * 64])
def test_a_changed_byte_is_refused_before_docker_sees_it(tmp_path: Path, given: str) -> None:
    engine: Any = FixtureEngine()
    path = tmp_path / "a.tar.zst"
    archive.export(engine, "a/b:c", str(path), 3, quiet)
    engine.there = False
    if not given:
        data = bytearray(path.read_bytes())
        data[1000] ^= 1
        path.write_bytes(bytes(data))
    with pytest.raises(archive.ArchiveError, match="was not loaded"):
        archive.load(engine, str(path), given, quiet, False)
    assert engine.loaded == []


def test_an_archive_without_digest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"x")
    engine: Any = FixtureEngine()
    with pytest.raises(archive.ArchiveError, match="no digest to compare"):
        archive.load(engine, str(tmp_path / "a.tar"), "", quiet, False)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine: Any = FixtureEngine()

    def full(self: Any, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(archive._Sink, "write", full)
    with pytest.raises(archive.ArchiveError, match="is full .* nothing is left"):
        archive.export(engine, "a/b:c", str(tmp_path / "a.tar.zst"), 3, quiet)
    assert os.listdir(tmp_path) == []


def test_what_a_killed_export_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "a.tar.zst.99.part").write_bytes(b"half")
    engine: Any = FixtureEngine()
    archive.export(engine, "a/b:c", str(tmp_path / "a.tar.zst"), 3, quiet)
    assert not list(tmp_path.glob("*.part"))


def test_layers_are_described_lowest_first() -> None:
    engine: Any = FixtureEngine()
    assert [entry["size"] for entry in commit.describe(engine, "a/b:c")["layers"]] == [7, 5]


def test_system_packages() -> None:
    status = (
        "Package: tini\nStatus: install ok installed\nVersion: 0.19.0-1\nDescription: init\n a: b\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n"
    )
    assert archive.system_packages(status) == {"tini": "0.19.0-1"}


def test_the_bill_of_materials() -> None:
    manifest = {
        "id": "small-0123456789ab",
        "packages": {"six": {"version": "1.17.0", "layer": "torch", "record_sha256": "r"}},
        "components": [{"name": "six", "sha256": ["sha256:" + "a" * 64]}],
        "cuda": {"version": "12.8.1"},
        "host": {"os": "debian"},
    }
    data = json.loads(bom.make("a/b:c", manifest, {"tini": "0.19.0-1"}))
    assert data["bomFormat"] == "CycloneDX" and data["metadata"]["component"]["name"] == "a/b"
    found = {component["name"]: component for component in data["components"]}
    assert found["six"]["purl"] == "pkg:pypi/six@1.17.0" and found["six"]["hashes"][0]["content"] == "a" * 64
    assert found["tini"]["purl"] == "pkg:deb/debian/tini@0.19.0-1" and found["cuda-toolkit"]["version"] == "12.8.1"
