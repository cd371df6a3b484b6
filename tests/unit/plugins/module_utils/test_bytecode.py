# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Compiled modules: what Python imports, what a second release takes from the cache, and what is never trusted."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils import bytecode

FILES = {
    "toolz/__init__.py": "from toolz.core import where\n",
    "toolz/core.py": "def where():\n    return where.__code__.co_filename\n",
    "toolz/template.py": "def {{ name }}():\n",
    "toolz/tests/test_core.py": "x = 1\n",
    "single.py": "y = 1\n",
}


def make(site: Path, files: dict[str, str] = FILES) -> Path:
    """A site-packages folder with one distribution."""
    lines = []
    for name, text in files.items():
        path = site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(text)}\n")
    info = site / "toolz-1.0.dist-info"
    info.mkdir()
    (info / "RECORD").write_text("".join(lines) + "../../../bin/tool.py,,\ntoolz-1.0.dist-info/RECORD,,\n")
    return site


def run(site: Path, cache: Path | str = "") -> list[str]:
    """The program as seal.py starts it; what it said."""
    command = [sys.executable, "-I", "-c", Path(bytecode.__file__).read_text(), str(site), "2", str(cache)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout.splitlines()


def made(site: Path) -> list[str]:
    """The modules that have a compiled file, as paths of their sources."""
    found = [importlib.util.source_from_cache(str(path)) for path in site.rglob("*.pyc")]
    return sorted(os.path.relpath(path, site) for path in found)


def entries(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file()]


def imported(site: Path, code: str = "import toolz; print(toolz.where())") -> str:
    """What Python, which may write no compiled file, says after an import; -v tells which compiled files it took."""
    command = [sys.executable, "-B", "-v", "-c", code]
    done = subprocess.run(command, env={"PYTHONPATH": str(site)}, capture_output=True, text=True, check=True)
    compiled = [
        line
        for line in done.stderr.splitlines()
        if f"code object from '{site}" in line or f"code object from {site}" in line
    ]
    assert not [line for line in compiled if ".pyc" not in line], "Python compiled a module itself"
    assert f"matches {site}/toolz/core.py" in done.stderr
    return done.stdout.strip()


def test_every_module_but_tests_is_compiled_and_python_takes_it(tmp_path: Path) -> None:
    site = make(tmp_path / "site")
    assert run(site) == ["0 1", "1 1"]
    assert made(site) == ["single.py", "toolz/__init__.py", "toolz/core.py"]
    assert imported(site) == str(site / "toolz/core.py")


def test_a_second_release_compiles_nothing(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    run(make(tmp_path / "one"), cache)
    (entry,) = entries(cache)
    assert entry.stat().st_mode & 0o777 == 0o600 and entry.parent.stat().st_mode & 0o777 == 0o700
    # A mark in the place of the code shows that the second release has it from the cache.
    kept = bytecode.load(str(entry))
    kept["single.py"] = bytecode.compiled(b"y = 'from the cache'\n", "single.py")
    data = bytecode.marshal.dumps(kept)
    entry.write_bytes(hashlib.sha256(data).digest() + data)
    second = make(tmp_path / "two")
    os.utime(second / "single.py", (1, 1))
    run(second, cache)
    assert made(second) == ["single.py", "toolz/__init__.py", "toolz/core.py"]
    assert (
        imported(second, "import toolz, single; print(toolz.where(), single.y)")
        == f"{second}/toolz/core.py from the cache"
    )


def test_what_is_compiled_already_stays_and_reaches_the_cache(tmp_path: Path) -> None:
    site, cache = make(tmp_path / "site"), tmp_path / "cache"
    run(site)
    before = {path: path.stat().st_ino for path in site.rglob("*.pyc")}
    run(site, cache)
    assert {path: path.stat().st_ino for path in site.rglob("*.pyc")} == before
    (entry,) = entries(cache)
    assert sorted(bytecode.load(str(entry))) == sorted(name for name in FILES if "tests" not in name)


def test_a_stale_compiled_file_is_replaced(tmp_path: Path) -> None:
    site = make(tmp_path / "site")
    run(site)
    os.utime(site / "toolz/core.py", (5, 5))
    run(site)
    assert imported(site) == str(site / "toolz/core.py")


def test_sources_that_are_not_as_recorded_are_not_kept(tmp_path: Path) -> None:
    site, cache = make(tmp_path / "site"), tmp_path / "cache"
    (site / "single.py").write_text("y = 2\n")
    run(site, cache)
    assert entries(cache) == []
    assert "single.py" in made(site)


@pytest.mark.parametrize("damage", [b"", b"x" * 100, None])
def test_a_damaged_entry_is_made_anew(tmp_path: Path, damage: bytes | None) -> None:
    cache = tmp_path / "cache"
    run(make(tmp_path / "one"), cache)
    (entry,) = entries(cache)
    good = entry.read_bytes()
    entry.write_bytes(good[:-1] if damage is None else damage)
    run(make(tmp_path / "two"), cache)
    assert entry.read_bytes()[:32] == hashlib.sha256(entry.read_bytes()[32:]).digest()
    assert made(tmp_path / "two") == made(tmp_path / "one")


def test_a_missing_source_and_a_broken_record_are_left_to_the_proof(tmp_path: Path) -> None:
    site, cache = make(tmp_path / "site"), tmp_path / "cache"
    (site / "toolz/core.py").unlink()
    (site / "half-1.dist-info").mkdir()
    assert run(site, cache)[-1] == "1 1"
    assert entries(cache) == []


def test_a_full_disk_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_words: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bytecode.os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        bytecode.replace(str(tmp_path / "x.pyc"), b"x", 0o644)
    assert list(tmp_path.iterdir()) == []


def test_big_packages_are_many_jobs(tmp_path: Path) -> None:
    files = {f"toolz/m{number:03}.py": f"n = {number}\n" for number in range(2 * bytecode.TOGETHER + 1)}
    site = make(tmp_path / "site", files)
    jobs = bytecode.plan(str(site))
    assert [len(job.files) for job in jobs] == [bytecode.TOGETHER] * 2 + [1]
    assert len({job.key for job in jobs}) == 3
    assert run(site)[-1] == "3 3"
    assert len(made(site)) == len(files)
