# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""uv from a bundle, from a fixture of its wheel."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils import uv, uv_fetch
from ansible_collections.verl.baremetal.plugins.module_utils.progress import Progress

VERSION = "0.13.9"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A fixture of uv's wheel: its program only tells its version."""
    path = tmp_path / "bundle" / f"uv-{VERSION}-py3-none-manylinux_2_17_x86_64.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"uv-{VERSION}.data/scripts/uv", f"#!/bin/sh\necho uv {VERSION}\n")
        archive.writestr("uv/__init__.py", "")
    return path


def line(path: Path) -> str:
    return f"uv=={VERSION} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_from_a_bundle(wheel: Path, tmp_path: Path) -> None:
    target = str(tmp_path / "tools" / "uv")
    assert uv_fetch.version_of(target) == ""
    uv_fetch.fetch(target, [line(wheel)], uv.Sources(find_links=[str(wheel.parent)], offline=True), Progress(None))
    assert uv_fetch.version_of(target) == VERSION
    assert [p.name for p in (tmp_path / "tools").iterdir()] == ["uv"]
    # Again over what is there.
    uv_fetch.fetch(target, [line(wheel)], uv.Sources(find_links=["file://" + str(wheel.parent)]), Progress(None))
    assert uv_fetch.version_of(target) == VERSION


def test_wrong_hash_in_a_bundle(wheel: Path, tmp_path: Path) -> None:
    wrong = f"uv=={VERSION} --hash=sha256:{'0' * 64}"
    with pytest.raises(uv_fetch.FetchError, match=r"no wheel of uv 0\.13\.9 with the lock's hash"):
        uv_fetch.fetch(
            str(tmp_path / "uv"), [wrong], uv.Sources(find_links=[str(wheel.parent)], offline=True), Progress(None)
        )


def test_no_wheel(tmp_path: Path) -> None:
    path = tmp_path / "bundle" / f"uv-{VERSION}-py3-none-any.whl"
    path.parent.mkdir()
    path.write_text("no zip")
    with pytest.raises(uv_fetch.FetchError, match="is no wheel"):
        uv_fetch.fetch(str(tmp_path / "uv"), [line(path)], uv.Sources(find_links=[str(path.parent)]), Progress(None))


@pytest.mark.parametrize("lines", [[], [f"six==1 --hash=sha256:{'0' * 64}"]])
def test_lock_without_uv(lines: list[str]) -> None:
    with pytest.raises(uv_fetch.FetchError, match="must name uv once"):
        uv_fetch.pinned(lines)
