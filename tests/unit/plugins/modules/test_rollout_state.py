from __future__ import annotations

import json
import os

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils import lock
from ansible_collections.verl.baremetal.plugins.module_utils.rollout import state as logic
from ansible_collections.verl.baremetal.plugins.modules import rollout_state

WHO = {"controller": "head", "pid": 1, "token": "head:1:1", "length": 60}


class Stop(Exception):
    pass


class Module:
    """Stands in for AnsibleModule: parameters, check mode, and failing."""

    def __init__(self, root, check_mode=False, **params):
        self.params = {
            "root": str(root), "state": "query", "key": "k", "direction": "activate", "who": WHO, "now": 100.0,
            "force": False, "again": False, "phase": None, "fields": {},
        }
        self.params.update(params)
        self.check_mode = check_mode

    def fail_json(self, **result):
        raise Stop(result["msg"], result)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "releases" / "new").mkdir(parents=True)
    (tmp_path / "releases" / "old").mkdir()
    os.symlink("releases/old", tmp_path / "current")
    return tmp_path


def play(root, *phases):
    result = rollout_state.run(Module(root, state="claim"))
    for phase in phases:
        fields = {"release": "new"} if phase == "prepared" else {}
        result = rollout_state.run(Module(root, state="record", phase=phase, fields=fields))
    return result


def test_the_file_says_what_was_done(root):
    result = play(root, "preparing", "prepared", "draining", "changing")
    on_disk = json.loads((root / "state" / "rollout.json").read_text())
    assert on_disk == result["rollout"]
    assert (on_disk["phase"], on_disk["previous"], on_disk["touched"]) == ("changing", "old", True)


def test_hosts_that_share_a_root_cannot_both_be_claimed(root, monkeypatch):
    assert rollout_state.run(Module(root, state="claim"))["rollout"]["claim"]["place"] == lock.place()
    play(root, "preparing")  # the same host may claim again
    monkeypatch.setattr(lock, "place", lambda: "other")
    with pytest.raises(Stop, match=f"{root} is shared with .*, which this run provisions too") as refused:
        rollout_state.run(Module(root, state="claim", force=True))
    assert refused.value.args[1]["holder"]["token"] == WHO["token"]
    # A claim of a version that noted no place.
    state = root / "state" / "rollout.json"
    document = json.loads(state.read_text())
    del document["claim"]["place"]
    state.write_text(json.dumps(document))
    assert rollout_state.run(Module(root, state="claim"))["rollout"]["claim"]["place"] == "other"


def test_done_needs_the_release_to_be_live(root):
    play(root, "prepared", "draining", "changing", "checking", "returning")
    assert rollout_state.run(Module(root, state="record", phase="done"))["done"] is False
    os.unlink(root / "current")
    os.symlink("releases/new", root / "current")
    answer = rollout_state.run(Module(root, state="claim"))
    assert (answer["done"], answer["changed"]) == (True, False)
    assert rollout_state.run(Module(root, state="claim", again=True))["done"] is False


def test_a_host_that_was_only_prepared_has_nothing_to_go_back_from(root):
    play(root, "preparing", "prepared")
    back = rollout_state.run(Module(root, state="claim", key="to-previous", direction="rollback"))
    assert (back["live"], back["undone"]) == ("old", "old")


def test_a_link_to_nowhere_is_not_live(root):
    os.unlink(root / "current")
    os.symlink("releases/gone", root / "current")
    assert rollout_state.run(Module(root))["live"] is None


def test_check_mode_writes_nothing(root):
    answer = rollout_state.run(Module(root, check_mode=True, state="claim"))
    assert answer["changed"] is True
    assert not (root / "state").exists()


def test_a_damaged_file_is_put_aside(root):
    (root / "state").mkdir()
    (root / "state" / "rollout.json").write_text('{"schema": 1, "pha')
    answer = rollout_state.run(Module(root, state="claim"))
    assert answer["damaged"] == str(root / "state" / "rollout.json.damaged")
    assert answer["rollout"]["phase"] == "new"
    assert os.path.exists(answer["damaged"])


def test_a_refusal_names_the_holder(root):
    play(root)
    with pytest.raises(Stop) as refused:
        rollout_state.run(Module(root, state="claim", who=dict(WHO, token="laptop:2:2", controller="laptop")))
    assert "another rollout holds this host: head (process 1)" in refused.value.args[0]
    assert refused.value.args[1]["holder"]["token"] == WHO["token"]


def test_a_renewal_says_whose_the_host_is(root):
    play(root, "preparing", "prepared", "draining")
    assert rollout_state.run(Module(root, state="renew"))["ours"] is True
    rollout_state.run(Module(root, state="claim", force=True, who=dict(WHO, token="laptop:2:2")))
    answer = rollout_state.run(Module(root, state="renew"))
    assert (answer["ours"], answer["changed"]) == (False, False)
    assert answer["rollout"]["claim"]["token"] == "laptop:2:2"


def test_a_write_that_fails_leaves_the_old_file(root, monkeypatch):
    play(root, "preparing")
    before = (root / "state" / "rollout.json").read_text()

    def full(_handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rollout_state.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        rollout_state.write(str(root / "state" / "rollout.json"), logic.empty())
    assert (root / "state" / "rollout.json").read_text() == before
    assert not [name for name in os.listdir(root / "state") if name.startswith(".rollout.")]
