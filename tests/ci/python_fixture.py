#!/usr/bin/env python3
# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Builds the fixture of a mirror of the Pythons that uv brings: this system's own Python, packed as uv's archives are.

With it a list of downloads that uv reads in place of the one that is built in (UV_PYTHON_DOWNLOADS_JSON_URL), since the archive's
sha256 is another. Usage: python_fixture.py FOLDER
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import sysconfig
import tarfile
from pathlib import Path
from typing import Optional, Tuple

RELEASE = "20990101"
ORIGIN = "https://github.com/astral-sh/python-build-standalone/releases/download"
LEFT_OUT = {"__pycache__", "test", "idlelib", "tkinter", "lib2to3", "site-packages", "dist-packages", "sitecustomize.py"}


def wanted(info: tarfile.TarInfo) -> Optional[tarfile.TarInfo]:
    """What a virtual environment does not need stays out."""
    parts = set(info.name.split("/"))
    return None if parts & LEFT_OUT or any(part.startswith("config-") for part in parts) else info


def build(folder: Path) -> Tuple[str, str]:
    """The minor version, and the archive's path below the folder."""
    version = platform.python_version()
    short, name = version.rpartition(".")[0], f"cpython-{version}+{RELEASE}-x86_64-unknown-linux-gnu-install_only_stripped.tar.gz"
    archive = folder / RELEASE / name
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz", compresslevel=1) as packed:
        packed.add(os.path.realpath(sys.executable), f"python/bin/python{short}")
        for link in ("python3", "python"):
            info = tarfile.TarInfo("python/bin/" + link)
            info.type, info.linkname = tarfile.SYMTYPE, "python" + short
            packed.addfile(info)
        packed.add(sysconfig.get_path("stdlib"), f"python/lib/python{short}", filter=wanted)
    major, minor, patch = (int(part) for part in version.split("."))
    entry = {
        "name": "cpython", "arch": {"family": "x86_64", "variant": None}, "os": "linux", "libc": "gnu",
        "major": major, "minor": minor, "patch": patch, "prerelease": "", "variant": None, "build": RELEASE,
        "url": f"{ORIGIN}/{RELEASE}/" + name.replace("+", "%2B"), "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
    }  # fmt: skip
    (folder / "downloads.json").write_text(json.dumps({f"cpython-{version}-linux-x86_64-gnu": entry}))
    return short, f"{RELEASE}/{name}"


if __name__ == "__main__":
    print(*build(Path(sys.argv[1])))
