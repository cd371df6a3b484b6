from __future__ import annotations

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils.rollout import lines


def entry(phase, **more):
    found = {"done": phase == "done", "rollout": {"phase": phase, "batch": 2, "release": "new", "times": {}}}
    found["rollout"].update(more.pop("rollout", {}))
    found.update(more)
    return found


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (entry("done"), "done"),
        (entry("failed"), "failed"),
        (entry("changing"), "interrupted"),
        (entry("prepared"), "waiting"),
        (entry("done", unreachable=""), "unreachable"),
        ({}, "waiting"),
    ],
)
def test_status(given, status):
    assert lines.status(given) == status


def test_a_failed_host_says_why_and_what_became_of_it():
    failure = {"task": "Check", "reason": "\x1b[0;1;31mtorch\x1b[0m\nis old", "rolled_back": "old", "in_service": False}
    line = lines.host_line("node1", entry("failed", rollout={"failure": failure, "times": {"draining": 10, "failed": 75}}))
    assert line.split() == ["node1", "failed", "batch", "2", "65", "s", "Check:", "torch", "is", "old", "(back", "on", "old,", "kept", "out", "of", "service)"]


@pytest.mark.parametrize(
    ("value", "words"), [(None, ""), (0.2, "0 s"), (119, "119 s"), (125, "2 min 05 s"), (7500, "2 h 05 min")]
)
def test_duration(value, words):
    assert lines.duration(value) == words


def test_summary_names_every_host_that_is_not_done():
    hosts = {"a": entry("done"), "b": entry("failed"), "c": entry("prepared"), "d": entry("prepared", unreachable="no route")}
    block = lines.summary("Rollout", hosts, "/r/report.html", "too many")
    assert block[0] == "Rollout: 4 hosts: 1 done, 1 failed, 1 unreachable, 1 waiting"
    assert [line.split()[0] for line in block[1:3]] == ["b", "d"]
    assert block[3] == "Stopped: too many"
    assert block[-1] == "Report: /r/report.html"


def test_a_host_that_waits_out_of_service_is_named():
    hosts = {"a": entry("prepared", rollout={"drained": True}), "b": entry("prepared", rollout={"drained": False})}
    block = lines.summary("Rollout", hosts, "", None)
    assert block[1].split() == ["a", "waiting", "batch", "2", "(out", "of", "service)"]
    assert block[2].startswith("Run the same command again")
    failed = entry("failed", rollout={"drained": True, "failure": {"task": "Build", "reason": "no space"}})
    assert lines.host_line("c", failed).endswith("Build: no space (out of service)")
