# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The NVIDIA driver in its four places: loaded module, module on disk for each kernel, user space, packages."""

from __future__ import annotations

import glob
import os
import re
from typing import Any, Dict, List, Optional, Tuple

from . import elf, files, packages

_VERSION = re.compile(r"\b(\d{3}\.\d+(?:\.\d+)?)\b")
_LIBRARIES = ("libnvidia-ml.so.1", "libcuda.so.1")
_FOLDERS = (
    "usr/lib/x86_64-linux-gnu",
    "lib/x86_64-linux-gnu",
    "usr/lib64",
    "lib64",
    "usr/lib",
    "usr/lib/wsl/lib",
    "usr/local/nvidia/lib64",
)


def parse_proc(text: str) -> Optional[Dict[str, Any]]:
    """/proc/driver/nvidia/version: the loaded module's version and whether it is the open one."""
    first = text.splitlines()[0] if text.strip() else ""
    match = _VERSION.search(first)
    if match is None:
        return None
    return {"version": match.group(1), "open": "Open Kernel Module" in first}


def parse_modinfo(raw: bytes) -> Dict[str, str]:
    """The section .modinfo of a kernel module: strings key=value, separated by zeros; the first of each key."""
    found: Dict[str, str] = {}
    for part in raw.split(b"\0"):
        key, separator, value = part.partition(b"=")
        if separator:
            found.setdefault(key.decode("utf-8", "replace"), value.decode("utf-8", "replace"))
    return found


def _module_version(path: str) -> Tuple[Optional[str], Optional[bool]]:
    """Version and openness of a kernel module's file; a compressed one is given to modinfo."""
    info: Dict[str, str] = {}
    if path.endswith(".ko"):
        try:
            with elf.ElfFile(path) as file:
                info = parse_modinfo(file.content(".modinfo"))
        except (OSError, elf.ElfError):
            return None, None
    else:
        import subprocess

        try:
            done = subprocess.run(
                ["modinfo", "-0", path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=10, check=False
            )
            info = {key: value.strip() for key, value in parse_modinfo(done.stdout.replace(b":", b"=")).items()}
        except (OSError, subprocess.SubprocessError):
            return None, None
    license_text = info.get("license")
    return info.get("version"), None if license_text is None else license_text.startswith("Dual MIT/GPL")


def kernels(root: str = "/") -> List[str]:
    """Kernels with a folder of modules, oldest first."""
    names = [name for name in files.names(os.path.join(root, "lib/modules")) if re.match(r"\d+\.\d+", name)]
    return sorted(names, key=_kernel_key)


def _kernel_key(name: str) -> List[Tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"[.-]|(?<=\d)(?=\D)", name) if part]


# Debian's packages name it after themselves: nvidia-current.ko, nvidia-current-open.ko. Not nvidia-uvm.ko and the other parts.
_MODULE = re.compile(r"nvidia(-current|-tesla(-\d+)?|-legacy-\w+)?(-open)?\.ko(\.\w+)?")


def module_on_disk(kernel: str, root: str = "/") -> Optional[Dict[str, Any]]:
    """The nvidia module that would be loaded for this kernel: version, path, openness; None where there is none."""
    base = os.path.join(root, "lib/modules", kernel)
    patterns = (
        "updates/dkms",
        "updates",
        "extra",
        "kernel/drivers/video",
        "kernel/nvidia-*",
        "kernel/drivers/char/drm",
        "nvidia",
        "misc",
    )
    for pattern in patterns:
        for folder in (pattern, pattern + "/nvidia"):
            for path in sorted(glob.glob(os.path.join(base, folder, "nvidia*.ko*"))):
                if _MODULE.fullmatch(os.path.basename(path)):
                    version, is_open = _module_version(path)
                    return {"kernel": kernel, "version": version, "open": is_open, "path": path}
    return None


def userspace(root: str = "/") -> Dict[str, Dict[str, str]]:
    """The driver's libraries that programs would load: {"libcuda.so.1": {"version", "path"}}."""
    found: Dict[str, Dict[str, str]] = {}
    for name in _LIBRARIES:
        for folder in _FOLDERS:
            path = os.path.join(root, folder, name)
            if not os.path.exists(path):
                continue
            match = re.search(r"\.so\.(\d{3}\.\d+(?:\.\d+)?)$", os.path.realpath(path))
            if match:
                found[name] = {"version": match.group(1), "path": path}
                break
    return found


def newest_kernel(root: str = "/") -> Optional[str]:
    """The newest installed kernel: the one that a reboot is expected to start."""
    bootable = [
        name
        for name in kernels(root)
        if os.path.exists(os.path.join(root, "boot", "vmlinuz-" + name))
        or os.path.exists(os.path.join(root, "lib/modules", name, "vmlinuz"))
    ]
    return bootable[-1] if bootable else None


def probe(
    root: str = "/", kernel: Optional[str] = None, dpkg: Optional[packages.Dpkg] = None
) -> Optional[Dict[str, Any]]:
    """Everything about the driver; None where there is no trace of one."""
    running = kernel or os.uname().release
    proc = parse_proc(files.text(os.path.join(root, "proc/driver/nvidia/version")) or "")
    sysfs = files.line(os.path.join(root, "sys/module/nvidia/version"))
    newest = newest_kernel(root)
    disk = [module_on_disk(name, root) for name in dict.fromkeys((running, newest or running))]
    on_disk = [entry for entry in disk if entry is not None]
    libraries = userspace(root)
    installed = driver_packages(dpkg) if dpkg is not None else {}
    if not (proc or sysfs or on_disk or libraries or installed):
        return None
    user = next((entry["version"] for entry in libraries.values()), None)
    is_open = proc["open"] if proc else next((entry["open"] for entry in on_disk), None)
    return {
        "loaded": proc["version"] if proc else sysfs,
        "kind": None if is_open is None else "open" if is_open else "proprietary",
        "on_disk": on_disk,
        "running_kernel": running,
        "newest_kernel": newest,
        "userspace": user,
        "libraries": libraries,
        "packages": installed,
        "nouveau": os.path.isdir(os.path.join(root, "sys/module/nouveau")),
        "device_nodes": [
            name for name in files.names(os.path.join(root, "dev")) if re.fullmatch(r"nvidia(\d+|ctl|-uvm)", name)
        ],
    }


_DRIVER_PACKAGE = re.compile(
    r"^(nvidia-driver(-\d+.*)?|nvidia-dkms(-\d+.*)?|nvidia-kernel-.*|nvidia-open(-\d+)?|cuda-drivers(-\d+)?"
    r"|libnvidia-compute(-\d+.*)?|nvidia-utils(-\d+.*)?|libcuda1|nvidia-persistenced|nvidia-smi)$"
)


def driver_packages(dpkg: packages.Dpkg) -> Dict[str, str]:
    """The driver's packages and their versions without epoch and revision."""
    return {
        name: upstream(entry.version)
        for name, entry in sorted(dpkg.items())
        if entry.installed and _DRIVER_PACKAGE.match(name) and _VERSION.search(entry.version)
    }


def upstream(version: str) -> str:
    """570.133.20 out of the package version 1:570.133.20-0ubuntu1."""
    match = _VERSION.search(version)
    return match.group(1) if match else version
