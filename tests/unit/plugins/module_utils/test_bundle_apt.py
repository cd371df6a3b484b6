# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""What the bundle's own apt prefers, and what is told of its addresses."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils import bundle, bundle_apt
from ansible_collections.verl.baremetal.plugins.module_utils.nvidia import tables

KEY = Path(__file__).resolve().parents[2] / "fixtures" / "nvidia" / "fixture_key.asc"
NVIDIA = {
    "url": "http://me:s3cret@mirror/x/",
    "key_url": KEY.as_uri(),
    "fingerprints": ["F2B6CFC6943D50DA5B22E5674453D3D070E04D76"],
}


def know_nvidia(tmp_path, **nvidia):
    wanted = bundle_apt.Wanted("debian 12", "debian12/x86_64", "", (), {**NVIDIA, **nvidia})
    bundle_apt.Resolver(wanted, str(tmp_path), "", "")._nvidia()


def test_only_nvidias_names_are_preferred(tmp_path):
    know_nvidia(tmp_path)
    text = (tmp_path / "preferences.d/nvidia").read_text()
    assert f'Package: {" ".join(tables.REPOSITORY_GLOBS)}\nPin: origin "mirror"\nPin-Priority: 600' in text


def test_a_password_in_the_keys_address_is_not_told(tmp_path):
    with pytest.raises(bundle.BundleError, match=r"file://\*\*\*@host.invalid/key, cannot be had") as told:
        know_nvidia(tmp_path, key_url="file://me:s3cret@host.invalid/key")
    assert "s3cret" not in str(told.value)
