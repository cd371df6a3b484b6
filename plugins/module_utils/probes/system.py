# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The operating system, as far as the stack depends on it."""

from __future__ import annotations

import json
import os
import re
import resource
from typing import Any, Dict, List, Mapping, Optional

from . import files

_EFIVARS = "sys/firmware/efi/efivars"
_SECURE_BOOT = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"


def os_release(root: str = "/") -> Dict[str, Optional[str]]:
    """id, version and name of the distribution."""
    content = (
        files.text(os.path.join(root, "etc/os-release")) or files.text(os.path.join(root, "usr/lib/os-release")) or ""
    )
    values = {
        match.group(1): match.group(2).strip().strip("\"'") for match in re.finditer(r"^([A-Z_]+)=(.*)$", content, re.M)
    }
    return {"id": values.get("ID"), "version": values.get("VERSION_ID"), "name": values.get("PRETTY_NAME")}


def glibc() -> Optional[str]:
    """The version of the C library that this process runs with."""
    try:
        text = os.confstr("CS_GNU_LIBC_VERSION")
    except (ValueError, OSError):
        return None
    match = re.match(r"glibc (\d+\.\d+)", text or "")
    return match.group(1) if match else None


def secure_boot(root: str = "/") -> Optional[bool]:
    """Whether Secure Boot is on; None on a machine without EFI variables."""
    try:
        with open(os.path.join(root, _EFIVARS, _SECURE_BOOT), "rb") as stream:
            content = stream.read(8)
    except OSError:
        return None
    # four bytes of attributes, then the value
    return content[4] == 1 if len(content) >= 5 else None


def pending_reboot(root: str = "/") -> Dict[str, Any]:
    """Whether the system asks for a reboot, and because of which packages."""
    for folder in ("run", "var/run"):
        marker = os.path.join(root, folder, "reboot-required")
        if os.path.exists(marker):
            names = (files.text(marker + ".pkgs") or "").split()
            return {"required": True, "packages": sorted(set(names)), "source": marker}
    return {"required": False, "packages": [], "source": None}


def dkms(root: str = "/") -> List[Dict[str, str]]:
    """NVIDIA's modules in DKMS's tree: [{"module", "version", "kernel", "state"}], state built, added or failed."""
    base = os.path.join(root, "var/lib/dkms")
    found: List[Dict[str, str]] = []
    for module in files.names(base):
        if not module.startswith("nvidia"):
            continue
        for version in files.names(os.path.join(base, module)):
            tree = os.path.join(base, module, version)
            if version.startswith(("kernel-", "original_module")) or not os.path.isdir(tree):
                continue
            kernels = [
                name
                for name in files.names(tree)
                if re.match(r"\d+\.\d+", name)
                and any(_has_module(os.path.join(tree, name, arch)) for arch in files.names(os.path.join(tree, name)))
            ]
            for kernel in kernels:
                found.append({"module": module, "version": version, "kernel": kernel, "state": "built"})
            if os.path.exists(os.path.join(tree, "build", "make.log")):
                found.append({"module": module, "version": version, "kernel": "", "state": "failed"})
            elif not kernels:
                found.append({"module": module, "version": version, "kernel": "", "state": "added"})
    return found


def _has_module(folder: str) -> bool:
    return any(".ko" in name for name in files.names(os.path.join(folder, "module")))


def shared_memory(root: str = "/") -> Optional[int]:
    """The size of /dev/shm in megabytes."""
    try:
        status = os.statvfs(os.path.join(root, "dev/shm"))
    except OSError:
        return None
    return status.f_frsize * status.f_blocks // (1024 * 1024)


def limits() -> Dict[str, Optional[int]]:
    """Soft limits of this process; None is unlimited."""
    names = {"nofile": resource.RLIMIT_NOFILE, "memlock": resource.RLIMIT_MEMLOCK}
    found: Dict[str, Optional[int]] = {}
    for name, kind in names.items():
        soft = resource.getrlimit(kind)[0]
        found[name] = None if soft == resource.RLIM_INFINITY else soft
    return found


def fabric_manager(root: str = "/") -> Dict[str, Any]:
    """Whether the fabric manager's program is there, and whether it runs."""
    program = next(
        (
            path
            for path in ("usr/bin/nv-fabricmanager", "usr/local/bin/nv-fabricmanager")
            if os.path.exists(os.path.join(root, path))
        ),
        None,
    )
    running = program is not None and _process_runs(root, "nv-fabricmanager")
    return {"program": "/" + program if program else None, "running": running}


def _process_runs(root: str, name: str) -> bool:
    """Whether a process of this name (its first 15 letters, as the kernel keeps them) is there."""
    base = os.path.join(root, "proc")
    return any(files.line(os.path.join(base, pid, "comm")) == name[:15] for pid in files.names(base) if pid.isdigit())


_SHM_DEFAULT_MB = 64  # what Docker gives a container that asks for nothing
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def container_toolkit(root: str = "/") -> Dict[str, Any]:
    """nvidia-container-toolkit's program, whether Docker is told of its runtime, and what containers with GPUs meet."""
    program = next(
        (
            path
            for path in ("usr/bin/nvidia-ctk", "usr/local/bin/nvidia-ctk")
            if os.path.exists(os.path.join(root, path))
        ),
        None,
    )
    daemon = _docker_config(root)
    runtimes = daemon.get("runtimes")
    settings = files.text(os.path.join(root, "etc/nvidia-container-runtime/config.toml")) or ""
    return {
        "program": "/" + program if program else None,
        "docker": isinstance(runtimes, dict) and "nvidia" in runtimes,
        "shm_mb": _shm_of_containers(daemon),
        "cgroup_driver": _cgroup_driver(root, daemon),
        "no_cgroups": _setting(settings, "no-cgroups") == "true",
        "cdi": _setting(settings, "mode") == "cdi",
        # 195:255 is /dev/nvidiactl
        "device_links": os.path.lexists(os.path.join(root, "dev/char/195:255")),
    }


def _docker_config(root: str) -> Dict[str, Any]:
    """daemon.json; empty where there is none, or none that Docker could read."""
    try:
        value = json.loads(files.text(os.path.join(root, "etc/docker/daemon.json")) or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _shm_of_containers(daemon: Mapping[str, Any]) -> int:
    """The size in megabytes of /dev/shm in a container that is started without --ipc and --shm-size."""
    match = re.fullmatch(r"(\d+)\s*([kmgt]?)(i?b)?", str(daemon.get("default-shm-size", "")).strip().lower())
    return int(match.group(1)) * _UNITS[match.group(2)] >> 20 if match else _SHM_DEFAULT_MB


def _cgroup_driver(root: str, daemon: Mapping[str, Any]) -> str:
    """Who makes the containers' cgroups: what Docker is told, else systemd where that runs with cgroups v2."""
    options = daemon.get("exec-opts")
    for option in options if isinstance(options, list) else ():
        name, _equals, value = str(option).partition("=")
        if name == "native.cgroupdriver":
            return value
    unified = os.path.exists(os.path.join(root, "sys/fs/cgroup/cgroup.controllers"))
    return "systemd" if unified and os.path.isdir(os.path.join(root, "run/systemd/system")) else "cgroupfs"


def _setting(text: str, name: str) -> Optional[str]:
    """A value of a file in TOML that is set once; a commented line sets nothing."""
    match = re.search(rf"^[ \t]*{name}[ \t]*=[ \t]*\"?([^\"\s#]*)", text, re.M)
    return match.group(1) if match else None


def probe(root: str = "/") -> Dict[str, Any]:
    return {
        "os": os_release(root),
        "architecture": os.uname().machine,
        "kernel": os.uname().release,
        "glibc": glibc(),
        "secure_boot": secure_boot(root),
        "pending_reboot": pending_reboot(root),
        "dkms": dkms(root),
        "shm_mb": shared_memory(root),
        "limits": limits(),
        "fabric_manager": fabric_manager(root),
        "container_toolkit": container_toolkit(root),
        "modules": [
            name
            for name in ("nvidia", "nvidia_uvm", "nvidia_peermem", "nouveau")
            if os.path.isdir(os.path.join(root, "sys/module", name))
        ],
    }
