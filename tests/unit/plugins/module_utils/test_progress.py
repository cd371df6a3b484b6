# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""How far a long step is."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils import progress


def test_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "p"
    teller = progress.Progress(str(path))
    teller.step("layer torch: fetching torch", 3, 40)
    data = progress.parse(path.read_text())
    assert data is not None
    assert (data["what"], data["done"], data["total"]) == ("layer torch: fetching torch", 3, 40)
    assert [p.name for p in tmp_path.iterdir()] == ["p"]


def test_never_a_reason_to_fail(tmp_path: Path) -> None:
    progress.Progress(None).step("x")
    progress.Progress(str(tmp_path / "no" / "folder")).step("x")


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"what": 1}', '{"ansible_job_id": "1"}'])
def test_foreign_text(text: str) -> None:
    assert progress.parse(text) is None


@pytest.mark.parametrize(
    ("data", "elapsed", "line"),
    [
        ({"what": "a"}, 5.9, "a, 5 s"),
        ({"what": "a", "done": 3, "total": 40}, 185, "a, 3 of 40 (7 %), 3 min 05 s"),
        ({"what": "a", "done": 3, "total": None}, 3725, "a, 3, 1 h 02 min"),
        ({"what": "a", "done": 0, "total": 0}, -1, "a, 0, 0 s"),
    ],
)
def test_lines(data: dict[str, object], elapsed: float, line: str) -> None:
    assert progress.describe(data, elapsed) == line
