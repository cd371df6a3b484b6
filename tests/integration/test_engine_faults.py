# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Faults of the world around an installation: each is told in words, and what is live stays as it is."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils import lock, record, release

WRONG = "0" * 64


def test_wrong_hash(engine: Any, tmp_path: Path) -> None:
    before = engine.live()
    right = engine.layers["megatron"]["requirements"][0].rpartition("sha256:")[2]
    wrong = {**engine.layers, "megatron": {"requirements": [f"zipp==3.23.0 --hash=sha256:{WRONG}"]}}
    result = engine.install(engine.new_id(), layers=wrong, cache=str(tmp_path / "cache"))
    assert result["rc"] == 1
    for word in ("wrong hash of zipp==3.23.0", f"found sha256:{right}", f"needed sha256:{WRONG}", "layer megatron"):
        assert word in result["msg"]
    assert engine.live() == before
    engine.assert_current_is_verified()


def test_unreachable_index(engine: Any, tmp_path: Path) -> None:
    before = engine.live()
    release_id = engine.new_id()
    result = engine.install(release_id, index_url="http://127.0.0.1:9/simple", cache=str(tmp_path / "cache"))
    assert result["rc"] == 1
    assert "the package index cannot be reached" in result["msg"]
    assert "stack_index_url" in result["msg"]
    assert engine.live() == before
    assert engine.install(release_id)["rc"] == 0
    engine.assert_live(release_id)


def _small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))


def test_no_file_can_grow(engine: Any, tmp_path: Path) -> None:
    """A limit of the file size stands for a full disk wherever a file system cannot be mounted."""
    before = engine.live()
    release_id = engine.new_id()
    result = engine.install(release_id, preexec=_small_files, cache=str(tmp_path / "cache"))
    assert result["rc"] == 1
    assert "the disk is full" in result["msg"]
    assert engine.live() == before
    engine.assert_current_is_verified()
    assert engine.install(release_id)["rc"] == 0
    engine.assert_live(release_id)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system; the limit above stands for it")
def test_full_disk(empty: Any, tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1200k", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("no file system can be mounted here; test_no_file_can_grow covers the same words")
    try:
        empty.root = tmp_path / "root"
        empty.layers["torch"] = {"requirements": [line for line in _torch_lines() if not line.startswith("wheel")]}
        release_id = empty.new_id()
        result = empty.install(release_id)
        assert result["rc"] == 1
        assert "the disk is full" in result["msg"]
        assert not (empty.root / "current").exists()
        subprocess.run(["mount", "-o", "remount,size=64m", str(tmp_path)], check=True)
        again = empty.install(release_id)
        assert again["rc"] == 0, again
        empty.assert_live(release_id)
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def _torch_lines() -> list[str]:
    path = Path(__file__).resolve().parents[1] / "stacks" / "small" / "locks" / "torch.txt"
    return [line for line in path.read_text().replace("\\\n", " ").splitlines() if not line.startswith("#")]


def test_drifted_package(engine: Any) -> None:
    """Someone ran pip in the live release: it is seen, left alone, and a new generation takes its place."""
    release_id = engine.new_id()
    assert engine.install(release_id)["rc"] == 0
    site = Path(record.site_packages(str(engine.path(release_id) / "venv")))
    (site / "six-1.17.0.dist-info").rename(site / "six-1.16.0.dist-info")
    (site / "foreign-1.0.dist-info").mkdir()
    result = engine.install(release_id)
    assert result["rc"] == 0, result
    assert result["begun"]["drift"] == ["foreign 1.0 is there and does not belong", "six is 1.16.0, not 1.17.0"]
    engine.assert_live(release_id + ".2")
    assert (site / "foreign-1.0.dist-info").is_dir()
    assert engine.install(release_id)["begun"]["converged"] is True


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty", "gone"])
def test_corrupt_manifest(engine: Any, damage: str) -> None:
    release_id = engine.new_id()
    assert engine.install(release_id)["rc"] == 0
    manifest = engine.path(release_id) / "manifest.json"
    text = manifest.read_text()
    if damage == "gone":
        manifest.unlink()
    else:
        manifest.write_text(
            {"truncated": text[: len(text) // 2], "changed": text.replace("1.17.0", "1.16.0"), "empty": ""}[damage]
        )
    result = engine.install(release_id)
    assert result["rc"] == 0, result
    assert result["begun"]["converged"] is False
    assert "manifest.json" in result["begun"]["drift"][0]
    engine.assert_live(release_id + ".2")


def test_second_run(engine: Any) -> None:
    """The second run says who holds the host since when; a dead holder is no obstacle."""
    root = str(engine.root)
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        holder = dict(lock.owner_of(sleeper.pid), user="ada", host="controller-7")
        lock.acquire(root, holder)
        before = engine.live()
        result = engine.install(engine.new_id())
        assert result["rc"] == 1
        assert result["kind"] == "LockHeld"
        for word in ("ada", "controller-7", f"process {sleeper.pid}", "since 20", "release_lock_force"):
            assert word in result["msg"]
        assert engine.live() == before
        refused = engine.module("release", state="rollback", root=root)
        assert refused["failed"] is True
        assert refused["lock_holder"]["user"] == "ada"
    finally:
        sleeper.kill()
        sleeper.wait()
    release_id = engine.new_id()
    result = engine.install(release_id)
    assert result["rc"] == 0
    assert "its process is gone" in result["begun"]["lock_note"]
    engine.assert_live(release_id)
    assert lock.read(root) is None


def test_orphan_of_a_killed_run(engine: Any) -> None:
    """A child that survived its module still holds the folder: the next run waits for it."""
    release_id = engine.new_id()
    assert engine.install(release_id, failpoint="layer.after_wheels")["rc"] < 0
    folder = str(engine.path(release_id))
    busy = lock.Busy(folder)
    busy.take(wait=0)
    orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1.5)"], pass_fds=busy.fileno())
    busy.free()
    with pytest.raises(lock.LockHeld, match="still works in"):
        lock.Busy(folder).take(wait=0.2)
    begun = time.monotonic()
    result = engine.install(release_id)
    assert result["rc"] == 0, result
    orphan.wait()
    assert time.monotonic() - begun > 0.5
    engine.assert_live(release_id)


def test_rollback_and_prune(empty: Any) -> None:
    first, second, third = (empty.new_id() for _ in range(3))
    for release_id in (first, second):
        assert empty.install(release_id)["rc"] == 0
    root = str(empty.root)
    planned = empty.module("release", check=True, state="rollback", root=root)
    assert (planned["changed"], planned["live"]) == (True, first)
    assert empty.live() == second
    begun = time.process_time()
    done = release.rollback(root, "", {}, time.time())
    assert time.process_time() - begun < 1
    assert (done["live"], done["previous"]) == (first, second)
    empty.assert_live(first)
    # Forth again, by name, through the module.
    again = empty.module("release", state="rollback", root=root, to=second)
    assert (again["changed"], again["live"], again["previous"]) == (True, second, first)
    assert empty.module("release", state="rollback", root=root, to=second)["changed"] is False
    # The third release would push out the first, but a process works in it.
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], cwd=empty.path(first)) as worker:
        result = empty.install(third)
        assert result["rc"] == 0
        assert result["live"]["in_use"] == {first: [worker.pid]}
        worker.kill()
    pruned = empty.module("release", state="prune", root=root, keep=2)
    assert pruned["pruned"] == [first]
    # A damaged previous release is passed over, and without another one there is none to go back to.
    (empty.path(second) / "manifest.json").write_text("{}")
    refused = empty.module("release", state="rollback", root=root)
    assert refused["failed"] is True
    assert second in refused["msg"]
    assert empty.live() == third


def test_prepared_but_not_live(empty: Any) -> None:
    """A rollout prepares everywhere first and switches later."""
    first, second = empty.new_id(), empty.new_id()
    assert empty.install(first)["rc"] == 0
    assert empty.install(second, failpoint="seal.after_manifest")["rc"] < 0
    root, path = str(empty.root), str(empty.path(second))
    made = empty.module("release", state="activate", root=root, path=path, switch=False, lock_force=True)
    assert (made["changed"], made["live"]) == (True, first)
    assert lock.read(root) is None
    switched = empty.module("release", state="rollback", root=root, to=second)
    assert (switched["changed"], switched["live"]) == (True, second)
    empty.assert_live(second)


def test_check_mode_writes_nothing(empty: Any) -> None:
    root = str(empty.root)
    release_id = empty.new_id()
    begun = empty.module("release", check=True, state="begin", root=root, id=release_id, layers=empty.layers)
    assert (begun["changed"], begun["converged"]) == (True, False)
    planned = empty.module(
        "python_layer", check=True, name="torch", path=begun["path"] + "/venv", python=sys.executable,
        requirements=empty.layers["torch"]["requirements"], uv="/does/not/exist",
    )  # fmt: skip
    assert planned["packages_added"] == {"idna": "3.10", "packaging": "25.0", "six": "1.17.0"}
    assert planned["diff"] == {"before": "", "after": "idna==3.10\npackaging==25.0\nsix==1.17.0\n"}
    sealed = empty.module("release", check=True, state="seal", root=root, id=release_id, path=begun["path"])
    assert sealed["changed"] is True
    live = empty.module("release", check=True, state="activate", root=root, path=begun["path"])
    assert (live["changed"], live["live"]) == (True, release_id)
    assert not empty.root.exists()


def test_layer_by_its_module(empty: Any, tmp_path: Path) -> None:
    """The module as Ansible runs it: installs, repairs drift, and needs no uv when all is well."""
    venv = tmp_path / "venv"
    build = ["docopt==0.6.2 --hash=sha256:49b3a825280bd66b3aa83585ef59c4a8c82f2c8a522dbe754a8bc8d08c85c491"]
    common = {"path": str(venv), "python": sys.executable, "uv": empty.uv, "cache_dir": str(empty.cache)}
    torch = {**common, "name": "torch", "requirements": _torch_lines()}
    first = empty.module("python_layer", **torch)
    assert first["changed"] is True, first
    assert first["packages_added"]["setuptools"] == "79.0.1"
    again = empty.module("python_layer", **{**torch, "uv": "/does/not/exist"})
    assert again["changed"] is False, again
    # An sdist is built against the environment, without isolation.
    built = empty.module("python_layer", **common, name="flashinfer", requirements=build, build=["docopt"])
    assert built["packages_added"] == {"docopt": "0.6.2"}, built
    answer = subprocess.run(
        [str(venv / "bin" / "python"), "-c", "import docopt, six; print(docopt.__version__, six.__version__)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert answer.stdout.split() == ["0.6.2", "1.17.0"]
    # Drift: another version.
    site = Path(record.site_packages(str(venv)))
    (site / "six-1.17.0.dist-info").rename(site / "six-1.16.0.dist-info")
    planned = empty.module("python_layer", check=True, **torch)
    assert planned["packages_changed"] == {"six": {"from": "1.16.0", "to": "1.17.0"}}
    repaired = empty.module("python_layer", **torch)
    assert (repaired["changed"], repaired["packages_changed"]) == (True, planned["packages_changed"])
    assert record.verify(str(site), mode=record.MODE_HASHES).problems == []
    gone = empty.module("python_layer", **common, name="flashinfer", requirements=build, state="absent")
    assert gone["packages_removed"] == {"docopt": "0.6.2"}
    assert "docopt" not in record.installed(str(site))


def test_a_damaged_cache_heals_from_a_folder(empty: Any, tmp_path: Path) -> None:
    """Without a network, as from a bundle: cache and release share their files, and one of them was cut."""
    wheel = tmp_path / "links/tiny-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    files = {
        "tiny.py": "VALUE = 1\n",
        "tiny-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
        "tiny-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(wheel, "w") as made:
        for name, text in files.items():
            made.writestr(name, text)
        made.writestr("tiny-1.0.dist-info/RECORD", "".join(f"{name},,{len(text)}\n" for name, text in files.items()) + "tiny-1.0.dist-info/RECORD,,\n")
    line = f"tiny==1.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}"
    common = {"name": "tiny", "requirements": [line], "python": sys.executable, "uv": empty.uv, "cache_dir": str(tmp_path / "cache")}
    common.update(offline=True, find_links=[str(wheel.parent)], link_mode="hardlink")
    assert empty.module("python_layer", path=str(tmp_path / "first"), **common)["changed"]
    (installed,) = (tmp_path / "first").rglob("tiny.py")
    assert installed.stat().st_nlink > 1, "the cache has the same file"
    os.truncate(installed, 0)
    second = empty.module("python_layer", path=str(tmp_path / "second"), **common)
    assert second.get("repaired") == ["tiny"], second
    (installed,) = (tmp_path / "second").rglob("tiny.py")
    assert installed.read_text() == files["tiny.py"]


def test_verified_release_is_never_changed(engine: Any) -> None:
    path = engine.path(engine.live())
    result = engine.module(
        "python_layer", name="torch", path=str(path / "venv"), uv=engine.uv, requirements=_torch_lines()
    )
    assert result["failed"] is True
    assert "verified release and is never changed" in result["msg"]
    engine.assert_current_is_verified()


def test_narrow_umask(empty: Any, tmp_path: Path) -> None:
    """A release of a root with a narrow umask is still everybody's to read, and nobody else's to write."""
    release_id = empty.new_id()
    result = empty.install(release_id, preexec=lambda: os.umask(0o077), cache=str(tmp_path / "cache"))
    assert result["rc"] == 0, result
    path = empty.path(release_id)
    for base, folders, names in os.walk(path):
        for name in [*folders, *names]:
            mode = (Path(base) / name).lstat().st_mode
            assert mode & 0o004, f"{base}/{name} is not readable"
            assert (Path(base) / name).is_symlink() or not mode & 0o022, f"{base}/{name} is writable"
    empty.assert_live(release_id)


def test_environment_files(engine: Any) -> None:
    """A POSIX shell that sources env.sh gets the release's Python and the stack's variables, and can do so twice."""
    path = engine.root / "current" / "env.sh"
    script = f'. {path}; . {path}; command -v python; echo "$SMALL"; echo "$PATH"; echo "$LD_LIBRARY_PATH"'
    said = subprocess.run(
        ["sh", "-euc", script], capture_output=True, text=True, check=True,
        env={"PATH": "/usr/bin:/bin", "LD_LIBRARY_PATH": ""},
    ).stdout.split("\n")  # fmt: skip
    folder = str(engine.path(engine.live()))
    assert said[0] == folder + "/venv/bin/python"
    assert said[1] == folder
    assert said[2].split(":").count(folder + "/venv/bin") == 1
    assert said[3] == ""
    manifest = json.loads((engine.root / "current" / "manifest.json").read_text())
    assert manifest["digest"] == release.manifest_digest(manifest)
