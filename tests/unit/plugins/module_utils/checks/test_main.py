# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The version check as a program for scripts: its report, its exit status, and what it does not import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from factories import ReleaseTree

DEFINITION = {"denied": [{"name": "vllm", "reason": "not supported"}]}
NAME = "ansible_collections.verl.baremetal.plugins.module_utils.checks"
SLOW = ("ansible.", "subprocess", "shutil", "concurrent.futures", "logging", "urllib.request", "ssl", "ast", "ctypes")


def run(*words: str, flags: tuple[str, ...] = (), home: str = "/nonexistent") -> subprocess.CompletedProcess[str]:
    path = next(entry for entry in sys.path if (Path(entry) / "ansible_collections/verl/baremetal").is_dir())
    return subprocess.run(
        [sys.executable, *flags, "-m", NAME, *words],
        capture_output=True, text=True, check=False, env={"PYTHONPATH": path, "PATH": "/usr/bin:/bin", "HOME": home},
    )  # fmt: skip


def test_status_and_report(release_tree: ReleaseTree) -> None:
    release_tree.dist("torch", "2.7.1")
    release_tree.manifest(DEFINITION)
    good = run(str(release_tree.release))
    assert good.returncode == 0 and "denied packages" in good.stdout, good.stderr
    release_tree.dist("vllm", "0.9.0")
    bad = run(str(release_tree.release))
    assert bad.returncode == 1 and "not supported" in bad.stdout


@pytest.mark.parametrize("words", [("/nonexistent",), ("--help",), ("a", "b")])
def test_nothing_to_check(words: tuple[str, ...]) -> None:
    done = run(*words)
    assert done.returncode == 2 and done.stdout == "" and done.stderr


def test_it_imports_nothing_slow(release_tree: ReleaseTree) -> None:
    release_tree.dist("torch", "2.7.1")
    release_tree.manifest(DEFINITION)
    done = run(str(release_tree.release), flags=("-X", "importtime"))
    names = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert "hashlib" in names
    assert [name for name in names if name.startswith(SLOW)] == []
