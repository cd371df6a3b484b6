# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The client of Docker's API: names, sockets, and words for a daemon that is not there or goes away."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils.images import engine


@pytest.mark.parametrize(
    ("name", "pair"),
    [
        ("a/b:c", ("a/b", "c")),
        ("a/b", ("a/b", "latest")),
        ("host:5000/a/b", ("host:5000/a/b", "latest")),
        ("host:5000/a/b:c", ("host:5000/a/b", "c")),
    ],
)
def test_split(name: str, pair: tuple[str, str]) -> None:
    assert engine.split(name) == pair


@pytest.mark.parametrize(
    ("given", "environment", "path"),
    [
        ("", {}, "/var/run/docker.sock"),
        ("", {"DOCKER_HOST": "unix:///run/x.sock"}, "/run/x.sock"),
        ("/a.sock", {"DOCKER_HOST": "unix:///run/x.sock"}, "/a.sock"),
    ],
)
def test_the_socket(given: str, environment: dict[str, str], path: str) -> None:
    assert engine.socket_path(given, environment) == path


def test_a_daemon_elsewhere_is_refused() -> None:
    with pytest.raises(engine.EngineError, match="through a socket only"):
        engine.socket_path("", {"DOCKER_HOST": "tcp://10.0.0.1:2376"})


@pytest.mark.parametrize(
    ("version", "prefix"),
    [({"MinAPIVersion": "1.12"}, "/v1.41"), ({"MinAPIVersion": "1.44"}, "/v1.44"), ({}, "/v1.41")],
)
def test_the_version_of_the_api(version: dict[str, str], prefix: str) -> None:
    assert engine.prefix_for(version) == prefix


def test_no_daemon(tmp_path: Path) -> None:
    with pytest.raises(engine.EngineError, match="There is no Docker at"):
        engine.Engine(str(tmp_path / "none.sock")).version()
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "dead.sock"))
    left.close()
    with pytest.raises(engine.EngineError, match="does not run"):
        engine.Engine(str(tmp_path / "dead.sock")).version()


def serve(path: Path, answer: bytes) -> threading.Thread:
    """A fixture of a daemon that says one thing and goes away."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)

    def once() -> None:
        connection, _ = listener.accept()
        connection.recv(65536)
        connection.sendall(answer)
        connection.close()
        listener.close()

    thread = threading.Thread(target=once, daemon=True)
    thread.start()
    return thread


def http(body: bytes, status: str = "200 OK", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\nContent-Length: {size}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (http(b'{"message": "no such thing"}', "500 Oops"), "docker: no such thing"),
        (http(b'{"Version"', length=500), "went away in the middle"),
        (b"", "went away in the middle"),
    ],
)
def test_a_daemon_that_refuses_or_is_killed(tmp_path: Path, answer: bytes, words: str) -> None:
    thread = serve(tmp_path / "d.sock", answer)
    with pytest.raises(engine.EngineError, match=words):
        engine.Engine(str(tmp_path / "d.sock"), timeout=10).version()
    thread.join(10)


def test_messages_of_a_push(tmp_path: Path) -> None:
    lines = (
        b'{"status":"Pushing","progressDetail":{"current":2000000,"total":4000000},"id":"l1"}\n'
        b'{"progressDetail":{},"aux":{"Tag":"c","Digest":"sha256:1","Size":3}}\n'
    )
    serve(tmp_path / "d.sock", http(lines))
    said = []
    digest = engine.Engine(str(tmp_path / "d.sock"), 10, "/v1.41").push("a/b:c", {}, lambda *words: said.append(words))
    assert digest == "sha256:1" and said == [("pushing a/b:c, in MB", 2, 4)]


PULLING = b'{"status":"Pulling from a/b","id":"c"}\n'
PULLED = b'{"status":"Status: Image is up to date for a/b:c"}\n'


def chunks(*pieces: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (chunks(PULLING, PULLED, b""), ""),
        (chunks(PULLING, PULLED[:9], PULLED[9:], b""), ""),
        (chunks(PULLING), "went away in the middle"),
        (chunks(PULLING, PULLED), "went away in the middle"),
        (chunks(PULLING, PULLED)[:-9], "went away in the middle"),
        (chunks(PULLING, b""), "stopped before it said that the image is there"),
        (http(PULLING), "stopped before it said that the image is there"),
    ],
)
def test_a_pull_that_dies_with_its_daemon(tmp_path: Path, answer: bytes, words: str) -> None:
    serve(tmp_path / "d.sock", answer)
    daemon = engine.Engine(str(tmp_path / "d.sock"), 10, "/v1.41")
    with pytest.raises(engine.EngineError, match=words) if words else contextlib.nullcontext():
        daemon.pull("a/b:c", {}, lambda *words: None)


def test_a_load_that_dies_with_its_daemon(tmp_path: Path) -> None:
    serve(tmp_path / "d.sock", chunks(b'{"stream":"Loading"}\n'))
    with pytest.raises(engine.EngineError, match="went away in the middle"):
        engine.Engine(str(tmp_path / "d.sock"), 10, "/v1.41").load([], lambda *words: None)


def test_an_error_inside_a_stream(tmp_path: Path) -> None:
    serve(tmp_path / "d.sock", http(b'{"errorDetail":{},"error":"denied"}\n'))
    with pytest.raises(engine.EngineError, match="pulling a/b:c: denied"):
        engine.Engine(str(tmp_path / "d.sock"), 10, "/v1.41").pull("a/b:c", {}, lambda *words: None)
