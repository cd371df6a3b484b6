# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Debian packages as dpkg's own status file tells them: no program is run."""

from __future__ import annotations

import os
import re
from typing import Dict, List, NamedTuple, Optional

from . import files

_LIMIT = 64 * 1024 * 1024


class Package(NamedTuple):
    version: str
    installed: bool
    held: bool
    half: bool
    """Half-installed, half-configured or unpacked: an interrupted transaction."""


Dpkg = Dict[str, Package]

_DRIVER_SOURCE = re.compile(r"nvidia|/cuda|graphics-drivers|lambdalabs", re.I)
# The container toolkit and the profilers have repositories of their own.
_OTHER_SOURCE = re.compile(r"libnvidia-container|devtools", re.I)
_INTERESTING = re.compile(r"nvidia|cuda|cudnn|nccl|datacenter-gpu-manager|^nsight|^nvlsm|^libcuda", re.I)


def parse_status(text: str) -> Dpkg:
    """The packages about NVIDIA in a dpkg status file."""
    found: Dpkg = {}
    for paragraph in text.split("\n\n"):
        if not paragraph.startswith("Package: "):
            paragraph = paragraph.lstrip("\n")
            if not paragraph.startswith("Package: "):
                continue
        name = paragraph[9:].split("\n", 1)[0].strip()
        if not _INTERESTING.search(name):
            continue
        status = _field(paragraph, "Status").split()
        if len(status) != 3:
            continue
        found[name] = Package(
            _field(paragraph, "Version"),
            status[2] == "installed",
            status[0] == "hold",
            status[2] in ("half-installed", "half-configured", "unpacked"),
        )
    return found


def _field(paragraph: str, name: str) -> str:
    match = re.search(rf"^{name}:[ \t]*(.*)$", paragraph, re.M)
    return match.group(1).strip() if match else ""


def read(root: str = "/") -> Dpkg:
    """NVIDIA's packages of this system; none where dpkg is not used."""
    return parse_status(files.text(os.path.join(root, "var/lib/dpkg/status"), _LIMIT) or "")


def driver_pin(root: str = "/") -> Optional[str]:
    """The file of apt preferences with which the role driver keeps a driver at its version."""
    path = os.path.join(root, "etc/apt/preferences.d/00verl-nvidia-driver")
    return path if os.path.exists(path) else None


def sources(root: str = "/") -> List[Dict[str, str]]:
    """apt sources that bring NVIDIA's driver or CUDA: [{"file", "uri"}], disabled ones left out."""
    found: List[Dict[str, str]] = []
    base = os.path.join(root, "etc/apt")
    listed = [os.path.join(base, "sources.list")]
    listed += [os.path.join(base, "sources.list.d", name) for name in files.names(os.path.join(base, "sources.list.d"))]
    for path in listed:
        content = files.text(path) or ""
        if path.endswith(".sources"):
            uris = _deb822_uris(content)
        elif path.endswith(".list"):
            uris = re.findall(r"^\s*deb(?:-src)?\s+(?:\[[^\]]*\]\s+)?(\S+)", content, re.M)
        else:
            continue
        for uri in dict.fromkeys(uris):
            if _DRIVER_SOURCE.search(uri) and not _OTHER_SOURCE.search(uri):
                found.append({"file": path, "uri": uri})
    return found


def _deb822_uris(content: str) -> List[str]:
    uris: List[str] = []
    for paragraph in re.split(r"\n\s*\n", content):
        if _field(paragraph, "Enabled").lower() in ("no", "false"):
            continue
        uris.extend(_field(paragraph, "URIs").split())
    return uris
