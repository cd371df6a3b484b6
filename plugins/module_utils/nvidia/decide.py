# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Decides which NVIDIA driver a host gets. Pure: given facts, it answers with a plan in words and package names."""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from ansible_collections.verl.baremetal.plugins.module_utils.nvidia import tables
from ansible_collections.verl.baremetal.plugins.module_utils.probes import gpus as pci


class Gpu(NamedTuple):
    """A GPU as found on the PCI bus."""

    device_id: str
    generation: str = ""
    name: str = ""


class Request(NamedTuple):
    """What the role's variables ask for."""

    branch: int = 570
    version: str = ""
    kernel_modules: str = "auto"
    compute_only: bool = True
    fabric_manager: str = "auto"
    update: bool = False
    state: str = "present"
    secure_boot: str = "refuse"
    allow_busy: bool = False
    repository_base: str = tables.REPOSITORY_BASE


class Found(NamedTuple):
    """What is on the host already."""

    loaded: str = ""
    package: str = ""
    # Kinds of the kernel modules, open or proprietary: of the loaded driver and of the packages.
    loaded_modules: str = ""
    package_modules: str = ""
    packages: Sequence[str] = ()
    managed: bool = False
    complete: bool = False
    fabric_manager: str = ""
    secure_boot: bool = False
    mok_ready: bool = False
    busy: Sequence[str] = ()
    kernels: Sequence[str] = ()
    header_metapackages: Sequence[str] = ()


class Plan(NamedTuple):
    """The decision. action is skip, keep, install, remove or refuse; reason is one line for the reader."""

    action: str
    reason: str
    problems: List[str] = []
    branch: int = 0
    version: str = ""
    kernel_modules: str = ""
    repository: str = ""
    packages: List[str] = []
    optional: List[str] = []
    exact: List[str] = []
    headers: List[str] = []
    pinning: str = ""
    fabric_manager: bool = False
    reboot_required: bool = False

    def as_dict(self) -> Dict[str, Any]:
        """A plain dict for Ansible."""
        return dict(self._asdict())


def repository_url(base: str, folder: str, arch: str = "x86_64") -> str:
    """The repository's address below a base address, which may be a mirror's."""
    return "{}/{}/{}/".format(base.rstrip("/"), folder, arch)


def kernel_modules(wanted: str, gpus: Sequence[Gpu]) -> str:
    """open or proprietary: forced, or by the oldest GPU (an unknown id is a new GPU)."""
    if wanted != "auto":
        return wanted
    return "proprietary" if any(gpu.generation in pci.PROPRIETARY_ONLY for gpu in gpus) else "open"


def drives(modules: str, gpus: Sequence[Gpu]) -> bool:
    """Whether a kind of kernel modules runs these GPUs; nothing speaks against an unknown kind."""
    unable = {"open": pci.PROPRIETARY_ONLY, "proprietary": pci.OPEN_ONLY}.get(modules, frozenset())
    return not any(gpu.generation in unable for gpu in gpus)


def gpu_problems(branch: int, modules: str, gpus: Sequence[Gpu]) -> List[str]:
    """What speaks against a branch and a kind of kernel modules on these GPUs."""
    old = sorted({gpu.generation for gpu in gpus if gpu.generation in pci.PROPRIETARY_ONLY})
    new = sorted({gpu.generation for gpu in gpus if gpu.generation in pci.OPEN_ONLY})
    problems = []
    if old and new:
        problems.append(
            "found GPUs of the generations {} and {} in one host: no driver runs both (the first need proprietary, "
            "the second open kernel modules); remove one kind".format(", ".join(old), ", ".join(new))
        )
        return problems
    if old and modules == "open":
        problems.append(
            "driver_kernel_modules is open, but the open kernel modules do not run "
            f"{', '.join(old)} GPUs; set it to proprietary"
        )
    last = min([tables.LAST_BRANCH[name] for name in old] or [branch])
    if last < tables.MINIMUM_BRANCH:
        problems.append(
            f"the newest driver for {', '.join(old)} GPUs is of branch {last}, and CUDA 12.8 needs "
            f"{tables.MINIMUM_BRANCH}: these GPUs cannot run the stack"
        )
    elif branch > last:
        problems.append(
            f"driver branch {branch} does not run {', '.join(old)} GPUs; the last branch that does is {last}: "
            f"set driver_branch: {last}"
        )
    if new and modules == "proprietary":
        problems.append(
            f"driver_kernel_modules is proprietary, but {', '.join(new)} GPUs run only with the open kernel modules; "
            "set it to open"
        )
    return problems


def request_problems(request: Request) -> List[str]:
    """What is wrong with the variables themselves."""
    problems = []
    if request.branch < tables.MINIMUM_BRANCH:
        problems.append(
            f"driver_branch is {request.branch}, but CUDA 12.8 needs a driver of branch {tables.MINIMUM_BRANCH} or "
            f"newer; set driver_branch: {tables.MINIMUM_BRANCH}"
        )
    if request.version and tables.branch_of(request.version) != request.branch:
        problems.append(
            f"driver_version is {request.version}, which is not of driver_branch {request.branch}; "
            f"set driver_branch: {tables.branch_of(request.version)} or another version"
        )
    elif request.version and tables.version_key(request.version) < tables.version_key(tables.MINIMUM_DRIVER):
        problems.append(
            f"driver_version is {request.version}, but CUDA 12.8 needs {tables.MINIMUM_DRIVER} or newer; "
            "set a newer version or leave it empty"
        )
    return problems


def new_enough(version: str) -> bool:
    """Whether a driver runs the stack's CUDA."""
    return bool(version) and tables.version_key(version) >= tables.version_key(tables.MINIMUM_DRIVER)


def header_packages(found: Found) -> List[str]:
    """Headers of the running and of the newest kernel, each once, and what brings those of later kernels."""
    names = [f"linux-headers-{kernel}" for kernel in found.kernels if kernel]
    return list(dict.fromkeys(names + list(found.header_metapackages)))


def differ(one: str, other: str) -> bool:
    """Whether two kinds of kernel modules are known and not the same."""
    return bool(one and other) and one != other


def satisfied(request: Request, version: str) -> bool:
    """Whether an installed version is what is asked for."""
    if request.version:
        return tables.upstream(version) == request.version
    return tables.branch_of(version) == request.branch and new_enough(version)


def decide(os_id: str, os_version: str, arch: str, request: Request, gpus: Sequence[Gpu], nvswitches: int,
           found: Optional[Found] = None) -> Plan:
    """The plan for one host."""
    found = found or Found()
    if request.state == "absent":
        if found.packages or found.managed:
            reason = f"driver_state is absent: {len(found.packages)} packages of the driver are removed"
            return _guard_busy(Plan("remove", reason, reboot_required=bool(found.loaded)), request, found)
        return Plan("keep", "no package of an NVIDIA driver is installed")
    if not gpus:
        return Plan("skip", "no NVIDIA GPU was found on the PCI bus")

    reboot = bool(found.package) and (
        found.loaded != tables.upstream(found.package) or differ(found.loaded_modules, found.package_modules)
    )
    wants_fm = request.fabric_manager == "present" or (request.fabric_manager == "auto" and nvswitches > 0)
    driver_version = tables.upstream(found.package) if found.package else found.loaded
    fm_right = not wants_fm or tables.upstream(found.fabric_manager) == driver_version
    kind = found.package_modules or found.loaded_modules
    able = drives(kind, gpus)
    # auto leaves alone what runs the GPUs.
    right_kind = able if request.kernel_modules == "auto" else not differ(kind, request.kernel_modules)
    moves = request.update and not (satisfied(request, driver_version or "0") and right_kind)
    # A driver that somebody else installed is left alone, whatever is missing beside it.
    whole = (found.complete and fm_right) or not found.managed
    if new_enough(driver_version) and not moves and whole:
        hint = "" if satisfied(request, driver_version) else (
            f"; set driver_update: true to move it to {request.version or 'branch ' + str(request.branch)}"
        )
        if not right_kind:
            hint += (
                f"; its kernel modules are {kind}{'' if able else ', which do not run these GPUs'}: set driver_update: true "
                f"to change them to {kernel_modules(request.kernel_modules, gpus)}"
            )
        if not fm_right:
            hint += f"; its fabric manager {driver_version}, which the NVSwitches need, is missing: install it beside it"
        return Plan(
            "keep",
            f"driver {driver_version} is there and runs CUDA 12.8 ({tables.MINIMUM_DRIVER} or newer){hint}",
            branch=tables.branch_of(driver_version),
            version=driver_version,
            fabric_manager=wants_fm,
            reboot_required=reboot,
        )

    distribution = tables.distribution(os_id, os_version)
    folder_arch = tables.ARCHITECTURES.get(arch.lower(), "")
    problems = request_problems(request)
    if distribution is None:
        problems.append(
            f"found {os_id} {os_version}, but the driver is installed only on {tables.supported_names()}; install a "
            f"driver {tables.MINIMUM_DRIVER} or newer by hand, which is then left alone, or skip the role driver"
        )
    if not folder_arch:
        problems.append(f"found the architecture {arch}, but only x86_64 is supported; skip the role driver")
    # A driver that stays (only its fabric manager is missing or was left half done) keeps its own branch, version
    # and kind of kernel modules.
    stays = found.managed and new_enough(driver_version) and not moves and bool(found.package)
    branch = tables.branch_of(driver_version) if stays else request.branch
    version = driver_version if stays else request.version
    modules = kind if stays and kind and able else kernel_modules(request.kernel_modules, gpus)
    problems += gpu_problems(branch, modules, gpus)
    if found.loaded and not found.package and not new_enough(found.loaded) and not request.update:
        problems.append(
            f"driver {found.loaded} is loaded, belongs to no package and is too old for CUDA 12.8, which needs "
            f"{tables.MINIMUM_DRIVER}: remove it with its own uninstaller (nvidia-uninstall), or set "
            "driver_update: true to install packages over it"
        )
    if found.secure_boot and request.secure_boot == "refuse":
        problems.append(
            "Secure Boot is on, so the kernel would refuse an unsigned module: set driver_secure_boot: sign with "
            "driver_mok_key and driver_mok_certificate of an enrolled machine owner key, or turn Secure Boot off"
        )
    if found.secure_boot and request.secure_boot == "sign" and not found.mok_ready:
        problems.append(
            "driver_secure_boot is sign, but driver_mok_key and driver_mok_certificate do not name files on this host; "
            "put both there and enrol the certificate (mokutil --import FILE, then reboot and confirm)"
        )
    if distribution is None or problems:
        return Plan("refuse", problems[0] if problems else "", problems, branch=branch, version=version)

    exact = [tables.fabric_manager_package(branch)] if wants_fm else []
    switches = f", with fabric manager for {nvswitches} NVSwitch(es)" if wants_fm and nvswitches else ""
    plan = Plan(
        "install",
        f"driver branch {branch} ({version or 'newest'}), {modules} kernel modules, for {len(gpus)} GPU(s){switches}",
        branch=branch,
        version=version,
        kernel_modules=modules,
        repository=repository_url(request.repository_base, distribution.folder, folder_arch),
        packages=tables.driver_packages(distribution.family, branch, modules, request.compute_only),
        optional=["nvidia-persistenced"],
        exact=exact,
        headers=header_packages(found),
        pinning=tables.pinning_package(branch, version),
        fabric_manager=wants_fm,
        reboot_required=True,
    )
    return _guard_busy(plan, request, found)


def _guard_busy(plan: Plan, request: Request, found: Found) -> Plan:
    """Refuses to touch a driver under running processes."""
    if not found.loaded or not found.busy or request.allow_busy:
        return plan
    problem = (
        f"processes use the GPUs: {', '.join(list(found.busy)[:8])}; stop them (or drain the host), or set "
        "driver_allow_busy: true to change the driver under them"
    )
    return Plan("refuse", problem, [problem], branch=plan.branch, version=plan.version)
