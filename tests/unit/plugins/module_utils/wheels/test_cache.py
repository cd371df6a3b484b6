# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import functools
import http.server
import json
import os
import threading

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils.wheels import cache, key, source

CLIENT = source.Client()


def parts(**changes):
    values = dict(
        package="demo",
        version="1.0",
        source={"kind": "sdist", "sha256": "aa"},
        python="cp312",
        torch=None,
        nvcc="12.8.93",
        archs=["80", "90"],
        flags={},
        system="debian-12",
        glibc="2.36",
        machine="x86_64",
    )
    values.update(changes)
    return key.parts(**values)


def wheel(folder, content=b"a wheel", **changes):
    """A fixture: something with the name of a wheel, and its entry."""
    wanted = parts(**changes)
    short = key.digest(wanted)
    name = f"demo-1.0-{key.build_tag(short)}-cp312-cp312-linux_x86_64.whl"
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(content)
    return str(path), {
        "schema": 1,
        "key": short,
        "parts": wanted,
        "wheel": name,
        "version": "1.0",
        "sha256": source.sha256_of(str(path)),
        "size": len(content),
    }


def stored(tmp_path, **changes):
    path, entry = wheel(tmp_path / "made", **changes)
    folder = tmp_path / "cache"
    return folder, cache.store(str(folder), path, entry)


def test_what_is_stored_is_found(tmp_path):
    folder, kept = stored(tmp_path)
    found, damaged = cache.lookup(str(folder), parts())
    assert found == kept and damaged == []
    assert open(found.path, "rb").read() == b"a wheel"
    assert json.load(open(found.path + ".json"))["parts"] == parts()


def test_nothing_is_found_in_a_folder_that_is_not_there(tmp_path):
    assert cache.lookup(str(tmp_path / "no"), parts()) == (None, [])


@pytest.mark.parametrize("content", [b"another", b"longer than before"], ids=["same size", "another size"])
def test_a_tampered_wheel_is_noticed_and_put_aside(tmp_path, content):
    folder, kept = stored(tmp_path)
    with open(kept.path, "wb") as handle:
        handle.write(content)
    found, damaged = cache.lookup(str(folder), parts())
    assert found is None
    assert len(damaged) == 1 and kept.path in damaged[0]
    assert os.path.exists(kept.path + ".damaged") and not os.path.exists(kept.path)
    assert cache.lookup(str(folder), parts()) == (None, [])


def test_an_entry_whose_parts_were_changed_is_no_entry(tmp_path):
    folder, kept = stored(tmp_path)
    entry = dict(kept.entry, parts=parts(torch={"version": "2.7.1"}))
    cache.write_json(kept.path + ".json", entry)
    assert cache.lookup(str(folder), entry["parts"]) == (None, [])


def test_the_exact_wheel_comes_before_one_that_merely_serves(tmp_path):
    folder, wide = stored(tmp_path)
    path, entry = wheel(tmp_path / "made", content=b"narrow", archs=["90"])
    narrow = cache.store(str(folder), path, entry)
    assert cache.lookup(str(folder), parts(archs=["90"]))[0] == narrow
    assert cache.lookup(str(folder), parts(archs=["80"]))[0] == wide
    assert cache.lookup(str(folder), parts(archs=["80"], nvcc=""))[0] == wide


def test_a_wheel_that_was_changed_on_its_way_is_refused(tmp_path):
    path, entry = wheel(tmp_path / "made")
    with open(path, "ab") as handle:
        handle.write(b"!")
    with pytest.raises(cache.CacheError, match="refused"):
        cache.store(str(tmp_path / "cache"), path, entry)
    assert not list((tmp_path / "cache").glob("*.whl")) if (tmp_path / "cache").exists() else True


@pytest.mark.parametrize(
    "change",
    [{"wheel": "../../evil.whl"}, {"key": "000000000000"}, {"sha256": None}, {"parts": {"schema": 99}}],
    ids=["path", "key", "no hash", "other schema"],
)
def test_broken_entries_are_refused(tmp_path, change):
    path, entry = wheel(tmp_path / "made")
    with pytest.raises(cache.CacheError):
        cache.store(str(tmp_path / "cache"), path, dict(entry, **change))


def test_a_shared_folder_serves(tmp_path):
    folder, _unused = stored(tmp_path)
    found, damaged = cache.from_place(str(folder), str(tmp_path / "other"), parts(), CLIENT)
    assert found.path.startswith(str(tmp_path / "other")) and damaged == []


def test_a_damaged_wheel_of_a_shared_folder_is_told_and_not_taken(tmp_path):
    folder, kept = stored(tmp_path)
    with open(kept.path, "wb") as handle:
        handle.write(b"another")
    found, damaged = cache.from_place(str(folder), str(tmp_path / "other"), parts(), CLIENT)
    assert found is None and "refused" in damaged[0]
    assert os.path.exists(kept.path), "what belongs to others stays as it is"


@pytest.fixture
def server(tmp_path):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path / "cache"))
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


def test_a_server_serves(tmp_path, server):
    stored(tmp_path)
    found, damaged = cache.from_place(server, str(tmp_path / "other"), parts(archs=["90"], nvcc=""), CLIENT)
    assert open(found.path, "rb").read() == b"a wheel" and damaged == []


def test_a_server_with_a_changed_wheel_is_refused(tmp_path, server):
    _unused, kept = stored(tmp_path)
    with open(kept.path, "wb") as handle:
        handle.write(b"another")
    found, damaged = cache.from_place(server, str(tmp_path / "other"), parts(), CLIENT)
    assert found is None and "refused" in damaged[0]
    assert not [name for name in os.listdir(tmp_path / "other") if name.startswith(".incoming")]


def test_a_server_without_index_is_no_cache(tmp_path, server):
    (tmp_path / "cache").mkdir()
    found, damaged = cache.from_place(server, str(tmp_path / "other"), parts(), CLIENT)
    assert found is None and "index.json cannot be read" in damaged[0]
