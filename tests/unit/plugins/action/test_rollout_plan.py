from __future__ import annotations

import pytest

from ansible_collections.verl.baremetal.plugins.action import rollout_plan, rollout_report, rollout_state
from ansible_collections.verl.baremetal.plugins.module_utils.rollout import lines, state
from ansible_collections.verl.baremetal.plugins.plugin_utils import rollout_journal


@pytest.mark.parametrize(
    ("sizes", "words"),
    [([], "none"), ([1], "1"), ([1, 1, 2, 2, 2], "1, 1, 3 x 2"), ([1, 10, 25, 25, 25, 14], "1, 10, 3 x 25, 14")],
)
def test_sizes_in_words(sizes, words):
    assert rollout_plan._short(sizes) == words


def test_every_host_has_the_number_of_its_batch():
    assert rollout_plan._numbers(["a", "b", "c", "d"], [1, 2, 1], 3) == {"a": 3, "b": 4, "c": 4, "d": 5}


def test_hosts_that_an_earlier_run_drained_come_first_and_go_back_when_nothing_is_done_to_them(tmp_path):
    journal = rollout_journal.Journal(str(tmp_path))
    for name, left in (("a", {}), ("b", {"drained": True}), ("c", {"drained": True, "touched": True}), ("d", {"failure": {"task": "x"}})):
        journal.note(name, token="t", rollout=dict(left, phase="prepared"))
    ranks = {name: rollout_plan._rank(entry) for name, entry in journal.hosts().items()}
    assert state.order(["a", "b", "c", "d"], ranks) == ["b", "c", "d", "a"]
    report = rollout_report.ActionModule.__new__(rollout_report.ActionModule)
    rest = report._rest(journal, {"token": "t"})
    assert (rest["hosts"], rest["drained"]) == (["a", "b", "c", "d"], ["b"])
    assert report._rest(journal, {"token": "other"})["drained"] == ["!all"]


@pytest.mark.parametrize(("times", "serial"), [({"prepared": 1.0}, [1, 2, 1]), ({"draining": 1.0}, [2, 2])])
def test_only_a_host_that_went_through_a_batch_counts_as_one_of_its_hosts(tmp_path, times, serial):
    journal = rollout_journal.Journal(str(tmp_path))
    journal.note("done", token="t", done=True, rollout={"phase": "done", "times": times})
    for name in "abcd":
        journal.note(name, token="t", rollout={"phase": "prepared"})
    plan = rollout_plan.ActionModule.__new__(rollout_plan.ActionModule)
    assert plan._batches(journal, {"token": "t"}, {"batches": [1, 2], "max_fail_percentage": 0})["serial"] == serial


def test_the_key_follows_what_decides_and_nothing_else():
    base = {"stack_name": "small", "venv_python": "3.11", "inventory_hostname": "a"}
    key = rollout_state.key_of("d1", base)
    assert key == rollout_state.key_of("d1", dict(base, inventory_hostname="b", rollout_batches=[1]))
    assert key != rollout_state.key_of("d2", base)
    assert key != rollout_state.key_of("d1", dict(base, venv_python="3.12"))
    assert key != rollout_state.key_of("d1", dict(base, driver_branch="580"))


def test_a_driver_or_a_reboot_is_another_rollout():
    key = rollout_state.key_of("d1", {})
    assert key == rollout_state.key_of("d1", {}, False, "required")
    assert len({key, *(rollout_state.key_of("d1", {}, *more) for more in ((True, "never"), (True, "required"), (False, "always")))}) == 4


def test_a_host_that_another_run_took_over_is_told_and_no_more(tmp_path, capsys):
    journal = rollout_journal.Journal(str(tmp_path))
    journal.note("n1", token="mine", done=False, rollout={"phase": "draining", "batch": 2, "touched": False, "times": {"draining": 1.0}})
    claim = {"controller": "laptop", "pid": 9, "token": "theirs", "until": 99.0}
    result = {"ours": False, "live": "r1", "rollout": {"phase": "changing", "batch": 7, "touched": True, "claim": claim}}
    action = rollout_state.ActionModule.__new__(rollout_state.ActionModule)
    action._note(journal, "n1", {"state": "renew", "who": {"token": "mine"}, "now": 5.0}, result, None)
    entry = journal.host("n1")
    assert lines.status(entry) == "failed"
    assert (entry["rollout"]["batch"], entry["rollout"]["touched"]) == (2, False)
    assert "laptop (process 9) took it over; this rollout left it as it is" in lines.host_line("n1", entry)


def test_the_digest_of_a_stack_sees_every_file(tmp_path):
    (tmp_path / "locks").mkdir()
    (tmp_path / "stack.yml").write_text("a: 1\n")
    (tmp_path / "locks" / "torch.txt").write_text("six==1\n")
    before = rollout_state.stack_digest(str(tmp_path))
    (tmp_path / "locks" / "torch.txt").write_text("six==2\n")
    assert rollout_state.stack_digest(str(tmp_path)) != before
