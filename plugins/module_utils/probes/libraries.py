# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Every copy of cuDNN and NCCL that a dynamic loader could find: in the environment, the CUDA home and the system."""

from __future__ import annotations

import glob
import os
import re
from typing import Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

from . import files

_DEFAULT_FOLDERS = (
    "lib/x86_64-linux-gnu",
    "usr/lib/x86_64-linux-gnu",
    "usr/local/lib",
    "usr/local/lib/x86_64-linux-gnu",
    "lib64",
    "usr/lib64",
    "lib",
    "usr/lib",
)
_INCLUDE_LIMIT = 64


class Copy(NamedTuple):
    """One copy of a library."""

    path: str
    version: Optional[str]
    """None where neither the file's name nor a header beside it tells."""
    place: str
    """environment, cuda_home, ld_library_path or system."""
    source: str
    """What told the version."""


class _Library(NamedTuple):
    soname: str
    header: str
    macros: Tuple[str, str, str]


CUDNN = _Library("libcudnn.so.9", "cudnn_version.h", ("CUDNN_MAJOR", "CUDNN_MINOR", "CUDNN_PATCHLEVEL"))
NCCL = _Library("libnccl.so.2", "nccl.h", ("NCCL_MAJOR", "NCCL_MINOR", "NCCL_PATCH"))


def header_version(path: str, names: Tuple[str, str, str]) -> Optional[str]:
    """major.minor.patch as a header defines them."""
    found = files.macros(path, list(names))
    if any(name not in found for name in names):
        return None
    return ".".join(str(found[name]) for name in names)


def _describe(path: str, library: _Library, place: str) -> Copy:
    """The version of a copy: from its file name (libcudnn.so.9.8.0), else from the header beside it."""
    real = os.path.realpath(path)
    match = re.search(r"\.so\.(\d+\.\d+\.\d+)$", real)
    if match:
        return Copy(path, match.group(1), place, real)
    folder = os.path.dirname(real)
    for include in (
        os.path.join(folder, "..", "include"),
        os.path.join(folder, "..", "..", "include"),
        os.path.join(folder, "..", "..", "include", os.path.basename(folder)),
    ):
        header = os.path.normpath(os.path.join(include, library.header))
        version = header_version(header, library.macros)
        if version:
            return Copy(path, version, place, header)
    return Copy(path, None, place, path)


def loader_folders(root: str = "/") -> List[str]:
    """The folders of ld.so.conf (with its includes), then the loader's built-in ones; those that exist."""
    configured: List[str] = []
    _read_conf(root, os.path.join(root, "etc/ld.so.conf"), configured, set())
    found: List[str] = []
    for folder in configured + [os.path.join(root, name) for name in _DEFAULT_FOLDERS]:
        if os.path.isdir(folder) and folder not in found:
            found.append(folder)
    return found


def found(soname: str, root: str = "/") -> bool:
    """Whether a dynamic loader finds a library of the system."""
    return any(os.path.exists(os.path.join(folder, soname)) for folder in loader_folders(root))


def _read_conf(root: str, path: str, found: List[str], seen: Set[str]) -> None:
    if path in seen or len(seen) >= _INCLUDE_LIMIT:
        return
    seen.add(path)
    for raw in (files.text(path) or "").splitlines():
        line = raw.split("#", 1)[0].strip()
        if not line or line.startswith("hwcap"):
            continue
        if line.startswith("include "):
            pattern = line[len("include ") :].strip()
            if not pattern.startswith("/"):
                pattern = os.path.join("/etc", pattern)
            for name in sorted(glob.glob(os.path.join(root, pattern.lstrip("/")))):
                _read_conf(root, name, found, seen)
        else:
            found.append(os.path.join(root, line.lstrip("/")))


def _in_folders(folders: Sequence[str], library: _Library, place: str) -> List[Copy]:
    copies: List[Copy] = []
    for folder in folders:
        path = os.path.join(folder, library.soname)
        if os.path.exists(path):
            copies.append(_describe(path, library, place))
    return copies


def copies(
    library: _Library,
    root: str = "/",
    site_packages: Sequence[str] = (),
    cuda_home: Optional[str] = None,
    ld_library_path: str = "",
) -> List[Copy]:
    """Every copy, each real file once, the environment's own first."""
    kind = "cudnn" if library is CUDNN else "nccl"
    found = _in_folders([os.path.join(site, "nvidia", kind, "lib") for site in site_packages], library, "environment")
    if cuda_home:
        places = [os.path.join(cuda_home, name) for name in ("lib64", "lib", "targets/x86_64-linux/lib")]
        found += _in_folders(places, library, "cuda_home")
    found += _in_folders([part for part in ld_library_path.split(":") if part], library, "ld_library_path")
    found += _in_folders(loader_folders(root), library, "system")
    unique: Dict[str, Copy] = {}
    for copy in found:
        unique.setdefault(os.path.realpath(copy.path), copy)
    return list(unique.values())


def search_folders(root: str = "/", site_packages: Sequence[str] = (), cuda_home: Optional[str] = None) -> List[str]:
    """Where a compiled package's libraries are found once Torch is imported: beside it, then the system."""
    found: List[str] = []
    for site in site_packages:
        found.append(os.path.join(site, "torch", "lib"))
        found.extend(sorted(glob.glob(os.path.join(site, "nvidia", "*", "lib"))))
    if cuda_home:
        found.append(os.path.join(cuda_home, "lib64"))
    return found + loader_folders(root)


def unresolved(
    needed: Sequence[str],
    rpath: Sequence[str],
    path: str,
    folders: Sequence[str],
    known: Optional[Dict[str, bool]] = None,
) -> List[str]:
    """The libraries that a file at `path` needs and that are in none of the folders.

    `known` keeps what was found in `folders`: most libraries are there, and every file asks for the same.
    """
    origin = os.path.dirname(os.path.realpath(path))
    own = [folder.replace("$ORIGIN", origin).replace("${ORIGIN}", origin) for folder in rpath]
    shared: Dict[str, bool] = {} if known is None else known
    for name in needed:
        if name not in shared:
            shared[name] = _in_any(name, folders)
    return [name for name in needed if not shared[name] and not _in_any(name, [*own, origin])]


def _in_any(name: str, folders: Sequence[str]) -> bool:
    return any(os.path.exists(os.path.join(folder, name)) for folder in folders)
