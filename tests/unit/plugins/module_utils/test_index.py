# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The index client against a real web server on the loopback interface."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils import host, index

CONTENT = b"wheel " * 200000


class Handler(http.server.BaseHTTPRequestHandler):
    ranges: list = []
    cut = 0
    logins: list = []

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        Handler.logins.append(self.headers.get("Authorization"))
        self.send_response(200)
        self.end_headers()

    def do_GET(self):
        Handler.logins.append(self.headers.get("Authorization"))
        if self.path.startswith("/elsewhere/"):
            self.send_response(302)
            self.send_header("Location", "http://localhost:%d/simple/old/" % self.server.server_port)
            self.end_headers()
        elif self.path == "/simple/a-b/":
            digest = hashlib.sha256(CONTENT).hexdigest()
            files = [
                {
                    "filename": "a_b-1-py3-none-any.whl",
                    "url": "../../f/a_b-1-py3-none-any.whl",
                    "hashes": {"sha256": digest},
                    "size": len(CONTENT),
                },
                {"filename": "bad-1.tar.gz", "url": "/f/bad-1.tar.gz", "hashes": {"sha256": "0" * 64}},
            ]
            self.answer(json.dumps({"files": files}).encode(), index.JSON_TYPE)
        elif self.path == "/simple/old/":
            self.answer(b'<a href="/f/old-1.tar.gz#sha256=abc">old</a><a href="/x">no file</a>', "text/html")
        elif self.path.startswith("/f/"):
            start = 0
            if self.headers.get("Range"):
                start = int(self.headers["Range"].split("=")[1].rstrip("-"))
                Handler.ranges.append(start)
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(CONTENT) - start))
            self.end_headers()
            end = len(CONTENT)
            if Handler.cut:
                end, Handler.cut = Handler.cut, 0
            self.wfile.write(CONTENT[start:end])
        else:
            self.send_error(404)

    def answer(self, body, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def client():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Handler.ranges, Handler.cut, Handler.logins = [], 0, []
    yield index.Client("http://127.0.0.1:%d/simple" % server.server_port, timeout=5)
    server.shutdown()


def test_a_file_is_found_by_its_hash_and_fetched(client, tmp_path):
    digest = hashlib.sha256(CONTENT).hexdigest()
    (found,) = client.find("A.b", ["sha256:" + digest])
    seen = []
    path = client.fetch(found, str(tmp_path), seen.append)
    assert open(path, "rb").read() == CONTENT and sum(seen) == found.size == len(CONTENT)
    assert client.fetch(found, str(tmp_path), seen.append) == path and sum(seen) == len(CONTENT)


def test_an_interrupted_download_goes_on_where_it_was(client, tmp_path):
    (found,) = client.find("a-b", [hashlib.sha256(CONTENT).hexdigest()])
    (tmp_path / (found.name + ".part")).write_bytes(CONTENT[:1000])
    assert open(client.fetch(found, str(tmp_path)), "rb").read() == CONTENT
    assert Handler.ranges == [1000]


def test_a_connection_cut_in_the_middle_is_resumed(client, tmp_path):
    Handler.cut = 4096
    (found,) = client.find("a-b", [hashlib.sha256(CONTENT).hexdigest()])
    assert open(client.fetch(found, str(tmp_path)), "rb").read() == CONTENT
    assert Handler.ranges == [4096]


def test_another_content_is_refused_and_leaves_nothing(client, tmp_path, monkeypatch):
    monkeypatch.setattr(index.time, "sleep", lambda seconds: None)
    (found,) = client.find("a-b", ["0" * 64])
    with pytest.raises(index.PackageIndexError, match="its sha256 is .*0000 is needed"):
        client.fetch(found, str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_pages_of_html_are_read_too(client):
    (found,) = client.files("old")
    assert found.name == "old-1.tar.gz" and found.sha256 == "abc" and found.url.endswith("/f/old-1.tar.gz")


def test_an_unknown_package_is_an_error_in_words(client):
    with pytest.raises(index.PackageIndexError, match="no page for nothing .* answers 404"):
        client.files("nothing")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"files": [{}]}', b"\xff\xfe"])
def test_foreign_answers_are_errors(body):
    with pytest.raises(index.PackageIndexError):
        index.parse_page(body, index.JSON_TYPE, "http://x/")


LOGIN = "Basic bWU6czNjcmV0"  # me:s3cret


def with_login(client, path="/simple"):
    return client.index_url.replace("://", "://me:s3cret@").replace("/simple/", path)


def test_a_login_goes_as_a_header_to_the_server_that_it_is_for(client, tmp_path):
    own = index.Client(with_login(client), timeout=5)
    (found,) = own.find("a-b", [hashlib.sha256(CONTENT).hexdigest()])
    assert "s3cret" not in found.url and own.fetch(found, str(tmp_path))
    assert host.reach(with_login(client)) is None
    assert Handler.logins == [LOGIN] * 3
    assert index.Client(with_login(client, "/elsewhere"), timeout=5).files("old")
    assert Handler.logins[3:] == [LOGIN, None]


@pytest.mark.parametrize("url", ["http://me:s3cret@127.0.0.1:port/simple", "http://me:s3cret@[127/simple"])
def test_a_wrong_url_is_told_without_its_login(tmp_path, url):
    wrong = index.Client(url)
    for ask in (lambda: wrong.files("a"), lambda: wrong.fetch(index.File("a.whl", url, ""), str(tmp_path))):
        with pytest.raises(index.PackageIndexError) as raised:
            ask()
        assert "s3cret" not in str(raised.value)
    reason = host.reach(url)
    assert reason and "s3cret" not in reason
