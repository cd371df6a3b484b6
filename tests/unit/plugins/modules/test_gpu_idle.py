# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.verl.baremetal.plugins.modules import gpu_idle


def run(capsys, monkeypatch, hidden, uid, **options):
    monkeypatch.setattr(gpu_idle.idle, "users_of", lambda *_words: [])
    monkeypatch.setattr(gpu_idle.idle, "hidden", lambda _devices: hidden)
    monkeypatch.setattr(gpu_idle.os, "geteuid", lambda: uid)
    with patch_module_args(options), pytest.raises(SystemExit):
        gpu_idle.main()
    return json.loads(capsys.readouterr().out)


def test_without_root_nobody_knows_what_others_hold(capsys, monkeypatch):
    answer = run(capsys, monkeypatch, 3, 1000)
    assert answer["failed"] and not answer["idle"]
    assert "3 processes of other users cannot be looked into without root" in answer["msg"]
    looked = run(capsys, monkeypatch, 3, 1000, _ansible_check_mode=True)
    assert (looked.get("failed"), looked["idle"], looked["hidden"]) == (None, False, 3)


@pytest.mark.parametrize(("hidden", "uid"), [(0, 1000), (3, 0)])
def test_root_sees_all_and_a_host_without_a_gpu_needs_none(capsys, monkeypatch, hidden, uid):
    assert run(capsys, monkeypatch, hidden, uid)["idle"]
