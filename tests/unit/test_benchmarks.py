# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The parts of the benchmarks that count and write."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("bench", "report", "converged", "python_stack"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module


def test_cases_run_in_turn(load):
    order = []
    runs = load("bench").interleave({"a": lambda: order.append("a"), "b": lambda: (order.append("b"), 2.5)[1]}, 2)
    assert order == ["a", "b", "a", "b"]
    assert runs["b"] == [2.5, 2.5]
    assert len(runs["a"]) == 2


def test_a_ratio_is_of_medians(load):
    assert load("bench").ratio({"a": [1.0, 100.0, 3.0], "b": [1.0, 2.0, 1.5]}, "a", "b") == 2.0


def test_a_command_that_fails_ends_the_benchmark(load):
    with pytest.raises(SystemExit, match="ended with 3"):
        load("bench").timed([sys.executable, "-c", "raise SystemExit(3)"])


def test_round_trips_are_tasks_that_reach_the_host(load):
    def task(name, action, **more):
        span = {"start": "2026-01-01T00:00:00.000000Z", "end": "2026-01-01T00:00:01.500000Z"}
        return {"task": {"name": name, "duration": span}, "hosts": {"localhost": {"action": action, **more}}}

    tasks = [
        task("Plan", "verl.baremetal.preflight"),
        task("Say", "ansible.builtin.debug"),
        task("Build", "verl.baremetal.python_layer", skipped=True),
    ]
    times, trips = load("converged").tasks_of({"plays": [{"tasks": tasks}]})
    assert trips == 1
    assert times == [("Plan", 1.5), ("Say", 1.5), ("Build", 1.5)]


def test_the_slowest_tasks_are_read_from_the_log(load):
    line = "2026-01-01 00:00:00,000 p=1 u=root n=ansible INFO| "
    log = line + "verl.baremetal.x : Early --- 9.00s\n" + line + "TASKS RECAP ****\n" + line + "=======\n"
    log += line + "verl.baremetal.venv : Install the torch layer ------ 30.50s\n" + line + "Bring uv -- 2.52s\n"
    assert load("python_stack").slowest_tasks(log) == "Install the torch layer 30.5 s, Bring uv 2.5 s"


def test_the_page_says_what_was_and_was_not_measured(load):
    machine = {"processor": "P", "cores": 2, "memory_gib": 4.0, "os": "O", "kernel": "K", "filesystem": "F",
               "python": "3", "load": 0.5, "date": "2026-01-01"}  # fmt: skip
    result = {
        "name": "switch", "title": "Switch", "question": "Q?", "runs": {"a": [4.0, 2.0, 3.0], "b": [0.1]},
        "ratios": [{"what": "a to b", "of": "a", "to": "b", "target": "at least 10"}],
        "figures": {"tasks": "7", "self_peak_mib": 1}, "notes": ["N."], "left_out": ["x: because"], "machine": machine,
        "targets": [
            {"what": "T1", "value": 2.5, "words": "at most", "bound": 1.25, "unit": "times", "limit": "L"},
            {"what": "T2", "value": 15.0, "words": "at least", "bound": 30, "unit": "times", "limit": "L"},
            {"what": "T3", "value": 0.147, "words": "under", "bound": 1, "unit": "s", "limit": "L"},
        ],
    }  # fmt: skip
    page = load("report").page([result])
    assert "| a | 3.00 s | 3 | 2.00 s to 4.00 s |" in page
    assert "| a to b | 30 | at least 10 |" in page
    assert "| T1 | at most 1.25 times | 2.5 times | missed, 2 times off | L |" in page
    assert "| T2 | at least 30 times | 15 times | missed, 2 times off | L |" in page
    assert "| T3 | under 1 s | 0.147 s | met | L |" in page
    assert "- tasks: 7" in page
    assert "self_peak_mib" not in page
    assert "Left out: x: because." in page
    assert "- version_check against collect_env and imports" in page
    assert "a release switch and rollback" not in page
    bundle = "an installation from a bundle against one from the index"
    assert bundle in page and bundle not in load("report").page([{**result, "name": "bundle_real"}])
