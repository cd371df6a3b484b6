# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Package metadata read from fixture environments and from captured files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from factories import ReleaseTree, elf_file

from ansible_collections.verl.baremetal.plugins.module_utils.probes import dists


def listing(tree: ReleaseTree) -> dists.Listing:
    return dists.list_dists([str(tree.site)])


def test_the_environment_of_a_folder_and_of_its_interpreter(release_tree: ReleaseTree) -> None:
    found = dists.environment(str(release_tree.venv))
    assert found is not None
    assert (found.python_version, found.site_packages) == ("3.12.3", [str(release_tree.site)])
    (release_tree.venv / "bin").mkdir()
    (release_tree.venv / "bin/python").write_text("")
    assert dists.environment(str(release_tree.venv / "bin/python")) == found


def test_lib64_that_is_a_link_is_not_read_twice(release_tree: ReleaseTree) -> None:
    (release_tree.venv / "lib64").symlink_to("lib")
    found = dists.environment(str(release_tree.venv))
    assert found is not None and len(found.site_packages) == 1


def test_the_packages_of_the_system_count_where_the_environment_shows_them(release_tree: ReleaseTree) -> None:
    outer = release_tree.root / "usr/lib/python3.12/site-packages"
    for folder in (
        "lib/python3.12/site-packages",
        "lib/python3.11/site-packages",
        "lib/python3/dist-packages",
        "local/lib/python3.12/dist-packages",
    ):
        (release_tree.root / "usr" / folder).mkdir(parents=True)
    config = f"home = {release_tree.root}/usr/bin\nversion = 3.12.3\ninclude-system-site-packages = true\n"
    (release_tree.venv / "pyvenv.cfg").write_text(config)
    found = dists.environment(str(release_tree.venv))
    assert found is not None and found.site_packages == [
        str(release_tree.site),
        str(outer),
        str(release_tree.root / "usr/local/lib/python3.12/dist-packages"),
        str(release_tree.root / "usr/lib/python3/dist-packages"),
    ]


@pytest.mark.parametrize("config", ["", "garbage", "home\nversion_info = x", "\0\0=\0"])
def test_a_broken_pyvenv_cfg_leaves_the_folders(release_tree: ReleaseTree, config: str) -> None:
    (release_tree.venv / "pyvenv.cfg").write_text(config)
    found = dists.environment(str(release_tree.venv))
    assert found is not None and found.site_packages == [str(release_tree.site)]
    assert found.python_version == "3.12"


def test_no_environment(tmp_path: Path) -> None:
    assert dists.environment(str(tmp_path)) is None
    assert dists.environment(str(tmp_path / "nothing")) is None
    assert dists.list_dists([str(tmp_path / "nothing")]) == dists.Listing({}, {}, [], [])


def test_names_and_versions_come_from_the_folders(release_tree: ReleaseTree) -> None:
    release_tree.dist("torch", "2.7.1+cu128")
    release_tree.dist("Foo.Bar", "1.0.post1")
    release_tree.dist("nvidia-cudnn-cu12", "9.8.0.87")
    (release_tree.site / "not-a-package").mkdir()
    (release_tree.site / "readme.txt").write_text("x")
    found = listing(release_tree)
    assert {name: dist.version for name, dist in found.dists.items()} == {
        "torch": "2.7.1+cu128",
        "foo-bar": "1.0.post1",
        "nvidia-cudnn-cu12": "9.8.0.87",
    }
    assert (found.duplicates, found.leftovers, found.broken) == ({}, [], [])


def test_traces_of_interrupted_installations(release_tree: ReleaseTree) -> None:
    release_tree.dist("torch", "2.7.1")
    release_tree.dist("torch", "2.6.0")
    (release_tree.site / "~orch-2.5.0.dist-info").mkdir()
    (release_tree.site / "half-1.0.dist-info").mkdir()
    found = listing(release_tree)
    assert [dist.version for dist in found.duplicates["torch"]] == ["2.6.0", "2.7.1"]
    assert found.leftovers == [str(release_tree.site / "~orch-2.5.0.dist-info")]
    assert [dist.name for dist in found.broken] == ["half"]


def test_eggs(release_tree: ReleaseTree) -> None:
    egg = release_tree.site / "old_thing-1.2-py3.12.egg-info"
    egg.mkdir()
    (egg / "PKG-INFO").write_text("Name: old-thing\nVersion: 1.2\n\n")
    (egg / "requires.txt").write_text("numpy>=1\n\n[dev]\npytest\n")
    (release_tree.site / "single-3.0.egg-info").write_text("Name: single\nVersion: 3.0\nRequires-Dist: x\n\n")
    develop = release_tree.site / "dev_thing.egg-info"
    develop.mkdir()
    (develop / "PKG-INFO").write_text("Name: dev-thing\nVersion: 0.5\n\n")
    found = listing(release_tree).dists
    assert {name: dist.version for name, dist in found.items()} == {
        "old-thing": "1.2",
        "single": "3.0",
        "dev-thing": "0.5",
    }
    assert dists.requires(found["old-thing"]) == ["numpy>=1"]
    assert dists.requires(found["single"]) == ["x"]


def test_requirements_end_with_the_header(release_tree: ReleaseTree) -> None:
    release_tree.dist("sglang", "0.4.8", ("torch==2.7.1", 'ray[default]; extra == "all"'))
    assert dists.requires(listing(release_tree).dists["sglang"]) == ["torch==2.7.1", 'ray[default]; extra == "all"']


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_long_header_is_read_to_its_end(release_tree: ReleaseTree, ending: str) -> None:
    info = release_tree.dist("big", "1")
    lines = [
        "Name: big",
        *[f"Requires-Dist: package-{number}" for number in range(5000)],
        "",
        "Requires-Dist: in the description",
    ]
    (info / "METADATA").write_bytes(ending.join(lines).encode())
    found = dists.requires(listing(release_tree).dists["big"])
    assert len(found) == 5000 and found[-1] == "package-4999"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", {}),
        ("\n\nName: x\n", {}),
        ("Name: x\nVersion: 1\n\nbody: y", {"name": ["x"], "version": ["1"]}),
        ("Requires-Dist: a\nrequires-dist: b\n", {"requires-dist": ["a", "b"]}),
        ("License: first\n  second\n\tthird\nName: x", {"license": ["first second third"], "name": ["x"]}),
        ("  leading\nno colon\nName: x", {"name": ["x"]}),
        ("\x7fELF\x02\x01\x00\ufffd", {}),
    ],
)
def test_parse_headers(text: str, expected: dict[str, list[str]]) -> None:
    assert dists.parse_headers(text) == expected


def test_shared_libraries(release_tree: ReleaseTree) -> None:
    release_tree.dist(
        "ext",
        "1",
        files={"ext/_C.abi3.so": b"", "lib/libx.so.1.2": b"", "lib/libx.so.1": b"", "ext/so.py": "", "ext/a.sock": ""},
    )
    dist = listing(release_tree).dists["ext"]
    assert dists.shared_libraries(dist) == [
        str(release_tree.site / "ext/_C.abi3.so"),
        str(release_tree.site / "lib/libx.so.1.2"),
    ]
    (Path(dist.path) / "RECORD").write_bytes(b"\0\xff garbage")
    assert dists.shared_libraries(dist) == []


@pytest.mark.parametrize(
    "content, commit",
    [
        (json.dumps({"url": "x", "vcs_info": {"vcs": "git", "commit_id": "d8200a1bec8d"}}), "d8200a1bec8d"),
        (json.dumps({"url": "file:///x", "archive_info": {}}), None),
        ("[]", None),
        ("{", None),
        ("", None),
        (json.dumps({"vcs_info": {"commit_id": 5}}), None),
        (json.dumps({"vcs_info": "git"}), None),
    ],
)
def test_commit(release_tree: ReleaseTree, content: str, commit: str | None) -> None:
    info = release_tree.dist("apex", "0.1")
    (info / "direct_url.json").write_text(content)
    assert dists.commit(listing(release_tree).dists["apex"]) == commit


def torch(tree: ReleaseTree, version: str, cmake: str | None = None) -> dict[str, object]:
    tree.dist("torch", "2.7.1", files={"torch/version.py": version})
    if cmake is not None:
        tree.write(str(tree.site.relative_to(tree.root) / "torch/share/cmake/Torch/TorchConfig.cmake"), cmake)
    found = dists.torch_build([str(tree.site)])
    found.pop("source", None)
    return found


def test_a_captured_version_file_of_torch(release_tree: ReleaseTree, data: Path) -> None:
    content = (data / "probes/torch_version.txt").read_text()
    assert torch(release_tree, content, 'set(TORCH_CXX_FLAGS "-D_GLIBCXX_USE_CXX11_ABI=1")') == {
        "version": "2.7.1+cu126",
        "cuda": "12.6",
        "git": "e2d141dbde55c2a4370fac5165b0561b6af4798b",
        "cxx11_abi": True,
    }


@pytest.mark.parametrize(
    "content, version, cuda",
    [
        ("__version__ = '2.6.0'\ncuda = '12.4'\n", "2.6.0", "12.4"),
        ('__version__ = "2.6.0"\ncuda: Optional[str] = None\n', "2.6.0", None),
        ("", None, None),
        ("import os\nos.system('cuda')\n", None, None),
        ("\x00\x01 cuda", None, None),
    ],
)
def test_version_files_of_torch(release_tree: ReleaseTree, content: str, version: str | None, cuda: str | None) -> None:
    found = torch(release_tree, content)
    assert (found["version"], found["cuda"], found["cxx11_abi"]) == (version, cuda, None)


def test_the_abi_is_read_from_the_library_where_nothing_else_tells_it(release_tree: ReleaseTree) -> None:
    release_tree.dist("torch", "2.11.0", files={"torch/version.py": "__version__ = '2.11.0'\n"})
    names = b"\0_ZN3c105ErrorC2ENSt7__cxx1112basic_stringE\0"
    (release_tree.site / "torch/lib").mkdir()
    (release_tree.site / "torch/lib/libc10.so").write_bytes(elf_file({".dynstr": names}))
    assert dists.torch_build([str(release_tree.site)])["cxx11_abi"] is True


def test_no_torch(release_tree: ReleaseTree) -> None:
    assert dists.torch_build([str(release_tree.site)]) == {}
