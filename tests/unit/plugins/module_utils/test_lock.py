# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Who may change a host."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils import lock


def owner(run: str, **values: Any) -> lock.Owner:
    """The owner of a controller that is not this machine."""
    return {"run": run, "host": "controller", "machine": "other/pid:[1]", "pid": 4, "start": 5, "user": "ada", **values}


def test_one_run_at_a_time(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert lock.read(root) is None
    assert lock.acquire(root, owner("one"), now=1000.0) is None
    with pytest.raises(
        lock.LockHeld, match=r"run of ada on controller \(process 4\) since 1970-01-01 00:16:40 UTC, last heard"
    ):
        lock.acquire(root, owner("two"), now=1060.0)
    held = lock.read(root)
    assert held is not None
    assert (held["run"], held["since"], held["heartbeat"]) == ("one", 1000.0, 1000.0)
    lock.renew(root, owner("one"), now=1100.0)
    assert lock.acquire(root, owner("one"), now=1200.0) is None
    held = lock.read(root)
    assert held is not None
    assert (held["since"], held["heartbeat"]) == (1000.0, 1200.0)
    assert lock.release(root, owner("two")) is False
    assert lock.release(root, owner("one")) is True
    assert lock.acquire(root, owner("two"), now=1300.0) is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"force": True}, "by force"),
        ({"takeover": "one"}, "its process is gone"),
        ({"stale_minutes": 0.5}, "silent for more than 0.5 minutes"),
    ],
)
def test_takeover(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    root = str(tmp_path)
    lock.acquire(root, owner("one"), now=1000.0)
    note = lock.acquire(root, owner("two"), now=1060.0, **options)
    assert note is not None
    assert words in note
    held = lock.read(root)
    assert held is not None
    assert (held["run"], held["since"]) == ("two", 1060.0)


def test_takeover_names_the_right_run(tmp_path: Path) -> None:
    lock.acquire(str(tmp_path), owner("one"), now=1000.0)
    with pytest.raises(lock.LockHeld):
        lock.acquire(str(tmp_path), owner("two"), now=1001.0, takeover="zero")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"run": 1}', '{"host": "x"}'])
def test_damaged_lock_is_taken_over(tmp_path: Path, text: str) -> None:
    (tmp_path / "state").mkdir()
    Path(lock.path_of(str(tmp_path))).write_text(text)
    note = lock.acquire(str(tmp_path), owner("one"))
    assert note is not None
    assert "cannot be read" in note


def test_dead_and_living_owners() -> None:
    living = lock.owner_of(os.getpid())
    assert lock.is_dead(living) is False
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    assert lock.is_dead({**living, "pid": process.pid}) is True
    # The number was given to another process.
    assert lock.is_dead({**living, "start": -1}) is True
    # Elsewhere a process number means nothing.
    assert lock.is_dead(owner("one")) is False


@pytest.mark.parametrize(
    ("answer", "dead"),
    [(PermissionError(), False), (None, False), (ProcessLookupError(), True), (OverflowError(), True)],
)
def test_a_process_that_proc_hides_is_alive(
    monkeypatch: pytest.MonkeyPatch, answer: Exception | None, dead: bool
) -> None:
    """With hidepid, /proc has nothing about processes of other users; what the kernel says of their numbers counts."""
    other = {**lock.owner_of(os.getpid()), "pid": 4, "start": 5}

    def kill(pid: int, signal: int) -> None:
        assert (pid, signal) == (4, 0)
        if answer is not None:
            raise answer

    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setattr(lock, "_stat", lambda pid: None)
    assert lock.is_dead(other) is dead


@pytest.mark.parametrize(
    ("stat", "start", "dead"),
    [
        ("4 (a) b) S", 5, False),
        ("4 (a) b) S", 6, True),
        ("4 (a) b) Z", 5, True),
        # Whoever wrote it down could not see its start.
        ("4 (a) b) S", None, False),
        ("4 (a", 5, False),
    ],
)
def test_what_proc_says_of_a_process_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stat: str, start: int | None, dead: bool
) -> None:
    text = tmp_path / "stat"
    text.write_text(stat + " 1" * 18 + " 5 0\n" if stat.endswith(("S", "Z")) else stat)
    monkeypatch.setattr(os, "kill", lambda pid, signal: None)
    monkeypatch.setattr(lock, "open", lambda path, **options: text.open(**options), raising=False)
    assert lock.is_gone(4, start) is dead


def test_renew_refuses_another_run(tmp_path: Path) -> None:
    root = str(tmp_path)
    lock.renew(root, owner("one"))
    assert not (tmp_path / "state").exists()
    lock.acquire(root, owner("one"))
    with pytest.raises(lock.LockHeld, match="Wait for that run"):
        lock.renew(root, owner("two"))


def test_one_host_of_a_run_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hosts of a run that see one stack_root are two, and a host is itself whatever kernel it runs by now."""
    root = str(tmp_path)
    monkeypatch.setattr(socket, "gethostname", lambda: "node1")
    lock.acquire(root, owner("one"), now=1000.0)
    monkeypatch.setattr(socket, "gethostname", lambda: "node2")
    words = f"{root} is shared with node1, which this run provisions too: provision a shared root from one host"
    for more in ({}, {"force": True}, {"takeover": "one"}, {"stale_minutes": 0}):
        with pytest.raises(lock.LockHeld, match=words):
            lock.acquire(root, owner("one"), now=2000.0, **more)
    with pytest.raises(lock.LockHeld, match=words):
        lock.renew(root, owner("one"))
    assert lock.holds(root, owner("one")) is False
    assert lock.release(root, owner("one")) is False
    # For another run it is a lock like any other.
    with pytest.raises(lock.LockHeld, match="is locked by the run of ada on controller"):
        lock.acquire(root, owner("two"), now=1001.0)
    monkeypatch.setattr(socket, "gethostname", lambda: "node1")
    monkeypatch.setattr(lock, "machine", lambda: "rebooted/pid:[1]")
    assert lock.acquire(root, owner("one"), now=1002.0) is None
    assert lock.release(root, owner("one")) is True


def test_a_lock_without_a_place_belongs_to_its_run(tmp_path: Path) -> None:
    root = str(tmp_path)
    lock.acquire(root, owner("one"), now=1000.0)
    text = Path(lock.path_of(root))
    text.write_text(
        json.dumps({name: value for name, value in json.loads(text.read_text()).items() if name != "place"})
    )
    assert lock.holds(root, owner("one")) is True
    assert lock.acquire(root, owner("one"), now=1001.0) is None
    held = lock.read(root)
    assert held is not None
    assert (held["since"], held["place"]) == (1000.0, lock.place())


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/opt/verl/releases/x-1/venv", "/opt/verl"),
        ("/opt/verl/releases/x-1", "/opt/verl"),
        ("/releases/x/releases/y/venv", "/releases/x"),
        ("/opt/verl/releases", None),
        ("/home/me/venv", None),
    ],
)
def test_root_of(path: str, expected: str | None) -> None:
    assert lock.root_of(path) == expected


def test_flock_stays_with_a_child(tmp_path: Path) -> None:
    first, second = lock.Busy(str(tmp_path)), lock.Busy(str(tmp_path))
    first.take(wait=0)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=first.fileno())
    first.free()
    waits: list[str] = []
    with pytest.raises(lock.LockHeld, match=f"module process {os.getpid()} or a child"):
        second.take(wait=0.05, tick=waits.append)
    assert waits
    child.communicate(b"\n")
    second.take(wait=30)
    second.free()
