# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Facts about a host, from trees made for the tests and from the machine itself."""

from __future__ import annotations

import json
import os
import stat
import sys

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils import host, release

DEBIAN = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_ID="12"\n'
UBUNTU = 'PRETTY_NAME="Ubuntu 24.04.2 LTS"\nNAME="Ubuntu"\nVERSION_ID="24.04"\nID=ubuntu\nID_LIKE=debian\n'


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (DEBIAN, ("debian", "12", "Debian GNU/Linux 12 (bookworm)")),
        (UBUNTU, ("ubuntu", "24.04", "Ubuntu 24.04.2 LTS")),
        ("", ("", "", "")),
        ("\x00\xff garbage", ("", "", "")),
        (None, ("", "", "")),
    ],
)
def test_os_release(tmp_path, text, found):
    if text is not None:
        (tmp_path / "etc").mkdir()
        (tmp_path / "etc" / "os-release").write_text(text)
    answer = host.os_release(str(tmp_path))
    assert (answer["id"], answer["version"], answer["pretty"]) == found


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("max\n", 8 << 30), ("2147483648\n", 2 << 30), ("9223372036854771712\n", 8 << 30), ("", 8 << 30)],
)
def test_the_cgroups_limit_counts(tmp_path, limit, expected):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal:        8388608 kB\nMemFree: 1 kB\n")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/memory.max").write_text(limit)
    assert host.memory_bytes(str(tmp_path)) == expected
    assert host.memory_bytes(str(tmp_path / "nowhere")) is None


def test_pythons_are_asked_and_broken_ones_passed_over(tmp_path):
    broken = tmp_path / "python3.12"
    broken.write_text("#!/bin/sh\nexit 127\n")
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    found = host.pythons([], [str(broken), sys.executable, str(tmp_path / "nothing")])
    versions = [f["version"] for f in found]
    assert "%d.%d.%d" % sys.version_info[:3] in versions
    assert all(f["path"] != str(broken) for f in found)


def test_a_python_that_was_asked_for_is_told_by_the_users_own_words(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "python").symlink_to(sys.executable)
    found = host.pythons([], ["~/python"])
    assert found[0]["asked"] == "~/python" and os.path.isabs(found[0]["path"])
    assert all("asked" not in other for other in found[1:])


@pytest.mark.parametrize(
    ("there", "able"),
    [(["pip"], True), (["venv", "ensurepip"], True), (["venv"], False), (["ensurepip"], False)],
)
def test_the_modules_own_python_fetches_uv_by_its_pip_or_by_one_in_an_environment(monkeypatch, there, able):
    monkeypatch.setattr(host.importlib.util, "find_spec", lambda name: name if name in there else None)
    assert host.own_python() == {"path": sys.executable, "version": "%d.%d" % sys.version_info[:2], "pip": able}


def test_toolkits_are_read_from_their_files(tmp_path):
    new, old, empty = tmp_path / "new", tmp_path / "old", tmp_path / "empty"
    (new / "bin").mkdir(parents=True)
    (new / "version.json").write_text(json.dumps({"cuda": {"name": "CUDA SDK", "version": "12.8.1"}}))
    (new / "bin" / "nvcc").write_text("#!/bin/sh\n")
    (new / "bin" / "nvcc").chmod(0o755)
    (old / "include").mkdir(parents=True)
    (old / "include" / "cuda.h").write_text("#define CUDA_VERSION 12040\n")
    empty.mkdir()
    found = host.toolkits(str(tmp_path), [str(new), str(old), str(empty), str(tmp_path / "nowhere")])
    assert [(f["version"], f["nvcc"]) for f in found] == [("12.8.1", True), ("12.4", False), (None, False)]


def test_only_releases_that_a_run_would_keep_count(tmp_path, monkeypatch):
    made = {"a-0123456": ["manifest.json"], "b-0123456": ["manifest.json", ".building"], "c-0123456": []}
    for name in ("d-0123456", "d-0123456.2", "e-0123456", "e-0123456.2", "f-0123456"):
        made[name] = ["manifest.json"]
    for name, files in made.items():
        (tmp_path / "releases" / name).mkdir(parents=True)
        for file in files:
            (tmp_path / "releases" / name / file).write_text("")
    (tmp_path / "current").symlink_to("releases/f-0123456")
    damaged, looked = ["d-0123456", "e-0123456.2"], []
    monkeypatch.setattr(release, "quick_check", lambda path: ["x"] if os.path.basename(path) in damaged else [])
    monkeypatch.setattr(release, "changed_files", lambda path, _mode: looked.append(path))
    assert host.releases(str(tmp_path)) == ["a-0123456", "d-0123456.2", "f-0123456"]
    assert [os.path.basename(path) for path in looked] == ["f-0123456"]
    monkeypatch.setattr(release, "changed_files", lambda path, _mode: ["x"])
    assert host.releases(str(tmp_path)) == ["a-0123456", "d-0123456.2"]
    assert host.releases(str(tmp_path / "nowhere")) == []


@pytest.fixture
def unconfigured(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("UV_CONFIG_FILE", str(tmp_path / "uv.toml"))
    (tmp_path / "pip.conf").write_text("")
    return tmp_path


def test_pip_and_uv_are_each_asked_for_the_index_of_their_own_configuration(unconfigured, monkeypatch):
    own = host.index_of_pip(sys.executable)
    assert own and own == host.index_of_uv(sys.executable) == host.default_index(sys.executable)
    (unconfigured / "pip.conf").write_text("[global]\nindex-url = https://file/simple\n")
    assert host.index_of_pip(sys.executable) == host.default_index(sys.executable) == "https://file/simple"
    assert host.default_indexes(str(unconfigured), []) == sorted([own, "https://file/simple"])
    monkeypatch.setenv("PIP_INDEX_URL", "https://variable/simple")
    assert host.index_of_pip(sys.executable) == "https://variable/simple"
    monkeypatch.setenv("UV_INDEX_URL", "https://old/simple")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://uv/simple")
    assert host.index_of_uv(sys.executable) == host.default_index(sys.executable) == "https://uv/simple"
    assert host.default_indexes(str(unconfigured), []) == ["https://uv/simple", "https://variable/simple"]
    (unconfigured / "uv-1-py3-none-any.whl").write_text("")
    assert host.default_indexes(str(unconfigured), [str(unconfigured)]) == ["https://uv/simple"]


def test_what_a_file_tells_uv_is_not_guessed(unconfigured):
    (unconfigured / "uv.toml").write_text("# no index\nlink-mode = 'copy'\n")
    assert host.index_of_uv(sys.executable)
    (unconfigured / "uv.toml").write_text('[[index]]\nurl = "https://uv/simple"\ndefault = true\n')
    assert host.index_of_uv(sys.executable) is None


def test_an_index_that_is_not_there_is_named_with_the_reason():
    reason = host.reach("http://127.0.0.1:9/simple/", timeout=2)
    assert reason and "refused" in reason.lower()
    assert "cannot be read" in (host.reach("https://127.0.0.1:9/", ca_file="/nowhere/ca.pem") or "")


def test_facts_are_json_and_small():
    facts = host.facts(os.path.expanduser("~/no-such-folder"), ["3.12", "3.11"], (), (), ["libc.so.6", "libnone.so.1"])
    assert len(json.dumps(facts)) < 8000
    assert facts["architecture"] and facts["cores"] >= 1 and facts["releases"] == []
    assert facts["libraries"] == ["libc.so.6"]
