# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""What is copied into a container runs there by itself: here a process of its own stands for the container."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from factories import ReleaseTree

from ansible_collections.verl.baremetal.plugins.module_utils.images import engine, inside

STACK = {"components": [{"name": "toolz", "kind": "python", "dist": "toolz", "version": "1.0.0"}]}


def ask(**fields: Any) -> dict[str, Any]:
    return {"stack": STACK, "python": "", "root": "/nowhere", "variants": {}, "skipped": {}, **fields}


def environment(folder: Path, **packages: str) -> str:
    site = folder / "lib/python3.11/site-packages"
    for name, version in packages.items():
        (site / f"{name}-{version}.dist-info").mkdir(parents=True)
        (site / f"{name}-{version}.dist-info/METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    (folder / "pyvenv.cfg").write_text("version = 3.11.2\n")
    return str(folder)


def test_what_is_packed_needs_nothing_else(tmp_path: Path) -> None:
    prefix = environment(tmp_path / "env", toolz="0.12.1")
    with tarfile.open(fileobj=io.BytesIO(inside.packed(ask(python=prefix)))) as archive:
        assert all(name.startswith("verl-check") for name in archive.getnames())
        archive.extractall(tmp_path)
    folder = tmp_path / "verl-check"
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); from {inside.__name__} import main; main({str(folder)!r})"
    # -I -S: neither the environment's packages nor the checkout are seen
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, cwd=tmp_path)
    found = json.loads((folder / "report.json").read_text())
    assert found["python"] == prefix and found["release"] == ""
    assert {one["name"]: one["status"] for one in found["checks"]}["toolz"] == "mismatch"


def test_a_stack_without_a_release(tmp_path: Path) -> None:
    found = inside.report(ask(python=environment(tmp_path / "env", toolz="1.0.0")))
    assert [one["status"] for one in found["checks"] if one["name"] == "toolz"] == ["ok"]


def test_an_image_with_a_release_is_compared_with_its_own_pins(release_tree: ReleaseTree, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    release_tree.manifest({"components": [{"name": "six", "kind": "python", "dist": "six", "version": "1.17.0"}]})
    (tmp_path / "root/current").symlink_to(release_tree.release)
    found = inside.report(ask(root=str(tmp_path / "root")))
    assert found["release"] == str(release_tree.release)
    names = {one["name"] for one in found["checks"]}
    assert "six" in names and "toolz" not in names


def test_an_image_answers_for_nothing_of_the_host(tmp_path: Path) -> None:
    found = inside.report(ask(python=environment(tmp_path / "env", toolz="1.0.0")))
    assert not {"gpus", "container_toolkit", "shared_memory", "driver"} & {one["name"] for one in found["checks"]}


class FakeEngine:
    """A fixture of a daemon: it keeps what it was asked and ends the container as it is told."""

    def __init__(self, ran: engine.Ran | engine.EngineError) -> None:
        self.ran = ran
        self.config: dict[str, Any] = {}
        self.removed: list[str] = []

    def create(self, image: str, config: dict[str, Any]) -> str:
        self.config = config
        return "c1"

    def put(self, container: str, path: str, archive: bytes) -> None:
        assert path == "/" and archive

    def run(self, container: str) -> engine.Ran:
        if isinstance(self.ran, Exception):
            raise self.ran
        return self.ran

    def file(self, container: str, path: str) -> bytes:
        assert path == "/verl-check/report.json"
        return b'{"checks": []}'

    def remove(self, container: str) -> None:
        self.removed.append(container)


@pytest.mark.parametrize(
    ("python", "program"),
    [("", "python3"), ("/opt/env", "/opt/env/bin/python3"), ("/opt/env/bin/python3.12", "/opt/env/bin/python3.12")],
)
def test_the_images_own_python_runs_it_without_a_network(python: str, program: str) -> None:
    daemon = FakeEngine(engine.Ran(0, ""))
    assert inside.check(daemon, "a:b", ask(python=python)) == {"checks": []}  # type: ignore[arg-type]
    assert daemon.config["Entrypoint"][0] == program and daemon.config["HostConfig"] == {"NetworkMode": "none"}
    assert daemon.removed == ["c1"]


@pytest.mark.parametrize(
    ("ran", "words"),
    [
        (engine.Ran(1, "Traceback: boom"), "a:b: the check failed in it, it ended with 1: Traceback: boom"),
        (engine.EngineError("docker: no such file"), "a:b: python3 cannot be run in it .*Set image_python"),
    ],
)
def test_an_image_in_which_it_cannot_run(ran: Any, words: str) -> None:
    daemon = FakeEngine(ran)
    with pytest.raises(engine.EngineError, match=words):
        inside.check(daemon, "a:b", ask())  # type: ignore[arg-type]
    assert daemon.removed == ["c1"]
