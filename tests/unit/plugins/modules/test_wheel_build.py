# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The module as Ansible runs it: a process with JSON on standard input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils.wheels import key

MODULE = "ansible_collections.verl.baremetal.plugins.modules.wheel_build"


@pytest.fixture
def run(tmp_path):
    def module(check=False, **changes):
        arguments = {
            "name": "demo",
            "version": "1.0",
            "source": {"kind": "sdist", "hashes": ["0" * 64]},
            "python": sys.executable,
            "device_code": False,
            "build_root": str(tmp_path / "build"),
            "cache": str(tmp_path / "wheels"),
            "_ansible_check_mode": check,
            "_ansible_remote_tmp": str(tmp_path),
            **changes,
        }
        code = (
            "import sys, json, runpy;"
            f"sys.path[:0] = {[p for p in sys.path if p]!r};"
            "from ansible.module_utils import basic;"
            "basic._ANSIBLE_ARGS = sys.stdin.buffer.read();"
            "basic._ANSIBLE_PROFILE = 'legacy';"
            f"import importlib; importlib.import_module({MODULE!r}).main()"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}).encode(), capture_output=True, cwd=Path.cwd(), check=False
        )
        assert done.stdout, done.stderr.decode()
        return json.loads(done.stdout)

    return module


def test_the_key_is_told_and_nothing_changes(run, tmp_path):
    first, second = run(), run(check=True)
    assert first["changed"] is False and first["wheel"] == ""
    assert first["key"] == second["key"] == key.digest(first["parts"])
    assert first["parts"]["package"] == "demo" and first["parts"]["architectures"] == []
    assert not (tmp_path / "build").exists() and not (tmp_path / "wheels").exists()


def test_flags_and_architectures_are_in_the_key(run):
    plain = run()["key"]
    assert run(env={"A": 1})["key"] != plain
    assert run(options=["--x"])["key"] != plain
    assert run(architectures=["9.0"])["key"] == plain, "without device code architectures decide nothing"
    assert run(architectures=["9.0"], device_code=True)["key"] != plain


def test_device_code_without_a_cuda_home_is_refused_and_not_failed(run):
    answer = run(device_code=True, architectures=["9.0"])
    assert not answer.get("failed") and answer["parts"]["nvcc"] == ""
    assert answer["refusal"] != ""


def test_a_missing_python_fails_in_words_and_in_check_mode_would_change(run):
    failed = run(python="/nonexistent/python")
    assert failed["failed"] and "no usable Python" in failed["msg"]
    would = run(check=True, python="/nonexistent/python")
    assert not would.get("failed") and would["changed"] and would["key"] == ""


@pytest.mark.parametrize("architecture", ["hopper", "9.0+PTX"])
def test_a_wrong_architecture_fails_in_words(run, architecture):
    failed = run(device_code=True, architectures=[architecture])
    assert failed["failed"] and "write it as 9.0" in failed["msg"]


def test_a_wheel_that_is_not_its_entrys_is_not_taken(run, tmp_path):
    (tmp_path / "incoming").write_text("x")
    failed = run(step="take", incoming=str(tmp_path / "incoming"), entry={"wheel": "x"})
    assert failed["failed"] and "broken" in failed["msg"]
