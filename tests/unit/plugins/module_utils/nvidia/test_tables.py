# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import fnmatch

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils.nvidia import tables


@pytest.mark.parametrize(
    ("os_id", "version", "folder"),
    [("ubuntu", "22.04", "ubuntu2204"), ("ubuntu", "24.04", "ubuntu2404"), ("debian", "12", "debian12")],
)
def test_repository_folders(os_id, version, folder):
    found = tables.distribution(os_id, version)
    assert found is not None
    assert found.folder == folder


@pytest.mark.parametrize(("os_id", "version"), [("ubuntu", "20.04"), ("debian", "13"), ("rhel", "9.4"), ("rocky", "9")])
def test_others_are_not_supported(os_id, version):
    assert tables.distribution(os_id, version) is None


@pytest.mark.parametrize(
    ("branch", "modules", "compute_only", "expected"),
    [
        (570, "open", True, ["libnvidia-cfg1-570", "libnvidia-compute-570", "nvidia-compute-utils-570",
                             "nvidia-dkms-570-open", "nvidia-utils-570"]),
        (580, "proprietary", True, ["libnvidia-cfg1-580", "libnvidia-compute-580", "nvidia-compute-utils-580",
                                    "nvidia-dkms-580", "nvidia-utils-580"]),
        (590, "open", True, ["libnvidia-cfg1", "libnvidia-compute", "nvidia-compute-utils", "nvidia-dkms-open",
                             "nvidia-utils"]),
        (570, "open", False, ["nvidia-open-570"]),
        (580, "proprietary", False, ["cuda-drivers-580"]),
        (590, "open", False, ["nvidia-open"]),
    ],
)
def test_ubuntu_names_lose_their_suffix_at_590(branch, modules, compute_only, expected):
    assert tables.driver_packages("ubuntu", branch, modules, compute_only) == expected


@pytest.mark.parametrize("branch", [570, 575, 580, 590])
def test_debian_names_never_have_a_suffix(branch):
    assert tables.driver_packages("debian", branch, "open", True) == ["nvidia-driver-cuda", "nvidia-kernel-open-dkms"]
    assert tables.driver_packages("debian", branch, "proprietary", True) == ["nvidia-driver-cuda", "nvidia-kernel-dkms"]
    assert tables.driver_packages("debian", branch, "open", False) == ["nvidia-open"]


@pytest.mark.parametrize(
    ("branch", "expected"),
    [(570, "nvidia-fabricmanager-570"), (575, "nvidia-fabricmanager-575"), (580, "nvidia-fabricmanager"),
     (590, "nvidia-fabricmanager")],
)
def test_fabric_manager_loses_its_suffix_at_580(branch, expected):
    assert tables.fabric_manager_package(branch) == expected


def test_pinning_package():
    assert tables.pinning_package(570) == "nvidia-driver-pinning-570"
    assert tables.pinning_package(570, "570.133.20") == "nvidia-driver-pinning-570.133.20"


@pytest.mark.parametrize(
    ("older", "newer"),
    [("570.86.10", "570.124.06"), ("570.124.06-0ubuntu1", "570.133.20-1"), ("99.1", "570.1"), ("1:570.9", "570.10")],
)
def test_versions_are_compared_as_numbers(older, newer):
    assert tables.version_key(older) < tables.version_key(newer)


@pytest.mark.parametrize(
    ("version", "expected"),
    [("570.133.20-0ubuntu1", "570.133.20"), ("570.133.20-1", "570.133.20"), ("570.133.20", "570.133.20"),
     ("3:580.65.06-1", "580.65.06")],
)
def test_upstream_version(version, expected):
    assert tables.upstream(version) == expected


@pytest.mark.parametrize(
    ("device_id", "generation"),
    [
        ("17fd", "Maxwell"),  # Tesla M40
        ("15f8", "Pascal"),  # Tesla P100
        ("1b38", "Pascal"),  # Tesla P40
        ("1db5", "Volta"),  # V100
        ("1eb8", "Turing"),  # T4
        ("2184", "Turing"),  # GTX 1660
        ("20b2", "Ampere"),  # A100
        ("2236", "Ampere"),  # A10
        ("2330", "Hopper"),  # H100
        ("2335", "Hopper"),  # H200
        ("2684", "Ada Lovelace"),  # RTX 4090
        ("26b9", "Ada Lovelace"),  # L40S
        ("2901", "Blackwell"),  # B200
        ("2b85", "Blackwell"),  # RTX 5090
        ("ffff", ""),
    ],
)
def test_generation_of_device(device_id, generation):
    assert tables.generation_of(device_id) == generation


@pytest.mark.parametrize("distribution", tables.DISTRIBUTIONS)
@pytest.mark.parametrize("branch", tables.KNOWN_BRANCHES)
def test_everything_that_is_installed_is_preferred_from_nvidias_repository(distribution, branch):
    names = [name for kind in ("open", "proprietary") for compute in (True, False)
             for name in tables.driver_packages(distribution.family, branch, kind, compute)]
    names += [tables.fabric_manager_package(branch), tables.pinning_package(branch), "nvidia-persistenced"]
    names += [tables.toolkit("12.8.1").package, *(spec.split("=")[0] for spec in tables.cudnn_packages("9.8.0.87", 12))]
    names += ["nvidia-container-toolkit-base", "libnvidia-container-tools"]
    # What they depend on, a few of each kind.
    names += ["cuda-cudart-dev-12-8", "libcublas-dev-12-8", "libnpp-12-8", "libnvjitlink-12-8", "libcufile-12-8",
              "libnvfatbin-12-8", "libnvvm-13-0", "gds-tools-12-8", "nsight-compute-2025.1.1", "libglx-nvidia0"]
    assert [name for name in names if not any(fnmatch.fnmatch(name, glob) for glob in tables.REPOSITORY_GLOBS)] == []


@pytest.mark.parametrize(
    "name", ["libcurl4", "libcups2", "libcudf0", "linux-modules-nvidia-570-generic", "libnvme1", "libnvpair3linux", "libgl1"]
)
def test_the_systems_packages_are_not_preferred(name):
    assert not any(fnmatch.fnmatch(name, glob) for glob in tables.REPOSITORY_GLOBS)


@pytest.mark.parametrize("name", ["cuda", "cuda-12-8", "cuda-13-0", "cuda-runtime-12-8", "nvidia-cuda-toolkit"])
def test_traps(name):
    assert tables.is_trap(name)


@pytest.mark.parametrize("name", ["cuda-toolkit-12-8", "cuda-nvcc-12-8", "cuda-drivers-570", "cuda-keyring"])
def test_no_traps(name):
    assert not tables.is_trap(name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nvidia-driver-cuda", True),
        ("libnvidia-compute-570:amd64", True),
        ("libcuda1", True),
        ("cuda-drivers-570", True),
        ("nvidia-fabricmanager-570", True),
        ("nvidia-driver-pinning-570", True),
        ("nvidia-container-toolkit", False),
        ("libnvidia-container1", False),
        ("nvidia-cuda-toolkit", False),
        ("cuda-toolkit-12-8", False),
        ("libcudnn9-cuda-12", False),
        ("bash", False),
    ],
)
def test_which_packages_are_the_drivers(name, expected):
    assert tables.is_driver_package(name) is expected


def test_toolkit_and_cudnn():
    assert tables.toolkit("12.8.1") == ("cuda-toolkit-12-8", "12.8.1-1", "/usr/local/cuda-12.8")
    assert tables.cudnn_packages("9.8.0.87", 12) == [
        "libcudnn9-cuda-12=9.8.0.87-1",
        "libcudnn9-dev-cuda-12=9.8.0.87-1",
    ]
