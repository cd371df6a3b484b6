# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""What the roles' tasks do with answers that no test machine can give: an action plugin plays the modules."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROLES = Path(__file__).resolve().parents[2] / "roles"
#: Answers with what the host's variable `answers` holds for the module, and writes down what it was asked.
STAND_IN = """
import json, os
from ansible.plugins.action import ActionBase

class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        asked = dict(self._task.args)
        name = asked.pop("module")
        line = {"host": task_vars["inventory_hostname"], "name": name, "become": self._task.become, **asked}
        with open(os.environ["STAND_IN_LOG"], "a") as log:
            log.write(json.dumps(line) + chr(10))
        return {"changed": False, **task_vars["answers"].get(name, {})}
"""


def with_stand_ins(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    played = []
    for task in tasks:
        task = dict(task)
        for name in list(task):
            if name.startswith("verl.baremetal.") or name in ("ansible.builtin.reboot", "ansible.builtin.debug"):
                task["stand_in"] = {"module": name.rpartition(".")[2], **(task.pop(name) or {})}
        if "block" in task:
            task["block"] = with_stand_ins(task["block"])
        played.append(task)
    return played


def play(tmp_path: Path, path: str, hosts: dict[str, Any], variables: dict[str, Any], show: str = "omit") -> dict[str, list[Any]]:
    """Play a role's tasks; for each host what was asked of which module, in order, and a variable's value in the end."""
    (tmp_path / "action_plugins").mkdir()
    (tmp_path / "action_plugins/stand_in.py").write_text(STAND_IN)
    tasks = with_stand_ins(yaml.safe_load((ROLES / path).read_text(encoding="utf-8")))
    tasks.append({"stand_in": {"module": "end", "value": "{{ %s }}" % show}})
    group = {"hosts": hosts, "vars": {**variables, "ansible_connection": "local", "ansible_python_interpreter": sys.executable}}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": group}))
    (tmp_path / "play.yml").write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
    log = tmp_path / "log"
    done = subprocess.run(
        ["ansible-playbook", "-i", "hosts.yml", "play.yml"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "STAND_IN_LOG": str(log)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return {host: [line for line in lines if line["host"] == host] for host in hosts}


def names(asked: list[Any]) -> list[str]:
    return [line["name"] for line in asked]


def test_no_host_is_rebooted_under_running_processes(tmp_path: Path) -> None:
    rebooted = {"driver_check": {"reboot_required": False}}
    busy = {"gpu_idle": {"idle": False, "hidden": 0, "users": [{"pid": 42, "name": "python"}, {"pid": 43, "name": "ray"}]}, **rebooted}
    hosts = {
        "busy": {"answers": busy},
        "allowed": {"answers": busy, "driver_allow_busy": "true"},
        "idle": {"answers": {"gpu_idle": {"idle": True, "hidden": 0, "users": []}, **rebooted}},
    }
    variables = {
        "driver_allow_busy": "false", "driver_reboot_required": True, "driver_reboot_timeout": 1, "driver_kernels": [],
        "driver_report": {"version": "570.133.20"},
    }  # fmt: skip
    asked = play(tmp_path, "driver/tasks/reboot.yml", hosts, variables, "driver_reboot_required")
    assert names(asked["busy"]) == ["gpu_idle", "debug", "end"]
    assert "not rebooted, processes use the GPUs: python (pid 42), ray (pid 43); stop" in asked["busy"][1]["msg"]
    for host in ("allowed", "idle"):
        assert names(asked[host]) == ["gpu_idle", "reboot", "driver_check", "end"]
    assert {host: lines[-1]["value"] for host, lines in asked.items()} == {"busy": True, "allowed": False, "idle": False}


def test_root_looks_where_a_login_cannot(tmp_path: Path) -> None:
    hosts = {
        "root": {"answers": {"gpu_idle": {"idle": True, "hidden": 0}}},
        "busy": {"answers": {"gpu_idle": {"idle": False, "hidden": 0}}},
        "login": {"answers": {"gpu_idle": {"idle": False, "hidden": 9}}},
    }
    variables = {"drain_method": "none", "drain_idle_devices": [], "drain_idle_ignore": [], "drain_idle_timeout": 1}
    asked = play(tmp_path, "drain/tasks/main.yml", hosts, variables, "drain_method")
    waited = {host: [line["become"] for line in lines if "timeout" in line] for host, lines in asked.items()}
    assert waited == {"root": [], "busy": [False], "login": [True]}
