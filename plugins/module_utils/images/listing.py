# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The files of a release, on a disk or in an image's layers, as paths and digests that can be compared.

Bytecode and times do not count. A release's own folder is part of many small files (scripts, activation): its name is
replaced before they are digested, and RECORDs are compared without the digests of those scripts. A file that two packages
record (the script fastapi) is that of the one which the installer wrote last: it has to be there, and its content is left
to the version check. Where an image's release stands on another one, the common environment counts as the upper one's.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import re
import tarfile
from typing import IO, AbstractSet, Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

from ansible_collections.verl.baremetal.plugins.module_utils.images import archive
from ansible_collections.verl.baremetal.plugins.module_utils.images.engine import Tick

SCHEMA = 1
SMALL = 1 << 20
_CHUNK = 1 << 20
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_NAME = rb"[A-Za-z0-9][A-Za-z0-9._-]*-[0-9a-f]{6,64}(?:\.[0-9]+)?"
IGNORED = ("manifest.json", ".building", ".busy")
TIMES = ".dist-info/uv_cache.json"  # when the wheel that was built here was made
RECORD = ".dist-info/RECORD"
LINK = "-> "


class ListingError(Exception):
    """An archive or a list cannot be read."""


class Difference(NamedTuple):
    """One path in which two releases differ."""

    path: str
    words: str


# ---------------------------------------------------------------------------------------------------- digests


def ignored(path: str) -> bool:
    """Whether a path of a release is no part of its content: bytecode, and the manifest, which is compared by itself."""
    return path in IGNORED or path.endswith((".pyc", TIMES)) or "__pycache__" in path.split("/")


def normaliser(root: str) -> "re.Pattern[bytes]":
    """Finds the folder of any release below a stack_root."""
    return re.compile(re.escape(root.encode("utf-8")) + rb"/releases/" + _NAME)


class Owners:
    """Which files more than one package records."""

    def __init__(self) -> None:
        self.count: Dict[str, int] = {}

    def add(self, record: str, content: bytes) -> None:
        """The files of one RECORD, whose own path they are relative to."""
        site = os.path.dirname(os.path.dirname(record))
        for line in content.decode("utf-8", "replace").splitlines():
            path = os.path.normpath(os.path.join(site, line.split(",", 1)[0]))
            self.count[path] = self.count.get(path, 0) + 1

    def shared(self) -> List[str]:
        """Their paths, but for what does not count."""
        return sorted(path for path, count in self.count.items() if count > 1 and not ignored(path))


def digest(handle: IO[bytes], size: int, path: str, releases: "re.Pattern[bytes]", owners: Owners) -> str:
    """The sha256 of a file as it would be in a release of another name."""
    total = hashlib.sha256()
    record = path.endswith(RECORD)
    if size <= SMALL or record:  # torch's RECORD has more than a megabyte
        content = releases.sub(b"@", handle.read())
        if record:
            owners.add(path, content)
            content = _record(content)
        total.update(content)
        return total.hexdigest()
    while True:
        piece = handle.read(_CHUNK)
        if not piece:
            return total.hexdigest()
        total.update(piece)


def _record(content: bytes) -> bytes:
    lines = []
    for line in content.splitlines():
        path = line.split(b",", 1)[0]
        if path.endswith((b".pyc", TIMES.encode("ascii"))):
            continue
        # Scripts hold the path of their Python.
        lines.append(path if path.startswith(b"../") else line)
    return b"\n".join(sorted(lines))


def link(target: str, releases: "re.Pattern[bytes]") -> str:
    """A symbolic link's target, the release's name taken out."""
    return LINK + releases.sub(b"@", target.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")


# ---------------------------------------------------------------------------------------------------- a disk


def of_release(path: str, root: str, tick: Tick, owners: Owners) -> Dict[str, str]:
    """path -> digest of every file of a release on this host."""
    releases = normaliser(root)
    found: Dict[str, str] = {}
    places = [("", path)]
    for name in ("venv", "cuda"):
        target = os.path.join(path, name)
        if os.path.islink(target) and os.readlink(target).startswith("../"):
            places.append((name, os.path.realpath(target)))
    for prefix, place in places:
        for folder, folders, files in os.walk(place):
            inside = os.path.relpath(folder, place)
            inside = "" if inside == "." else inside + "/"
            start = (prefix + "/" if prefix else "") + inside
            linked = [name for name in folders if os.path.islink(os.path.join(folder, name))]
            folders[:] = sorted(name for name in folders if name not in linked and name != "__pycache__")
            for name in sorted([*files, *linked]):
                key, full = start + name, os.path.join(folder, name)
                if ignored(key) or (not prefix and key in [place[0] for place in places[1:]]):
                    continue
                if os.path.islink(full):
                    found[key] = link(os.readlink(full), releases)
                else:
                    with open(full, "rb") as handle:
                        found[key] = digest(handle, os.path.getsize(full), key, releases, owners)
                if len(found) % 500 == 0:
                    tick("reading the files of the release", len(found), None)
    return found


# ---------------------------------------------------------------------------------------------------- an archive

Layer = Dict[str, Tuple[str, str]]  # path below / -> (kind, value); kinds file, link, hard, gone, opaque, folder


def read_layer(
    stream: IO[bytes], root: str, releases: "re.Pattern[bytes]", keep: Dict[str, bytes], tick: Tick, owners: Owners
) -> Layer:
    """The part of one layer that lies below the stack_root; manifests go to keep."""
    found: Layer = {}
    top = root.lstrip("/")
    with tarfile.open(fileobj=stream, mode="r|*") as layer:
        for member in layer:
            path = member.name.lstrip("./").rstrip("/") if not member.name.startswith(".wh") else member.name
            folder, _slash, name = path.rpartition("/")
            if not (path + "/").startswith(top + "/"):
                if name.startswith(_WHITEOUT) and (top + "/").startswith(
                    f"{folder}/{name[len(_WHITEOUT) :]}/".lstrip("/")
                ):
                    found[top] = ("gone", "")
                continue
            if name == _OPAQUE:
                found[folder] = ("opaque", "")
            elif name.startswith(_WHITEOUT):
                found[f"{folder}/{name[len(_WHITEOUT) :]}"] = ("gone", "")
            elif member.issym():
                found[path] = ("link", member.linkname)
            elif member.islnk():
                found[path] = ("hard", member.linkname.lstrip("./"))
            elif member.isfile():
                handle = layer.extractfile(member)
                if handle is None:
                    continue
                if name == "manifest.json":
                    keep[path] = handle.read()
                    found[path] = ("file", hashlib.sha256(keep[path]).hexdigest())
                else:
                    found[path] = ("file", digest(handle, member.size, path, releases, owners))
            elif member.isdir():
                found.setdefault(path, ("folder", ""))
            if len(found) % 500 == 0:
                tick("reading the files of the image", len(found), None)
    return found


def merge(layers: List[Layer]) -> Dict[str, Tuple[str, str]]:
    """The files that remain when the layers lie on top of each other."""
    total: Dict[str, Tuple[str, str]] = {}
    for layer in layers:
        for path, (kind, _value) in layer.items():
            if kind in ("gone", "opaque"):
                for below in [p for p in total if p.startswith(path + "/") or (kind == "gone" and p == path)]:
                    del total[below]
        for path, (kind, value) in layer.items():
            if kind == "hard":
                total[path] = layer.get(value) or total.get(value, ("file", ""))
            elif kind in ("file", "link"):
                total[path] = (kind, value)
    return total


def of_archive(path: str, root: str, tick: Tick) -> Dict[str, Any]:
    """The live release in the archive of an image: its manifest and its files. Each byte is read once."""
    releases = normaliser(root)
    layers: Dict[str, Layer] = {}
    manifests: Dict[str, bytes] = {}
    index: Optional[List[Dict[str, Any]]] = None
    by_layer: Dict[str, Dict[str, bytes]] = {}
    owners = Owners()
    try:
        with open(path, "rb") as raw, tarfile.open(fileobj=_Stream(archive.decompress(raw)), mode="r|") as outer:  # type: ignore[call-overload]
            for member in outer:
                handle = outer.extractfile(member) if member.isfile() else None
                if handle is None:
                    continue
                if member.name == "manifest.json":
                    index = json.loads(handle.read())
                elif member.name.endswith("/layer.tar") or member.name.startswith("blobs/"):
                    try:
                        keep: Dict[str, bytes] = {}
                        layers[member.name] = read_layer(handle, root, releases, keep, tick, owners)
                        by_layer[member.name] = keep
                    except tarfile.ReadError:
                        continue  # a blob that is no layer
                elif member.issym():
                    continue
    except (OSError, tarfile.TarError, ValueError) as error:
        raise ListingError(f"{path} is no archive of an image: {error}") from error
    if not index or not index[0].get("Layers"):
        raise ListingError(f"{path} is no archive of an image: it has no manifest.json")
    names = [name for name in index[0]["Layers"] if name in layers]
    for name in names:
        manifests.update(by_layer[name])
    files = merge([layers[name] for name in names])
    image = str((index[0].get("RepoTags") or [""])[0])
    return _release_of(files, manifests, root, releases, image, path, set(owners.shared()))


def _release_of(
    files: Mapping[str, Tuple[str, str]],
    manifests: Mapping[str, bytes],
    root: str,
    releases: "re.Pattern[bytes]",
    image: str,
    path: str,
    shared: AbstractSet[str],
) -> Dict[str, Any]:
    top = root.lstrip("/")
    current = files.get(f"{top}/current")
    if current is None or current[0] != "link":
        raise ListingError(f"{path}: the image has no {root}/current, no release is live in it")
    release = os.path.basename(current[1])
    start = f"{top}/releases/{release}/"
    places = [("", start)]
    for name in ("venv", "cuda"):
        kind, value = files.get(start + name, ("", ""))
        if kind == "link" and value.startswith("../"):
            places.append((name + "/", f"{top}/releases/{value[3:]}/"))
    found: Dict[str, str] = {}
    twice: List[str] = []
    for prefix, place in places:
        for name, (kind, value) in files.items():
            if not name.startswith(place):
                continue
            key = prefix + name[len(place) :]
            if ignored(key) or (not prefix and key + "/" in [place[0] for place in places[1:]]):
                continue
            found[key] = link(value, releases) if kind == "link" else value
            if name in shared:
                twice.append(key)
    try:
        manifest = json.loads(manifests[start + "manifest.json"])
    except (KeyError, ValueError) as error:
        raise ListingError(f"{path}: the release {release} in the image has no manifest") from error
    return {
        "schema": SCHEMA, "image": image, "release": release, "manifest": manifest, "files": found, "shared": sorted(twice),
    }  # fmt: skip


class _Stream:
    """An iterator of bytes as a file that can be read once."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.pieces = pieces
        self.rest = b""

    def read(self, size: int) -> bytes:
        """Exactly size bytes, fewer at the end."""
        parts, have = [self.rest], len(self.rest)
        while have < size:
            piece = next(self.pieces, b"")
            if not piece:
                break
            parts.append(piece)
            have += len(piece)
        whole = b"".join(parts)
        self.rest = whole[size:]
        return whole[:size]


# ---------------------------------------------------------------------------------------------------- comparing


def write(path: str, data: Mapping[str, Any]) -> None:
    """Write a list, compressed."""
    with gzip.open(path, "wt", encoding="utf-8", compresslevel=3) as handle:
        json.dump(data, handle, sort_keys=True)


def read(path: str) -> Dict[str, Any]:
    """Read a list."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as handle:
            data = json.load(handle)
    except (OSError, ValueError, EOFError) as error:
        raise ListingError(f"{path}: {error}") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise ListingError(f"{path} is no list of a release")
    return data


def pack(data: Any) -> str:
    """A list as text that a module can return."""
    return base64.b64encode(gzip.compress(json.dumps(data).encode("utf-8"), 3)).decode("ascii")


def unpack(text: str) -> Any:
    """The list again."""
    return json.loads(gzip.decompress(base64.b64decode(text)))


def compare_manifests(host: Mapping[str, Any], image: Mapping[str, Any]) -> List[Difference]:
    """Differences of what two releases say of themselves; packages by name, version and layer."""
    found = []
    for name in sorted({*host["packages"], *image["packages"]}):
        one, two = host["packages"].get(name), image["packages"].get(name)
        pair = [f"{p['version']} ({p['layer']})" if p else "absent" for p in (one, two)]
        if pair[0] != pair[1]:
            found.append(Difference(f"package {name}", f"{pair[0]} on the host, {pair[1]} in the image"))
    for words, keys in (
        ("stack", ("stack", "name")),
        ("locks and pins", ("stack", "digest")),
        ("plan", ("id",)),
        ("Python", ("host", "python")),
        ("Torch variant", ("variants", "torch")),
        ("CUDA", ("cuda", "version")),
        ("CUDA source", ("cuda", "source")),
    ):
        one, two = _dig(host, keys), _dig(image, keys)
        if one != two:
            found.append(Difference(words, f"{one or 'none'} on the host, {two or 'none'} in the image"))
    left = sorted({*host.get("skipped", {})} ^ {*image.get("skipped", {})})
    for name in left:
        where = "host" if name in host.get("skipped", {}) else "image"
        found.append(Difference(f"component {name}", f"left out on one side only, the {where}"))
    return found


def _dig(data: Mapping[str, Any], keys: Tuple[str, ...]) -> str:
    value: Any = data
    for key in keys:
        value = value.get(key, "") if isinstance(value, Mapping) else ""
    return str(value)


def compare_files(
    host: Mapping[str, str], image: Mapping[str, str], shared: AbstractSet[str] = frozenset()
) -> List[Difference]:
    """Paths that only one release has, and paths with another content; that of shared files is not compared."""
    found = []
    for path in sorted({*host, *image}):
        one, two = host.get(path), image.get(path)
        if one == two or (path in shared and one is not None and two is not None):
            continue
        if one is None:
            found.append(Difference(path, "only in the image"))
        elif two is None:
            found.append(Difference(path, "only on the host"))
        elif one.startswith(LINK) or two.startswith(LINK):
            pair = [value if value.startswith(LINK) else "a file" for value in (one, two)]
            found.append(Difference(path, f"{pair[0]} on the host, {pair[1]} in the image"))
        else:
            found.append(Difference(path, f"sha256 {one[:12]} on the host, {two[:12]} in the image"))
    return found
