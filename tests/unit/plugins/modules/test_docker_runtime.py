# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.verl.baremetal.plugins.modules import docker_runtime


def run(capsys, **options):
    with patch_module_args(options), pytest.raises(SystemExit):
        docker_runtime.main()
    return json.loads(capsys.readouterr().out)


def test_file_is_merged_kept_and_backed_up(tmp_path, capsys):
    path = tmp_path / "daemon.json"
    path.write_text('{"log-driver": "journald"}')
    path.chmod(0o640)
    options = {"path": str(path), "pid_file": str(tmp_path / "no.pid")}
    planned = run(capsys, _ansible_check_mode=True, **options)
    assert planned["changed"] and path.read_text() == '{"log-driver": "journald"}'
    done = run(capsys, **options)
    assert done["changed"] and not done["reloaded"]
    assert json.loads(path.read_text())["log-driver"] == "journald"
    assert "nvidia" in json.loads(path.read_text())["runtimes"]
    assert path.stat().st_mode & 0o777 == 0o640
    with open(done["backup"]) as backup:
        assert backup.read() == '{"log-driver": "journald"}'
    assert not run(capsys, **options)["changed"]
    assert run(capsys, state="absent", **options)["changed"]
    assert json.loads(path.read_text()) == {"log-driver": "journald"}


def test_broken_file_is_left_as_it_is(tmp_path, capsys):
    path = tmp_path / "daemon.json"
    path.write_text("{")
    result = run(capsys, path=str(path))
    assert result["failed"]
    assert "left as it is" in result["msg"]
    assert path.read_text() == "{"
