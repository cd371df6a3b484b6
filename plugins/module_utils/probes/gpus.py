# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""NVIDIA GPUs and NVSwitches by PCI, read from /sys: no driver and no program is needed."""

from __future__ import annotations

import os
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from . import files

NVIDIA = 0x10DE
_DISPLAY = 0x03
_BRIDGE_OTHER = 0x0680
NVSWITCHES = {0x1AC2: "NVSwitch (V100)", 0x1AF1: "NVSwitch (A100)", 0x22A3: "NVSwitch (H100, H200)"}


class Generation(NamedTuple):
    """A range of PCI device ids of one chip family."""

    first: int
    last: int
    name: str
    capability: Optional[str]
    """None where the family has more than one: then the driver has to be asked."""


# Chips are numbered in blocks of 0x80 or more; within a block only the board differs.
GENERATIONS: Tuple[Generation, ...] = (
    Generation(0x1180, 0x12BF, "Kepler", None),
    Generation(0x1340, 0x13FF, "Maxwell", None),
    Generation(0x1400, 0x143F, "Maxwell", None),
    Generation(0x15F0, 0x15FF, "Pascal", "6.0"),
    Generation(0x1600, 0x17FF, "Maxwell", None),
    Generation(0x1B00, 0x1D7F, "Pascal", "6.1"),
    Generation(0x1D80, 0x1DFF, "Volta", "7.0"),
    Generation(0x1E00, 0x21FF, "Turing", "7.5"),
    Generation(0x20B0, 0x20FF, "Ampere", "8.0"),
    Generation(0x2200, 0x22FF, "Ampere", "8.6"),
    Generation(0x2300, 0x237F, "Hopper", "9.0"),
    Generation(0x2400, 0x25FF, "Ampere", "8.6"),
    Generation(0x2600, 0x28FF, "Ada Lovelace", "8.9"),
    Generation(0x2900, 0x29FF, "Blackwell", "10.0"),
    Generation(0x2B80, 0x2FFF, "Blackwell", "12.0"),
    Generation(0x3180, 0x31FF, "Blackwell", "10.3"),
)
# Families whose kernel module must be NVIDIA's proprietary one, and those that only the open one drives.
PROPRIETARY_ONLY = frozenset(("Kepler", "Maxwell", "Pascal", "Volta"))
OPEN_ONLY = frozenset(("Blackwell",))

NAMES: Dict[int, str] = {
    0x1DB1: "Tesla V100-SXM2-16GB",
    0x1DB4: "Tesla V100-PCIE-16GB",
    0x1DB5: "Tesla V100-SXM2-32GB",
    0x1DB6: "Tesla V100-PCIE-32GB",
    0x1EB8: "Tesla T4",
    0x20B0: "A100-SXM4-40GB",
    0x20B2: "A100-SXM4-80GB",
    0x20B5: "A100 80GB PCIe",
    0x20F1: "A100-PCIE-40GB",
    0x2235: "A40",
    0x2236: "A10",
    0x2321: "H100 NVL",
    0x2322: "H800 PCIe",
    0x2324: "H800",
    0x2329: "H20",
    0x2330: "H100 80GB HBM3",
    0x2331: "H100 PCIe",
    0x2335: "H200",
    0x2339: "H100",
    0x233B: "H200 NVL",
    0x2342: "GH200 120GB",
    0x2348: "GH200 144GB",
    0x26B5: "L40",
    0x26B9: "L40S",
    0x27B8: "L4",
    0x2901: "B200",
    0x2941: "GB200",
    0x2B85: "GeForce RTX 5090",
    0x2BB1: "RTX PRO 6000 Blackwell Workstation Edition",
    0x2BB5: "RTX PRO 6000 Blackwell Server Edition",
    0x3182: "B300",
}


def generation(device_id: int) -> Optional[Generation]:
    """The chip family of a PCI device id, None for one that this table does not know."""
    matches = [entry for entry in GENERATIONS if entry.first <= device_id <= entry.last]
    # the Turing block surrounds Ampere's first chip: the narrowest range is the right one
    return min(matches, key=lambda entry: entry.last - entry.first) if matches else None


def generation_of_capability(capability: str) -> Optional[str]:
    """The chip family by compute capability, where PCI ids do not tell."""
    table = {
        "3": "Kepler",
        "5": "Maxwell",
        "6": "Pascal",
        "9": "Hopper",
        "10": "Blackwell",
        "11": "Blackwell",
        "12": "Blackwell",
    }
    major, _dot, minor = capability.partition(".")
    if major == "7":
        return "Turing" if minor == "5" else "Volta"
    if major == "8":
        return "Ada Lovelace" if minor == "9" else "Ampere"
    return table.get(major)


def scan(root: str = "/") -> Dict[str, Any]:
    """{"gpus": [...], "nvswitches": n, "pci": whether /sys/bus/pci could be read}."""
    base = os.path.join(root, "sys/bus/pci/devices")
    found: List[Dict[str, Any]] = []
    switches = 0
    for address in files.names(base):
        device = os.path.join(base, address)
        if files.number(os.path.join(device, "vendor")) != NVIDIA:
            continue
        class_code = files.number(os.path.join(device, "class"))
        device_id = files.number(os.path.join(device, "device"))
        if class_code is None or device_id is None:
            continue
        if class_code >> 8 == _BRIDGE_OTHER or device_id in NVSWITCHES:
            switches += 1
        elif class_code >> 16 == _DISPLAY:
            found.append(_gpu(root, address, device, device_id))
    return {"gpus": found, "nvswitches": switches, "pci": os.path.isdir(base)}


def _gpu(root: str, address: str, device: str, device_id: int) -> Dict[str, Any]:
    family = generation(device_id)
    driver = os.path.join(device, "driver")
    numa = files.number(os.path.join(device, "numa_node"))
    return {
        "pci": address,
        "device_id": f"{device_id:04x}",
        "name": _model(root, address) or NAMES.get(device_id) or f"NVIDIA device {device_id:04x}",
        "compute_capability": family.capability if family else None,
        "generation": family.name if family else None,
        "memory_mb": None,
        "bound_to": os.path.basename(os.path.realpath(driver)) if os.path.exists(driver) else None,
        "numa_node": numa if numa is not None and numa >= 0 else None,
    }


def _model(root: str, address: str) -> Optional[str]:
    """The name that the loaded driver gives the GPU."""
    content = files.text(os.path.join(root, "proc/driver/nvidia/gpus", address, "information")) or ""
    for line in content.splitlines():
        key, _colon, value = line.partition(":")
        if key.strip() == "Model" and value.strip():
            return value.strip()
    return None
