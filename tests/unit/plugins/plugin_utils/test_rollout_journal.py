from __future__ import annotations

import os
import subprocess

import pytest

from ansible_collections.verl.baremetal.plugins.plugin_utils import rollout_journal


@pytest.fixture
def journal(tmp_path):
    return rollout_journal.Journal(str(tmp_path / "j"))


def test_a_living_run_keeps_its_lock(journal):
    with subprocess.Popen(["sleep", "60"]) as other:
        journal.lock(rollout_journal.identity(60, other.pid))
        with pytest.raises(rollout_journal.LockedError, match=f"process {other.pid} on"):
            journal.lock(rollout_journal.identity(60, os.getpid()))
        other.kill()


def test_a_dead_run_loses_its_lock(journal):
    with subprocess.Popen(["sleep", "60"]) as other:
        who = rollout_journal.identity(60, other.pid)
        assert journal.lock(who) is None
        assert not rollout_journal.is_dead(who)
        other.kill()
        other.wait()
        assert rollout_journal.is_dead(who)
    mine = rollout_journal.identity(60, os.getpid())
    assert journal.lock(mine)["pid"] == who["pid"]
    assert journal.lock(mine) is None
    journal.unlock(mine)
    assert not os.path.exists(journal.path("lock"))


@pytest.mark.parametrize("token", ["elsewhere:1:1", "", "x", "a:b:c"])
def test_a_claim_of_another_controller_is_never_called_dead(token):
    assert not rollout_journal.is_dead({"token": token})


def test_a_process_number_used_again_is_another_run():
    who = rollout_journal.identity(60, os.getpid())
    assert rollout_journal.is_dead(dict(who, token=who["token"] + "1"))


def test_a_run_whose_process_cannot_be_seen_is_alive(monkeypatch):
    who = rollout_journal.identity(60, os.getpid())
    monkeypatch.setattr(rollout_journal.lock, "_stat", lambda pid: None)
    assert not rollout_journal.is_dead(who)


def test_the_same_rollout_goes_on_with_its_journal_and_another_starts_anew(journal):
    journal.start("k", "activate", "t1", 1.0)
    journal.note("node/1", token="t1", done=True)
    journal.start("k", "activate", "t2", 2.0)
    assert journal.names() == ["node/1"]
    assert journal.hosts("t2") == {}
    assert journal.run()["started"] == 1.0
    journal.start("k2", "activate", "t3", 3.0)
    assert journal.names() == []
    assert journal.run()["started"] == 3.0


def test_a_damaged_file_is_no_knowledge(journal):
    journal.note("a", token="t")
    with open(journal.path("hosts", "a.json"), "w", encoding="utf-8") as stream:
        stream.write('{"tok')
    assert journal.host("a") == {}
