from __future__ import annotations

import json

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils.rollout import state

ME = {"controller": "head", "pid": 10, "token": "head:10:1", "length": 100, "until": 200.0}
OTHER = {"controller": "laptop", "pid": 99, "token": "laptop:99:7", "length": 100, "until": 200.0}


def claimed(**changes):
    document = state.claim(state.empty(), "k1", "activate", ME, 100, False)
    document.update(changes)
    return document


def walk(document, *phases, now=110.0, fields=None):
    for phase in phases:
        document = state.record(document, phase, ME["token"], now, fields if phase == "prepared" else None)
    return document


ALL = ("preparing", "prepared", "draining", "changing", "checking", "returning", "done")


def test_a_whole_rollout_leaves_a_done_host_without_a_claim():
    document = walk(claimed(), *ALL, fields={"release": "new"})
    assert document["phase"] == "done"
    assert document["claim"] is None
    assert document["touched"] is False
    assert set(document["times"]) == set(ALL)
    assert state.is_done(document, "k1", "activate", "new")


@pytest.mark.parametrize(
    ("key", "direction", "live"),
    [("k2", "activate", "new"), ("k1", "rollback", "new"), ("k1", "activate", "old"), ("k1", "activate", None)],
)
def test_done_is_only_this_rollout_with_its_release_live(key, direction, live):
    document = walk(claimed(), *ALL, fields={"release": "new"})
    assert not state.is_done(document, key, direction, live)


def test_every_document_survives_being_written():
    document = claimed()
    for phase in ALL:
        document = walk(document, phase)
        assert state.parse(state.dump(document)) == document


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"schema": "1"}', '{"schema": 1, "phase": "asleep"}',
                                  '{"schema": 1, "times": []}', '{"schema": 1, "claim": {"pid": 1}}'])
def test_a_damaged_document_is_noticed(text):
    with pytest.raises(ValueError):
        state.parse(text)


def test_a_newer_schema_is_refused_in_words():
    with pytest.raises(state.StateError, match="schema 9"):
        state.parse(json.dumps({"schema": 9}))


@pytest.mark.parametrize(
    ("now", "force", "refused"), [(150, False, True), (150, True, False), (200, False, False), (999, False, False)]
)
def test_a_claim_of_somebody_else(now, force, refused):
    document = claimed(claim=OTHER)
    if refused:
        with pytest.raises(state.StateError, match=r"laptop \(process 99\).*rollout_takeover"):
            state.claim(document, "k1", "activate", ME, now, force)
    else:
        assert state.claim(document, "k1", "activate", ME, now, force)["claim"]["token"] == ME["token"]


def test_who_lost_the_claim_cannot_record():
    with pytest.raises(state.StateError, match="no longer holds the host: laptop"):
        state.record(claimed(claim=OTHER), "draining", ME["token"], 110)
    with pytest.raises(state.StateError, match="its claim is gone"):
        state.record(claimed(claim=None), "draining", ME["token"], 110)


def test_a_record_makes_the_claim_last_longer():
    assert walk(claimed(), "preparing", now=190)["claim"]["until"] == 290


@pytest.mark.parametrize("phase", state.ACTIVE)
def test_an_interrupted_host_starts_again_at_its_drain(phase):
    document = walk(claimed(), *ALL[: ALL.index(phase) + 1])
    again = state.claim(document, "k1", "activate", ME, 300, False)
    assert again["phase"] == phase
    again = walk(again, "preparing", "prepared", "draining", now=301)
    assert again["attempt"] == 2
    assert again["touched"] is (phase != "draining")


@pytest.mark.parametrize(
    ("before", "after"),
    [("preparing", "changing"), ("prepared", "changing"), ("prepared", "returning"), ("draining", "checking"),
     ("draining", "returning"), ("changing", "done"), ("done", "checking"), ("done", "draining")],
)
def test_no_step_is_jumped_over(before, after):
    document = claimed(phase=before)
    with pytest.raises(state.StateError, match="cannot go from phase"):
        state.record(document, after, ME["token"], 110)


def test_what_is_live_already_is_done_without_a_drain():
    assert walk(claimed(), "preparing", "prepared", "done")["phase"] == "done"


def test_another_rollout_keeps_in_mind_that_a_host_was_left_half_changed():
    document = walk(claimed(), *ALL[:4])
    fresh = state.claim(document, "k2", "activate", ME, 300, False)
    assert fresh["touched"] is True
    assert fresh["phase"] == "new"


@pytest.mark.parametrize(
    ("live", "known", "previous"), [("old", None, "old"), ("new", "old", "old"), ("new", None, None), (None, None, None)]
)
def test_the_previous_release_is_noted_once_before_the_switch(live, known, previous):
    document = claimed(release="new", previous=known)
    assert state.with_previous(document, "draining", live, {"batch": 2}) == {"batch": 2, "previous": previous}


def rolled_out(document, key, live, release, *phases):
    """A rollout's records, with what the module adds to them; the host's live release stays the caller's business."""
    document = state.claim(document, key, "activate", dict(ME, until=999.0), 100, True)
    for phase in phases:
        fields = state.with_activation(document, phase, live, {"release": release} if phase == "prepared" else None)
        document = state.record(document, phase, ME["token"], 110, fields)
    return document


@pytest.mark.parametrize(
    ("phases", "live", "undone"),
    [
        (ALL, "r2", "r1"),
        (ALL[:4], "r2", "r1"),
        (("preparing", "prepared", "draining", "changing", "failed"), "r1", "r1"),
        (("preparing", "prepared"), "r1", "r1"),
        (("preparing", "failed"), "r1", "r1"),
        (ALL, "by-hand", ""),
        (ALL, None, ""),
    ],
)
@pytest.mark.parametrize("more", [None, "same", "rollback"])
def test_what_undoes_the_last_rollout(phases, live, undone, more):
    document = rolled_out(state.empty(), "k1", "r0", "r1", *ALL)
    document = rolled_out(document, "k2", "r1", "r2", *phases)
    if more == "same" and live in ("r1", "r2"):
        document = rolled_out(document, "k2", live, "r2", "preparing", "prepared")
    if more == "rollback":
        document = state.claim(document, "to-previous", "rollback", dict(ME, until=999.0), 100, True)
        assert state.with_activation(document, "prepared", live, {"release": "r1"}) == {"release": "r1"}
    assert state.undone(state.parse(state.dump(document)), live) == undone


def test_a_rollout_that_changes_no_release_leaves_what_is_to_be_undone():
    document = rolled_out(state.empty(), "k1", "r0", "r1", *ALL)
    assert state.undone(rolled_out(document, "k2", "r1", "r1", *ALL), "r1") == "r0"


def test_a_host_without_a_rollout_has_nothing_to_undo():
    assert state.undone(state.empty(), "r1") == ""
    assert state.undone(rolled_out(state.empty(), "k1", None, "r1", *ALL), "r1") == ""


def test_other_phases_note_no_previous_release():
    assert state.with_previous(claimed(), "checking", "new", None) == {}


def test_unknown_words_are_refused():
    with pytest.raises(state.StateError, match="unknown phase"):
        state.record(claimed(), "sleeping", ME["token"], 110)
    with pytest.raises(state.StateError, match="unknown field"):
        state.record(claimed(), "preparing", ME["token"], 110, {"password": "x"})


def test_a_claim_is_given_back_only_by_its_holder():
    assert state.let_go(claimed(), ME["token"])["claim"] is None
    assert state.let_go(claimed(claim=OTHER), ME["token"])["claim"] == OTHER


def test_a_refused_run_gives_back_what_it_found():
    waiting = walk(claimed(), "preparing", "prepared", fields={"release": "new"})
    taken = state.parse(state.dump(state.claim(waiting, "k2", "activate", OTHER, 500, False)))
    assert (taken["phase"], taken["claim"]["token"]) == ("new", OTHER["token"])
    back = state.let_go(taken, OTHER["token"])
    assert back == waiting
    # The run that was here before goes on as if nothing had been.
    assert walk(back, "draining", now=501)["claim"]["until"] == 601
    # Who has begun to work on the host has it for good.
    begun = state.record(taken, "preparing", OTHER["token"], 501)
    assert state.let_go(begun, OTHER["token"])["claim"] is None
    assert state.let_go(state.renew(taken, OTHER["token"], 501), OTHER["token"])["claim"] is None


def test_a_claim_of_a_claim_remembers_one_step():
    taken = state.claim(claimed(), "k2", "activate", dict(OTHER, until=0), 100, True)
    taken = state.claim(taken, "k3", "activate", ME, 100, False)
    assert "over" not in taken["claim"]["over"]["claim"]


def test_only_the_holder_renews():
    longer = state.renew(claimed(), ME["token"], 190, {"touched": True})
    assert (longer["claim"]["until"], longer["touched"], longer["phase"]) == (290, True, "new")
    for lost in (claimed(claim=OTHER), claimed(claim=None)):
        assert state.renew(lost, ME["token"], 190, {"touched": True}) == lost
        assert not state.is_held(lost, ME["token"])


def test_a_host_stays_known_as_drained_until_it_is_given_back():
    document = walk(claimed(), *ALL[:3])
    assert document["drained"] is True
    assert walk(document, *ALL[3:])["drained"] is False
    again = state.claim(walk(document, "preparing"), "k2", "activate", ME, 300, False)
    assert (again["drained"], again["touched"]) == (True, False)
    assert state.renew(again, ME["token"], 301, {"drained": False})["drained"] is False
    assert state.record(walk(claimed(), *ALL[:2]), "draining", ME["token"], 110, {"drained": False})["drained"] is False


def test_hosts_out_of_service_come_first():
    documents = {"a": {"phase": "prepared"}, "b": {"phase": "failed"}, "c": {"phase": "changing"}, "d": {}, "e": {"touched": True}}
    documents["f"] = {"phase": "prepared", "drained": True}
    assert state.order(["a", "b", "c", "d", "e", "f"], documents) == ["c", "e", "f", "b", "a", "d"]
