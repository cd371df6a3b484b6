# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The web server of bundles, as a program: ranges, nothing but the folder, and no longer than its ansible-playbook."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from ansible_collections.verl.baremetal.plugins.plugin_utils import serve


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "bundle"
    (folder / "wheels").mkdir(parents=True)
    (folder / "wheels" / "a+b%c.whl").write_bytes(bytes(range(256)) * 100)
    (tmp_path / "secret").write_text("secret")
    (folder / "out").symlink_to(tmp_path / "secret")
    parent = subprocess.Popen(["sleep", "300"])
    ready = tmp_path / "ready"
    process = subprocess.Popen([sys.executable, serve.__file__, str(folder), "127.0.0.1", "0", str(parent.pid), str(ready)])
    try:
        assert until(ready.exists)
        told = json.loads(ready.read_text())
        yield {"url": "http://127.0.0.1:%d" % told["port"], "process": process, "parent": parent, "told": told}
    finally:
        for one in (parent, process):
            one.kill()
            one.wait()


def get(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
        return answer.status, answer.read()


def test_files_come_whole_and_from_where_they_are_asked_for(server):
    url = server["url"] + "/wheels/a+b%25c.whl"
    assert get(url) == (200, bytes(range(256)) * 100)
    assert get(url, Range="bytes=25000-") == (206, (bytes(range(256)) * 100)[25000:])


@pytest.mark.parametrize("path", ["/", "/wheels/", "/nothing", "/../secret", "/%2e%2e/secret", "/out"])
def test_nothing_else_is_served(server, path):
    with pytest.raises(urllib.error.HTTPError) as error:
        get(server["url"] + path)
    assert error.value.code in (403, 404)


def test_it_ends_with_the_run_that_started_it(server):
    assert server["told"]["pid"] == server["process"].pid and serve.started(os.getpid()) != ""
    server["parent"].kill()
    server["parent"].wait()
    assert until(lambda: server["process"].poll() is not None) and server["process"].returncode == 0


def test_it_ends_when_it_is_asked_to(server):
    server["process"].terminate()
    assert server["process"].wait(20) == 0


def test_a_taken_port_is_told(server, tmp_path):
    port = server["url"].rpartition(":")[2]
    words = [sys.executable, serve.__file__, str(tmp_path), "127.0.0.1", port, str(os.getpid()), str(tmp_path / "r")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "port " + port in done.stderr


def test_the_address_is_the_one_that_a_host_sees():
    assert serve.reachable_address(["no such host.invalid", "127.0.0.1"]) == "127.0.0.1"
