from __future__ import annotations

import os

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils.rollout import idle

DEVICES = ["/dev/nvidia[0-9]*"]


@pytest.fixture
def proc(tmp_path):
    def add(pid, name, *links):
        folder = tmp_path / str(pid) / "fd"
        folder.mkdir(parents=True)
        (tmp_path / str(pid) / "comm").write_text(name + "\n")
        for number, link in enumerate(links):
            os.symlink(link, folder / str(number))

    add(7, "python3", "/dev/null", "/dev/nvidia0", "/dev/nvidia0", "/dev/nvidiactl")
    add(12, "bash", "/dev/pts/0")
    add(20, "nv-hostengine", "/dev/nvidia1")
    add(31, "watcher", "/dev/nvidiactl")
    (tmp_path / "meminfo").write_text("")
    return str(tmp_path)


def test_only_holders_of_a_gpu_are_found(proc):
    assert idle.users_of(DEVICES, [], proc) == [
        {"pid": 7, "name": "python3", "devices": ["/dev/nvidia0"]},
        {"pid": 20, "name": "nv-hostengine", "devices": ["/dev/nvidia1"]},
    ]


def test_daemons_are_ignored(proc):
    assert [user["pid"] for user in idle.users_of(DEVICES, ["nv-host*"], proc)] == [7]


def test_nothing_to_read_is_no_user(tmp_path):
    assert idle.users_of(DEVICES, [], str(tmp_path / "gone")) == []


def test_processes_that_cannot_be_looked_into(proc, tmp_path, monkeypatch):
    looked = os.listdir

    def listdir(path):
        if path.endswith("12/fd"):
            raise PermissionError(13, "Permission denied")
        return looked(path)

    monkeypatch.setattr(os, "listdir", listdir)
    assert idle.hidden([str(tmp_path / "mem*")], proc) == 1
    assert idle.hidden([str(tmp_path / "no-gpu*")], proc) == 0
    assert idle.hidden([], proc) == 0


def test_words():
    users = [{"pid": 1, "name": "a"}, {"pid": 2, "name": "b"}]
    assert idle.describe(users, 1) == "a (1) and 1 more"
