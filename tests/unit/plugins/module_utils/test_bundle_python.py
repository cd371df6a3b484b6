# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Interpreters that uv brings, in a bundle: the real uv fetches them from a stand-in mirror and installs them from the bundle.

The archive is a fixture: this system's own Python, see tests/ci/python_fixture.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils import bundle, bundle_collect, bundle_python, install, uv
from ansible_collections.verl.baremetal.plugins.module_utils.progress import Progress

SYSTEM = "/usr/bin/python3"
FIXTURE = Path(__file__).resolve().parents[3] / "ci" / "python_fixture.py"
UV = shutil.which("uv", path=os.path.dirname(sys.executable))

pytestmark = pytest.mark.skipif(not UV or not os.path.exists(SYSTEM), reason="no uv or no Python of the system to pack")


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    """A folder as uv's mirrors are, with uv's list of downloads; the version; the archive's path below the folder."""
    base = tmp_path_factory.mktemp("mirror")
    said = subprocess.run([SYSTEM, "-I", str(FIXTURE), str(base)], capture_output=True, text=True, check=True).stdout
    short, path = said.split()
    return base, short, path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The real uv, packed as its wheel is."""
    path = tmp_path_factory.mktemp("uv") / "uv-0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(UV, "uv-0.data/scripts/uv")
    return str(path)


@pytest.fixture
def made(tmp_path, mirror, wheel, monkeypatch):
    """A bundle's folder with the archive; the mirror is not asked any more."""
    base, short, path = mirror
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS_JSON_URL", str(base / "downloads.json"))
    wanted = [bundle_python.Wanted(short, "file://" + str(base))]
    folder = tmp_path / "a bundle"
    folder.mkdir()
    held = bundle_python.hold(str(folder), wheel, wanted, "", "", Progress(None))
    assert held == {"python/" + path: "python/" + short}
    assert [p.name for p in folder.iterdir()] == ["python"]
    assert (folder / "python" / path).read_bytes() == (base / path).read_bytes()
    return folder


def job(tmp_path, folder, short):
    return install.Job(
        "torch", str(tmp_path / "verl" / "venv"), [], short, True, bundle_python.mirror_of(str(folder)),
        uv=UV, sources=uv.Sources(offline=True, find_links=[str(folder)]), cache=str(tmp_path / "cache"),
    )  # fmt: skip


def test_a_host_without_a_network_has_its_python_from_the_bundle(made, mirror, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    install.apply(job(tmp_path, made, mirror[1]), Progress(None))
    code = "import sys; print(sys.base_prefix, *sys.version_info[:2])"
    said = subprocess.run([str(tmp_path / "verl/venv/bin/python"), "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.startswith(str(tmp_path / "verl" / "python")) and said.split()[-2:] == mirror[1].split(".")
    assert not (tmp_path / "home" / ".local").exists(), "nothing outside the installation"


def test_a_damaged_archive_is_not_installed(made, mirror, tmp_path):
    archive = made / "python" / mirror[2]
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)
    with pytest.raises((uv.UvError, install.InstallError), match="Python " + mirror[1]):
        install.apply(job(tmp_path, made, mirror[1]), Progress(None))
    assert not (tmp_path / "verl/venv/bin/python").exists()


def test_what_another_archive_holds_under_the_right_name_is_not_taken(mirror, wheel, tmp_path, monkeypatch):
    base, short, path = mirror
    false = tmp_path / "false" / path
    false.parent.mkdir(parents=True)
    with tarfile.open(false, "w:gz") as packed:
        packed.add(SYSTEM, "python/bin/python3")
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS_JSON_URL", str(base / "downloads.json"))
    (tmp_path / "bundle").mkdir()
    with pytest.raises(bundle.BundleError, match="Set venv_python_mirror to a mirror that holds " + path.split("+")[0]):
        bundle_python.hold(
            str(tmp_path / "bundle"), wheel, [bundle_python.Wanted(short, "file://" + str(tmp_path / "false"))], "", "", Progress(None)
        )
    assert list((tmp_path / "bundle").iterdir()) == []


def test_a_complete_bundle_keeps_its_interpreters(made, mirror, wheel, tmp_path, monkeypatch):
    packages = made / "wheels"
    packages.mkdir()
    shutil.copy(wheel, packages / "uv-0-py3-none-any.whl")
    content = bundle_collect.Content(
        direct=[bundle_collect.Direct("uv-0-py3-none-any.whl", "file://" + wheel, bundle.file_of(str(made), "wheels/uv-0-py3-none-any.whl", []).sha256, "uv/" + mirror[1])],
        pythons=[bundle_python.Wanted(mirror[1], "file://" + str(mirror[0]))],
    )

    def collect():
        places = bundle_collect.Places("http://127.0.0.1:9/none")
        return bundle_collect.collect(str(made), {"name": "s", "digest": "d"}, {}, content, places, {}, Progress(None))[0]

    first = collect()
    assert [f.uses for f in first.files if f.path.startswith("python/")] == [("python/" + mirror[1],)]
    monkeypatch.setattr(bundle_python, "hold", None)
    assert collect() == first
