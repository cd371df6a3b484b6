# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from ansible_collections.verl.baremetal.plugins.modules import slurm_node

SILENT = [
    "slurm_update error: Unable to contact slurm controller (connect failure)",
    "slurm_load_node error: Socket timed out on send/recv operation",
    "slurm_load_jobs error: Zero Bytes were transmitted or received",
    "slurm_update error: Slurm backup controller in standby mode",
]


class Stop(Exception):
    pass


class Cluster:
    """Stands in for AnsibleModule and for Slurm: one node, and errors that the next commands get."""

    def __init__(self, monkeypatch, state="IDLE"):
        self.params = {"name": "n1", "bin_dir": None, "reason": "rollout", "timeout": 60, "poll": 10, "patience": 600}
        self.check_mode = False
        self.state, self.now, self.silent_until, self.error, self.lost = state, 0.0, 0.0, "", False
        self.updates = []
        monkeypatch.setattr(slurm_node.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(slurm_node.time, "sleep", self.sleep)

    def sleep(self, seconds):
        self.now += seconds

    def get_bin_path(self, name, **_more):
        return name

    def fail_json(self, **result):
        raise Stop(result["msg"])

    def run_command(self, command):
        silent = self.now < self.silent_until
        if command[1] == "update" and (self.lost or not silent):
            self.updates.append(command[3])
            if command[3] == "State=RESUME" and "DRAIN" not in self.state:
                return 1, "", "slurm_update error: Invalid node state specified"
            self.state = "IDLE" if command[3] == "State=RESUME" else "IDLE+DRAIN"
            self.lost = False
        if silent:
            return 1, "", self.error
        reason = " Reason=verl.baremetal rollout [root@2026-11-25T10:10:00]" if "DRAIN" in self.state else ""
        return 0, f"NodeName=n1 CPUAlloc=0 State={self.state}{reason}" if "show" in command else "", ""

    def down(self, seconds, error, lost=False):
        self.silent_until, self.error, self.lost = self.now + seconds, error, lost


@pytest.mark.parametrize("error", SILENT)
@pytest.mark.parametrize(("action", "state"), [("drain", "IDLE"), ("resume", "IDLE+DRAIN")])
def test_a_controller_that_restarts_is_waited_for(monkeypatch, error, action, state):
    cluster = Cluster(monkeypatch, state)
    cluster.down(300, error)
    assert getattr(slurm_node, action)(cluster, slurm_node.Slurm(cluster))["action"] == action
    assert len(cluster.updates) == 1


@pytest.mark.parametrize(("action", "state"), [("drain", "IDLE"), ("resume", "IDLE+DRAIN")])
def test_a_request_whose_answer_was_lost_is_not_made_twice(monkeypatch, action, state):
    cluster = Cluster(monkeypatch, state)
    node = slurm_node.Slurm(cluster)
    answer = cluster.run_command

    def lose_the_first_update(command):
        if command[1] == "update" and not cluster.updates:
            cluster.down(30, SILENT[1], lost=True)
        return answer(command)

    cluster.run_command = lose_the_first_update
    assert getattr(slurm_node, action)(cluster, node)["changed"] is True
    assert len(cluster.updates) == 1


def test_a_controller_that_stays_away_fails_in_words(monkeypatch):
    cluster = Cluster(monkeypatch)
    cluster.down(10_000, SILENT[0])
    with pytest.raises(Stop, match="Unable to contact"):
        slurm_node.Slurm(cluster).node()
    assert 600 <= cluster.now <= 610


def test_another_error_fails_at_once(monkeypatch):
    cluster = Cluster(monkeypatch)
    cluster.down(10_000, "slurm_load_node error: Invalid node name specified")
    with pytest.raises(Stop, match="Invalid node name"):
        slurm_node.Slurm(cluster).node()
    assert cluster.now == 0
