# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever is killed whenever: current leads to a verified release or is not there yet, and a rerun converges."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils import record

FAILPOINTS = [
    "uv.download",
    "uv.unpack",
    "layer.after_wheels",
    "layer.after_install",
    "layer.done",
    "seal.before_bytecode",
    "seal.in_bytecode",
    "seal.bytecode",
    "seal.before_manifest",
    "seal.after_manifest",
    "activate.before_switch",
    "activate.after_switch",
    "prune",
]
SEED = 20250801
KILLS = 12


@pytest.mark.parametrize("point", FAILPOINTS)
def test_killed_at_a_failpoint(engine: Any, point: str, tmp_path: Path) -> None:
    before = engine.live()
    # A third release gives the pruning something to do.
    if point == "prune":
        assert engine.install(engine.new_id())["rc"] == 0
        before = engine.live()
    release_id = engine.new_id()
    # uv fetches and unpacks only what its cache lacks.
    cache = {"cache": str(tmp_path / "cache")} if point.startswith("uv.") else {}
    killed = engine.install(release_id, failpoint=point, **cache)
    assert killed["rc"] == -signal.SIGKILL, f"the failpoint {point} was not met: {killed}"
    engine.assert_current_is_verified()
    switched = point in ("activate.after_switch", "prune")
    assert engine.live() == (release_id if switched else before)
    again = engine.install(release_id)
    assert again["rc"] == 0, again
    engine.assert_live(release_id)
    assert not [p.name for p in (engine.root / "releases").iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("point", ["layer.after_install", "seal.after_manifest", "activate.before_switch"])
def test_killed_in_the_first_installation(empty: Any, point: str) -> None:
    release_id = empty.new_id()
    assert empty.install(release_id, failpoint=point)["rc"] == -signal.SIGKILL
    assert not (empty.root / "current").exists()
    assert empty.install(release_id)["rc"] == 0
    empty.assert_live(release_id)


def test_killed_at_random_moments(engine: Any) -> None:
    """Seeded moments over the whole length of a run; the rerun is killed too, until one comes through."""
    begun = time.monotonic()
    assert engine.install(engine.new_id())["rc"] == 0
    length = time.monotonic() - begun
    moments = random.Random(SEED)
    killed = 0
    for _attempt in range(4 * KILLS):
        if killed >= KILLS:
            break
        release_id = engine.new_id()
        for _again in range(2):
            killed += engine.kill_after(release_id, moments.uniform(0.05, 0.95) * length)
            engine.assert_current_is_verified()
        result = engine.install(release_id)
        assert result["rc"] == 0, result
        engine.assert_live(release_id)
    assert killed >= KILLS


def test_half_a_package_is_repaired(engine: Any) -> None:
    """What uv leaves after a kill: a package that counts as installed and lacks files."""
    release_id = engine.new_id()
    assert engine.install(release_id, failpoint="seal.before_bytecode")["rc"] == -signal.SIGKILL
    site = record.site_packages(str(engine.path(release_id) / "venv"))
    toolz = next(dist for dist in record.distributions(site) if dist.name == "toolz")
    for entry in record.read_record(toolz)[::2]:
        path = engine.path(release_id) / "venv/lib" / site.split("/lib/")[1] / entry.path
        if "dist-info" not in entry.path and path.exists():
            path.unlink()
    (engine.path(release_id) / "venv/lib" / site.split("/lib/")[1] / "idna" / "core.py").write_text("")
    result = engine.install(release_id)
    assert result["rc"] == 0, result
    assert result["begun"]["removed"] == ["idna", "toolz"]
    engine.assert_live(release_id)


def test_the_compilation_of_a_killed_run_goes_on_and_is_ended_by_the_next(engine: Any) -> None:
    """A layer's modules are compiled in the background of the run; nothing of that is left in a release."""
    release_id = engine.new_id()
    assert engine.install(release_id, failpoint="layer.done")["rc"] == -signal.SIGKILL
    path = engine.path(release_id)
    end = time.monotonic() + 60
    while not list(path.rglob("six.cpython-*.pyc")):
        assert (path / ".bytecode").exists() and time.monotonic() < end
        time.sleep(0.05)
    result = engine.install(release_id)
    assert result["rc"] == 0, result
    engine.assert_live(release_id)
    assert not (path / ".bytecode").exists()
