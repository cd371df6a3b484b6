# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""What the caches that the controller sees offer, read from real folders and a real web server."""

from __future__ import annotations

import functools
import http.server
import threading

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils.wheels import cache, key, source
from ansible_collections.verl.baremetal.plugins.plugin_utils import wheel_offers


def filled(folder, version):
    """A cache with one entry; its wheel is a fixture, some bytes under a wheel's name."""
    parts = key.parts(
        "demo",
        version,
        {"kind": "sdist", "sha256": "aa"},
        "cp312-x",
        None,
        "12.8",
        ["90"],
        {},
        "debian-12",
        "2.36",
        "x86_64",
    )
    short = key.digest(parts)
    wheel = folder.parent / f"demo-{version}-{key.build_tag(short)}-cp312-cp312-linux_x86_64.whl"
    wheel.write_bytes(b"a wheel")
    entry = {
        "key": short,
        "parts": parts,
        "wheel": wheel.name,
        "version": version,
        "sha256": source.sha256_of(str(wheel)),
        "size": 7,
    }
    cache.store(str(folder), str(wheel), entry)


def offers(controller="", url=""):
    return wheel_offers.Offers(
        {"wheels_cache_controller": str(controller), "wheels_cache_url": str(url), "stack_proxy": ""}
    )


@pytest.fixture
def served(tmp_path):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_both_places_are_read(tmp_path, served):
    filled(tmp_path / "own", "1.0")
    filled(tmp_path / "shared", "2.0")
    for url in (tmp_path / "shared", (tmp_path / "shared").as_uri(), served + "/shared/"):
        asked = offers(tmp_path / "own", url)
        assert [parts["version"] for parts in asked.parts()] == ["1.0", "2.0"]
        assert asked.problems == []


def test_a_place_that_is_not_there_offers_nothing(tmp_path, served):
    assert offers(tmp_path / "none").parts() == []
    assert offers().parts() == []
    asked = offers(url=served + "/none")
    assert asked.parts() == []
    assert len(asked.problems) == 1 and f"{served}/none/index.json cannot be read" in asked.problems[0]
