# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The way of a wheel through the caches, with a fixture in place of the hosts."""

from __future__ import annotations

import shutil

import pytest

from ansible_collections.verl.baremetal.plugins.action import wheel_build
from ansible_collections.verl.baremetal.plugins.module_utils.wheels import cache, key, source


class Display:
    def __init__(self):
        self.lines = []

    def display(self, text):
        self.lines.append(text)


class Host:
    """A fixture of a host: its cache is a folder, its compiler writes a file."""

    def __init__(self, folder, compiler=True, fails="", archs=("90",)):
        self.archs = archs
        self.cache = folder / "wheels"
        self.made = folder / "made"
        self.made.mkdir(parents=True)
        self.compiler, self.fails = compiler, fails
        self.calls, self.builds, self.content = [], 0, b"a wheel"

    def parts(self):
        nvcc = "12.8.93" if self.compiler else ""
        return key.parts("demo", "1.0", {"kind": "sdist"}, "cp312", None, nvcc, self.archs, {}, "debian-12", "2.36", "x86_64")

    def run(self, args):
        self.archs = args.get("architectures", self.archs)
        self.calls.append(args["step"])
        return getattr(self, args["step"])(args)

    def inspect(self, _args):
        found, damaged = cache.lookup(str(self.cache), self.parts())
        return {
            "key": key.digest(self.parts()),
            "parts": self.parts(),
            "refusal": "" if self.compiler else "there is no C++ compiler",
            "wheel": found.path if found else "",
            "entry": found.entry if found else None,
            "damaged": damaged,
        }

    def start(self, _args):
        self.builds += 1
        return {"started": True}

    def wait(self, _args):
        if self.fails:
            return {"ended": True, "result": {"ok": False, "message": self.fails}, "text": ""}
        short = key.digest(self.parts())
        name = f"demo-1.0-0k{short}-cp312-cp312-linux_x86_64.whl"
        path = self.made / name
        path.write_bytes(self.content)
        entry = {
            "schema": 1,
            "key": short,
            "parts": self.parts(),
            "wheel": name,
            "version": "1.0",
            "size": len(self.content),
            "sha256": source.sha256_of(str(path)),
            "built": {"seconds": 1.0, "units": 3, "peak_mb": 5},
        }
        found = cache.store(str(self.cache), str(path), entry)
        return {"ended": True, "result": {"ok": True, "wheel": found.path, "entry": entry}, "text": ""}

    def take(self, args):
        try:
            found = cache.store(str(self.cache), args["incoming"], args["entry"])
        except cache.CacheError as error:
            return {"failed": True, "msg": str(error)}
        return {"wheel": found.path, "entry": found.entry, "changed": True}


class Task:
    def __init__(self, args, check):
        self.args, self.check_mode = args, check


class Connection:
    class _shell:
        @staticmethod
        def join_path(*parts):
            return "/".join(parts)

    def fetch_file(self, remote, local):
        shutil.copyfile(remote, local)


@pytest.fixture
def play(tmp_path, monkeypatch):
    """Run the action for one host of a play."""
    monkeypatch.setattr(wheel_build, "NOBODY", 0.0)
    monkeypatch.setattr(wheel_build.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(wheel_build.ActionBase, "run", lambda self, tmp=None, task_vars=None: {})

    def run(host, check=False, tamper=False, others=None, **args):
        action = wheel_build.ActionModule.__new__(wheel_build.ActionModule)
        values = {"name": "demo", "version": "1.0", "cache_controller": str(tmp_path / "controller")}
        values.update(args)
        action._task, action._connection, action._display = Task(values, check), Connection(), Display()
        action._make_tmp_path = lambda: str(host.made)
        action._remove_tmp_path = lambda folder: None
        action._fixup_perms2 = lambda paths: None

        def transfer(local, remote):
            shutil.copyfile(local, remote)
            if tamper:
                with open(remote, "ab") as handle:
                    handle.write(b"!")

        action._transfer_file = transfer
        action._execute_module = lambda module_name, module_args, task_vars: host.run(module_args)
        return action.run(
            task_vars={"inventory_hostname": host.made.parent.name, "hostvars": others or {}, "ansible_play_hosts_all": list(others or {})}
        )

    return run


def test_built_once_then_found_then_given_to_a_host_without_a_compiler(play, tmp_path):
    first, second = Host(tmp_path / "first"), Host(tmp_path / "second", compiler=False)
    built = play(first)
    assert (built["origin"], built["changed"]) == ("built", True)
    assert built["requirement"] == f"demo==1.0 --hash=sha256:{built['sha256']}"
    again = play(first)
    assert (again["origin"], again["changed"]) == ("host", False) and first.builds == 1
    given = play(second)
    assert (given["origin"], given["sha256"]) == ("controller", built["sha256"]) and second.builds == 0
    assert open(given["wheel"], "rb").read() == b"a wheel"


def test_one_wheel_serves_all_gpus_of_a_mixed_play(play, tmp_path):
    def plan(*archs):
        return {"verl_plan": {"wheels": {"demo": {"dist": "Demo", "architectures": list(archs)}}}}

    others = {"first": plan("90"), "second": plan("80"), "third": {}}
    first, second = Host(tmp_path / "first"), Host(tmp_path / "second", archs=["80"])
    assert play(first, others=others)["entry"]["parts"]["architectures"] == ["80", "90"]
    assert play(second, others=others)["origin"] == "controller" and second.builds == 0


def test_without_compiler_and_cache_it_fails_in_words(play, tmp_path):
    failed = play(Host(tmp_path / "second", compiler=False))
    assert failed["failed"] and "there is no C++ compiler" in failed["msg"] and "playbooks/wheels.yml" in failed["msg"]


def test_the_wheel_of_a_url_comes_before_a_build(play, tmp_path):
    shared = Host(tmp_path / "shared")
    shared.wait({})
    host = Host(tmp_path / "host")
    result = play(host, cache_url=str(shared.cache))
    assert result["origin"] == "url" and host.builds == 0
    assert cache.lookup(str(tmp_path / "controller"), host.parts())[0] is not None


def test_a_tampered_wheel_of_the_controller_is_built_anew(play, tmp_path):
    play(Host(tmp_path / "first"))
    wheel = next((tmp_path / "controller").glob("*.whl"))
    wheel.write_bytes(b"another")
    second = Host(tmp_path / "second")
    result = play(second)
    assert result["origin"] == "built" and second.builds == 1 and len(result["damaged"]) == 1
    assert next((tmp_path / "controller").glob("*.whl")).read_bytes() == b"a wheel"


def test_a_tampered_wheel_of_the_host_is_taken_from_the_controller(play, tmp_path):
    host = Host(tmp_path / "first")
    wheel = play(host)["wheel"]
    with open(wheel, "wb") as handle:
        handle.write(b"another")
    result = play(host)
    assert result["origin"] == "controller" and host.builds == 1 and len(result["damaged"]) == 1


def test_a_wheel_that_changes_on_its_way_is_refused(play, tmp_path):
    play(Host(tmp_path / "first"))
    failed = play(Host(tmp_path / "second"), tamper=True)
    assert failed["failed"] and "refused" in failed["msg"]


def test_a_failed_build_gives_the_lease_back(play, tmp_path):
    failed = play(Host(tmp_path / "first", fails="a.cpp:1:1: error: no"))
    assert failed["failed"] and "a.cpp:1:1" in failed["msg"]
    assert play(Host(tmp_path / "second"))["origin"] == "built"


def test_what_failed_on_two_hosts_is_not_tried_on_the_third(play, tmp_path):
    for name in ("first", "second"):
        assert "a.cpp:1:1" in play(Host(tmp_path / name, fails="a.cpp:1:1: error: no"))["msg"]
    for compiler in (True, False):
        third = Host(tmp_path / f"third-{compiler}", compiler=compiler)
        failed = play(third)
        assert failed["failed"] and "failed on first and second" in failed["msg"] and "a.cpp:1:1" in failed["msg"]
        assert third.builds == 0


def test_a_failure_in_the_background_is_told_and_not_repeated(play, tmp_path):
    host = Host(tmp_path / "first", fails="a.cpp:1:1: error: no")
    play(host, background=True)
    assert "a.cpp:1:1" in play(host)["msg"] and host.builds == 1


def test_a_url_is_asked_once_and_not_by_whoever_holds_the_lease(play, tmp_path, monkeypatch):
    asked = []

    def from_place(place, folder, wanted, client):
        asked.append((tmp_path / "controller" / f".{wheel_build.group(wanted)}.lease").exists())
        return None, ["the index cannot be read"]

    monkeypatch.setattr(wheel_build.cache, "from_place", from_place)
    built = play(Host(tmp_path / "first"), cache_url="https://wheels.example.org")
    assert built["origin"] == "built" and asked == [False] and built["damaged"] == ["the index cannot be read"]


def test_the_controller_keeps_the_bytes_that_others_have(play, tmp_path):
    """A build is not the same to the last byte each time: hosts that built for themselves do not take turns in the cache."""
    own = Host(tmp_path / "own")
    own.content = b"same key, other bytes"
    play(own, cache_controller="")
    first = play(Host(tmp_path / "first"))
    assert play(own)["origin"] == "host"
    assert cache.lookup(str(tmp_path / "controller"), own.parts())[0].entry["sha256"] == first["sha256"]


def test_check_mode_changes_nothing(play, tmp_path):
    host = Host(tmp_path / "first")
    result = play(host, check=True)
    assert result["changed"] and result["wheel"] == "" and host.calls == ["inspect"]
    assert not (tmp_path / "controller").exists()


def test_a_build_in_the_background_is_collected_later(play, tmp_path):
    host = Host(tmp_path / "first")
    begun = play(host, background=True)
    assert (begun["origin"], begun["wheel"]) == ("building", "") and host.calls == ["inspect", "start"]
    other = play(Host(tmp_path / "second"), background=True)
    assert other["origin"] == "building" and not other["changed"]
    collected = play(host)
    assert collected["origin"] == "built" and collected["wheel"]


def test_progress_is_told_at_least_every_fifteen_seconds(play, tmp_path, monkeypatch):
    """The clock is a fixture: each call of the module takes what it is asked to wait, and three seconds to get there and back."""
    clock, said = [1000.0], []
    monkeypatch.setattr(wheel_build.time, "time", lambda: clock[0])
    monkeypatch.setattr(Display, "display", lambda self, text: said.append((clock[0], text)))
    host, left = Host(tmp_path / "first"), [20]
    end = host.wait

    def wait(args):
        clock[0] += args["seconds"] + 3
        left[0] -= 1
        return {"ended": False, "result": None, "text": f"compiling: {20 - left[0]} of 20 units"} if left[0] else end(args)

    host.wait = wait
    begun = clock[0]
    assert play(host)["origin"] == "built"
    times = [begun, *(when for when, _text in said), clock[0]]
    assert len(said) >= 19 and max(later - earlier for earlier, later in zip(times, times[1:])) <= 15


def test_without_the_controllers_cache_the_host_builds_for_itself(play, tmp_path):
    result = play(Host(tmp_path / "first"), cache_controller="")
    assert result["origin"] == "built" and not (tmp_path / "controller").exists()


def test_without_the_controllers_cache_the_url_still_serves(play, tmp_path):
    play(Host(tmp_path / "first"))
    host = Host(tmp_path / "second", compiler=False)
    result = play(host, cache_controller="", cache_url=str(tmp_path / "controller"))
    assert (result["origin"], result["changed"]) == ("url", True) and host.builds == 0
    assert len(list(host.cache.glob("*.whl"))) == 1
