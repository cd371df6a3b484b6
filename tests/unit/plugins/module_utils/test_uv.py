# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""uv's command line, its environment, and its errors in words, from captured output."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils import uv

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "uv"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("wrong_hash", ["wrong hash of idna==3.10", "found sha256:946d195a", "needed sha256:00000000"]),
        ("refused", ["cannot be reached", "stack_index_url", "127.0.0.1:9"]),
        ("offline", ["neither in the bundle nor in the cache", "stack_offline"]),
        ("lacking", ["the index lacks a pinned package", "nosuch-pkg-xyzzy"]),
        ("full", ["the disk is full", "Make room"]),
    ],
)
def test_explain_captured(name: str, words: list[str]) -> None:
    said = uv.explain((FIXTURES / f"{name}.txt").read_text(), 1, "layer torch")
    assert said.startswith("layer torch: ")
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("", 2, "exit status 2"),
        ("", -9, "signal 9"),
        ("", -signal.SIGXFSZ, "the disk is full"),
        ("invalid peer certificate: UnknownIssuer", 2, "stack_ca_file"),
        ("a\n" * 40, 2, "exit status 2"),
    ],
)
def test_explain_others(text: str, code: int, words: str) -> None:
    said = uv.explain(text, code, "layer torch")
    assert words in said
    assert len(said.splitlines()) < 20


def test_logins_are_not_shown() -> None:
    assert uv.redact("at https://me:secret@mirror.example/simple/") == "at https://***@mirror.example/simple/"


def test_command_is_hashed_and_never_resolves() -> None:
    command = uv.install_command("uv", "py", "r.txt", uv.Sources(), "copy", "/cache")
    for option in ("--no-deps", "--require-hashes", "--no-build"):
        assert option in command
    assert "--default-index" not in command
    target = uv.install_command("uv", "py", "r.txt", uv.Sources(), "copy", "", target="/t")
    assert target[target.index("--target") + 1] == "/t"


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (uv.Sources(), []),
        (uv.Sources(index_url="I"), ["--default-index", "I"]),
        (uv.Sources(extra_index_urls=["E"]), ["--index", "E", "--index-strategy", "unsafe-best-match"]),
        (uv.Sources(offline=True), ["--offline"]),
        (
            uv.Sources(offline=True, find_links=["/b"], index_url="I", extra_index_urls=["E"]),
            ["--offline", "--no-index", "--find-links", "/b"],
        ),
    ],
)
def test_sources(sources: uv.Sources, expected: list[str]) -> None:
    assert uv.source_arguments(sources) == expected


def test_environment_is_clean() -> None:
    base = {
        "HOME": "/h", "PIP_INDEX_URL": "x", "PYTHONPATH": "x", "CUDA_HOME": "x", "LD_LIBRARY_PATH": "x",
        "UV_INDEX_URL": "mirror", "UV_INDEX_INTERNAL_PASSWORD": "p", "UV_OVERRIDE": "x", "PATH": "/foreign",
    }  # fmt: skip
    env = uv.environment(base, uv.Sources(ca_file="/ca", proxy="http://p"))
    assert not {"PIP_INDEX_URL", "PYTHONPATH", "CUDA_HOME", "LD_LIBRARY_PATH", "UV_OVERRIDE"} & set(env)
    assert (env["HOME"], env["UV_INDEX_URL"], env["UV_INDEX_INTERNAL_PASSWORD"]) == ("/h", "mirror", "p")
    assert (env["SSL_CERT_FILE"], env["https_proxy"]) == ("/ca", "http://p")
    assert "/foreign" not in env["PATH"]


def test_build_environment_has_its_own_cuda_only() -> None:
    env = uv.build_environment("/r/venv", "/r/cuda", 4, {"X": "1"})
    assert env["PATH"].startswith("/r/venv/bin:/r/cuda/bin:")
    assert (env["CUDA_HOME"], env["MAX_JOBS"], env["X"]) == ("/r/cuda", "4", "1")
    assert "CUDA_HOME" not in uv.build_environment("/r/venv", "", 4, {})


@pytest.mark.parametrize(
    ("mode", "root", "expected"),
    [("auto", True, "hardlink"), ("auto", False, "copy"), ("symlink", False, "symlink")],
)
def test_link_mode(mode: str, root: bool, expected: str) -> None:
    assert uv.link_mode(mode, root) == expected


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full at /x"),
        (errno.EROFS, "Make /f writable"),
        (errno.EIO, "Input/output error at /x"),
    ],
)
def test_errors_of_the_file_system(number: int, words: str) -> None:
    assert words in uv.explain_os_error(OSError(number, os.strerror(number), "/x"), "/f")
