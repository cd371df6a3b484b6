# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""A release on a disk and the same one in a fixture of an image archive: equal, and each kind of difference named."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils.images import listing

ROOT = "/opt/verl"
ID, BASE = "small-aaaaaaaaaaaa", "small-bbbbbbbbbbbb"
SITE = "venv/lib/python3.11/site-packages"
MANIFEST: dict[str, Any] = {
    "id": ID,
    "stack": {"name": "small", "digest": "d"},
    "packages": {"six": {"version": "1.17.0", "layer": "torch"}},
    "host": {"python": "3.11.2"},
    "skipped": {},
}


def quiet(_what: str, _done: int | None, _total: int | None) -> None:
    return None


def content(release: str, six: str = "six = 1\n") -> dict[str, str]:
    """The files of a fixture release, some with its folder in them."""
    home = f"{ROOT}/releases/{release}"
    return {
        f"{SITE}/six.py": six,
        f"{SITE}/__pycache__/six.pyc": "bytecode of " + release,
        f"{SITE}/six.dist-info/RECORD": f"six.py,sha256=x,8\n../../../bin/six,sha256={release},30\nsix.pyc,,\nsix.dist-info/uv_cache.json,sha256={release},9\n",
        f"{SITE}/six.dist-info/uv_cache.json": "built for " + release,
        "venv/bin/six": f"#!{home}/venv/bin/python\n",
        "venv/bin/python": "-> /usr/bin/python3.11",
    }


def tar(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            if text.startswith("-> "):
                member.type, member.linkname = tarfile.SYMTYPE, text[3:]
                layer.addfile(member)
            elif text.startswith("=> "):
                member.type, member.linkname = tarfile.LNKTYPE, text[3:]
                layer.addfile(member)
            else:
                member.size = len(text.encode())
                layer.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


def write_archive(path: Path, layers: list[dict[str, str]], names: str = "{}/layer.tar") -> None:
    """docker save's layout: the index comes last."""
    with tarfile.open(path, "w") as outer:
        index = [{"RepoTags": ["a/b:c"], "Layers": [names.format(i) for i in range(len(layers))]}]
        pieces = [(names.format(i), tar(layer)) for i, layer in enumerate(layers)]
        for name, data in [*pieces, ("blobs/sha256/config", b"{}"), ("manifest.json", json.dumps(index).encode())]:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            outer.addfile(member, io.BytesIO(data))


def image_layers(upper: dict[str, str] | None = None) -> list[dict[str, str]]:
    """base with six, app on top with its own manifest."""
    base = {f"opt/verl/releases/{BASE}/{name}": text for name, text in content(BASE).items()}
    app = {
        f"opt/verl/releases/{ID}/manifest.json": json.dumps(MANIFEST),
        f"opt/verl/releases/{ID}/env.sh": f"export VERL_RELEASE='{ROOT}/releases/{ID}'\n",
        f"opt/verl/releases/{ID}/venv": f"-> ../{BASE}/venv",
        "opt/verl/current": f"-> releases/{ID}",
    }
    return [{"etc/passwd": "root", "opt/verl/current": f"-> releases/{BASE}", **base}, {**app, **(upper or {})}]


def host(tmp_path: Path, six: str = "six = 1\n") -> dict[str, str]:
    root = tmp_path / "host"
    files = {**content(ID, six), "env.sh": f"export VERL_RELEASE='{ROOT}/releases/{ID}'\n", "manifest.json": "{}"}
    for name, text in files.items():
        path = root / "releases" / ID / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("-> "):
            path.symlink_to(text[3:])
        else:
            path.write_text(text)
    return listing.of_release(str(root / "releases" / ID), ROOT, quiet, listing.Owners())


@pytest.mark.parametrize("names", ["{}/layer.tar", "blobs/sha256/{}"])
def test_the_same_release_in_both(tmp_path: Path, names: str) -> None:
    write_archive(tmp_path / "a.tar", image_layers(), names)
    image = listing.of_archive(str(tmp_path / "a.tar"), ROOT, quiet)
    assert image["release"] == ID and image["image"] == "a/b:c" and image["manifest"] == MANIFEST
    files = host(tmp_path)
    assert set(files) == {
        "env.sh", "venv/bin/six", "venv/bin/python", f"{SITE}/six.py", f"{SITE}/six.dist-info/RECORD"
    }  # fmt: skip
    assert listing.compare_files(files, image["files"]) == []
    assert listing.compare_manifests(MANIFEST, image["manifest"]) == []


IN_BASE = f"opt/verl/releases/{BASE}/{SITE}"


@pytest.mark.parametrize(
    ("upper", "path", "words"),
    [
        ({f"{IN_BASE}/six.py": "six = 2\n"}, f"{SITE}/six.py", "sha256"),
        ({f"{IN_BASE}/.wh.six.py": ""}, f"{SITE}/six.py", "only on the host"),
        ({f"{IN_BASE}/new.py": "x"}, f"{SITE}/new.py", "only in the image"),
        ({f"{IN_BASE}/new.py": f"=> {IN_BASE}/six.py"}, f"{SITE}/new.py", "only in the image"),
        ({f"{IN_BASE}/six.py": "-> seven.py"}, f"{SITE}/six.py", "a file on the host, -> seven.py in the image"),
    ],
)
def test_differences_are_named(tmp_path: Path, upper: dict[str, str], path: str, words: str) -> None:
    write_archive(tmp_path / "a.tar", image_layers(upper))
    image = listing.of_archive(str(tmp_path / "a.tar"), ROOT, quiet)
    (found,) = listing.compare_files(host(tmp_path), image["files"])
    assert found.path == path and words in found.words


def test_a_script_of_two_packages_has_to_be_there_and_no_more(tmp_path: Path) -> None:
    """As fastapi's, which fastapi and fastapi-cli both bring: the installer's last one wins."""
    record = {f"{IN_BASE}/seven.dist-info/RECORD": "../../../bin/six,sha256=other,30\n"}
    script = f"opt/verl/releases/{BASE}/venv/bin/six"
    write_archive(tmp_path / "a.tar", image_layers({**record, script: "#!/another\n"}))
    image = listing.of_archive(str(tmp_path / "a.tar"), ROOT, quiet)
    assert image["shared"] == ["venv/bin/six"]
    files = {**host(tmp_path), f"{SITE}/seven.dist-info/RECORD": image["files"][f"{SITE}/seven.dist-info/RECORD"]}
    owners = listing.Owners()
    (tmp_path / "host/releases" / ID / SITE / "seven.dist-info").mkdir()
    (tmp_path / "host/releases" / ID / SITE / "seven.dist-info/RECORD").write_text(*record.values())
    assert listing.of_release(str(tmp_path / "host/releases" / ID), ROOT, quiet, owners) == files
    assert owners.shared() == ["venv/bin/six"]
    assert [one.path for one in listing.compare_files(files, image["files"])] == ["venv/bin/six"]
    assert listing.compare_files(files, image["files"], {"venv/bin/six"}) == []
    del files["venv/bin/six"]
    assert [one.words for one in listing.compare_files(files, image["files"], {"venv/bin/six"})] == [
        "only in the image"
    ]


def test_a_record_of_more_than_a_megabyte_is_read_as_any_other(tmp_path: Path) -> None:
    """As torch's: its scripts' digests differ between releases of other names."""
    many = "".join(f"torch/{number}.h,sha256=x,8\n" for number in range(60000))
    both = []
    for name in (ID, BASE):
        path = tmp_path / name / SITE / "torch.dist-info"
        path.mkdir(parents=True)
        (path / "RECORD").write_text(f"../../../bin/torchrun,sha256={name},356\n{many}")
        assert (path / "RECORD").stat().st_size > listing.SMALL
        both.append(listing.of_release(str(tmp_path / name), ROOT, quiet, listing.Owners()))
    assert both[0] == both[1]


def test_an_opaque_folder_hides_what_lies_below(tmp_path: Path) -> None:
    write_archive(tmp_path / "a.tar", image_layers({f"{IN_BASE}/.wh..wh..opq": "", f"{IN_BASE}/new.py": "x"}))
    image = listing.of_archive(str(tmp_path / "a.tar"), ROOT, quiet)
    assert [name for name in image["files"] if name.startswith(SITE)] == [f"{SITE}/new.py"]


def test_manifests_differ_in_words() -> None:
    other = {
        **MANIFEST,
        "host": {"python": "3.12.3"},
        "packages": {"six": {"version": "1.16.0", "layer": "torch"}, "zipp": {"version": "3", "layer": "megatron"}},
        "skipped": {"apex": "no nvcc"},
    }
    found = {one.path: one.words for one in listing.compare_manifests(MANIFEST, other)}
    assert found == {
        "package six": "1.17.0 (torch) on the host, 1.16.0 (torch) in the image",
        "package zipp": "absent on the host, 3 (megatron) in the image",
        "Python": "3.11.2 on the host, 3.12.3 in the image",
        "component apex": "left out on one side only, the image",
    }


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"no archive at all" * 100, "no archive of an image"), (tar({"x": "y"}), "has no manifest.json")],
)
def test_what_is_no_archive(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(listing.ListingError, match=words):
        listing.of_archive(str(tmp_path / "a.tar"), ROOT, quiet)


def test_lists_survive_being_packed_and_written(tmp_path: Path) -> None:
    data = {"schema": 1, "files": {"a": "b"}}
    assert listing.unpack(listing.pack(data)) == data
    listing.write(str(tmp_path / "l"), data)
    assert listing.read(str(tmp_path / "l")) == data
    (tmp_path / "l").write_bytes(b"x")
    with pytest.raises(listing.ListingError):
        listing.read(str(tmp_path / "l"))
