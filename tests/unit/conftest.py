# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures that several unit tests share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from factories import ReleaseTree


@pytest.fixture
def release_tree(tmp_path: Path) -> ReleaseTree:
    """A fixture release below tmp_path, still without packages and manifest."""
    return ReleaseTree(tmp_path)


@pytest.fixture
def data() -> Path:
    """The folder of captured files: tests/unit/fixtures."""
    return Path(__file__).parent / "fixtures"
