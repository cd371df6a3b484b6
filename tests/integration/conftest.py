# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The installation engine under test: real uv, real packages of the small stack, a stack_root in a temporary folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils import layer, record, release

HERE = Path(__file__).resolve().parent
LOCKS = HERE.parent / "stacks" / "small" / "locks"
MODULES = HERE.parents[1] / "plugins" / "modules"


def lock_lines(name: str) -> list[str]:
    """The lines of a lock of the small stack, one requirement each."""
    return layer.logical_lines((LOCKS / f"{name}.txt").read_text().splitlines())


def pick(name: str, *packages: str) -> list[str]:
    """Only some packages of a lock."""
    return [line for line in lock_lines(name) if line.split("==")[0] in packages]


@dataclasses.dataclass
class Engine:
    """Runs installations and modules against one stack_root."""

    root: Path
    uv: str
    cache: Path
    work: Path
    count: int = 0

    # No package with a build and no setuptools: a whole run takes about a second and can be killed often.
    layers: dict[str, Any] = dataclasses.field(
        default_factory=lambda: {
            "torch": {"requirements": pick("torch", "six", "idna", "packaging")},
            "sglang": {"requirements": pick("sglang", "toolz")},
            "megatron": {"requirements": pick("megatron", "zipp")},
        }
    )

    def new_id(self) -> str:
        """An id that was not there before."""
        self.count += 1
        return "small-" + hashlib.sha256(str(self.count).encode()).hexdigest()[:12]

    def environment(self, **extra: str) -> dict[str, str]:
        """The environment of a child: the collection is importable."""
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "UV_HTTP_RETRIES": "1"}
        env.pop("VERL_BAREMETAL_FAILPOINT", None)
        env.update(extra)
        return env

    def start(self, release_id: str, failpoint: str = "", preexec: Any = None, **job: Any) -> subprocess.Popen[str]:
        """Start an installation in a process group of its own."""
        self.work.mkdir(parents=True, exist_ok=True)
        path = self.work / "job.json"
        data = {"root": str(self.root), "id": release_id, "uv": self.uv, "cache": str(self.cache), "layers": self.layers}
        path.write_text(json.dumps({**data, **job}))
        env = self.environment(**({"VERL_BAREMETAL_FAILPOINT": failpoint} if failpoint else {}))
        return subprocess.Popen(
            [sys.executable, str(HERE / "engine_driver.py"), str(path)],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, preexec_fn=preexec,
        )  # fmt: skip

    def install(self, release_id: str, **options: Any) -> dict[str, Any]:
        """A whole installation; its result, with the exit status as rc."""
        process = self.start(release_id, **options)
        said = process.communicate(timeout=400)[0]
        try:
            result = json.loads(said.splitlines()[-1])
        except (IndexError, ValueError):
            result = {"said": said}
        return {**result, "rc": process.returncode}

    def kill_after(self, release_id: str, seconds: float) -> bool:
        """Start an installation and kill all of it after some time; False when it was done before."""
        process = self.start(release_id)
        time.sleep(seconds)
        done = process.poll() is not None
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.communicate()
        return not done

    def module(self, module: str, /, check: bool = False, **arguments: Any) -> dict[str, Any]:
        """Run a module as Ansible would: a process of its own, arguments on standard input."""
        arguments["_ansible_check_mode"] = check
        answer = subprocess.run(
            [sys.executable, str(MODULES / f"{module}.py")],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}), env=self.environment(), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=400, check=False,
        )  # fmt: skip
        assert answer.stdout.strip(), answer.stderr
        result: dict[str, Any] = json.loads(answer.stdout.strip().splitlines()[-1])
        return result

    def live(self) -> str:
        """The name of the live release."""
        return release.live(str(self.root))

    def path(self, name: str) -> Path:
        """The folder of a release."""
        return self.root / "releases" / name

    def assert_current_is_verified(self) -> None:
        """The invariant: current is absent, or leads to a complete release whose every file is as recorded."""
        current = self.root / "current"
        if not os.path.lexists(current):
            return
        folder = current.resolve()
        assert folder.is_dir(), "current leads nowhere"
        assert not (folder / ".building").exists(), "current leads to an unfinished release"
        assert release.quick_check(str(folder)) == []
        assert_whole(folder)

    def assert_live(self, name: str, layers: dict[str, Any] | None = None) -> None:
        """A release is live, whole, and holds exactly what was planned."""
        assert self.live() == name
        self.assert_current_is_verified()
        site = record.site_packages(str(self.path(name) / "venv"))
        assert site is not None
        wanted = {
            item.name: item.version
            for planned in (layers or self.layers).values()
            for item in layer.parse(planned["requirements"])
        }
        assert record.installed(site) == wanted


def assert_whole(folder: Path) -> None:
    """Every file of every package has the recorded hash, and there is at least one package."""
    site = record.site_packages(str(folder / "venv"))
    assert site is not None
    report = record.verify(site, mode=record.MODE_HASHES)
    assert report.problems == []
    assert report.distributions > 0


@pytest.fixture(scope="session")
def uv_program(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The pinned uv, brought by the module that brings it to hosts."""
    folder = tmp_path_factory.mktemp("tools")
    engine = Engine(folder, "", folder, folder)
    result = engine.module("uv_tool", path=str(folder / "uv"), requirements=lock_lines("uv"))
    assert result.get("changed"), result
    again = engine.module("uv_tool", path=str(folder / "uv"), requirements=lock_lines("uv"))
    assert again["changed"] is False
    return str(result["uv"])


@pytest.fixture(scope="session")
def package_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One package cache for all tests, so that each package is fetched once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, uv_program: str, package_cache: Path) -> Engine:
    """An engine whose stack_root has one live release."""
    folder = tmp_path_factory.mktemp("engine")
    made = Engine(folder / "root", uv_program, package_cache, folder / "work")
    first = made.new_id()
    result = made.install(first)
    assert result["rc"] == 0, result
    made.assert_live(first)
    return made


@pytest.fixture
def empty(tmp_path: Path, uv_program: str, package_cache: Path) -> Engine:
    """An engine with an empty stack_root."""
    return Engine(tmp_path / "root", uv_program, package_cache, tmp_path / "work")
