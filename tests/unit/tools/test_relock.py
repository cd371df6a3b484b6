# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""tools/relock.py: which files a lock keeps, how a resolution is cut into layers, and a whole run with a fixture for uv."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

import pytest

from ansible_collections.verl.baremetal.plugins.plugin_utils import stack_file
from ansible_collections.verl.baremetal.tools import relock
from ansible_collections.verl.baremetal.tools.relock import Package, RelockError

PYTHONS = ["3.10", "3.11", "3.12"]


def sha(character: str) -> str:
    return character * 64


def package(name: str, version: str = "1", pythons: tuple[str, ...] = tuple(PYTHONS), digest: str = "a") -> Package:
    return Package(name, version, pythons, ((f"{name}-{version}-py3-none-any.whl", sha(digest)),))


def wheel(name: str, digest: str, size: int = 1) -> str:
    return f'{{ url = "file:///w/{name}", size = {size}, hashes = {{ sha256 = "{sha(digest)}" }} }}'


def pylock(name: str, wheels: list[str], marker: str = "", sdist: str = "") -> str:
    lines = ["[[packages]]", f'name = "{name}"', 'version = "1"']
    lines += [f'marker = "{marker}"'] if marker else []
    lines += [f"sdist = {wheel(f'{name}-1.tar.gz', sdist)}"] if sdist else []
    lines += [f"wheels = [{', '.join(wheels)}]"] if wheels else []
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("marker", "pythons"),
    [
        ("", ["3.10", "3.11", "3.12"]),
        ("python_full_version >= '3.6' and sys_platform == 'linux'", ["3.10", "3.11", "3.12"]),
        ("python_full_version < '3.11'", ["3.10"]),
        ("python_full_version >= '3.11'", ["3.11", "3.12"]),
        ("python_version == '3.11'", ["3.11"]),
        ("sys_platform == 'win32'", []),
        ("platform_machine == 'aarch64' and sys_platform == 'linux'", []),
        ("implementation_name == 'pypy'", []),
        ("extra == 'test'", []),
    ],
)
def test_which_pythons_a_marker_selects(marker, pythons):
    assert list(relock.applies_to(marker, PYTHONS)) == pythons


def test_a_marker_that_tells_patch_releases_apart_is_refused():
    with pytest.raises(RelockError, match=r"patch release of Python 3\.11"):
        relock.applies_to("python_full_version < '3.11.3'", PYTHONS)


@pytest.mark.parametrize(
    ("pythons", "marker"),
    [
        (["3.10", "3.11", "3.12"], ""),
        (["3.10"], "python_version < '3.11'"),
        (["3.11", "3.12"], "python_version >= '3.11'"),
        (["3.11"], "python_version >= '3.11' and python_version < '3.12'"),
        (["3.10", "3.12"], "python_version == '3.10' or python_version == '3.12'"),
    ],
)
def test_markers_are_short_and_select_the_same_pythons(pythons, marker):
    assert relock.marker_for(pythons, PYTHONS) == marker
    assert list(relock.applies_to(marker, PYTHONS)) == pythons


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("p-1-py3-none-any.whl", True),
        ("p-1-py2.py3-none-any.whl", True),
        ("p-1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", True),
        ("p-1-cp37-abi3-manylinux_2_28_x86_64.whl", True),
        ("p-1-cp39-abi3-manylinux1_x86_64.whl", True),
        ("p-1-py3-none-manylinux_2_35_x86_64.whl", True),
        ("p-1-py3-none-manylinux_2_39_x86_64.whl", False),
        ("p-1-cp311-cp311-manylinux_2_17_aarch64.whl", False),
        ("p-1-cp311-cp311-musllinux_1_2_x86_64.whl", False),
        ("p-1-cp313-cp313-manylinux_2_17_x86_64.whl", False),
        ("p-1-cp313-abi3-manylinux_2_17_x86_64.whl", False),
        ("p-1-cp312-cp312-win_amd64.whl", False),
        ("p-1-pp310-pypy310_pp73-manylinux_2_17_x86_64.whl", False),
    ],
)
def test_only_files_that_a_supported_python_can_use_are_kept(name, kept):
    text = pylock("p", [wheel("p-1-py3-none-any.whl", "0"), wheel(name, "1")])
    (found,) = relock.read_pylock(text, PYTHONS, "2.35")
    assert (sha("1") in [digest for _name, digest in found.wheels]) is kept


def test_a_source_is_kept_only_where_a_supported_python_has_no_wheel():
    binary = [wheel(f"p-1-{tag}-{tag}-manylinux_2_17_x86_64.whl", tag[-1]) for tag in ("cp310", "cp311", "cp312")]
    (full,) = relock.read_pylock(pylock("p", binary, sdist="f"), PYTHONS, "2.35")
    assert full.sdist is None and len(full.wheels) == 3
    (partial,) = relock.read_pylock(pylock("p", binary[:2], sdist="f"), PYTHONS, "2.35")
    assert partial.sdist == ("p-1.tar.gz", sha("f")) and len(partial.wheels) == 2
    assert relock.source_label(partial, PYTHONS) == "p (3.12)"
    (only,) = relock.read_pylock(pylock("p", [], sdist="f"), PYTHONS, "2.35")
    assert relock.source_label(only, PYTHONS) == "p"
    (older,) = relock.read_pylock(pylock("p", binary[:1], "python_version < '3.11'", sdist="f"), PYTHONS, "2.35")
    assert older.sdist is None and older.pythons == ("3.10",)


def test_a_package_that_no_python_can_install_is_an_error():
    with pytest.raises(RelockError, match=r"p 1 has no wheel for Python 3\.10, 3\.11, 3\.12 and no source"):
        relock.read_pylock(pylock("p", [wheel("p-1-cp312-cp312-win_amd64.whl", "1")]), PYTHONS, "2.35")


def test_a_package_for_another_platform_is_left_out():
    text = pylock("p", [wheel("p-1-py3-none-any.whl", "1")], marker="sys_platform == 'win32'")
    assert relock.read_pylock(text, PYTHONS, "2.35") == []


def test_the_escaped_plus_of_a_local_version_is_read():
    text = pylock("p", [wheel("p-1%2Bcu128-cp311-cp311-manylinux_2_28_x86_64.whl", "1")], "python_version == '3.11'")
    (found,) = relock.read_pylock(text, PYTHONS, "2.35")
    assert found.wheels[0][0] == "p-1+cu128-cp311-cp311-manylinux_2_28_x86_64.whl"


def names(layers: dict[str, list[Package]]) -> dict[str, list[str]]:
    return {layer: [f"{entry.name} {entry.version}" for entry in packages] for layer, packages in layers.items()}


def test_a_package_belongs_to_the_first_layer_that_needs_it():
    resolution = [package("a"), package("b"), package("c"), package("d")]
    closures = [("one", [("a", "1"), ("b", "1")]), ("two", [("b", "1"), ("c", "1")]), ("three", [("a", "1"), ("d", "1")])]
    assert names(relock.slice_layers(closures, resolution)) == {"one": ["a 1", "b 1"], "two": ["c 1"], "three": ["d 1"]}


def test_all_versions_of_a_package_live_in_one_layer():
    resolution = [package("a", "1", ("3.10",)), package("a", "2", ("3.11", "3.12"))]
    closures = [("one", [("a", "1")]), ("two", [("a", "1"), ("a", "2")])]
    assert names(relock.slice_layers(closures, resolution)) == {"one": ["a 1", "a 2"], "two": []}


def test_a_layer_that_needs_something_outside_of_the_resolution_is_an_error():
    with pytest.raises(RelockError, match="layer one needs a 2, which is not in the resolution"):
        relock.slice_layers([("one", [("a", "2")])], [package("a", "1")])


def test_a_package_that_no_layer_needs_is_an_error():
    with pytest.raises(RelockError, match="no layer needs b 1"):
        relock.slice_layers([("one", [("a", "1")])], [package("a"), package("b")])


def test_a_variant_replaces_by_name_and_may_not_add():
    layer = [package("a"), package("b"), package("c")]
    changed = relock.apply_variant(layer, [package("b", "1+cu128", digest="b")])
    assert [(entry.name, entry.version) for entry in changed] == [("a", "1"), ("b", "1+cu128"), ("c", "1")]
    with pytest.raises(RelockError, match="the variant adds z"):
        relock.apply_variant(layer, [package("z")])


def test_recorded_files_need_a_hash_for_every_python():
    hashes = {"cp310": sha("1"), "cp311": sha("2"), "cp312": sha("3")}
    (found,) = relock.files_to_packages({"torch-2.7.1+cu128": hashes}, PYTHONS)
    assert (found.name, found.version, len(found.wheels), found.sdist) == ("torch", "2.7.1+cu128", 3, None)
    with pytest.raises(RelockError, match="cp312"):
        relock.files_to_packages({"torch-2.7.1+cu128": {"cp310": sha("1"), "cp311": sha("2")}}, PYTHONS)


def test_a_lock_is_sorted_hashed_and_read_back_by_the_collection():
    sdist = Package("c", "1", tuple(PYTHONS), (), ("c-1.tar.gz", sha("c")))
    both = Package("b", "1", ("3.11", "3.12"), (("b-1-cp311.whl", sha("f")), ("b-1-cp312.whl", sha("e"))))
    text = relock.render([package("a"), both, sdist], PYTHONS, "small, layer one")
    assert text.splitlines()[:4] == [
        "# small, layer one",
        "# Made by `make relock`; do not edit.",
        "# pythons: 3.10 3.11 3.12",
        "# sources: c",
    ]
    entries = stack_file.parse_lock(text)
    assert [(entry["name"], entry["marker"]) for entry in entries] == [("a", None), ("b", "python_version >= '3.11'"), ("c", None)]
    assert entries[1]["hashes"] == ["sha256:" + sha("e"), "sha256:" + sha("f")]
    assert stack_file.sdists(text, "3.11") == ["c"]


def test_a_pin_without_a_file_is_an_error():
    with pytest.raises(RelockError, match="a 1 has no usable file"):
        relock.render([Package("a", "1", tuple(PYTHONS))], PYTHONS, "x")


def test_the_cutoff_day_still_counts():
    assert relock.before("2025-07-31") == "2025-08-01T00:00:00Z"


def test_the_machines_own_settings_do_not_reach_uv():
    given = {"PATH": "/bin", "PIP_FIND_LINKS": "/w", "UV_FIND_LINKS": "/w", "VIRTUAL_ENV": "/v", "UV_CACHE_DIR": "/c"}
    assert relock.clean_environment(given) == {"PATH": "/bin", "UV_CACHE_DIR": "/c", "UV_HTTP_TIMEOUT": "180"}


FIXTURE_UV = """#!{python}
import json, os, sys
answers = json.load(open({answers!r}))
wanted = [line.strip() for line in open("requirements.in") if line.strip()]
with open({calls!r}, "a") as log:
    log.write(json.dumps([wanted, sys.argv[1:], open("pyproject.toml").read(), open("constraints.txt").read().split()]) + "\\n")
if " ".join(wanted) not in answers:
    sys.exit("no such package")
open("pylock.toml", "w").write(answers[" ".join(wanted)])
"""


@pytest.fixture
def small(tmp_path):
    """A stack of two layers, a folder for it and a fixture of uv that answers from a table."""
    folder = tmp_path / "stacks" / "small"
    folder.mkdir(parents=True)
    stack = {
        "schema": 1, "name": "small", "cutoff": "2025-07-31", "platform": {"architecture": "x86_64", "glibc": "2.35", "systems": []}, "python": {"preferred": PYTHONS},
        "layers": [{"name": "torch", "requires": ["alpha"]}, {"name": "sglang", "requires": ["beta"]}],
        "variants": {"torch": {"pypi": {}, "gpu": {}}},
        "components": [{"name": "alpha", "kind": "python", "dist": "alpha", "version": "1", "layer": "torch"}],
        "tools": {"uv": "9"}, "intended_conflicts": [{"dist": "alpha", "requires": "gamma"}],
    }  # fmt: skip
    inputs = {
        "pythons": PYTHONS, "glibc": "2.35",
        "metadata": [{"name": "beta", "version": "1", "requires-dist": ["gamma"]}],
        "variants": [{"layer": "torch", "name": "gpu", "pins": ["gamma==2"], "files": {"alpha-1+gpu": {"cp310": sha("1"), "cp311": sha("2"), "cp312": sha("3")}}}],
    }  # fmt: skip
    (folder / "stack.yml").write_text(json.dumps(stack))
    (folder / "relock.yml").write_text(json.dumps(inputs))
    alpha = pylock("alpha", [wheel("alpha-1-py3-none-any.whl", "a")])
    beta = pylock("beta", [], sdist="b")
    gamma = pylock("gamma", [wheel("gamma-1-py3-none-any.whl", "c")])
    answers = {
        "alpha==1 beta": alpha + beta + gamma,
        "alpha==1": alpha + gamma,
        "gamma==2": pylock("gamma", [wheel("gamma-2-py3-none-any.whl", "d")]).replace('"1"', '"2"'),
        "uv==9": pylock("uv", [wheel("uv-9-py3-none-manylinux_2_17_x86_64.whl", "e")], sdist="f").replace('"1"', '"9"'),
    }
    (tmp_path / "answers.json").write_text(json.dumps(answers))
    uv = tmp_path / "uv"
    calls = tmp_path / "calls"
    uv.write_text(FIXTURE_UV.format(python=sys.executable, answers=str(tmp_path / "answers.json"), calls=str(calls)))
    uv.chmod(uv.stat().st_mode | stat.S_IXUSR)
    return folder, uv, calls


def locked(folder: Path, name: str) -> list[tuple[str, str]]:
    return [(e["name"], e["version"]) for e in stack_file.parse_lock((folder / "locks" / f"{name}.txt").read_text())]


def test_a_whole_run_writes_every_lock(small, capsys):
    folder, uv, calls = small
    assert relock.main([str(folder), "--uv", str(uv)]) == 0
    assert sorted(path.name for path in (folder / "locks").iterdir()) == [
        "resolution.txt", "sglang.txt", "torch.gpu.txt", "torch.pypi.txt", "uv.txt",
    ]  # fmt: skip
    assert locked(folder, "torch.pypi") == [("alpha", "1"), ("gamma", "1")]
    assert locked(folder, "torch.gpu") == [("alpha", "1+gpu"), ("gamma", "2")]
    assert locked(folder, "sglang") == [("beta", "1")]
    resolution = (folder / "locks" / "resolution.txt").read_text().splitlines()
    assert [line for line in resolution if not line.startswith("#")] == ["alpha==1", "beta==1", "gamma==1"]
    assert stack_file.sdists((folder / "locks" / "sglang.txt").read_text(), "3.11") == ["beta"]
    assert sha("f") not in (folder / "locks" / "uv.txt").read_text()
    assert "sglang.txt: 1 packages, 0 MB, sources: beta" in capsys.readouterr().out
    first = json.loads(calls.read_text().splitlines()[0])
    assert first[0] == ["alpha==1", "beta"]
    assert first[1][first[1].index("--exclude-newer") + 1] == "2025-08-01T00:00:00Z"
    assert 'override-dependencies = ["gamma"]' in first[2] and 'requires-python = ">=3.10,<3.13"' in first[2]
    closures = [json.loads(line) for line in calls.read_text().splitlines()[1:3]]
    assert all("--offline" in call[1] and call[3] == ["alpha==1", "beta==1", "gamma==1"] for call in closures)


def test_a_second_run_changes_nothing(small):
    folder, uv, _calls = small
    assert relock.main([str(folder), "--uv", str(uv)]) == 0
    before = {path.name: path.read_bytes() for path in (folder / "locks").iterdir()}
    assert relock.main([str(folder), "--uv", str(uv)]) == 0
    assert {path.name: path.read_bytes() for path in (folder / "locks").iterdir()} == before


def test_a_lock_that_is_no_longer_made_is_named(small, capsys):
    folder, uv, _calls = small
    (folder / "locks").mkdir()
    (folder / "locks" / "three.txt").write_text("")
    assert relock.main([str(folder), "--uv", str(uv)]) == 0
    assert "three.txt is no longer made: remove it" in capsys.readouterr().out


def test_what_uv_says_reaches_the_user(small, capsys):
    folder, uv, _calls = small
    stack = json.loads((folder / "stack.yml").read_text())
    stack["layers"][1]["requires"] = ["nowhere"]
    (folder / "stack.yml").write_text(json.dumps(stack))
    stack_file._cache.clear()
    assert relock.main([str(folder), "--uv", str(uv)]) == 1
    assert capsys.readouterr().err == "relock: uv could not resolve alpha==1 nowhere ...:\nno such package\n"
    assert not (folder / "locks").exists()
