# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""CUDA toolkits: what a CUDA home says about itself, and which homes are there."""

from __future__ import annotations

import glob
import json
import os
import re
from typing import Any, Dict, List, Optional, Sequence

from . import files

_RELEASE = re.compile(r"release (\d+\.\d+), V(\d+\.\d+\.\d+)")


def parse_version_json(text: str) -> Dict[str, str]:
    """Component versions of a toolkit's version.json, for example {"cuda": "12.8.1", "cuda_nvcc": "12.8.93"}."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    if not isinstance(value, dict):
        return {}
    found: Dict[str, str] = {}
    for name, entry in value.items():
        version = entry.get("version") if isinstance(entry, dict) else None
        if isinstance(version, str):
            found[str(name)] = version
    return found


def decode(number: Optional[int]) -> Optional[str]:
    """12080, as CUDA's headers and driver write it, is 12.8."""
    if number is None or number < 1000:
        return None
    return f"{number // 1000}.{number % 1000 // 10}"


def parse_nvcc(text: str) -> Optional[str]:
    """The version in the output of `nvcc -V`, for example 12.8.93."""
    match = _RELEASE.search(text)
    return match.group(2) if match else None


def home(path: str) -> Optional[Dict[str, Any]]:
    """What the toolkit in this folder is: its version from version.json, or a header; None where there is none."""
    if not os.path.isdir(path):
        return None
    version_json = parse_version_json(files.text(os.path.join(path, "version.json")) or "")
    header = None
    source = None
    for name, macro in (("cuda.h", "CUDA_VERSION"), ("cuda_runtime_api.h", "CUDART_VERSION")):
        for folder in ("include", "targets/x86_64-linux/include"):
            candidate = os.path.join(path, folder, name)
            header = decode(files.macro(candidate, macro))
            if header:
                source = candidate
                break
        if header:
            break
    version = version_json.get("cuda")
    if version:
        source = os.path.join(path, "version.json")
    nvcc = os.path.join(path, "bin", "nvcc")
    found: Dict[str, Any] = {
        "home": path,
        "real": os.path.realpath(path),
        "version": version or header,
        "header": header,
        "source": source,
        "nvcc": version_json.get("cuda_nvcc"),
        "compiler": os.access(nvcc, os.X_OK),
    }
    if found["version"] is None and not found["compiler"]:
        return None
    return found


def _nvcc(path: str, option: str) -> str:
    """What the home's own nvcc says to an option, nothing where there is none or it does not answer."""
    nvcc = os.path.join(path, "bin", "nvcc")
    if not os.access(nvcc, os.X_OK):
        return ""
    import subprocess

    try:
        done = subprocess.run([nvcc, option], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("utf-8", "replace")


def ask_nvcc(path: str) -> Optional[str]:
    """The version that the home's own nvcc tells, None where there is none or it does not answer."""
    return parse_nvcc(_nvcc(path, "-V"))


def architectures_of_nvcc(path: str) -> List[str]:
    """The architectures that the home's own nvcc makes machine code for, for example 90; empty where it does not tell."""
    return re.findall(r"^sm_(\d+)$", _nvcc(path, "--list-gpu-code"), re.M)


def homes(root: str = "/", extra: Sequence[str] = ()) -> List[Dict[str, Any]]:
    """The given homes, then those in /usr/local, each real folder once."""
    candidates = [path for path in extra if path]
    candidates.append(os.path.join(root, "usr/local/cuda"))
    candidates.extend(sorted(glob.glob(os.path.join(root, "usr/local/cuda-*"))))
    found: List[Dict[str, Any]] = []
    seen = set()
    for path in candidates:
        real = os.path.realpath(path)
        if real in seen:
            continue
        toolkit = home(path)
        if toolkit is not None:
            seen.add(real)
            found.append(toolkit)
    return found
