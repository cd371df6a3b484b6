# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""A CUDA home: laid out with links from NVIDIA's wheels, or one that is there, its versions read from its files."""

from __future__ import annotations

import json
import os
import re
import shutil
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

from . import record

WHEELS = ".wheels"
VERSION_FILE = "version.json"
_LIBRARY = re.compile(r"^(lib[A-Za-z0-9_+-]+?)\.so(?:\.(\d+(?:\.\d+)*))?$")
_DEFINE = re.compile(r"^\s*#\s*define\s+(CUDA_VERSION|CUDNN_MAJOR|CUDNN_MINOR|CUDNN_PATCHLEVEL)\s+(\d+)", re.MULTILINE)
# Names that NVIDIA's own version.json uses for what the wheels bring.
_NAMES = {
    "cuda-cccl": ("cuda_cccl", "CUDA C++ Core Compute Libraries"),
    "cuda-cupti": ("cuda_cupti", "CUDA CUPTI"),
    "cuda-cuxxfilt": ("cuda_cuxxfilt", "CUDA cu++ filt"),
    "cuda-nvcc": ("cuda_nvcc", "CUDA NVCC"),
    "cuda-nvrtc": ("cuda_nvrtc", "CUDA NVRTC"),
    "cuda-profiler-api": ("cuda_profiler_api", "CUDA Profiler API"),
    "cuda-runtime": ("cuda_cudart", "CUDA Runtime (cudart)"),
    "cublas": ("libcublas", "CUDA cuBLAS"),
    "cufft": ("libcufft", "CUDA cuFFT"),
    "cufile": ("libcufile", "GPUDirect Storage (cufile)"),
    "curand": ("libcurand", "CUDA cuRAND"),
    "cusolver": ("libcusolver", "CUDA cuSOLVER"),
    "cusparse": ("libcusparse", "CUDA cuSPARSE"),
    "nvfatbin": ("libnvfatbin", "CUDA nvFatbin"),
    "nvjitlink": ("libnvjitlink", "CUDA nvJitLink"),
    "nvml-dev": ("cuda_nvml_dev", "CUDA NVML Headers"),
    "nvtx": ("cuda_nvtx", "CUDA NVTX"),
    "cudnn": ("cudnn", "NVIDIA cuDNN"),
}


class LayoutError(Exception):
    """A CUDA home that is none or is the wrong one; the text says what was found and what to do."""


class Toolkit(NamedTuple):
    """What a CUDA home says of itself; empty texts for what it does not say."""

    home: str
    version: str
    cudnn: str
    nvcc: bool


def read_toolkit(home: str) -> Toolkit:
    """The versions of a CUDA home from version.json or cuda.h, and from cuDNN's header."""
    return Toolkit(
        home, _cuda_version(home), _cudnn_version(home), os.access(os.path.join(home, "bin", "nvcc"), os.X_OK)
    )


def _cuda_version(home: str) -> str:
    try:
        with open(os.path.join(home, VERSION_FILE), encoding="utf-8") as handle:
            return str(json.load(handle)["cuda"]["version"])
    except (OSError, ValueError, KeyError, TypeError):
        number = _defines(os.path.join(home, "include", "cuda.h")).get("CUDA_VERSION", 0)
        return f"{number // 1000}.{number % 1000 // 10}" if number else ""


def _cudnn_version(home: str) -> str:
    for folder in (os.path.join(home, "include"), os.path.join(home, "targets", "x86_64-linux", "include")):
        found = _defines(os.path.join(folder, "cudnn_version.h"))
        if "CUDNN_MAJOR" in found:
            return ".".join(str(found.get(f"CUDNN_{part}", 0)) for part in ("MAJOR", "MINOR", "PATCHLEVEL"))
    return ""


def _defines(path: str) -> Dict[str, int]:
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            return {name: int(value) for name, value in _DEFINE.findall(handle.read())}
    except OSError:
        return {}


def serves(version: str, wanted: str) -> bool:
    """Whether a toolkit is of the wanted major and minor version."""
    return version.split(".")[:2] == wanted.split(".")[:2]


def check_existing(home: str, wanted: str) -> Toolkit:
    """A given CUDA home after a check: it must be one, and of the wanted major and minor version."""
    toolkit = read_toolkit(home)
    if not toolkit.version:
        raise LayoutError(
            f"cuda_home {home} is no CUDA toolkit: neither {VERSION_FILE} nor include/cuda.h was found there. "
            f"Set cuda_home to the folder of CUDA {wanted}, or cuda_source to another source."
        )
    if wanted and not serves(toolkit.version, wanted):
        raise LayoutError(
            f"cuda_home {home} holds CUDA {toolkit.version}, {wanted} is needed. "
            f"Set cuda_home to such a toolkit, or cuda_source to another source."
        )
    return toolkit


def component(dist: str) -> Optional[Tuple[str, str]]:
    """NVIDIA's key and title for a wheel's name (nvidia-cublas-cu12), None for any other package."""
    match = re.match(r"^nvidia-(.+?)(?:-cu\d+)?$", dist)
    return _NAMES.get(match.group(1)) if match else None


def version_json(version: str, packages: Mapping[str, str]) -> Dict[str, Dict[str, str]]:
    """The content of version.json for a home made of wheels."""
    data = {"cuda": {"name": "CUDA SDK", "version": version}}
    for dist, number in sorted(packages.items()):
        known = component(dist)
        if known is not None:
            data[known[0]] = {"name": known[1], "version": number}
    return data


def parts(site: str) -> List[str]:
    """The component folders of NVIDIA's wheels in a folder, sorted."""
    base = os.path.join(site, "nvidia")
    try:
        names = sorted(os.listdir(base))
    except OSError:
        return []
    return [os.path.join(base, name) for name in names if os.path.isdir(os.path.join(base, name))]


def plan_links(site: str) -> Dict[str, str]:
    """Path in the home -> file in the wheels, for everything that a CUDA home shows."""
    links: Dict[str, str] = {}
    for part in parts(site):
        for source, target in (("include", "include"), ("bin", "bin"), ("nvvm", "nvvm"), ("lib", "lib64")):
            folder = os.path.join(part, source)
            # cuDNN's libraries stay out of the home, its headers come in: one cuDNN is in use, the environment's own.
            # TransformerEngine would load the main library from here, alone, and not find the others.
            if source == "lib" and os.path.basename(part) == "cudnn":
                continue
            for path in _files(folder):
                inside = os.path.relpath(path, folder)
                if source == "lib" and os.path.dirname(inside) and not inside.endswith((".so", ".a")):
                    continue
                links.setdefault(os.path.join(target, inside), path)
    for name, path in list(links.items()):
        if os.path.dirname(name) == "lib64":
            match = _LIBRARY.match(os.path.basename(name))
            if match and match.group(2):
                links.setdefault(os.path.join("lib64", match.group(1) + ".so"), path)
    return links


def _files(folder: str) -> List[str]:
    found = []
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        found += [os.path.join(base, name) for name in sorted(names) if not name.startswith("__init__.py")]
    return found


def lay_out(home: str, site: str, version: str, packages: Mapping[str, str]) -> Dict[str, Any]:
    """Make the home from the wheels in site (a folder inside it); version.json comes last and is the proof."""
    version_path = os.path.join(home, VERSION_FILE)
    for name in os.listdir(home):
        if name in (WHEELS, ".busy"):
            continue
        path = os.path.join(home, name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    links = plan_links(site)
    missing = [name for name in ("include/cuda.h", "include/cuda_runtime.h", "lib64/libcudart.so") if name not in links]
    if missing:
        raise LayoutError(f"the wheels under {site} make no CUDA home: {', '.join(missing)} is missing")
    made = set()
    for name, source in sorted(links.items()):
        path = os.path.join(home, name)
        folder = os.path.dirname(path)
        if folder not in made:
            os.makedirs(folder, exist_ok=True)
            made.add(folder)
        os.symlink(os.path.relpath(source, folder), path)
        if name.startswith(("bin/", "nvvm/bin/")) and not os.access(source, os.X_OK):
            os.chmod(source, 0o755)
    os.symlink("lib64", os.path.join(home, "lib"))
    targets = os.path.join(home, "targets", "x86_64-linux")
    os.makedirs(targets)
    os.symlink("../../include", os.path.join(targets, "include"))
    os.symlink("../../lib64", os.path.join(targets, "lib"))
    text = json.dumps(version_json(version, packages), indent=3) + "\n"
    with open(version_path + ".new", "w", encoding="utf-8") as handle:
        handle.write(text)
    os.replace(version_path + ".new", version_path)
    return {"links": len(links)}


def wheels(home: str) -> str:
    """The folder of the wheels that a CUDA home is made of; empty where it is made of none, or is another release's."""
    site = os.path.join(home, WHEELS)
    return site if os.path.isdir(site) and not os.path.islink(home) else ""


def damage(home: str, mode: str) -> List[str]:
    """How a CUDA home differs from its wheels' RECORDs and from the layout, in words."""
    site = wheels(home)
    if not site:
        return []
    words = [f"{p.name}: {p.path} {p.detail}".replace("  ", " ") for p in record.verify(site, None, mode).problems[:10]]
    return words if words or intact(home, site) else [f"{home} lacks files or links of its wheels"]


def intact(home: str, site: str) -> bool:
    """True when every link of the layout is there and leads to a file (milliseconds to a fraction of a second)."""
    if not os.path.isfile(os.path.join(home, VERSION_FILE)):
        return False
    links = plan_links(site)
    return bool(links) and all(os.path.exists(os.path.join(home, name)) for name in links)
