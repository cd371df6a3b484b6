# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Python packages of an environment, read from their metadata folders: nothing is imported and no program is run."""

from __future__ import annotations

import json
import os
import re
from typing import Any, Dict, List, NamedTuple, Optional

from .. import pep440
from ..record import normalise
from . import elf, files

_HEADER_LIMIT = 4 * 1024 * 1024
_RECORD_LIMIT = 16 * 1024 * 1024
_CHUNK = 16 * 1024
_REQUIRES = re.compile(r"^Requires-Dist:(.*)$", re.M | re.I)


class Dist(NamedTuple):
    """One installed package: what the name of its metadata folder says."""

    name: str
    """Normalised (PEP 503)."""
    version: str
    path: str
    """The .dist-info folder, or the .egg-info folder or file."""


class Environment(NamedTuple):
    """Where the packages of an interpreter lie."""

    prefix: str
    python: str
    python_version: Optional[str]
    site_packages: List[str]


class Listing(NamedTuple):
    """Everything that the site-packages folders hold."""

    dists: Dict[str, Dist]
    """By name; the first found on the path wins, as for an import."""
    duplicates: Dict[str, List[Dist]]
    """Names with more than one metadata folder, all of them."""
    leftovers: List[str]
    """Folders that an interrupted pip renamed (`~orch`)."""
    broken: List[Dist]
    """Metadata folders without a METADATA file: an interrupted installation."""


def _pyvenv(prefix: str) -> Dict[str, str]:
    values: Dict[str, str] = {}
    for line in (files.text(os.path.join(prefix, "pyvenv.cfg")) or "").splitlines():
        key, separator, value = line.partition("=")
        if separator:
            values[key.strip().lower()] = value.strip()
    return values


def _full_version(text: str) -> Optional[str]:
    match = re.match(r"(\d+\.\d+(?:\.\d+)?)", text)
    return match.group(1) if match else None


def environment(path: str) -> Optional[Environment]:
    """The environment in a folder (a venv, or a prefix such as /usr) or of an interpreter; None where there is none."""
    prefix, wanted = path, ""
    if not os.path.isdir(path) and os.path.basename(os.path.dirname(path)) == "bin":
        prefix = os.path.dirname(os.path.dirname(path))
        match = re.match(r"python(3\.\d+)", os.path.basename(os.path.realpath(path)))
        wanted = match.group(1) if match else ""
    config = _pyvenv(prefix)
    version = _full_version(config.get("version_info", "") or config.get("version", "")) or wanted or None
    folders: List[str] = []
    for library in ("lib", "lib64", "local/lib"):
        base = os.path.join(prefix, library)
        for name in _pythons(base):
            if version is None:
                version = name[len("python") :]
            if not (version + ".").startswith(name[len("python") :] + "."):
                continue
            _add(folders, os.path.join(base, name, "site-packages"), os.path.join(base, name, "dist-packages"))
    if not config:  # Debian keeps the packages of every Python 3 in one folder
        _add(folders, os.path.join(prefix, "lib/python3/dist-packages"))
    if not folders:
        return None
    if config.get("include-system-site-packages", "").lower() == "true" and config.get("home"):
        outer = environment(os.path.join(config["home"], f"python{'.'.join((version or '3').split('.')[:2])}"))
        _add(folders, *(outer.site_packages if outer else ()))
    return Environment(prefix, os.path.join(prefix, "bin", "python"), version, folders)


def _add(folders: List[str], *candidates: str) -> None:
    """Those candidates that exist and are not there yet under another name."""
    for folder in candidates:
        if os.path.isdir(folder) and not any(os.path.samefile(folder, other) for other in folders):
            folders.append(folder)


def _pythons(base: str) -> List[str]:
    try:
        names = os.listdir(base)
    except OSError:
        return []
    return sorted((name for name in names if re.fullmatch(r"python3\.\d+", name)), key=lambda name: int(name[8:]))


def _split(entry: str) -> Optional[List[str]]:
    """Name and version out of `name-version.dist-info` or `name-version[-py3.x].egg-info`."""
    stem, extension = os.path.splitext(entry)
    if extension == ".egg-info":
        stem = re.sub(r"-py\d\.\d+$", "", stem)
    name, separator, version = stem.partition("-")
    if not separator or not name or not version:
        return None
    return [name, version]


def _is_metadata(entry: str) -> bool:
    return entry.endswith((".dist-info", ".egg-info"))


def list_dists(site_packages: List[str]) -> Listing:
    """Every package of the folders, from the names of the metadata folders."""
    every: Dict[str, List[Dist]] = {}
    leftovers: List[str] = []
    broken: List[Dist] = []
    for folder in site_packages:
        try:
            entries = sorted(os.listdir(folder))
        except OSError:
            continue
        for entry in entries:
            if entry.startswith("~"):
                leftovers.append(os.path.join(folder, entry))
                continue
            if not _is_metadata(entry):
                continue
            path = os.path.join(folder, entry)
            parts = _split(entry)
            if parts is None:  # develop installations: `name.egg-info` names no version
                header = headers(Dist(entry, "", path))
                parts = [header["name"][0], header["version"][0]] if "name" in header and "version" in header else None
            if parts is None:
                continue
            dist = Dist(normalise(parts[0]), parts[1].replace("_", "+") if "+" not in parts[1] else parts[1], path)
            if pep440.parse(dist.version) is None:
                dist = dist._replace(version=parts[1])
            every.setdefault(dist.name, []).append(dist)
            if entry.endswith(".dist-info") and not os.path.isfile(os.path.join(path, "METADATA")):
                broken.append(dist)
    return Listing(
        {name: found[0] for name, found in every.items()},
        {name: found for name, found in every.items() if len(found) > 1},
        leftovers,
        broken,
    )


def metadata_path(dist: Dist) -> str:
    if dist.path.endswith(".dist-info"):
        return os.path.join(dist.path, "METADATA")
    return os.path.join(dist.path, "PKG-INFO") if os.path.isdir(dist.path) else dist.path


def _head(dist: Dist) -> str:
    """The header of the package's metadata: the description below it, most of the file, is not read."""
    head = b""
    try:
        handle = os.open(metadata_path(dist), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        while len(head) < _HEADER_LIMIT:
            chunk = os.read(handle, _CHUNK)
            head += chunk
            ends = [end for end in (head.find(b"\n\n"), head.find(b"\n\r\n")) if end >= 0]
            if ends:
                head = head[: min(ends) + 1]
                break
            if not chunk:
                break
    except OSError:
        return ""
    finally:
        os.close(handle)
    return head.decode("utf-8", "replace")


def headers(dist: Dist) -> Dict[str, List[str]]:
    """The header fields of the package's metadata, names in lower case."""
    return parse_headers(_head(dist))


def parse_headers(text: str) -> Dict[str, List[str]]:
    """Header fields up to the first empty line; continued lines are joined."""
    fields: Dict[str, List[str]] = {}
    current: Optional[List[str]] = None
    for line in text.splitlines():
        if not line.strip():
            break
        if line[0] in " \t":
            if current:
                current[-1] += " " + line.strip()
            continue
        name, separator, value = line.partition(":")
        if not separator:
            continue
        current = fields.setdefault(name.strip().lower(), [])
        current.append(value.strip())
    return fields


def requires(dist: Dist) -> List[str]:
    """The package's Requires-Dist values (or the lines of an egg's requires.txt, which has no markers but sections)."""
    head = _head(dist)
    found = [line.strip() for line in _REQUIRES.findall(head)] if "requires-dist:" in head.lower() else []
    if found or not dist.path.endswith(".egg-info"):
        return found
    lines: List[str] = []
    for line in (files.text(os.path.join(dist.path, "requires.txt")) or "").splitlines():
        if line.startswith("["):  # sections are extras or markers: not part of the plain requirements
            break
        if line.strip():
            lines.append(line.strip())
    return lines


def shared_libraries(dist: Dist) -> List[str]:
    """The shared libraries that the package brought, by its RECORD; of libx.so and its copy libx.so.1 only one."""
    found: Dict[str, str] = {}
    for line in (files.text(os.path.join(dist.path, "RECORD"), _RECORD_LIMIT) or "").splitlines():
        path = line.split(",", 1)[0]
        stem, dot_so, version = path.partition(".so")
        if dot_so and (not version or version.startswith(".")):
            found.setdefault(stem, os.path.normpath(os.path.join(os.path.dirname(dist.path), path)))
    return list(found.values())


def direct_url(dist: Dist) -> Dict[str, Any]:
    """direct_url.json of a package that came from a URL, a folder or a commit."""
    text = files.text(os.path.join(dist.path, "direct_url.json"))
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def commit(dist: Dist) -> Optional[str]:
    """The git commit that the package was installed from, where it says one."""
    info = direct_url(dist).get("vcs_info")
    value = info.get("commit_id") if isinstance(info, dict) else None
    return value if isinstance(value, str) else None


_TORCH_FIELD = re.compile(
    r"""^(__version__|cuda|hip|git_version|debug)\s*(?::[^=\n]*)?=\s*(?:'([^']*)'|"([^"]*)"|(\w+))""", re.M
)


def _abi_of(path: str) -> Optional[bool]:
    """The C++ ABI by the names in a library: newer versions of Torch write it nowhere else."""
    try:
        with elf.ElfFile(path) as file:
            return file.cxx11_abi()
    except (OSError, elf.ElfError):
        return None


def torch_build(site_packages: List[str]) -> Dict[str, Any]:
    """What torch/version.py says (without importing it) and the C++ ABI that its CMake files say."""
    for folder in site_packages:
        path = os.path.join(folder, "torch", "version.py")
        text = files.text(path)
        if text is None:
            continue
        found: Dict[str, Any] = {"source": path, "version": None, "cuda": None, "git": None, "cxx11_abi": None}
        names = {"__version__": "version", "cuda": "cuda", "git_version": "git"}
        for match in _TORCH_FIELD.finditer(text):
            value = match.group(2) or match.group(3)
            if match.group(1) in names:
                found[names[match.group(1)]] = value
        cmake = files.text(os.path.join(folder, "torch", "share", "cmake", "Torch", "TorchConfig.cmake")) or ""
        flag = re.search(r"_GLIBCXX_USE_CXX11_ABI=([01])", cmake)
        found["cxx11_abi"] = (
            flag.group(1) == "1" if flag else _abi_of(os.path.join(folder, "torch", "lib", "libc10.so"))
        )
        return found
    return {}
