# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""A converged rerun of site.yml against pip's commands run again and against one Ansible task.

converged.py --root STACK_ROOT [--pip FOLDER of python_stack.py] [-e VAR=VALUE ...]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path
from typing import Any, Dict, List, Tuple

from bench import ROOT, Result, ansible_env, interleave, median, peak_memory, save, target, timed

# Actions that run on the controller alone: no round trip to the host.
LOCAL = ("debug", "set_fact", "assert", "fail", "include_tasks", "include_role", "import_role", "import_tasks", "meta",
         "validate_argument_spec", "add_host", "group_by", "pause", "include_vars")  # fmt: skip
ONE_TASK = "- hosts: all\n  gather_facts: false\n  tasks:\n    - ansible.builtin.ping:\n"


def tasks_of(report: Dict[str, Any]) -> Tuple[List[Tuple[str, float]], int]:
    """(seconds of every task by name, number of round trips to the host) of the JSON callback's report."""
    times: List[Tuple[str, float]] = []
    trips = 0
    for play in report["plays"]:
        for task in play["tasks"]:
            duration = task["task"]["duration"]
            start, end = (_seconds(duration[key]) for key in ("start", "end"))
            times.append((task["task"]["name"], max(0.0, end - start)))
            for host in task["hosts"].values():
                action = str(host.get("action", "")).rpartition(".")[2]
                if not host.get("skipped") and action not in LOCAL:
                    trips += 1
    return times, trips


def _seconds(stamp: str) -> float:
    import datetime

    return datetime.datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, default=Path("/opt/verl"))
    parser.add_argument("--pip", type=Path, help="the folder of python_stack.py, for pip's side")
    parser.add_argument("--wheels", type=Path, default=Path.home() / ".cache/verl-baremetal/wheels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-e", dest="extra", action="append", default=[])
    options = parser.parse_args()
    extra = [
        word
        for value in (f"stack_root={options.root}", "release_profile=false", *options.extra)
        for word in ("-e", value)
    ]
    site = ["ansible-playbook", str(ROOT / "site.yml"), "-i", str(ROOT / "inventories/local"), *extra]
    scratch = ROOT / "tests" / "output"
    scratch.mkdir(parents=True, exist_ok=True)
    one = scratch / "one_task.yml"
    one.write_text(ONE_TASK, encoding="utf-8")
    plain = ["ansible-playbook", "-i", str(ROOT / "inventories/local"), str(one)]
    cases = {
        "site.yml, converged": lambda: timed(site, ansible_env(), cwd=str(ROOT)),
        "ansible-playbook with one task": lambda: timed(plain, ansible_env()),
    }
    ratios = [
        {"what": "a converged run to a play of one task (the limit)", "of": "site.yml, converged",
         "to": "ansible-playbook with one task", "target": ""},
    ]  # fmt: skip
    left_out = []
    if options.pip:
        from python_stack import Sides

        sides = Sides(options.pip, options.wheels)
        env = {"PIP_CACHE_DIR": str(options.pip / "pip-cache")}

        def pip_again() -> None:
            for command in sides.pip_commands():
                timed(command, env)

        cases["pip's commands again"] = pip_again
        ratios.append({"what": "pip's commands to a converged run", "of": "pip's commands again",
                       "to": "site.yml, converged", "target": ""})  # fmt: skip
    else:
        left_out.append("pip's commands run again: no environment made by pip was given")
    runs = interleave(cases, options.rounds)
    done = subprocess.run(site, env=dict(os.environ, **ansible_env(ANSIBLE_STDOUT_CALLBACK="ansible.posix.json")),
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=str(ROOT), check=True)  # fmt: skip
    text = done.stdout.decode()
    report = json.loads(text[text.index("{") :])
    if any(host["changed"] for host in report["stats"].values()):
        raise SystemExit("the run changed something: this is no converged host")
    times, trips = tasks_of(report)
    slowest = sorted(times, key=lambda item: -item[1])[:5]
    save(
        Result(
            name="converged",
            title="A converged rerun",
            question="The site playbook on a host that has everything already: how long until it says so.",
            runs=runs,
            ratios=ratios,
            figures={
                "tasks": f"{len(times)}, of which {trips} are round trips to the host",
                "where the time goes": ", ".join(f"{name.rpartition(' : ')[2]} {t:.2f} s" for name, t in slowest),
            },
            targets=[
                target(
                    "a converged rerun on one host",
                    median(runs["site.yml, converged"]),
                    "at most",
                    10,
                    "s",
                    f"a play of one task: {median(runs['ansible-playbook with one task']):.2f} s",
                ),
                target(
                    "its round trips to the host", trips, "at most", 30, "", "one a question that depends on an answer"
                ),
                target(
                    "memory of the controller, one host",
                    peak_memory(site, ansible_env()),
                    "under",
                    150,
                    "MiB",
                    f"a play of one task: {peak_memory(plain, ansible_env()):.0f} MiB",
                ),
            ],  # fmt: skip
            left_out=left_out,
        )
    )


if __name__ == "__main__":
    main()
