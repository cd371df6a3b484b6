# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The stack's rules on the host: driver, CUDA, cuDNN, NCCL and the system around them. Pure functions.

A check whose facts do not exist (no GPU, no dpkg) is left out or skipped with the reason; it is never called ok.
"""

from __future__ import annotations

import os
from typing import Any, List, Mapping, Optional, Sequence, Set, Tuple

from .. import pep440
from . import rules
from .model import MISMATCH, MISSING, OK, SKIPPED, WARNING, Check
from .rules import Context, names

_PROC = "/proc/driver/nvidia/version"
_SHM_MB = 1024


def _older(found: str, minimum: str) -> bool:
    """Whether a driver version is older than another: compared number by number."""
    one, two = pep440.parse(found), pep440.parse(minimum)
    return one is not None and two is not None and one < two


def _component(context: Context, kind: str) -> Optional[Mapping[str, Any]]:
    return next((entry for entry in context.definition.get("components", ()) if entry.get("kind") == kind), None)


def _running_version(driver: Mapping[str, Any]) -> Optional[str]:
    version: Optional[str] = driver["loaded"] or driver["userspace"]
    return version


def driver_for_cuda(context: Context) -> List[Check]:
    """The driver is new enough for the stack's CUDA."""
    component, rule = _component(context, "driver"), context.rule("driver")
    if component is None or not rule:
        return []
    native, minor = str(rule["native"]), rule.get("minor_compatibility")
    name, title, expected = str(component["name"]), str(component.get("title", "NVIDIA driver")), f">= {native}"
    driver = context.facts["driver"]
    found = _running_version(driver) if driver else None
    if found is None:
        if context.facts["gpus"]:
            return [Check(name, title, MISSING, expected, "", _PROC, "install the driver (role driver) and reboot")]
        return [Check(name, title, SKIPPED, expected, str(context.facts["gpu_reason"]), "/sys/bus/pci")]
    source = _PROC if driver["loaded"] else next((entry["path"] for entry in driver["libraries"].values()), _PROC)
    check = Check(name, title, OK, expected, found, source)
    if not _older(found, native):
        return [check]
    cuda = (context.definition.get("cuda") or {}).get("version", "")
    if minor and not _older(found, str(minor)):
        runs = f"CUDA {cuda}" if cuda else "the stack's CUDA"
        remedy = f"it runs {runs} by minor-version compatibility (no PTX of that version); install {native} or newer"
        return [check._replace(status=WARNING, remedy=remedy)]
    return [
        check._replace(
            status=MISMATCH,
            remedy=f"install driver {native} or newer (role driver); {rule.get('source', '')}".rstrip("; "),
        )
    ]


def driver_versions(context: Context) -> List[Check]:
    """Loaded module, module on disk, user space and packages are one driver."""
    driver = context.facts["driver"]
    if driver is None:
        return []
    checks: List[Check] = []
    loaded, user = driver["loaded"], driver["userspace"]
    title = "driver module, user space"
    if loaded and user:
        status = OK if loaded == user else MISMATCH
        remedy = "" if status == OK else "reboot, or stop all GPU programs and load the module again"
        checks.append(Check("driver_userspace", title, status, f"module {loaded}", f"libraries {user}", _PROC, remedy))
    elif loaded:
        remedy = "install the driver's compute packages of the same version"
        checks.append(
            Check("driver_userspace", title, MISSING, f"libraries {loaded}", "no libcuda.so.1", _PROC, remedy)
        )
    elif context.facts["gpus"]:
        remedy = "load the module (modprobe nvidia) or reboot; dmesg tells why it did not load"
        checks.append(
            Check("driver_userspace", title, MISSING, f"module {user or 'loaded'}", "not loaded", _PROC, remedy)
        )
    wanted = loaded or user
    checks.extend(_on_disk(driver, wanted))
    other = sorted(f"{name} {version}" for name, version in driver["packages"].items() if version != wanted)
    if driver["packages"] and wanted:
        status = MISMATCH if other else OK
        found = names(other) if other else f"{len(driver['packages'])} packages of it"
        remedy = "bring all driver packages to one version and reboot (role driver)" if other else ""
        checks.append(
            Check("driver_packages", "driver packages", status, str(wanted), found, "/var/lib/dpkg/status", remedy)
        )
    return checks


def _on_disk(driver: Mapping[str, Any], wanted: Optional[str]) -> List[Check]:
    """What the next reboot would load."""
    modules = {entry["kernel"]: entry for entry in driver["on_disk"]}
    running, newest = driver["running_kernel"], driver["newest_kernel"]
    checks: List[Check] = []
    title = "driver module on disk"
    entry = modules.get(running)
    if entry is not None and wanted and entry["version"]:
        status = OK if entry["version"] == wanted else MISMATCH
        remedy = "" if status == OK else "the module on disk is another one than the loaded: reboot"
        checks.append(Check("driver_on_disk", title, status, wanted, str(entry["version"]), entry["path"], remedy))
    if newest and newest != running and modules and newest not in modules:
        remedy = f"install linux-headers-{newest} and let DKMS build the module, or the next reboot has no GPU"
        checks.append(
            Check(
                "driver_next_kernel",
                "module for next kernel",
                MISMATCH,
                f"a module for {newest}",
                "none",
                "/lib/modules",
                remedy,
            )
        )
    return checks


def nouveau(context: Context) -> List[Check]:
    """The free driver nouveau does not hold the GPUs."""
    if not context.facts["gpus"]:
        return []
    loaded = "nouveau" in context.facts["system"]["modules"]
    source = "/sys/module/nouveau"
    if not loaded:
        return [Check("nouveau", "nouveau", OK, "not loaded", "not loaded", source)]
    remedy = "blacklist nouveau, rebuild the initramfs and reboot (role driver)"
    return [Check("nouveau", "nouveau", MISMATCH, "not loaded", "loaded", source, remedy)]


def gpu_health(context: Context) -> List[Check]:
    """What the driver says of its GPUs: errors in their memory, lost ones, broken links."""
    answer = context.facts["nvml"]
    if answer is None:
        if not context.facts["gpus"]:
            return [Check("gpus", "GPUs", SKIPPED, "", str(context.facts["gpu_reason"]), "/sys/bus/pci")]
        return []
    source = "NVML"
    if answer["error"]:
        return [Check("gpus", "GPUs", MISMATCH, "NVML answers", answer["error"], source, str(answer["remedy"] or ""))]
    gpus = context.facts["gpus"]
    found = ", ".join(f"{count} {name}" for name, count in _counted([str(gpu["name"]) for gpu in gpus]))
    checks = [Check("gpus", "GPUs", OK, "NVML answers", found or "none", source)]
    sick = [words for gpu in gpus for words in _sick(gpu)]
    lost = [gpu["pci"] for gpu in gpus if not gpu.get("uuid")]
    if lost:
        remedy = "dmesg tells why (NVRM, Xid); reboot, then check slot and power"
        checks.append(
            Check("gpus_lost", "GPUs without driver", MISMATCH, "all on the bus", names(lost), source, remedy)
        )
    if sick:
        remedy = "drain the host, reset the GPU or reboot; replace it where the errors return"
        checks.append(Check("gpu_health", "GPU health", MISMATCH, "no errors", names(sick), source, remedy))
    elif gpus:
        checks.append(Check("gpu_health", "GPU health", OK, "no errors", f"no errors on {len(gpus)}", source))
    return checks


def _counted(values: Sequence[str]) -> List[Tuple[str, int]]:
    return [(value, values.count(value)) for value in dict.fromkeys(values)]


def _sick(gpu: Mapping[str, Any]) -> List[str]:
    words: List[str] = []
    if gpu.get("ecc_uncorrected"):
        words.append(f"{gpu['pci']}: {gpu['ecc_uncorrected']} uncorrected memory errors")
    rows = gpu.get("remapped_rows") or {}
    if rows.get("failed"):
        words.append(f"{gpu['pci']}: rows could not be remapped")
    elif rows.get("pending"):
        words.append(f"{gpu['pci']}: a remapped row waits for a reset")
    return words


def cuda(context: Context) -> List[Check]:
    """The CUDA home is the stack's version."""
    component = _component(context, "cuda")
    if component is None:
        return []
    name, title, expected = str(component["name"]), str(component.get("title", "CUDA")), str(component["version"])
    homes = context.facts["cuda"]["homes"]
    wanted = context.facts["cuda"]["home"]
    if wanted:
        home = next((entry for entry in homes if entry["home"] == wanted), None)
    else:  # several toolkits may be side by side
        right = (entry for entry in homes if _same_numbers(str(entry["version"]), expected))
        home = next(right, next(iter(homes), None))
    reason = rules.skip_reason(context, component)
    if reason is not None and (home is None or not wanted):
        return [Check(name, title, SKIPPED, expected, f"not installed: {reason}", wanted or "/usr/local")]
    if home is None or home["version"] is None:
        remedy = "install CUDA (role cuda), or give cuda_home"
        return [Check(name, title, MISSING, expected, "", wanted or "/usr/local", remedy)]
    check = Check(name, title, OK, expected, str(home["version"]), str(home["source"]))
    if not _same_numbers(str(home["version"]), expected):
        remedy = f"give the cuda_home of a toolkit {expected}; other toolkits may stay beside it"
        return [check._replace(status=MISMATCH, remedy=remedy)]
    if home["header"] and not _same_numbers(str(home["header"]), expected):
        remedy = "version.json and headers are of two toolkits: install the toolkit again"
        return [check._replace(status=MISMATCH, found=f"{home['version']}, headers {home['header']}", remedy=remedy)]
    return [check]


def _same_numbers(version: str, prefix: str) -> bool:
    """12.8.1 begins with 12.8; 12.80 does not."""
    return version.split(".")[: len(prefix.split("."))] == prefix.split(".")


def cudnn(context: Context) -> List[Check]:
    """The stack's cuDNN is there, and no other one can come before it."""
    component = _component(context, "cudnn")
    if component is None:
        return []
    name, title, expected = str(component["name"]), str(component.get("title", "cuDNN")), str(component["version"])
    copies: Sequence[Mapping[str, Any]] = context.facts["cudnn"]
    numbers = ".".join(expected.split(".")[:3])
    wheel = context.packages.get("nvidia-cudnn-cu12")
    if not copies:
        reason = rules.skip_reason(context, component)
        if reason is not None:
            return [Check(name, title, SKIPPED, expected, f"not installed: {reason}", context.where)]
        return [
            Check(name, title, MISSING, expected, "", context.where, "install nvidia-cudnn-cu12 from the stack's lock")
        ]
    first = copies[0]
    version = wheel if first["place"] == "environment" and wheel else first["version"]
    check = Check(name, title, OK, expected, str(version or "unknown"), str(first["path"]))
    if version is None:
        check = check._replace(
            status=WARNING, remedy="nothing beside the library tells its version; install the packaged cuDNN"
        )
    elif not (_same_numbers(version, numbers) and (version.count(".") < 3 or version == expected)):
        check = check._replace(
            status=MISMATCH, remedy=f"install cuDNN {expected}: the stack replaces what Torch asks for"
        )
    elif first["version"] and not _same_numbers(str(first["version"]), numbers):
        found = f"{version}, files {first['version']}"
        check = check._replace(
            status=MISMATCH, found=found, remedy="the files are not those of the package: install it again"
        )
    return [check, *_one_copy("cudnn", "cuDNN", numbers, copies)]


def _one_copy(name: str, title: str, numbers: str, copies: Sequence[Mapping[str, Any]]) -> List[Check]:
    """Other copies that a loader could find are of the same version."""
    other = [copy for copy in copies if copy["version"] and copy["version"] != numbers]
    # LD_LIBRARY_PATH goes before what the packages themselves ask for; the system's folders come after it
    first = [copy for copy in other if copy["place"] == "ld_library_path"]
    check = Check(
        f"{name}_copies", f"copies of {title}", OK, f"all {numbers}", f"{len(copies)} of it", str(copies[0]["path"])
    )
    if not other:
        return [check]
    found = names([f"{copy['version']} in {os.path.dirname(str(copy['path']))}" for copy in other])
    if first:
        folder = os.path.dirname(str(first[0]["path"]))
        remedy = f"take {folder} out of LD_LIBRARY_PATH: it goes before the stack's own {title}"
        return [check._replace(status=MISMATCH, found=found, remedy=remedy)]
    remedy = f"the stack loads its own {title} first; programs outside of it get the other one, remove it if none does"
    return [check._replace(status=WARNING, found=found, remedy=remedy)]


def nccl(context: Context) -> List[Check]:
    """Copies of NCCL beside the environment's own are of its version."""
    copies: Sequence[Mapping[str, Any]] = context.facts["nccl"]
    own = next((copy for copy in copies if copy["place"] == "environment" and copy["version"]), None)
    if own is None:
        return []
    return _one_copy("nccl", "NCCL", str(own["version"]), copies)


def fabric_manager(context: Context) -> List[Check]:
    """Where there are NVSwitches, the fabric manager of exactly the driver's version runs."""
    switches, driver = context.facts["nvswitches"], context.facts["driver"]
    if not switches:
        return []
    wanted = _running_version(driver) if driver else None
    state = context.facts["system"]["fabric_manager"]
    packages = {
        name: version.split("-")[0]
        for name, version in context.facts["system_packages"].items()
        if name.startswith(("nvidia-fabricmanager", "nvidia-fabric-manager"))
    }
    title, expected = "fabric manager", str(wanted or "the driver's version")
    source = "/var/lib/dpkg/status" if packages else str(state["program"] or "/usr/bin/nv-fabricmanager")
    if not packages and not state["program"]:
        remedy = f"install the fabric manager {expected}: without it CUDA fails on this host's {switches} NVSwitches"
        return [Check("fabric_manager", title, MISSING, expected, "", source, remedy)]
    found = next(iter(packages.values()), None)
    check = Check("fabric_manager", title, OK, expected, str(found or "a program of unknown version"), source)
    if found and wanted and found != wanted:
        return [check._replace(status=MISMATCH, remedy="install the fabric manager of exactly the driver's version")]
    if not state["running"]:
        return [
            check._replace(
                status=MISMATCH, found=f"{check.found}, not running", remedy="start nvidia-fabricmanager.service"
            )
        ]
    if not found:
        return [
            check._replace(status=WARNING, remedy="no package tells its version: compare it with the driver's yourself")
        ]
    return [check]


def container_toolkit(context: Context) -> List[Check]:
    """Docker can give GPUs to containers. Optional: its absence is no failure."""
    title, expected, program = "container toolkit", "for Docker", "/usr/bin/nvidia-ctk"
    if not context.facts["gpus"]:
        reason = str(context.facts["gpu_reason"])
        return [Check("container_toolkit", title, SKIPPED, expected, reason, "/sys/bus/pci")]
    state = context.facts["system"]["container_toolkit"]
    if not state["program"]:
        return [Check("container_toolkit", title, SKIPPED, expected, "not installed", program)]
    version = context.facts["system_packages"].get("nvidia-container-toolkit", "unknown version")
    check = Check("container_toolkit", title, OK, "Docker knows it", version, str(state["program"]))
    if not state["docker"]:
        remedy = "Docker does not know the runtime: run the role container_toolkit"
        check = check._replace(status=WARNING, found=f"{version}, not in daemon.json", remedy=remedy)
    return [check, _container_cgroups(state), _container_memory(state)]


def _container_cgroups(state: Mapping[str, Any]) -> Check:
    """Containers get their GPUs, and keep them when systemd reads its units again."""
    driver, settings = state["cgroup_driver"], "/etc/nvidia-container-runtime/config.toml"
    check = Check("container_cgroups", "GPUs of containers", OK, "given and kept", f"kept ({driver})", settings)
    if state["no_cgroups"]:
        remedy = "set no-cgroups = false; true is for a Docker without root only"
        return check._replace(status=WARNING, found="no-cgroups: not given", remedy=remedy)
    if driver != "systemd":
        return check
    if state["cdi"] or state["device_links"]:
        return check._replace(found="kept (CDI)" if state["cdi"] else "kept (links in /dev/char)")
    remedy = (
        "nvidia-ctk system create-dev-char-symlinks --create-all, at each boot; or the Docker option "
        "exec-opts native.cgroupdriver=cgroupfs; or toolkit 1.18 with CDI"
    )
    found = "lost at systemctl daemon-reload"
    return check._replace(status=WARNING, found=found, source="/dev/char/195:255", remedy=remedy)


def _container_memory(state: Mapping[str, Any]) -> Check:
    """A container that asks for no /dev/shm gets enough of it."""
    size, expected = state["shm_mb"], f">= {_SHM_MB} MB"
    check = Check(
        "container_shm", "/dev/shm of containers", OK, expected, f"{size} MB", "default-shm-size in daemon.json"
    )
    if size >= _SHM_MB:
        return check
    remedy = "start them with --ipc=host or --shm-size=32g, or set default-shm-size; NCCL fails with bus errors"
    return check._replace(status=WARNING, found=f"{size} MB unless asked for", remedy=remedy)


def package_state(context: Context) -> List[Check]:
    """NVIDIA's packages of the system: held, whole, of one source."""
    checks: List[Check] = []
    installed = set(context.facts["system_packages"])
    source = "/var/lib/dpkg/status"
    half = context.facts["half_installed"]
    if half:
        remedy = "finish the transaction: dpkg --configure -a"
        checks.append(Check("dpkg", "unfinished packages", MISMATCH, "none", names(half), source, remedy))
    driver = context.facts["driver"]
    packaged = sorted(driver["packages"]) if driver else []
    pinned = sorted(name for name in installed if name.startswith("nvidia-driver-pinning-"))
    if context.facts.get("driver_pin"):
        pinned.append(str(context.facts["driver_pin"]))
    if packaged:
        free = [name for name in packaged if name not in context.facts["held"]]
        check = Check(
            "driver_held", "driver pinned", OK, "held or pinned", f"by {pinned[0]}" if pinned else "held", source
        )
        if free and not pinned:
            remedy = "an upgrade can move the driver under running programs: run the role driver, which pins it"
            check = check._replace(status=WARNING, found="free: " + names(free), remedy=remedy)
        checks.append(check)
    checks.extend(_cuda_held(context, installed))
    checks.extend(_sources(context.facts["apt_sources"]))
    return checks


def _cuda_held(context: Context, installed: Set[str]) -> List[Check]:
    """The packages of CUDA and cuDNN, where the stack's come from NVIDIA's repository."""
    version = str((context.definition.get("cuda") or {}).get("version", ""))
    if not version:
        return []
    toolkit, cudnn = "cuda-toolkit-" + version.replace(".", "-"), f"-cuda-{version.partition('.')[0]}"
    present = sorted(name for name in installed if name == toolkit or (name.startswith("libcudnn") and cudnn in name))
    if toolkit not in present:
        return []
    free = [name for name in present if name not in context.facts["held"]]
    check = Check("cuda_held", "CUDA packages held", OK, "held", names(present), "/var/lib/dpkg/status")
    if free:
        remedy = f"apt-mark hold {' '.join(free)}, or run the role cuda, which does it"
        check = check._replace(status=WARNING, found="free: " + names(free), remedy=remedy)
    return [check]


def _sources(found: Sequence[Mapping[str, str]]) -> List[Check]:
    """One repository brings the driver and CUDA, and one file names it."""
    title, places = "NVIDIA's package sources", "/etc/apt"
    uris = sorted({_source(entry["uri"]) for entry in found})
    if len(uris) > 1:
        remedy = "keep one of them: packages of both do not fit together"
        return [Check("nvidia_sources", title, WARNING, "one", names(uris), places, remedy)]
    files = sorted({entry["file"] for entry in found})
    if len(files) > 1:
        remedy = "keep one of the files: apt stops when their keys differ"
        return [Check("nvidia_sources", title, WARNING, "one file", names(files), places, remedy)]
    return []


def _source(uri: str) -> str:
    """A repository without its scheme and last slash: the same one over http and https is one."""
    return uri.split("://", 1)[-1].rstrip("/")


def boot_state(context: Context) -> List[Check]:
    """What the next reboot would bring: DKMS, Secure Boot, a reboot that waits."""
    system = context.facts["system"]
    checks: List[Check] = []
    failed = [f"{entry['module']} {entry['version']}" for entry in system["dkms"] if entry["state"] == "failed"]
    if system["dkms"]:
        built = [f"{entry['version']} for {entry['kernel']}" for entry in system["dkms"] if entry["state"] == "built"]
        check = Check("dkms", "DKMS", OK, "built", names(built), "/var/lib/dkms")
        if failed:
            remedy = "see make.log in the build folder; headers of the kernel are often missing"
            check = check._replace(status=MISMATCH, found="failed: " + names(failed), remedy=remedy)
        elif not built:
            remedy = "install the kernel's headers and run dkms autoinstall"
            check = check._replace(status=MISMATCH, found="added, but built for no kernel", remedy=remedy)
        checks.append(check)
    if system["secure_boot"] and context.facts["gpus"]:
        driver = context.facts["driver"]
        loaded = bool(driver and driver["loaded"])
        check = Check("secure_boot", "Secure Boot", OK, "a signed module", "on, module loaded", "efivars")
        if not loaded:
            remedy = "sign the module with an enrolled key (driver_mok_key) or use the distribution's signed modules"
            check = check._replace(status=MISMATCH, found="on, no module loaded", remedy=remedy)
        checks.append(check)
    pending = system["pending_reboot"]
    if pending["required"]:
        remedy = "reboot when the host is drained"
        found = "asked for" + (f" by {names(pending['packages'])}" if pending["packages"] else "")
        checks.append(Check("pending_reboot", "reboot", WARNING, "not needed", found, str(pending["source"]), remedy))
    return checks


def shared_memory(context: Context) -> List[Check]:
    """NCCL and data loaders share memory through /dev/shm."""
    size = context.facts["system"]["shm_mb"]
    if size is None or not context.facts["gpus"]:
        return []
    expected = f">= {_SHM_MB} MB"
    if size >= _SHM_MB:
        return [Check("shared_memory", "/dev/shm", OK, expected, f"{size} MB", "/dev/shm")]
    remedy = "mount it larger (containers: --shm-size or --ipc=host); NCCL fails with bus errors"
    return [Check("shared_memory", "/dev/shm", WARNING, expected, f"{size} MB", "/dev/shm", remedy)]


BEFORE = (driver_for_cuda, cuda, cudnn)
"""Components, before the packages."""
AFTER = (
    nccl,
    driver_versions,
    gpu_health,
    nouveau,
    fabric_manager,
    container_toolkit,
    package_state,
    boot_state,
    shared_memory,
)
"""The host, after the packages."""
