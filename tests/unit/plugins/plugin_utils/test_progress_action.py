# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""What the action plugins do with their module's answers; the module and the host are fixtures."""

from __future__ import annotations

import json
import subprocess
import threading
import time
import types
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.verl.baremetal.plugins.module_utils import lock, progress
from ansible_collections.verl.baremetal.plugins.plugin_utils import progress_action


class Fixture(progress_action.ProgressAction):
    """An action whose module answers what the test says."""

    MODULE = "verl.baremetal.fixture"
    LINE_SECONDS = 0.0
    POLL_SECONDS = 0.01

    def __init__(self, answers: list[dict[str, Any]], check: bool = False) -> None:
        self._task: Any = types.SimpleNamespace(args={"name": "x"}, async_val=0, check_mode=check)
        self.answers = answers
        self.calls: list[dict[str, Any]] = []
        self.said: list[str] = []
        self.background = 0

    def _call(self, arguments: Any, task_vars: Any, wrap_async: bool = False) -> Any:
        self.calls.append(dict(arguments))
        return dict(self.answers.pop(0))

    def _in_background(self, arguments: Any, task_vars: Any) -> Any:
        self.background += 1
        return self._call(arguments, task_vars)

    def _say(self, text: str) -> None:
        self.said.append(text)

    def _low_level_execute_command(self, command: str, **unused: Any) -> Any:
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
        return {"stdout": done.stdout, "rc": done.returncode}


@pytest.fixture(autouse=True)
def no_base_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """ActionBase.run needs a whole play around it; what it returns is an empty result."""
    monkeypatch.setattr(progress_action.ActionBase, "run", lambda *args, **kwargs: {})


def test_converged_is_one_call() -> None:
    action = Fixture([{"changed": False, "packages": {}}])
    assert action.run() == {"changed": False, "packages": {}}
    assert [call["probe"] for call in action.calls] == [True]
    assert action.calls[0]["owner"]["run"]
    assert action.background == 0


def test_work_goes_to_the_background() -> None:
    action = Fixture([{"changed": False, "probe_pending": True}, {"changed": True}])
    assert action.run() == {"changed": True}
    assert action.background == 1
    assert "probe" not in action.calls[1]


def test_check_mode_never_probes() -> None:
    action = Fixture([{"changed": True}], check=True)
    assert action.run() == {"changed": True}
    assert "probe" not in action.calls[0]


@pytest.mark.parametrize("dead", [True, False])
def test_lock_of_a_dead_run(dead: bool) -> None:
    holder = lock.owner_of(1)
    if dead:
        holder["start"] = -1
    action = Fixture([{"failed": True, "msg": "held", "lock_holder": holder}, {"changed": True}])
    result = action.run()
    if dead:
        assert result == {"changed": True}
        assert action.calls[1]["lock_takeover"] == holder["run"]
    else:
        assert result["failed"] is True
        assert len(action.calls) == 1


def test_progress_is_followed(tmp_path: Path) -> None:
    action = Fixture([])
    told, results = tmp_path / "progress", tmp_path / "job"
    results.write_text('{"started": true, "finished": false, "ansible_job_id": "j1"}')
    teller = progress.Progress(str(told))
    teller.step("layer torch: fetching torch", 1, 4)
    data, done, alive = action._poll(str(told), str(results))
    assert data is not None
    assert (data["what"], done, alive) == ("layer torch: fetching torch", False, True)
    # The module's process is gone and left no result.
    told.write_text(told.read_text().replace(f'"pid": {data["pid"]}', '"pid": 99999999'))
    assert action._poll(str(told), str(results))[1:] == (False, False)
    results.write_text('{"changed": true, "packages": {"six": "1.17.0"}}')
    assert action._poll(str(told), str(results))[1] is True
    action._follow(str(told), str(results))
    # What the wrapper writes when it could not start the module.
    results.write_text('{"failed": true, "cmd": "x", "msg": "no such file", "ansible_job_id": "j1"}')
    assert action._poll(str(told), str(results))[1] is True


def test_a_result_is_seen_while_the_host_waits(tmp_path: Path) -> None:
    action = Fixture([])
    results = tmp_path / "job"
    results.write_text('{"started": true, "finished": false, "ansible_job_id": "j1"}')
    begun = time.monotonic()
    assert action._poll(str(tmp_path / "no"), str(results), 0.6)[1] is False
    assert time.monotonic() - begun >= 0.6
    threading.Timer(0.3, results.write_text, ['{"changed": true}']).start()
    begun = time.monotonic()
    assert action._poll(str(tmp_path / "no"), str(results), 30.0)[1] is True
    assert time.monotonic() - begun < 15


def test_a_vanished_module_ends_the_wait(tmp_path: Path) -> None:
    action = Fixture([])
    told = tmp_path / "progress"
    told.write_text('{"what": "compiling bytecode", "done": 1, "total": 2, "pid": 99999999}\n')
    action._follow(str(told), str(tmp_path / "job"))
    assert action.said
    assert all(line.startswith("compiling bytecode, 1 of 2 (50 %)") for line in action.said)


def test_before_the_first_line(tmp_path: Path) -> None:
    data, done, alive = Fixture([])._poll(str(tmp_path / "no"), str(tmp_path / "neither"))
    assert (data, done, alive) == (None, False, True)


class Elsewhere(progress_action.ProgressAction):
    """A fixture of a host whose modules have another HOME than the connection's user: their results lie there."""

    MODULE = "verl.baremetal.fixture"

    def __init__(self, home: Path) -> None:
        self._task: Any = types.SimpleNamespace(args={}, async_val=0, check_mode=False)
        self._connection: Any = types.SimpleNamespace(
            _shell=types.SimpleNamespace(join_path=lambda *parts: "/".join(parts))
        )
        self.home = home
        (home / "theirs").mkdir(parents=True)

    def get_shell_option(self, option: str, default: Any = None) -> Any:
        return default

    def _remote_expand_user(self, path: str, sudoable: bool = True, pathsep: str | None = None) -> str:
        return str(self.home / "ours")

    def _low_level_execute_command(self, command: str, **unused: Any) -> Any:
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
        return {"stdout": done.stdout, "rc": done.returncode}

    def _execute_module(
        self, module_name: str = "", module_args: Any = None, wrap_async: bool = False, **unused: Any
    ) -> Any:
        if wrap_async:
            results = self.home / "theirs/j1"
            results.write_text(json.dumps({"changed": True}))
            return {"started": True, "ansible_job_id": "j1", "results_file": str(results)}
        results = Path(module_args["_async_dir"]) / module_args["jid"]
        return {**json.loads(results.read_text()), "finished": True}


def test_the_result_is_read_where_the_host_says_that_it_is(tmp_path: Path) -> None:
    action = Elsewhere(tmp_path)
    assert action._in_background({}, {}) == {"changed": True}
    assert not list((tmp_path / "theirs").iterdir())
