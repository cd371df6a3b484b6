# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Decides which NVIDIA driver a host gets. Pure: it is given facts and answers with a plan in words and package names."""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from ansible_collections.verl.baremetal.plugins.module_utils.nvidia import tables


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
    packages: Sequence[str] = ()
    managed: bool = False
    complete: bool = False
    fabric_manager: str = ""
    secure_boot: bool = False
    mok_ready: bool = False
    busy: Sequence[str] = ()
    running_kernel: str = ""
    kernels: Sequence[str] = ()


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
    return "%s/%s/%s/" % (base.rstrip("/"), folder, arch)


def kernel_modules(wanted: str, gpus: Sequence[Gpu]) -> str:
    """open or proprietary: forced, or by the oldest GPU (an unknown id is a new GPU)."""
    if wanted != "auto":
        return wanted
    return "proprietary" if any(gpu.generation in tables.PROPRIETARY_ONLY for gpu in gpus) else "open"


def gpu_problems(branch: int, modules: str, gpus: Sequence[Gpu]) -> List[str]:
    """What speaks against a branch and a kind of kernel modules on these GPUs."""
    old = sorted({gpu.generation for gpu in gpus if gpu.generation in tables.PROPRIETARY_ONLY})
    new = sorted({gpu.generation for gpu in gpus if gpu.generation in tables.OPEN_ONLY})
    problems = []
    if old and new:
        problems.append(
            "found GPUs of the generations %s and %s in one host: no driver runs both (the first need proprietary, "
            "the second open kernel modules); remove one kind" % (", ".join(old), ", ".join(new))
        )
        return problems
    if old and modules == "open":
        problems.append(
            "driver_kernel_modules is open, but the open kernel modules do not run %s GPUs; set it to proprietary"
            % ", ".join(old)
        )
    if old and branch > tables.LAST_BRANCH_BEFORE_TURING:
        problems.append(
            "driver branch %d does not run %s GPUs; the last branch that does is %d: set driver_branch: %d"
            % (branch, ", ".join(old), tables.LAST_BRANCH_BEFORE_TURING, tables.LAST_BRANCH_BEFORE_TURING)
        )
    if new and modules == "proprietary":
        problems.append(
            "driver_kernel_modules is proprietary, but %s GPUs run only with the open kernel modules; set it to open"
            % ", ".join(new)
        )
    return problems


def request_problems(request: Request) -> List[str]:
    """What is wrong with the variables themselves."""
    problems = []
    if request.branch < tables.MINIMUM_BRANCH:
        problems.append(
            "driver_branch is %d, but CUDA 12.8 needs a driver of branch %d or newer; set driver_branch: %d"
            % (request.branch, tables.MINIMUM_BRANCH, tables.MINIMUM_BRANCH)
        )
    if request.version and tables.branch_of(request.version) != request.branch:
        problems.append(
            "driver_version is %s, which is not of driver_branch %d; set driver_branch: %d or another version"
            % (request.version, request.branch, tables.branch_of(request.version))
        )
    elif request.version and tables.version_key(request.version) < tables.version_key(tables.MINIMUM_DRIVER):
        problems.append(
            "driver_version is %s, but CUDA 12.8 needs %s or newer; set a newer version or leave it empty"
            % (request.version, tables.MINIMUM_DRIVER)
        )
    return problems


def new_enough(version: str) -> bool:
    """Whether a driver runs the stack's CUDA."""
    return bool(version) and tables.version_key(version) >= tables.version_key(tables.MINIMUM_DRIVER)


def header_packages(found: Found) -> List[str]:
    """Headers of the running and of the newest kernel, each once."""
    return ["linux-headers-%s" % kernel for kernel in dict.fromkeys(k for k in found.kernels if k)]


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
            return _guard_busy(Plan("remove", "driver_state is absent: %d packages of the driver are removed"
                                    % len(found.packages), branch=request.branch), request, found)
        return Plan("keep", "no package of an NVIDIA driver is installed")
    if not gpus:
        return Plan("skip", "no NVIDIA GPU was found on the PCI bus")

    reboot = bool(found.package) and found.loaded != tables.upstream(found.package)
    wants_fm = request.fabric_manager == "present" or (request.fabric_manager == "auto" and nvswitches > 0)
    driver_version = tables.upstream(found.package) if found.package else found.loaded
    fm_right = (not wants_fm) or (bool(found.fabric_manager) and tables.upstream(found.fabric_manager) == driver_version)
    moves = request.update and not satisfied(request, driver_version or "0")
    if new_enough(driver_version) and not moves and fm_right and (found.complete or not found.managed):
        return Plan(
            "keep",
            "driver %s is there and runs CUDA 12.8 (%s or newer)%s"
            % (driver_version, tables.MINIMUM_DRIVER,
               "" if satisfied(request, driver_version) else "; set driver_update: true to move it to branch %d"
               % request.branch),
            branch=tables.branch_of(driver_version), version=driver_version, fabric_manager=wants_fm,
            reboot_required=reboot,
        )

    distribution = tables.distribution(os_id, os_version)
    folder_arch = tables.ARCHITECTURES.get(arch.lower(), "")
    problems = request_problems(request)
    if distribution is None:
        problems.append(
            "found %s %s, but the driver is installed only on %s; install a driver %s or newer by hand, which is then "
            "left alone, or skip the role driver" % (os_id, os_version, tables.supported_names(), tables.MINIMUM_DRIVER)
        )
    if not folder_arch:
        problems.append("found the architecture %s, but only x86_64 is supported; skip the role driver" % arch)
    # A driver that stays (only its fabric manager is missing or was left half done) keeps its own branch and version.
    stays = found.managed and new_enough(driver_version) and not moves and bool(found.package)
    branch = tables.branch_of(driver_version) if stays else request.branch
    version = driver_version if stays else request.version
    modules = kernel_modules(request.kernel_modules, gpus)
    problems += gpu_problems(branch, modules, gpus)
    if found.loaded and not found.package and not new_enough(found.loaded) and not request.update:
        problems.append(
            "driver %s is loaded and belongs to no package, and is too old for CUDA 12.8 (%s): remove it with its own "
            "uninstaller (nvidia-uninstall), or set driver_update: true to install packages over it"
            % (found.loaded, tables.MINIMUM_DRIVER)
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
    plan = Plan(
        "install",
        "driver branch %d (%s) with %s kernel modules for %d GPU(s)%s"
        % (branch, version or "newest", modules, len(gpus),
           ", with fabric manager for %d NVSwitch(es)" % nvswitches if wants_fm and nvswitches else ""),
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
        "processes use the GPUs: %s; stop them (or drain the host), or set driver_allow_busy: true to change the driver "
        "under them" % ", ".join(list(found.busy)[:8])
    )
    return Plan("refuse", problem, [problem], branch=plan.branch, version=plan.version)
