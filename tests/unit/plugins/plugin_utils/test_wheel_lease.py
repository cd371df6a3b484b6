# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import time

import pytest

from ansible_collections.verl.baremetal.plugins.plugin_utils import wheel_lease

PARTS = {"package": "demo", "version": "1.0", "nvcc": "12.8.93", "flags": {}, "architectures": ["90"]}


def lease(folder, host, main=None):
    return wheel_lease.Lease(str(folder), "demo", host, main or os.getpid())


def rewrite(taken, **changes):
    with open(taken.path, encoding="utf-8") as handle:
        data = json.load(handle)
    data.update(changes)
    with open(taken.path, "w", encoding="utf-8") as handle:
        json.dump(data, handle)


def test_hosts_with_and_without_a_compiler_share_a_lease():
    assert wheel_lease.group(PARTS) == wheel_lease.group(dict(PARTS, nvcc=""))
    assert wheel_lease.group(PARTS) == wheel_lease.group(dict(PARTS, architectures=["80"])), "one wheel serves all GPUs"
    assert wheel_lease.group(PARTS) != wheel_lease.group(dict(PARTS, version="1.1"))


def test_one_host_gets_it_and_keeps_it(tmp_path):
    first, second = lease(tmp_path, "a"), lease(tmp_path, "b")
    assert first.acquire() is None
    assert second.acquire()["holder"] == "a"
    assert first.acquire() is None, "a later task of the same host and run goes on with it"
    second.release()
    assert second.acquire()["holder"] == "a", "nobody gives back what is not theirs"
    first.release()
    assert second.acquire() is None


def test_a_run_that_died_holds_nothing(tmp_path):
    assert lease(tmp_path, "a").acquire() is None
    rewrite(lease(tmp_path, "a"), start=1)
    assert lease(tmp_path, "b").acquire() is None


@pytest.mark.parametrize(("waited", "beat", "free"), [(200, 200, True), (200, 10, False), (10, 5000, False)])
def test_silence_ends_it_only_for_those_who_waited(tmp_path, waited, beat, free):
    assert lease(tmp_path, "a").acquire() is None
    rewrite(lease(tmp_path, "a"), beat=time.time() - beat)
    second = lease(tmp_path, "b")
    second.waiting_since = time.time() - waited
    assert (second.acquire() is None) is free


def test_who_is_gone_is_at_work_no_more(tmp_path):
    assert lease(tmp_path, "a").acquire() is None
    assert lease(tmp_path, "b").holder()["holder"] == "a"
    rewrite(lease(tmp_path, "a"), start=1)
    assert lease(tmp_path, "b").holder() is None


def test_a_beat_takes_nothing_back(tmp_path):
    first, second = lease(tmp_path, "a"), lease(tmp_path, "b")
    first.acquire()
    rewrite(first, holder="b")
    first.beat()
    assert second.mine() and not first.mine()
    rewrite(first, beat=0)
    second.beat()
    assert second.read()["beat"] > 0


def test_beats_go_on_during_what_takes_long(tmp_path, monkeypatch):
    monkeypatch.setattr(wheel_lease, "SILENCE", 0.04)
    taken = lease(tmp_path, "a")
    taken.acquire()
    rewrite(taken, beat=0)
    with taken.beating():
        end = time.monotonic() + 30
        while not taken.read()["beat"]:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_failures_are_those_of_this_run(tmp_path):
    first, second = lease(tmp_path, "a"), lease(tmp_path, "b")
    first.failed("no memory")
    second.failed("an error")
    assert lease(tmp_path, "c").failures() == {"a": "no memory", "b": "an error"}
    other = lease(tmp_path, "a", 1)
    assert other.failures() == {}
    other.failed("again")
    assert first.failures() == {} and other.failures() == {"a": "again"}


def test_a_broken_file_is_no_lease(tmp_path):
    taken = lease(tmp_path, "a")
    with open(taken.path, "w", encoding="utf-8") as handle:
        handle.write("{")
    assert taken.acquire() is None
