# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Releases on a disk of fixtures: no package is installed here, tests/integration does that."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils import cuda_layout, layer, lock, record, release, seal
from ansible_collections.verl.baremetal.plugins.module_utils.progress import Progress

ID = "small-0123456789ab"
HASH = "sha256:" + "a" * 64
QUIET = Progress(None)


def make_venv(path: Path) -> None:
    """A fixture of a virtual environment with one package in one layer."""
    info = path / "lib/python3.11/site-packages/six-1.17.0.dist-info"
    info.mkdir(parents=True)
    (path / "bin").mkdir()
    (path / "bin/python").symlink_to(sys.executable)
    (path / "pyvenv.cfg").write_text("version_info = 3.11.7\n")
    (info / "METADATA").write_text("x")
    (info / "RECORD").write_text("six-1.17.0.dist-info/METADATA,,1\nsix-1.17.0.dist-info/RECORD,,\n")
    layer.write_stamp(str(path), "torch", "digest", {"six": "1.17.0"})


def job(path: Path, **values: Any) -> seal.Sealing:
    plan: dict[str, Any] = {
        "id": ID,
        "stack": {"name": "small", "digest": "d"},
        "variants": {"torch": "pypi"},
        "layers": {"torch": {"requirements": [f"six==1.17.0 --hash={HASH}"]}},
        "cuda": {"source": "none"},
        "skipped": {"apex": "no nvcc"},
        "definition": {
            "components": [{"name": "six", "kind": "python", "dist": "six"}, {"name": "apex", "dist": "apex"}]
        },
        "environment": {"MODE": "it's $HOME", "PLACE": "{venv}"},
        "integrity": "files",
    }
    plan.update(values)
    return seal.Sealing(path=str(path), **plan)


def build(root: Path, release_id: str, now: float = 1000.0) -> Path:
    """Begin and seal a release."""
    begun = release.begin(str(root), release_id, {}, QUIET, False)
    path = Path(begun["path"])
    if not (path / "venv").exists():
        make_venv(path / "venv")
    seal.seal(job(path, id=release_id), QUIET, now)
    return path


def live(root: Path, release_id: str) -> Path:
    path = build(root, release_id)
    release.activate(str(root), str(path), {"user": "ada"}, 2000.0)
    return path


@pytest.mark.parametrize("release_id", ["", "small", "../x-0123456789ab", "small-XYZ", ".x-0123456789ab"])
def test_bad_ids(tmp_path: Path, release_id: str) -> None:
    with pytest.raises(release.ReleaseError, match="not of the form"):
        release.begin(str(tmp_path), release_id, {}, QUIET, False)


def test_the_way_of_a_release(tmp_path: Path) -> None:
    path = build(tmp_path, ID)
    assert (path / ".building").exists()
    assert release.begin(str(tmp_path), ID, {}, QUIET, False)["continued"] is True
    assert release.live(str(tmp_path)) == ""
    done = release.activate(str(tmp_path), str(path), {}, 2000.0)
    assert done == {"changed": True, "live": ID, "previous": ""}
    assert sorted(p.name for p in path.iterdir()) == ["env.sh", "manifest.json", "modulefile", "venv"]
    assert os.readlink(tmp_path / "current") == f"releases/{ID}"
    assert release.begin(str(tmp_path), ID, {}, QUIET, False)["converged"] is True
    assert release.activate(str(tmp_path), str(path), {}, 3000.0)["changed"] is False


@pytest.mark.parametrize("step", ["begin", "seal"])
def test_a_compilation_in_the_background_is_ended(tmp_path: Path, step: str) -> None:
    path = Path(release.begin(str(tmp_path), ID, {}, QUIET, False)["path"])
    make_venv(path / "venv")
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    (path / ".bytecode").write_text(f"{child.pid} {lock.process_start(child.pid)}\n")
    if step == "begin":
        release.begin(str(tmp_path), ID, {}, QUIET, False)
    else:
        seal.seal(job(path), QUIET, 1000.0)
    assert child.wait(timeout=30) == -signal.SIGKILL
    assert not (path / ".bytecode").exists()


def test_a_changed_file_of_the_live_release_gets_a_new_generation(tmp_path: Path) -> None:
    path = live(tmp_path, ID)
    (changed,) = path.rglob("METADATA")
    changed.write_text("edited")
    begun = release.begin(str(tmp_path), ID, {}, QUIET, False)
    assert begun["converged"] is False and begun["path"] == f"{path}.2"
    assert "bytes found" in begun["drift"][0]


def make_cuda(path: Path) -> Path:
    """A fixture of a CUDA home made of one wheel; the file of the wheel that its links show."""
    files = {"include/cuda.h": "#define CUDA_VERSION 12080\n", "include/cuda_runtime.h": "x", "lib/libcudart.so.12": "elf"}
    for name, text in files.items():
        target = path / ".wheels/nvidia/cuda_runtime" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    info = path / ".wheels/nvidia_cuda_runtime_cu12-12.8.90.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("x")
    lines = [f"nvidia/cuda_runtime/{name},,{len(text)}" for name, text in files.items()]
    (info / "RECORD").write_text("\n".join([*lines, f"{info.name}/METADATA,,1", f"{info.name}/RECORD,,"]) + "\n")
    cuda_layout.lay_out(str(path), str(path / ".wheels"), "12.8.1", {"nvidia-cuda-runtime-cu12": "12.8.90"})
    return path / ".wheels/nvidia/cuda_runtime/lib/libcudart.so.12"


def with_cuda(root: Path) -> tuple[Path, Path]:
    path = Path(release.begin(str(root), ID, {}, QUIET, False)["path"])
    make_venv(path / "venv")
    return path, make_cuda(path / "cuda")


@pytest.mark.parametrize("harm", ["gone", "empty", "link"])
def test_damage_of_the_cuda_home_is_seen(tmp_path: Path, harm: str) -> None:
    path, library = with_cuda(tmp_path)

    def damage() -> None:
        if harm == "link":
            (path / "cuda/lib64/libcudart.so").unlink()
        elif harm == "gone":
            library.unlink()
        else:
            library.write_text("")

    cuda = {"source": "pypi", "version": "12.8.1"}
    damage()
    with pytest.raises(release.ReleaseError, match="libcudart|lacks files or links"):
        seal.seal(job(path, cuda=cuda), QUIET, 1000.0)
    if harm != "link":
        again = release.begin(str(tmp_path), ID, {}, QUIET, False)
        assert again["continued"] and not list((path / "cuda/.wheels").glob("*.dist-info")), "it is installed anew"
    shutil.rmtree(path / "cuda")
    library = make_cuda(path / "cuda")
    seal.seal(job(path, cuda=cuda), QUIET, 1000.0)
    release.activate(str(tmp_path), str(path), {"user": "ada"}, 2000.0)
    assert release.begin(str(tmp_path), ID, {}, QUIET, False)["converged"] is True
    damage()
    begun = release.begin(str(tmp_path), ID, {}, QUIET, False)
    assert begun["converged"] is False and begun["path"] == f"{path}.2"


def test_manifest_is_deterministic_but_for_the_time(tmp_path: Path) -> None:
    path = build(tmp_path, ID, 1000.0)
    first = json.loads((path / "manifest.json").read_text())
    seal.seal(job(path), QUIET, 5000.0)
    second = json.loads((path / "manifest.json").read_text())
    assert first["created"] != second["created"]
    assert {**first, "created": ""} == {**second, "created": ""}
    assert first["packages"]["six"]["layer"] == "torch"
    assert first["components"] == [
        {"name": "six", "version": "1.17.0", "source": "wheel", "sha256": [HASH], "layer": "torch"}
    ]
    assert first["skipped"] == {"apex": "no nvcc"}
    assert first["host"]["python"] == "3.11.7"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema": 2}', '{"schema": 1}'])
def test_bad_manifests(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(release.ReleaseError, match=r"manifest\.json"):
        release.read_manifest(str(tmp_path))
    assert len(release.quick_check(str(tmp_path))) == 1


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("package", "six 1.17.0 is gone"),
        ("env.sh", "env.sh is missing"),
        ("modulefile changed", "modulefile was changed"),
        ("python", "is not a usable environment"),
        ("manifest", "does not match its content"),
    ],
)
def test_drift(tmp_path: Path, damage: str, words: str) -> None:
    path = live(tmp_path, ID)
    if damage == "package":
        (dist,) = record.distributions(str(record.site_packages(str(path / "venv"))))
        record.remove(dist)
    elif damage == "python":
        (path / "venv/bin/python").unlink()
    elif damage == "manifest":
        text = (path / "manifest.json").read_text()
        (path / "manifest.json").write_text(text.replace("no nvcc", "none"))
    elif damage == "modulefile changed":
        (path / "modulefile").write_text("#%Module\n")
    else:
        (path / damage).unlink()
    begun = release.begin(str(tmp_path), ID, {}, QUIET, False)
    assert (begun["converged"], begun["name"]) == (False, ID + ".2")
    assert words in "; ".join(begun["drift"])


def test_plan_and_environment_must_agree(tmp_path: Path) -> None:
    path = Path(release.begin(str(tmp_path), ID, {}, QUIET, False)["path"])
    make_venv(path / "venv")
    for requirements, words in (
        ([f"six==1.16.0 --hash={HASH}"], "is 1.17.0, not 1.16.0"),
        ([f"idna==3.10 --hash={HASH}"], "idna 3.10 of the layer torch was not installed"),
    ):
        with pytest.raises(release.ReleaseError, match=words):
            seal.seal(job(path, layers={"torch": {"requirements": requirements}}), QUIET, 0.0)
    (path / "venv/lib/python3.11/site-packages/foreign-1.0.dist-info").mkdir()
    with pytest.raises(release.ReleaseError, match=r"foreign 1\.0 is there and does not belong"):
        seal.seal(job(path), QUIET, 0.0)
    assert release.clean(str(path), job(path).layers, QUIET) == ["foreign"]
    seal.seal(job(path), QUIET, 0.0)
    assert release.quick_check(str(path)) == []


def test_overlapping_layers_and_missing_cuda(tmp_path: Path) -> None:
    path = Path(release.begin(str(tmp_path), ID, {}, QUIET, False)["path"])
    make_venv(path / "venv")
    with pytest.raises(release.ReleaseError, match="takes CUDA from pypi"):
        seal.seal(job(path, cuda={"source": "pypi"}), QUIET, 0.0)
    layer.write_stamp(str(path / "venv"), "other", "d", {"six": "1.17.0"})
    with pytest.raises(release.ReleaseError, match="must not overlap"):
        seal.seal(job(path), QUIET, 0.0)


def test_only_a_sealed_release_becomes_live(tmp_path: Path) -> None:
    begun = release.begin(str(tmp_path), ID, {}, QUIET, False)
    with pytest.raises(release.ReleaseError, match="cannot be made live"):
        release.activate(str(tmp_path), begun["path"], {}, 0.0)
    with pytest.raises(release.ReleaseError, match="is no folder of"):
        release.activate(str(tmp_path), "/somewhere/else", {}, 0.0)
    (tmp_path / "current").mkdir()
    with pytest.raises(release.ReleaseError, match="is no symbolic link"):
        release.activate(str(tmp_path), str(build(tmp_path, ID)), {}, 0.0)


def test_rollback_and_history(tmp_path: Path) -> None:
    root = str(tmp_path)
    names = [f"small-{index}123456789ab" for index in range(3)]
    with pytest.raises(release.ReleaseError, match="nothing was live before it"):
        release.rollback(root, "", {}, 0.0)
    for name in names:
        live(tmp_path, name)
    assert release.previous(root) == names[1]
    assert release.rollback(root, "", {}, 1.0, check=True)["live"] == names[1]
    assert release.live(root) == names[2]
    assert release.rollback(root, "", {"user": "ada"}, 1.0)["live"] == names[1]
    assert release.previous(root) == names[2]
    (tmp_path / "releases" / names[2] / "env.sh").unlink()
    back = release.rollback(root, "", {}, 1.0)
    assert back["live"] == names[0]
    assert names[2] in back["refused"][0]
    assert [entry["name"] for entry in release.info(root)["history"]] == [*names, names[1], names[0]]
    with pytest.raises(release.ReleaseError, match="there is no complete release of that name"):
        release.rollback(root, "small-fff", {}, 0.0)
    for text in ("", "{", '{"history": 1}', '{"history": [1, {"name": 2}]}'):
        (tmp_path / "state" / "release.json").write_text(text)
        assert release.read_history(root) == []


@pytest.mark.parametrize(
    ("keep", "expected"),
    [(1, ["small-0123456789ab"]), (2, ["small-0123456789ab"]), (3, []), (9, [])],
)
def test_candidates(tmp_path: Path, keep: int, expected: list[str]) -> None:
    for index in range(3):
        live(tmp_path, f"small-{index}123456789ab")
    assert release.candidates(str(tmp_path), keep) == expected
    release.begin(str(tmp_path), "small-9123456789ab", {}, QUIET, False)
    assert release.candidates(str(tmp_path), keep) == [*expected, "small-9123456789ab"]
    assert release.candidates(str(tmp_path), keep, "small-9123456789ab") == expected


def test_in_use(tmp_path: Path) -> None:
    """A fixture of /proc: each way of using a folder is seen, a neighbour with a longer name is not meant."""
    folder = tmp_path / "releases" / ID
    folder.mkdir(parents=True)
    proc = tmp_path / "proc"
    texts = {
        "11": {"maps": f"7f00 r-xp 00000000 08:01 1 {folder}/venv/lib/x.so\n"},
        "12": {"environ": f"A=b\0VIRTUAL_ENV={folder}/venv\0"},
        "13": {"cmdline": f"python\0{folder}/venv/bin/tool\0"},
        "14": {"maps": f"7f00 r-xp 00000000 08:01 1 {folder}.2/venv/lib/x.so\n"},
        "15": {},
        "self": {"cmdline": f"{folder}/x\0"},
    }
    for pid, files in texts.items():
        (proc / pid).mkdir(parents=True)
        for name, text in files.items():
            (proc / pid / name).write_text(text)
    (proc / "15" / "cwd").symlink_to(folder)
    used = release.in_use([str(folder)], str(proc))
    assert {path: sorted(pids) for path, pids in used.items()} == {str(folder): [11, 12, 13, 15]}


def test_check_mode_begins_nothing(tmp_path: Path) -> None:
    begun = release.begin(str(tmp_path), ID, {}, QUIET, True)
    assert (begun["changed"], begun["name"]) == (True, ID)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("own", [True, False])
def test_one_cudnn_for_everyone(tmp_path: Path, own: bool) -> None:
    """A CUDA home with a cuDNN of its own must not lead anyone to another one than Torch's."""
    path = Path(release.begin(str(tmp_path), ID, {}, QUIET, False)["path"])
    make_venv(path / "venv")
    cudnn = path / "venv/lib/python3.11/site-packages/nvidia/cudnn"
    (cudnn / "lib").mkdir(parents=True)
    (path / "cuda/lib64").mkdir(parents=True)
    if own:
        (path / "cuda/lib64/libcudnn.so.9").touch()
    seal.seal(job(path, cuda={"source": "existing"}), QUIET, 0.0)
    script = f'. {shlex.quote(str(path / "env.sh"))}; echo "${{CUDNN_HOME:-}}"; echo "${{LD_LIBRARY_PATH:-}}"'
    env = {"PATH": "/bin:/usr/bin", "LD_LIBRARY_PATH": "/mine"}
    said = subprocess.run(["sh", "-euc", script], capture_output=True, text=True, check=True, env=env).stdout.split(
        "\n"
    )
    assert said[:2] == ([str(cudnn), f"{cudnn}/lib:/mine"] if own else ["", "/mine"])
    assert ("prepend-path LD_LIBRARY_PATH" in (path / "modulefile").read_text()) is own


def test_environment_in_a_shell(tmp_path: Path) -> None:
    path = live(tmp_path, ID)
    script = f'. {shlex.quote(str(path / "env.sh"))}; echo "$MODE"; echo "$PLACE"; command -v python'
    said = subprocess.run(
        ["sh", "-euc", script], capture_output=True, text=True, check=True, env={"PATH": "/bin:/usr/bin"}
    )
    assert said.stdout.split("\n")[:3] == ["it's $HOME", f"{path}/venv", f"{path}/venv/bin/python"]
    module = (path / "modulefile").read_text()
    assert module.startswith("#%Module")
    assert 'setenv MODE "it\'s \\$HOME"' in module
    for name in ("PATH", "LD_LIBRARY_PATH", "A B"):
        with pytest.raises(release.ReleaseError, match="not allowed"):
            seal.environment(job(path, environment={name: "x"}), str(path / "venv"), "", False)


def test_a_release_on_top_of_another_shares_its_environment(tmp_path: Path) -> None:
    lower = live(tmp_path, ID)
    (lower / "cuda").mkdir()
    begun = release.begin(str(tmp_path), "small-bbbbbbbbbbbb", {}, QUIET, False, "live")
    upper = Path(begun["path"])
    assert os.readlink(upper / "venv") == f"../{ID}/venv" and os.readlink(upper / "cuda") == f"../{ID}/cuda"
    assert release.shared_with(str(upper)) == [ID]
    sealed = seal.seal(job(upper, id="small-bbbbbbbbbbbb", cuda={"source": "pypi"}), QUIET, 1000.0)
    assert sealed["sealed"] and release.read_manifest(str(upper))["cuda"]["home"] == "cuda"
    release.activate(str(tmp_path), str(upper), {}, 3000.0)
    (tmp_path / "state/release.json").unlink()  # nothing remembers that the lower one was live
    assert release.prune(str(tmp_path), 1)["pruned"] == []
    assert (upper / "venv/pyvenv.cfg").is_file()


@pytest.mark.parametrize("lower", ["live", "small-cccccccccccc"])
def test_only_a_complete_release_can_be_built_on(tmp_path: Path, lower: str) -> None:
    with pytest.raises(release.ReleaseError, match="there is no complete release"):
        release.begin(str(tmp_path), ID, {}, QUIET, False, lower)
    assert not (tmp_path / "releases").exists()
