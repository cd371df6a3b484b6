# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""What NVIDIA's package repositories look like: folders, package names, minimum versions, and rules of naming."""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Optional, Tuple

from ansible_collections.verl.baremetal.plugins.module_utils.probes import gpus as pci

REPOSITORY_BASE = "https://developer.download.nvidia.com/compute/cuda/repos"
KEY_FILE = "3bf863cc.pub"
KEY_FINGERPRINT = "EB693B3035CD5710E231E123A4B469963BF863CC"
RETIRED_KEY = "7fa2af80"

# Oldest driver that runs CUDA 12.8 natively (the stack's rules.driver.native), and the oldest branch that is installed.
MINIMUM_DRIVER = "570.26"
MINIMUM_BRANCH = 570
# The last branch that drives GPUs of a generation; the others are driven by every later branch.
LAST_BRANCH: Dict[str, int] = {"Kepler": 470, "Maxwell": 580, "Pascal": 580, "Volta": 580}
# The branches whose package names were checked; the rules of the last one hold for later ones.
KNOWN_BRANCHES: Tuple[int, ...] = (570, 575, 580, 590)

# From these branches on the names lose the branch's number.
DRIVER_SUFFIX_ENDS = 590
FABRIC_MANAGER_SUFFIX_ENDS = 580

GENERATIONS: Tuple[str, ...] = tuple(dict.fromkeys(entry.name for entry in pci.GENERATIONS))
NVSWITCH_IDS = frozenset(f"{number:04x}" for number in pci.NVSWITCHES)


class Distribution(NamedTuple):
    """One supported operating system."""

    os_id: str
    version: str
    folder: str
    family: str
    newest_headers: str


DISTRIBUTIONS: Tuple[Distribution, ...] = (
    Distribution("ubuntu", "22.04", "ubuntu2204", "ubuntu", "linux-headers-generic"),
    Distribution("ubuntu", "24.04", "ubuntu2404", "ubuntu", "linux-headers-generic"),
    Distribution("debian", "12", "debian12", "debian", "linux-headers-amd64"),
)
ARCHITECTURES: Dict[str, str] = {"x86_64": "x86_64", "amd64": "x86_64"}


def distribution(os_id: str, version: str) -> Optional[Distribution]:
    """The supported distribution of an os-release's ID and VERSION_ID, or None."""
    for entry in DISTRIBUTIONS:
        if entry.os_id == os_id.lower() and entry.version == version:
            return entry
    return None


def supported_names() -> str:
    """The supported systems, for messages."""
    return ", ".join(f"{d.os_id.capitalize()} {d.version}" for d in DISTRIBUTIONS)


def generation_of(device_id: str) -> str:
    """The GPU generation of a PCI device id such as 2330, or an empty string when it is unknown."""
    family = pci.generation(int(device_id, 16))
    return family.name if family else ""


def version_key(version: str) -> Tuple[int, ...]:
    """570.86.10 < 570.124.06: a driver's version as numbers; a package's epoch and revision do not count."""
    upstream = version.split(":", 1)[-1].split("-", 1)[0]
    numbers = []
    for part in upstream.split("."):
        digits = "".join(ch for ch in part if ch.isdigit())
        numbers.append(int(digits) if digits else 0)
    return tuple(numbers)


def upstream(version: str) -> str:
    """The driver's version in a package's version: 1:570.133.20-0ubuntu1 is 570.133.20."""
    return version.split(":", 1)[-1].rsplit("-", 1)[0]


def branch_of(version: str) -> int:
    """The branch of a driver's version: 570 for 570.133.20."""
    return version_key(version)[0]


def driver_packages(family: str, branch: int, kernel_modules: str, compute_only: bool) -> List[str]:
    """The packages that make a driver of a branch. kernel_modules is open or proprietary."""
    is_open = kernel_modules == "open"
    if family == "debian":
        if compute_only:
            return ["nvidia-driver-cuda", "nvidia-kernel-open-dkms" if is_open else "nvidia-kernel-dkms"]
        return ["nvidia-open" if is_open else "cuda-drivers"]
    suffix = "" if branch >= DRIVER_SUFFIX_ENDS else f"-{branch}"
    if not compute_only:
        return [("nvidia-open" if is_open else "cuda-drivers") + suffix]
    return [
        f"libnvidia-cfg1{suffix}",
        f"libnvidia-compute{suffix}",
        f"nvidia-compute-utils{suffix}",
        "nvidia-dkms{}{}".format(suffix, "-open" if is_open else ""),
        f"nvidia-utils{suffix}",
    ]


def fabric_manager_package(branch: int) -> str:
    """The fabric manager's package: it carries the branch's number up to 575."""
    return "nvidia-fabricmanager" if branch >= FABRIC_MANAGER_SUFFIX_ENDS else f"nvidia-fabricmanager-{branch}"


def pinning_package(branch: int, version: str = "") -> str:
    """NVIDIA's package of apt preferences for a branch or for one full version."""
    return "nvidia-driver-pinning-%s" % (version or branch)


# apt's names (with wildcards) of everything that one driver's version is spread over. What is not of the driver
# (the container toolkit, CUDA, cuDNN) never has a driver's version, so a version pin on these names leaves it alone.
DRIVER_GLOBS: Tuple[str, ...] = (
    "nvidia-*",
    "libnvidia-*",
    "libcuda1",
    "libcudadebugger1",
    "libnvcuvid1",
    "libnvoptix1",
    "libxnvctrl*",
    "cuda-drivers*",
    "firmware-nvidia-gsp",
    "xserver-xorg-video-nvidia*",
)
# Names that fit the globs above and are not of the driver.
NOT_DRIVER_PREFIXES: Tuple[str, ...] = (
    "nvidia-container-",
    "libnvidia-container",
    "nvidia-cuda-",
    "nvidia-docker",
    "nvidia-gds",
    "nvidia-fs",
    "nvidia-cudnn",
    "nvidia-detect",
)
# apt's names of everything that is taken from NVIDIA's repositories, with what it depends on there. Only these are
# preferred: a mirror may share its host name with the system's, whose backports must not be preferred with them.
REPOSITORY_GLOBS: Tuple[str, ...] = (
    *DRIVER_GLOBS,
    "libegl-nvidia*",
    "libgl1-nvidia*",
    "libgles-nvidia*",
    "libglx-nvidia*",
    "cuda",
    "cuda-*",
    "cudnn*",
    "gds-tools*",
    "libcublas*",
    "libcudla*",
    "libcudnn*",
    "libcufft*",
    "libcufile*",
    "libcurand*",
    "libcusolver*",
    "libcusparse*",
    "libnccl*",
    "libnpp*",
    "libnvfatbin*",
    "libnvjitlink*",
    "libnvjpeg*",
    "libnvptxcompiler*",
    "libnvvm*",
    "nsight-*",
    "nvlsm",
)
# Metapackages that drag a driver or a newest toolkit in. Never installed, never let in by a dependency.
TRAPS: Tuple[str, ...] = ("cuda", "cuda-runtime", "cuda-demo-suite", "nvidia-cuda-toolkit", "nvidia-cuda-dev")


def is_trap(name: str) -> bool:
    """Whether a package is one of the metapackages that are never let in: cuda, cuda-12-8, cuda-runtime-12-8, ..."""
    bare = name.split(":", 1)[0]
    for trap in TRAPS:
        rest = bare[len(trap):]
        if bare == trap or (bare.startswith(trap + "-") and rest.replace("-", "").isdigit()):
            return True
    return False


def is_driver_package(name: str) -> bool:
    """Whether a package's name is one of a driver's."""
    bare = name.split(":", 1)[0]
    if bare.startswith(NOT_DRIVER_PREFIXES):
        return False
    return any(bare == glob or (glob.endswith("*") and bare.startswith(glob[:-1])) for glob in DRIVER_GLOBS)


class Toolkit(NamedTuple):
    """The packages of a CUDA toolkit."""

    package: str
    version: str
    home: str


def toolkit(version: str) -> Toolkit:
    """The package of a toolkit's full version: 12.8.1 is cuda-toolkit-12-8=12.8.1-1 in /usr/local/cuda-12.8."""
    major, minor = version.split(".")[:2]
    return Toolkit(f"cuda-toolkit-{major}-{minor}", f"{version}-1", f"/usr/local/cuda-{major}.{minor}")


def cudnn_packages(version: str, cuda_major: int) -> List[str]:
    """cuDNN with its headers: 9.8.0.87 for CUDA 12 is libcudnn9-cuda-12 and libcudnn9-dev-cuda-12."""
    major = version.split(".")[0]
    return [
        f"libcudnn{major}-cuda-{cuda_major}={version}-1",
        f"libcudnn{major}-dev-cuda-{cuda_major}={version}-1",
    ]
