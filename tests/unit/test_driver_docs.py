# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The table in docs/driver.md is what the rules say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import yaml

from ansible_collections.verl.baremetal.plugins.module_utils.nvidia import tables

ROOT = Path(__file__).resolve().parents[2]


def test_the_oldest_driver_is_the_stacks():
    stacks = sorted((ROOT / "roles/stack/files").glob("*/stack.yml"))
    assert stacks
    for stack in stacks:
        native = yaml.safe_load(stack.read_text(encoding="utf-8"))["rules"]["driver"]["native"]
        assert native == tables.MINIMUM_DRIVER, stack


def test_the_table_in_the_docs_is_current():
    spec = importlib.util.spec_from_file_location("driver_table", ROOT / "tools/driver_table.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    text = (ROOT / "docs/driver.md").read_text(encoding="utf-8")
    assert tool.BEGIN in text
    assert tool.replace(text) == text, "run: python tools/driver_table.py docs/driver.md"
    assert tool.table().count("\n| Debian 12 |") >= 8
