# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Questions about a host that the driver's decision needs, answered from files below a root folder."""

from __future__ import annotations

import fnmatch
import os
from typing import Iterable, List, NamedTuple, Sequence

from ansible_collections.verl.baremetal.plugins.module_utils.nvidia import tables
from ansible_collections.verl.baremetal.plugins.module_utils.nvidia.decide import Gpu
from ansible_collections.verl.baremetal.plugins.module_utils.probes import driver
from ansible_collections.verl.baremetal.plugins.module_utils.probes import gpus as pci

# Services of the driver itself hold its devices; its packages stop them.
OWN_SERVICES = ("nvidia-persiste", "nvidia-persistenced", "nv-fabricmanage", "nv-fabricmanager")


class Devices(NamedTuple):
    """NVIDIA's devices on the PCI bus."""

    gpus: List[Gpu]
    nvswitches: int


def read(*parts: str) -> str:
    """A small file's text without its last newline, or an empty string."""
    try:
        with open(os.path.join(*parts), encoding="utf-8", errors="replace") as handle:
            return handle.read().strip()
    except OSError:
        return ""


def devices_of(ids: Sequence[str]) -> Devices:
    """GPUs and NVSwitches of a list of PCI device ids such as 2330 or 0x22a3."""
    bare = [item.lower()[2:] if item.lower().startswith("0x") else item.lower() for item in ids]
    gpus = [Gpu(item, tables.generation_of(item)) for item in bare if item not in tables.NVSWITCH_IDS]
    return Devices(gpus, len(bare) - len(gpus))


def pci_devices(root: str = "/") -> Devices:
    """GPUs and NVSwitches found on the PCI bus."""
    found = pci.scan(root)
    gpus = [Gpu(gpu["device_id"], gpu["generation"] or "", gpu["name"]) for gpu in found["gpus"]]
    return Devices(gpus, found["nvswitches"])


def loaded_driver(root: str = "/") -> str:
    """The version of the loaded kernel module, or an empty string."""
    proc = driver.parse_proc(read(root, "proc/driver/nvidia/version"))
    return str(proc["version"]) if proc else read(root, "sys/module/nvidia/version")


def loaded_modules(root: str = "/") -> str:
    """The kind of the loaded kernel module, open or proprietary, or an empty string."""
    proc = driver.parse_proc(read(root, "proc/driver/nvidia/version"))
    return "" if proc is None else "open" if proc["open"] else "proprietary"


def kernels(running: str, root: str = "/") -> List[str]:
    """The running and the newest installed kernel; one without modules (a container shows its host's) is left out."""
    names = driver.kernels(root)
    newest = driver.newest_kernel(root)
    return list(dict.fromkeys(([running] if running in names else []) + ([newest] if newest else [])))


def header_metapackages(packages: Iterable[str]) -> List[str]:
    """linux-headers-amd64 for linux-image-amd64: the metapackages that bring each new kernel's headers with it."""
    found = []
    for name in sorted(packages):
        flavour = name[len("linux-image-") :]
        if name.startswith("linux-image-") and flavour[:1].isalpha() and not flavour.startswith(("unsigned", "extra")):
            found.append("linux-headers-" + flavour)
    return found


def gpu_processes(root: str = "/", ignore: Sequence[str] = ()) -> List[str]:
    """Processes that hold an NVIDIA device open, as `name (pid N)`; the driver's own and ignored ones do not count."""
    folder = os.path.join(root, "proc")
    found = []
    for pid in sorted((name for name in os.listdir(folder) if name.isdigit()), key=int):
        descriptors = os.path.join(folder, pid, "fd")
        try:
            targets = [os.readlink(os.path.join(descriptors, number)) for number in os.listdir(descriptors)]
        except OSError:
            continue
        if any(target.startswith("/dev/nvidia") for target in targets):
            name = read(folder, pid, "comm")
            if not any(fnmatch.fnmatch(name, pattern) for pattern in (*OWN_SERVICES, *ignore)):
                found.append(f"{name} (pid {pid})")
    return found
