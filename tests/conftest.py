# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Lets the tests import the collection by its name, wherever the checkout lies."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def collections_root() -> Path:
    """The folder that holds ansible_collections: above a checkout that lies there, else the link that `make tree` makes."""
    if ROOT.parts[-3:] == ("ansible_collections", "verl", "baremetal"):
        return ROOT.parents[2]
    tree = ROOT / ".tree"
    link = tree / "ansible_collections" / "verl" / "baremetal"
    if link.resolve() != ROOT:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(ROOT)
    return tree


sys.path.insert(0, str(collections_root()))


@pytest.fixture(scope="session")
def collection_root() -> Path:
    """The root of the checkout."""
    return ROOT
