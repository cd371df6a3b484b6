# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The collection itself as an archive that ansible-galaxy installs: the same bytes from the same files.

``ansible-galaxy collection build`` writes times and owners into its archive, so that each one differs.
"""

from __future__ import annotations

import fnmatch
import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
import typing as t

try:
    import yaml
except ImportError:  # ansible-core brings it; the sanity tests import without
    yaml = None  # type: ignore[assignment]

ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
INFO = (
    "namespace",
    "name",
    "version",
    "authors",
    "readme",
    "tags",
    "description",
    "license",
    "license_file",
    "dependencies",
    "repository",
    "documentation",
    "homepage",
    "issues",
)


def names(root: str, ignore: t.Sequence[str]) -> list[str]:
    """Paths of the collection's files: those of an installed one, those that git knows, or all that are there."""
    try:
        with open(os.path.join(root, "FILES.json"), encoding="utf-8") as stream:
            return sorted(f["name"] for f in json.load(stream)["files"] if f["ftype"] == "file")
    except OSError:
        pass
    try:
        listed = subprocess.run(["git", "-C", root, "ls-files", "-z"], capture_output=True, check=True).stdout
        found = [name for name in listed.decode().split("\0") if name]
    except (OSError, subprocess.SubprocessError):
        found = [os.path.relpath(os.path.join(top, n), root) for top, _unused, names in os.walk(root) for n in names]
    kept = [name for name in found if os.path.isfile(os.path.join(root, name)) and not _ignored(name, ignore)]
    return sorted(kept)


def _ignored(name: str, patterns: t.Sequence[str]) -> bool:
    heads = ["/".join(name.split("/")[: n + 1]) for n in range(name.count("/") + 1)]
    return any(fnmatch.fnmatch(head, pattern) for head in heads for pattern in [*patterns, "galaxy.yml", ".git"])


def _information(root: str) -> dict[str, t.Any]:
    path = os.path.join(root, "galaxy.yml")
    if not os.path.isfile(path):
        with open(os.path.join(root, "MANIFEST.json"), encoding="utf-8") as stream:
            return t.cast("dict[str, t.Any]", json.load(stream)["collection_info"])
    with open(path, encoding="utf-8") as stream:
        given = yaml.safe_load(stream)
    empty: dict[str, t.Any] = {"tags": [], "dependencies": {}, "license": []}
    return {name: given.get(name, empty.get(name)) for name in INFO}


def _ignore(root: str) -> list[str]:
    try:
        with open(os.path.join(root, "galaxy.yml"), encoding="utf-8") as stream:
            return list(yaml.safe_load(stream).get("build_ignore") or [])
    except OSError:
        return []


def _entry(name: str, kind: str, data: bytes | None) -> dict[str, t.Any]:
    digest = hashlib.sha256(data).hexdigest() if data is not None else None
    return {
        "name": name,
        "ftype": kind,
        "chksum_type": "sha256" if digest else None,
        "chksum_sha256": digest,
        "format": 1,
    }


def build(root: str = ROOT) -> tuple[str, bytes]:
    """Name and content of the archive."""
    information = _information(root)
    content: dict[str, bytes] = {}
    modes: dict[str, int] = {}
    for name in names(root, _ignore(root)):
        path = os.path.join(root, name)
        with open(path, "rb") as stream:
            content[name] = stream.read()
        modes[name] = 0o755 if os.stat(path).st_mode & 0o100 else 0o644
    folders = sorted({"/".join(name.split("/")[:n]) for name in content for n in range(1, name.count("/") + 1)})
    files = [_entry(".", "dir", None), *[_entry(f, "dir", None) for f in folders]]
    files += [_entry(name, "file", data) for name, data in sorted(content.items())]
    listing = _json({"files": files, "format": 1})
    manifest = {
        "collection_info": information,
        "file_manifest_file": _entry("FILES.json", "file", listing),
        "format": 1,
    }
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in [("MANIFEST.json", _json(manifest)), ("FILES.json", listing)]:
            _add(archive, name, data, 0o644)
        for folder in folders:
            _add(archive, folder, None, 0o755)
        for name, data in sorted(content.items()):
            _add(archive, name, data, modes[name])
    name = "{namespace}-{name}-{version}.tar.gz".format(**information)
    return name, gzip.compress(raw.getvalue(), 9, mtime=0)


def _json(value: t.Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def _add(archive: tarfile.TarFile, name: str, data: bytes | None, mode: int) -> None:
    info = tarfile.TarInfo(name)
    info.mode = mode
    if data is None:
        info.type = tarfile.DIRTYPE
        archive.addfile(info)
        return
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def have(folder: str, root: str = ROOT) -> str:
    """The archive in a folder, written when it differs; its path."""
    name, data = build(root)
    path = os.path.join(folder, name)
    try:
        with open(path, "rb") as stream:
            if stream.read() == data:
                return path
    except OSError:
        pass
    os.makedirs(folder, exist_ok=True)
    temporary = f"{path}.{os.getpid()}.new"
    with open(temporary, "wb") as stream:
        stream.write(data)
    os.replace(temporary, path)
    return path
