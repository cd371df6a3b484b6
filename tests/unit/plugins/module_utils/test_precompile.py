# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Bytecode in the background: what is compiled, that it ends when it must, and that nothing of it stays."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils import lock, precompile

SLEEPER = "import os, sys, time; time.sleep(60)"


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A release in the making with two packages."""
    folder = tmp_path / "root/releases/small-0123456789ab"
    site = folder / "venv/lib/python3.11/site-packages"
    for name in ("six", "toolz"):
        (site / f"{name}-1.0.dist-info").mkdir(parents=True)
        (site / f"{name}.py").write_text("x = 1\n")
        (site / f"{name}-1.0.dist-info/RECORD").write_text(f"{name}.py,,6\n")
    return folder


def site_of(release: Path) -> str:
    return str(release / "venv/lib/python3.11/site-packages")


def compiled(release: Path) -> list[str]:
    return sorted(path.name.split(".")[0] for path in release.rglob("*.pyc"))


def await_end(pid: int) -> None:
    end = time.monotonic() + 30
    while lock.process_start(pid) is not None:
        assert time.monotonic() < end, "the process does not end"
        time.sleep(0.02)


def pids(release: Path) -> list[int]:
    return [int(line.split()[0]) for line in (release / precompile.RUNNING).read_text().splitlines()]


def test_the_packages_of_a_layer_are_compiled(release: Path) -> None:
    precompile.start(str(release), sys.executable, site_of(release), ["six"])
    (pid,) = pids(release)
    await_end(pid)
    assert compiled(release) == ["six"]
    assert (release.parents[1] / "cache/bytecode").is_dir()
    precompile.stop(str(release))
    assert not (release / precompile.RUNNING).exists()


@pytest.mark.parametrize("known", [True, False])
def test_one_that_goes_on_is_ended(release: Path, monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    """Also one whose number was never noted, because its starter was killed in between: it is waited for."""
    code = SLEEPER if known else SLEEPER.replace("60", "1")
    monkeypatch.setattr(precompile, "command", lambda *words: [sys.executable, "-c", code])
    precompile.start(str(release), sys.executable, site_of(release), ["six"])
    precompile.start(str(release), sys.executable, site_of(release), ["toolz"])
    running = pids(release)
    assert len(running) == 2 and all(lock.process_start(pid) for pid in running)
    assert all(os.getsid(pid) == pid for pid in running), "it would end with its starter"
    if not known:
        (release / precompile.RUNNING).write_text("")
    begun = time.monotonic()
    precompile.stop(str(release))
    assert time.monotonic() - begun < 20
    assert [lock.process_start(pid) for pid in running] == [None, None]
    assert not (release / precompile.RUNNING).exists()


def test_a_foreign_process_with_the_number_lives(release: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", SLEEPER], start_new_session=True)
    try:
        (release / precompile.RUNNING).write_text(f"{other.pid} 1\n")
        precompile.stop(str(release))
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_one_that_cannot_be_ended_is_told(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precompile, "command", lambda *words: [sys.executable, "-c", SLEEPER])
    precompile.start(str(release), sys.executable, site_of(release), ["six"])
    (pid,) = pids(release)
    monkeypatch.setattr(precompile.os, "killpg", lambda *words: None)
    with pytest.raises(lock.LockHeld, match="still compiles the modules"):
        precompile.stop(str(release), wait=0.1)
    monkeypatch.undo()
    precompile.stop(str(release))
    assert lock.process_start(pid) is None


def test_one_that_cannot_be_begun_is_left_to_the_seal(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    precompile.start(str(release), sys.executable, site_of(release), ["six"])
    assert pids(release) == [] and compiled(release) == []
    precompile.stop(str(release))


def test_nothing_is_begun_where_there_is_nothing(release: Path, tmp_path: Path) -> None:
    precompile.start(str(release), sys.executable, site_of(release), ["absent"])
    precompile.start(str(tmp_path), sys.executable, str(tmp_path), ["six"])
    assert not (release / precompile.RUNNING).exists()
    precompile.stop(str(release))
