# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""What several modules make of their shared parameters."""

from __future__ import annotations

from ansible_collections.verl.baremetal.plugins.module_utils import arguments

NONE = {"index_url": "", "extra_index_urls": [], "ca_file": "", "proxy": "", "offline": False}


def test_a_folder_may_be_below_the_home_and_may_appear_later(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "wheels").mkdir()
    given = ["~/wheels", "~/later", "https://mirror/wheels"]
    assert arguments.sources(dict(NONE, find_links=given)).find_links == (f"{tmp_path}/wheels", "https://mirror/wheels")
    assert [place for place in given if not arguments.there(place)] == ["~/later"]
