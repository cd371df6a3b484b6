# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils.nvidia import host, tables
from ansible_collections.verl.baremetal.plugins.module_utils.nvidia.decide import Found, Request, decide
from ansible_collections.verl.baremetal.plugins.module_utils.probes import system

# Real texts of /etc/os-release.
RELEASES = {
    "ubuntu2204": 'PRETTY_NAME="Ubuntu 22.04.5 LTS"\nNAME="Ubuntu"\nVERSION_ID="22.04"\nVERSION="22.04.5 LTS (Jammy Jellyfish)"\n'
    'VERSION_CODENAME=jammy\nID=ubuntu\nID_LIKE=debian\nUBUNTU_CODENAME=jammy\n',
    "ubuntu2404": 'PRETTY_NAME="Ubuntu 24.04.2 LTS"\nNAME="Ubuntu"\nVERSION_ID="24.04"\nVERSION="24.04.2 LTS (Noble Numbat)"\n'
    "VERSION_CODENAME=noble\nID=ubuntu\nID_LIKE=debian\nUBUNTU_CODENAME=noble\nLOGO=ubuntu-logo\n",
    "debian12": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nNAME="Debian GNU/Linux"\nVERSION_ID="12"\nVERSION="12 (bookworm)"\n'
    'VERSION_CODENAME=bookworm\nID=debian\n',
    "": 'NAME="Rocky Linux"\nVERSION="9.4 (Blue Onyx)"\nID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.4"\n',
}


@pytest.mark.parametrize("folder", sorted(RELEASES))
def test_os_release_leads_to_the_repositorys_folder(tmp_path, folder):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text(RELEASES[folder])
    release = system.os_release(str(tmp_path))
    plan = decide(release["id"], release["version"], "x86_64", Request(), host.devices_of(["2330"]).gpus, 0, Found())
    if folder:
        assert plan.repository == f"{tables.REPOSITORY_BASE}/{folder}/x86_64/"
    else:
        assert plan.action == "refuse"
        assert "rocky 9.4" in plan.problems[0]


def test_devices_by_id():
    devices = host.devices_of(["2330", "0x22a3", "1AF1"])
    assert [(gpu.device_id, gpu.generation) for gpu in devices.gpus] == [("2330", "Hopper")]
    assert devices.nvswitches == 2


def test_devices_on_the_bus(tmp_path):
    for number, (vendor, device, kind) in enumerate(
        [("0x10de", "0x2330", "0x030200"), ("0x10de", "0x22a3", "0x068000"), ("0x8086", "0x1234", "0x030000")]
    ):
        folder = tmp_path / f"sys/bus/pci/devices/0000:0{number}:00.0"
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(vendor + "\n")
        (folder / "device").write_text(device + "\n")
        (folder / "class").write_text(kind + "\n")
    devices = host.pci_devices(str(tmp_path))
    assert [gpu.device_id for gpu in devices.gpus] == ["2330"]
    assert devices.nvswitches == 1


def test_no_bus_no_devices(tmp_path):
    assert host.pci_devices(str(tmp_path)) == ([], 0)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("sys/module/nvidia/version", "570.133.20\n"),
        (
            "proc/driver/nvidia/version",
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.133.20  Release Build  (dvs-builder@U16)\nGCC version:\n",
        ),
    ],
)
def test_loaded_driver(tmp_path, path, text):
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(text)
    assert host.loaded_driver(str(tmp_path)) == "570.133.20"
    assert host.loaded_modules(str(tmp_path)) == ("open" if "proc" in path else "")


def test_kernels(tmp_path):
    for name in ("6.1.0-9-amd64", "6.1.0-31-amd64", "6.1.0-30-amd64"):
        (tmp_path / "lib/modules" / name).mkdir(parents=True)
        (tmp_path / "boot").mkdir(exist_ok=True)
        (tmp_path / "boot" / ("vmlinuz-" + name)).write_text("")
    assert host.kernels("6.1.0-9-amd64", str(tmp_path)) == ["6.1.0-9-amd64", "6.1.0-31-amd64"]
    # A container shows its host's kernel, of which it has nothing.
    assert host.kernels("6.18.44-host", str(tmp_path)) == ["6.1.0-31-amd64"]


def test_header_metapackages():
    there = ["linux-image-amd64", "linux-image-6.1.0-31-amd64", "linux-image-generic-hwe-22.04", "linux-image-unsigned-x", "bash"]
    assert host.header_metapackages(there) == ["linux-headers-amd64", "linux-headers-generic-hwe-22.04"]


def test_processes_on_the_gpus(tmp_path):
    for pid, name, target in ((42, "python", "/dev/nvidia0"), (43, "nvidia-persiste", "/dev/nvidiactl"), (44, "bash", "/dev/null")):
        folder = tmp_path / f"proc/{pid}/fd"
        folder.mkdir(parents=True)
        (tmp_path / f"proc/{pid}/comm").write_text(name + "\n")
        os.symlink(target, folder / "3")
    assert host.gpu_processes(str(tmp_path)) == ["python (pid 42)"]
    assert host.gpu_processes(str(tmp_path), ["py*"]) == []
