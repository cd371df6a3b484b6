# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The tables in README.md and docs/ say what the stack file says."""

from __future__ import annotations

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[3]


def test_the_tables_follow_from_the_stack_file():
    done = subprocess.run([sys.executable, str(ROOT / "tools" / "tables.py"), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr + "run: python tools/tables.py"


def test_the_readme_has_the_tables():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "<!-- table: versions -->" in text and "| Torch | 2.7.1 |" in text
