# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The modules gpu_info, stack_info and version_check as Ansible runs them: a process, JSON in, JSON out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from factories import ReleaseTree

from ansible_collections.verl.baremetal.plugins.modules import version_check

DEFINITION: dict[str, Any] = {
    "components": [
        {"name": "torch", "title": "Torch", "kind": "python", "dist": "torch", "version": "2.7.1", "layer": "torch"}
    ],
    "denied": [{"name": "vllm", "reason": "not supported"}],
}
PROGRAM = (
    "import sys; from ansible.module_utils.testing import patch_module_args; from importlib import import_module; import json;"
    "module = import_module('ansible_collections.verl.baremetal.plugins.modules.' + sys.argv[1]);"
    "context = patch_module_args(json.loads(sys.argv[2])); context.__enter__(); module.main()"
)


def run(name: str, **params: Any) -> dict[str, Any]:
    """What the module prints, parsed."""
    path = next(entry for entry in sys.path if (Path(entry) / "ansible_collections/verl/baremetal").is_dir())
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, name, json.dumps(params)],
        capture_output=True, text=True, check=False, env={"PYTHONPATH": path, "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.stdout, done.stderr
    value: dict[str, Any] = json.loads(done.stdout)
    return value


@pytest.fixture
def release(release_tree: ReleaseTree) -> ReleaseTree:
    release_tree.dist("torch", "2.7.1")
    release_tree.manifest(DEFINITION)
    return release_tree


@pytest.mark.parametrize("check_mode", [False, True])
def test_a_release_that_is_as_it_should_be(release: ReleaseTree, check_mode: bool) -> None:
    result = run(
        "version_check", release=str(release.release), nvml=False, integrity="hashes", _ansible_check_mode=check_mode
    )
    assert result["changed"] is False and result["passed"] is True and not result.get("failed")
    assert {check["name"]: check["status"] for check in result["checks"]}["torch"] == "ok"
    assert result["summary"]["mismatch"] == 0
    assert "Torch" in result["table"] and len(result["fingerprint"]) == 64


def test_a_mismatch_fails_with_words(release: ReleaseTree) -> None:
    release.dist("vllm", "0.9.0")
    result = run("version_check", release=str(release.release), nvml=False)
    assert result["failed"] is True and result["passed"] is False
    assert "vllm: denied: found 0.9.0, needed not installed" in result["msg"] and "not supported" in result["msg"]
    assert result["summary"]["denied"] == 1 and "vllm" in result["table"]


def test_the_policy_warn_does_not_fail(release: ReleaseTree) -> None:
    release.dist("vllm", "0.9.0")
    result = run("version_check", release=str(release.release), nvml=False, policy="warn")
    assert not result.get("failed") and result["passed"] is False
    assert "denied" in json.dumps(result["warnings"])


def test_an_environment_is_compared_with_a_stack(release: ReleaseTree) -> None:
    result = run("version_check", stack=DEFINITION, python=str(release.venv), nvml=False)
    assert result["passed"] is True
    statuses = {check["name"]: check["status"] for check in result["checks"]}
    assert statuses["torch"] == "ok" and statuses["drift"] == "skipped"


@pytest.mark.parametrize(
    "params, words",
    [
        ({"root": "/nothing"}, "/nothing/current is no release"),
        ({"release": "/x", "stack": {}}, "mutually exclusive"),
        ({"release": "/nothing/here"}, "is no release"),
        ({"release": "/x", "integrity": "some"}, "files, hashes"),
        ({"release": "/x", "policy": "ignore"}, "fail, warn"),
        ({"stack": "text"}, "dict"),
    ],
)
def test_wrong_options_are_refused_in_words(params: dict[str, Any], words: str) -> None:
    result = run("version_check", **params)
    assert result["failed"] is True and words in result["msg"]


def test_options_that_override_the_manifest(release: ReleaseTree) -> None:
    params = dict.fromkeys(version_check.ARGUMENTS)
    subject = version_check.subject(
        {
            **params,
            "release": str(release.release),
            "python": "/p",
            "variants": {"torch": "pypi"},
            "skipped": {},
            "cuda_home": "/c",
        }
    )
    assert (subject.prefix, subject.variants, subject.skipped, subject.cuda_home) == ("/p", {"torch": "pypi"}, {}, "/c")


def test_stack_info_reads_a_release(release: ReleaseTree) -> None:
    result = run("stack_info", release=str(release.release), nvml=False)
    assert result["changed"] is False and result["packages"] == {"torch": "2.7.1"}
    assert result["python"]["version"] == "3.12.3"


def test_stack_info_of_nothing_is_absence(tmp_path: Path) -> None:
    result = run("stack_info", release=str(tmp_path), python=str(tmp_path / "nothing"), nvml=False)
    assert result["changed"] is False and result["python"] is None and result["packages"] == {}


@pytest.mark.parametrize("nvml", [True, False])
def test_gpu_info_answers_everywhere(nvml: bool) -> None:
    result = run("gpu_info", nvml=nvml)
    assert result["changed"] is False and not result.get("failed")
    assert set(result) >= {"gpus", "nvswitches", "driver", "nvml", "reason"}
    assert result["gpus"] or result["reason"]
