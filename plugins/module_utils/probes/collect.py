# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""All probes together: one dictionary of facts, of which absence is a part."""

from __future__ import annotations

import os
import re
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

from . import cuda, dists, driver, elf, fatbin, files, gpus, libraries, packages, system

# The packages whose compiled files are read where no stack names them.
EXTENSIONS = ("flash-attn", "transformer-engine-cu12", "transformer-engine-torch", "sgl-kernel", "apex")

NvmlProbe = Callable[[], Dict[str, Any]]
_BUILD_META = re.compile(r"^build_meta\s*=\s*\{(.*)\}\s*$", re.M)
_BUILD_VALUE = re.compile(r"""['"](\w+)['"]\s*:\s*(?:'([^']*)'|"([^"]*)"|(\d+)\b)""")


def ask_nvml() -> Dict[str, Any]:
    """What NVML says of the GPUs; its reader is imported by hosts that have some."""
    from . import nvml

    return nvml.probe()


def flashinfer_build(site_packages: Sequence[str]) -> Dict[str, Any]:
    """What flashinfer/_build_meta.py says: the Torch and CUDA that the package was built with."""
    for site in site_packages:
        path = os.path.join(site, "flashinfer", "_build_meta.py")
        content = files.text(path)
        if content is None:
            continue
        match = _BUILD_META.search(content)
        pairs = _BUILD_VALUE.findall(match.group(1)) if match else []
        meta = {name: int(number) if number else one or two for name, one, two, number in pairs}
        return {"source": path, "torch": meta.get("torch"), "cuda_major": meta.get("cuda_major")}
    return {}


def extension(
    paths: Sequence[str], folders: Sequence[str] = (), known: Optional[Dict[str, bool]] = None
) -> Dict[str, Any]:
    """Each of a package's compiled files: architectures, C++ ABI, newest glibc asked for, libraries not to be found."""
    found: List[Dict[str, Any]] = []
    own = sorted({os.path.dirname(path) for path in paths})
    for path in paths:
        entry: Dict[str, Any] = {
            "path": path,
            "sass": [],
            "ptx": [],
            "cxx11_abi": None,
            "glibc": None,
            "unresolved": [],
        }
        entry["problem"] = None
        try:
            entry.update(fatbin.as_dict(fatbin.read(path)))
            with elf.ElfFile(path) as file:
                entry["cxx11_abi"] = file.cxx11_abi()
                dynamic = file.dynamic()
                newest = elf.maximum_glibc(file.needed_versions())
            entry["glibc"] = ".".join(str(part) for part in newest) if newest else None
            search = dynamic.runpath or dynamic.rpath
            entry["unresolved"] = libraries.unresolved(dynamic.needed, [*search, *own], path, folders, known)
        except (OSError, elf.ElfError) as error:
            entry["problem"] = str(error)
        found.append(entry)
    abis = [entry["cxx11_abi"] for entry in found if entry["cxx11_abi"] is not None]
    return {
        "files": found,
        "architectures": fatbin.as_dict(fatbin.merged([fatbin.from_dict(entry) for entry in found])),
        "cxx11_abi": all(abis) if abis else None,
    }


def gpu_facts(
    root: str = "/", ask: Optional[NvmlProbe] = ask_nvml, dpkg: Optional[packages.Dpkg] = None
) -> Dict[str, Any]:
    """GPUs by PCI, completed by NVML where a driver is loaded."""
    found = gpus.scan(root)
    state = driver.probe(root, dpkg=packages.read(root) if dpkg is None else dpkg)
    answer: Optional[Dict[str, Any]] = None
    if ask is not None and state is not None and (state["loaded"] or state["device_nodes"]):
        answer = ask()
        _merge(found["gpus"], answer["gpus"])
    return {
        "gpus": found["gpus"],
        "nvswitches": found["nvswitches"],
        "driver": state,
        "nvml": None if answer is None else {key: value for key, value in answer.items() if key != "gpus"},
        "reason": _reason(found, state, answer),
    }


def _merge(by_pci: List[Dict[str, Any]], by_nvml: Sequence[Mapping[str, Any]]) -> None:
    known = {gpu["pci"]: gpu for gpu in by_pci}
    for entry in by_nvml:
        gpu = known.get(str(entry.get("pci")))
        if gpu is None:
            if "error" in entry or not entry.get("pci"):
                continue
            gpu = {"pci": entry["pci"], "generation": None, "bound_to": "nvidia", "numa_node": None}
            by_pci.append(gpu)
        gpu.update({key: value for key, value in entry.items() if value is not None})
        if gpu.get("compute_capability") and not gpu.get("generation"):
            gpu["generation"] = gpus.generation_of_capability(str(gpu["compute_capability"]))


def _reason(
    found: Mapping[str, Any], state: Optional[Mapping[str, Any]], answer: Optional[Mapping[str, Any]]
) -> Optional[str]:
    """Why GPUs or their details are missing; None where nothing is."""
    if not found["gpus"]:
        return "no NVIDIA GPU on the PCI bus" if found["pci"] else "no NVIDIA GPU: /sys/bus/pci is not readable here"
    if state is None:
        return "no NVIDIA driver is installed"
    if answer is None:
        return "the NVIDIA driver is not loaded" if not (state["loaded"] or state["device_nodes"]) else None
    error = answer.get("error")
    return str(error) if error else None


def facts(
    root: str = "/",
    prefix: Optional[str] = None,
    cuda_home: Optional[str] = None,
    ld_library_path: str = "",
    ask: Optional[NvmlProbe] = ask_nvml,
    extensions: Sequence[str] = EXTENSIONS,
    listing: Optional[dists.Listing] = None,
) -> Dict[str, Any]:
    """Everything. `prefix` is the folder of the Python environment, `extensions` the packages whose files are read,
    `listing` its packages where they were listed before."""
    environment = dists.environment(prefix) if prefix else None
    site_packages = environment.site_packages if environment else []
    listing = dists.list_dists(site_packages) if listing is None else listing
    folders = libraries.search_folders(root, site_packages, cuda_home)
    known: Dict[str, bool] = {}
    dpkg = packages.read(root)
    gpu = gpu_facts(root, ask, dpkg)
    homes = cuda.homes(root, [cuda_home] if cuda_home else [])
    return {
        "python": None
        if environment is None
        else {"prefix": environment.prefix, "version": environment.python_version, "site_packages": site_packages},
        "packages": {name: dist.version for name, dist in sorted(listing.dists.items())},
        "duplicates": {name: [dist.version for dist in found] for name, found in sorted(listing.duplicates.items())},
        "leftovers": listing.leftovers,
        "broken": [dist.path for dist in listing.broken],
        "torch": dists.torch_build(site_packages),
        "flashinfer": flashinfer_build(site_packages),
        "commits": {
            name: dists.commit(listing.dists[name])
            for name in ("apex", "megatron-core", "verl")
            if name in listing.dists
        },
        "cuda": {"home": cuda_home, "homes": homes},
        "cudnn": [
            copy._asdict()
            for copy in libraries.copies(libraries.CUDNN, root, site_packages, cuda_home, ld_library_path)
        ],
        "nccl": [
            copy._asdict() for copy in libraries.copies(libraries.NCCL, root, site_packages, cuda_home, ld_library_path)
        ],
        "extensions": {
            name: extension(dists.shared_libraries(listing.dists[name]), folders, known)
            for name in extensions
            if name in listing.dists
        },
        "gpus": gpu["gpus"],
        "nvswitches": gpu["nvswitches"],
        "driver": gpu["driver"],
        "nvml": gpu["nvml"],
        "gpu_reason": gpu["reason"],
        "system": system.probe(root),
        "system_packages": {name: entry.version for name, entry in sorted(dpkg.items()) if entry.installed},
        "held": sorted(name for name, entry in dpkg.items() if entry.held),
        "half_installed": sorted(name for name, entry in dpkg.items() if entry.half),
        "apt_sources": packages.sources(root),
        "driver_pin": packages.driver_pin(root),
    }
