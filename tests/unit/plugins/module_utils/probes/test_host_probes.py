# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Driver, GPUs, CUDA, libraries, packages and system, read from fixture trees and captured files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from factories import ReleaseTree, elf_file

from ansible_collections.verl.baremetal.plugins.module_utils.probes import (
    cuda,
    driver,
    gpus,
    libraries,
    packages,
    system,
)

DPKG = """\
Package: bash
Status: install ok installed
Version: 5.2-1

Package: nvidia-open-570
Status: hold ok installed
Priority: optional
Version: 570.133.20-0ubuntu1
Description: a metapackage
 Status: not a field

Package: libnvidia-compute-570
Status: install ok half-configured
Version: 1:570.124.06-0ubuntu1

Package: cuda-toolkit-12-8
Status: deinstall ok config-files
Version: 12.8.1-1

Package: libcudnn9-cuda-12
Status: install ok installed
Architecture: amd64
Version: 9.8.0.87-1
"""


def test_captured_version_of_an_open_driver(data: Path) -> None:
    assert driver.parse_proc((data / "probes/proc_version_580_open.txt").read_text()) == {
        "version": "580.159.04",
        "open": True,
    }


@pytest.mark.parametrize(
    "text, expected",
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.261.03  Tue Jul 1\nGCC version:  gcc 12",
            {"version": "535.261.03", "open": False},
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  590.44  Release",
            {"version": "590.44", "open": True},
        ),
        ("", None),
        ("\n\n", None),
        ("GCC version: gcc version 15.3.0", None),
        ("\0\0\0", None),
    ],
)
def test_parse_proc(text: str, expected: dict[str, object] | None) -> None:
    assert driver.parse_proc(text) == expected


def module(version: str, license_text: str = "Dual MIT/GPL") -> bytes:
    return elf_file(
        {".modinfo": f"version={version}\0license={license_text}\0alias=pci:*\0vermagic=6.8.0 SMP\0".encode()}
    )


def test_a_driver_in_all_its_places(release_tree: ReleaseTree, data: Path) -> None:
    tree = release_tree
    tree.write("/proc/driver/nvidia/version", (data / "probes/proc_version_580_open.txt").read_text())
    tree.write("/sys/module/nvidia/version", "580.159.04\n")
    tree.write("/lib/modules/6.8.0-60-generic/updates/dkms/nvidia.ko", module("580.159.04"))
    tree.write("/lib/modules/6.8.0-100-generic/kernel/drivers/video/nvidia.ko", module("570.133.20", "NVIDIA"))
    tree.write("/boot/vmlinuz-6.8.0-60-generic", "")
    tree.write("/boot/vmlinuz-6.8.0-100-generic", "")
    tree.library("/usr/lib/x86_64-linux-gnu/libcuda.so.1", "libcuda.so.580.159.04")
    tree.library("/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1", "libnvidia-ml.so.580.159.04")
    tree.write("/dev/nvidia0", "")
    tree.write("/dev/nvidia-uvm-tools", "")
    found = driver.probe(str(tree.root), "6.8.0-60-generic", packages.parse_status(DPKG))
    assert found is not None
    assert (found["loaded"], found["kind"], found["userspace"]) == ("580.159.04", "open", "580.159.04")
    assert [(entry["kernel"], entry["version"], entry["open"]) for entry in found["on_disk"]] == [
        ("6.8.0-60-generic", "580.159.04", True),
        ("6.8.0-100-generic", "570.133.20", False),
    ]
    assert found["newest_kernel"] == "6.8.0-100-generic"
    assert found["packages"] == {"nvidia-open-570": "570.133.20"}
    assert found["device_nodes"] == ["nvidia0"]


def test_no_trace_of_a_driver(tmp_path: Path) -> None:
    assert driver.probe(str(tmp_path), "6.1.0") is None


@pytest.mark.parametrize("name", ["nvidia-current.ko", "nvidia-current-open.ko.xz", "nvidia-tesla-535.ko", "nvidia.ko.zst"])
def test_debians_names_of_the_module(release_tree: ReleaseTree, name: str) -> None:
    folder = "/lib/modules/6.1.0-1/updates/dkms/"
    for part in ("nvidia-current-drm.ko", "nvidia-current-open-uvm.ko", "nvidia-uvm.ko", "nvidia-modeset.ko.xz"):
        release_tree.write(folder + part, module("1.0"))
    assert driver.module_on_disk("6.1.0-1", str(release_tree.root)) is None
    release_tree.write(folder + name, module("535.261.03"))
    found = driver.module_on_disk("6.1.0-1", str(release_tree.root))
    assert found is not None and found["path"].endswith(folder + name)


@pytest.mark.parametrize("content", [b"", b"garbage", elf_file({".text": b"x"}), module("570.1")[:80]])
def test_a_module_that_cannot_be_read_has_no_version(release_tree: ReleaseTree, content: bytes) -> None:
    release_tree.write("/lib/modules/6.1.0-1/updates/dkms/nvidia.ko", content)
    found = driver.module_on_disk("6.1.0-1", str(release_tree.root))
    assert found is not None and found["version"] is None


def test_kernels_are_in_the_order_of_their_numbers(release_tree: ReleaseTree) -> None:
    for name in (
        "6.8.0-100-generic",
        "6.8.0-60-generic",
        "6.11.0-9-generic",
        "5.15.0-200-generic",
        "extra",
        "6.1.0-rc1",
    ):
        release_tree.write(f"/lib/modules/{name}/modules.dep", "")
    assert driver.kernels(str(release_tree.root)) == [
        "5.15.0-200-generic",
        "6.1.0-rc1",
        "6.8.0-60-generic",
        "6.8.0-100-generic",
        "6.11.0-9-generic",
    ]
    assert driver.newest_kernel(str(release_tree.root)) is None


@pytest.mark.parametrize(
    "version, expected",
    [
        ("1:570.133.20-0ubuntu1", "570.133.20"),
        ("570.133.20-1ubuntu1", "570.133.20"),
        ("590.44-1", "590.44"),
        ("13.0.96-1", "13.0.96-1"),
        ("", ""),
    ],
)
def test_upstream(version: str, expected: str) -> None:
    assert driver.upstream(version) == expected


def test_gpus_and_switches(release_tree: ReleaseTree, data: Path) -> None:
    tree = release_tree
    tree.gpu("0000:0f:00.0", "0x2330")
    tree.gpu("0000:10:00.0", "0x2901")
    tree.gpu("0000:11:00.0", "0x7777")
    tree.gpu("0000:12:00.0", "0x22a3", "0x068000")
    tree.gpu("0000:13:00.0", "0x1af1", "0x068000")
    tree.gpu("0000:14:00.0", "0x2330", "0x040300")  # the audio part of a card
    tree.gpu("0000:00:02.0", "0x1234", "0x030000", vendor="0x8086")
    tree.write(
        "/proc/driver/nvidia/gpus/0000:0f:00.0/information", (data / "probes/proc_gpu_information.txt").read_text()
    )
    found = gpus.scan(str(tree.root))
    assert (found["nvswitches"], found["pci"]) == (2, True)
    assert [
        (gpu["pci"], gpu["device_id"], gpu["name"], gpu["generation"], gpu["compute_capability"])
        for gpu in found["gpus"]
    ] == [
        ("0000:0f:00.0", "2330", "NVIDIA H100 80GB HBM3", "Hopper", "9.0"),
        ("0000:10:00.0", "2901", "B200", "Blackwell", "10.0"),
        ("0000:11:00.0", "7777", "NVIDIA device 7777", None, None),
    ]


def test_no_pci(tmp_path: Path) -> None:
    assert gpus.scan(str(tmp_path)) == {"gpus": [], "nvswitches": 0, "pci": False}


def test_garbage_in_sys_is_no_gpu(release_tree: ReleaseTree) -> None:
    release_tree.gpu("0000:01:00.0", "what")
    release_tree.write("/sys/bus/pci/devices/0000:02:00.0/vendor", b"\xff\xfe")
    assert gpus.scan(str(release_tree.root))["gpus"] == []


@pytest.mark.parametrize(
    "device, name, capability",
    [
        (0x1DB6, "Volta", "7.0"), (0x1EB8, "Turing", "7.5"), (0x20B2, "Ampere", "8.0"), (0x2235, "Ampere", "8.6"), (0x26B9, "Ada Lovelace", "8.9"),
        (0x2330, "Hopper", "9.0"), (0x2335, "Hopper", "9.0"), (0x2342, "Hopper", "9.0"), (0x2901, "Blackwell", "10.0"), (0x2BB5, "Blackwell", "12.0"),
        (0x3182, "Blackwell", "10.3"), (0x15F8, "Pascal", "6.0"), (0x1B06, "Pascal", "6.1"), (0x17C2, "Maxwell", None), (0x27B8, "Ada Lovelace", "8.9"),
    ],
)  # fmt: skip
def test_generations(device: int, name: str, capability: str | None) -> None:
    found = gpus.generation(device)
    assert found is not None and (found.name, found.capability) == (name, capability)


@pytest.mark.parametrize(
    "capability, name",
    [
        ("9.0", "Hopper"),
        ("7.0", "Volta"),
        ("7.5", "Turing"),
        ("8.9", "Ada Lovelace"),
        ("8.0", "Ampere"),
        ("10.3", "Blackwell"),
        ("99.0", None),
        ("", None),
    ],
)
def test_generation_of_capability(capability: str, name: str | None) -> None:
    assert gpus.generation_of_capability(capability) == name


VERSION_JSON = json.dumps(
    {"cuda": {"name": "CUDA SDK", "version": "12.8.1"}, "cuda_nvcc": {"name": "CUDA NVCC", "version": "12.8.93"}}
)


def test_cuda_homes(release_tree: ReleaseTree) -> None:
    tree = release_tree
    tree.write("/usr/local/cuda-12.8/version.json", VERSION_JSON)
    tree.write("/usr/local/cuda-12.8/include/cuda.h", "#ifndef X\n#define CUDA_VERSION 12080\n")
    tree.write(
        "/usr/local/cuda-13.0/targets/x86_64-linux/include/cuda_runtime_api.h", "#define CUDART_VERSION  13000\n"
    )
    tree.write("/usr/local/cuda-empty/readme", "")
    (tree.root / "usr/local/cuda").symlink_to("cuda-13.0")
    found = {
        Path(home["home"]).name: home for home in cuda.homes(str(tree.root), [str(tree.root / "usr/local/cuda-12.8")])
    }
    assert list(found) == ["cuda-12.8", "cuda"]
    assert (found["cuda-12.8"]["version"], found["cuda-12.8"]["header"], found["cuda-12.8"]["nvcc"]) == (
        "12.8.1",
        "12.8",
        "12.8.93",
    )
    assert (found["cuda"]["version"], found["cuda"]["nvcc"], found["cuda"]["compiler"]) == ("13.0", None, False)
    assert found["cuda"]["source"].endswith("cuda_runtime_api.h")


def test_captured_answer_of_nvcc(data: Path) -> None:
    assert cuda.parse_nvcc((data / "probes/nvcc_13.0.txt").read_text()) == "13.0.88"


@pytest.mark.parametrize("text", ["", "bash: nvcc: command not found", "release 13", "\0"])
def test_parse_nvcc_of_something_else(text: str) -> None:
    assert cuda.parse_nvcc(text) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', '{"cuda": "12.8"}', '{"cuda": {"version": 12}}', "\0"])
def test_parse_version_json_of_something_else(text: str) -> None:
    assert cuda.parse_version_json(text) == {}


@pytest.mark.parametrize(
    "number, version", [(12080, "12.8"), (13000, "13.0"), (11080, "11.8"), (12, None), (None, None)]
)
def test_decode(number: int | None, version: str | None) -> None:
    assert cuda.decode(number) == version


def test_ask_nvcc_asks_the_program(release_tree: ReleaseTree, data: Path) -> None:
    home = release_tree.root / "cuda"
    assert cuda.ask_nvcc(str(home)) is None
    program = release_tree.write("/cuda/bin/nvcc", f"#!/bin/sh\ncat {data}/probes/nvcc_13.0.txt\n")
    assert cuda.ask_nvcc(str(home)) is None  # not executable
    program.chmod(0o755)
    assert cuda.ask_nvcc(str(home)) == "13.0.88"


def cudnn_header(version: str) -> str:
    major, minor, patch = version.split(".")
    return f"/* comment */\n#define CUDNN_MAJOR {major}\n#define CUDNN_MINOR {minor}\n#define CUDNN_PATCHLEVEL {patch}\n#define CUDNN_VERSION (CUDNN_MAJOR * 10000)\n"


def test_every_copy_of_cudnn(release_tree: ReleaseTree) -> None:
    tree = release_tree
    wheel = "/" + str(tree.site.relative_to(tree.root)) + "/nvidia/cudnn"
    tree.library(wheel + "/lib/libcudnn.so.9")
    tree.write(wheel + "/include/cudnn_version.h", cudnn_header("9.8.0"))
    tree.library("/usr/lib/x86_64-linux-gnu/libcudnn.so.9", "libcudnn.so.9.14.0")
    tree.library("/opt/other/lib/libcudnn.so.9")
    tree.write("/etc/ld.so.conf", "# comment\ninclude ld.so.conf.d/*.conf\nhwcap 1 x\n")
    tree.write("/etc/ld.so.conf.d/other.conf", "/opt/other/lib # here\n/nowhere\n")
    tree.library("/early/libcudnn.so.9", "libcudnn.so.9.1.0")
    found = libraries.copies(
        libraries.CUDNN, str(tree.root), [str(tree.site)], None, f"{tree.root}/early::{tree.root}/nothing"
    )
    assert [(copy.place, copy.version) for copy in found] == [
        ("environment", "9.8.0"),
        ("ld_library_path", "9.1.0"),
        ("system", None),
        ("system", "9.14.0"),
    ]


def test_the_same_file_under_two_names_is_one_copy(release_tree: ReleaseTree) -> None:
    tree = release_tree
    tree.library("/cuda/lib64/libnccl.so.2", "libnccl.so.2.26.2")
    (tree.root / "cuda/lib").symlink_to("lib64")
    found = libraries.copies(libraries.NCCL, str(tree.root), [], str(tree.root / "cuda"))
    assert [(copy.place, copy.version) for copy in found] == [("cuda_home", "2.26.2")]


def test_libraries_that_are_found_and_those_that_are_not(release_tree: ReleaseTree) -> None:
    tree = release_tree
    site = "/" + str(tree.site.relative_to(tree.root))
    for path in (
        "/usr/lib/libc.so.6",
        site + "/torch/lib/libc10.so",
        site + "/nvidia/cublas/lib/libcublas.so.12",
        site + "/ext/x.so",
        site + "/ext.libs/libz.so",
        "/cuda/lib64/libnvrtc.so",
    ):
        tree.write(path, "")
    folders = libraries.search_folders(str(tree.root), [str(tree.site)], str(tree.root / "cuda"))
    needed = ["libc.so.6", "libc10.so", "libcublas.so.12", "libz.so", "libnvrtc.so", "libnuma.so.1"]
    assert libraries.unresolved(needed, ["$ORIGIN/../ext.libs"], str(tree.site / "ext/x.so"), folders) == [
        "libnuma.so.1"
    ]


def test_includes_that_go_in_circles_end(release_tree: ReleaseTree) -> None:
    release_tree.write("/etc/ld.so.conf", "include /etc/ld.so.conf\ninclude /etc/*.conf\n/lib\n")
    (release_tree.root / "lib").mkdir()
    assert libraries.loader_folders(str(release_tree.root))[0] == str(release_tree.root / "lib")


@pytest.mark.parametrize(
    "content", ["", "#define CUDNN_MAJOR 9\n", "#define CUDNN_MAJOR x\n", "// #define CUDNN_MAJOR 9", "\0"]
)
def test_a_header_without_all_numbers_tells_no_version(release_tree: ReleaseTree, content: str) -> None:
    path = release_tree.write("/cudnn_version.h", content)
    assert libraries.header_version(str(path), libraries.CUDNN.macros) is None


def test_packages() -> None:
    found = packages.parse_status(DPKG)
    assert sorted(found) == ["cuda-toolkit-12-8", "libcudnn9-cuda-12", "libnvidia-compute-570", "nvidia-open-570"]
    assert found["nvidia-open-570"] == packages.Package("570.133.20-0ubuntu1", True, True, False)
    assert found["libnvidia-compute-570"] == packages.Package("1:570.124.06-0ubuntu1", False, False, True)
    assert not found["cuda-toolkit-12-8"].installed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n\n",
        "Package: cuda\n",
        "Package: cuda\nStatus: broken\nVersion: 1\n",
        "\0\1\2",
        "Status: install ok installed\n",
    ],
)
def test_packages_of_something_else(text: str) -> None:
    assert packages.parse_status(text) == {}


def test_sources(release_tree: ReleaseTree) -> None:
    tree = release_tree
    tree.write(
        "/etc/apt/sources.list", "deb http://mirror.example/debian bookworm main\n# deb https://mirror.example/cuda /\n"
    )
    tree.write(
        "/etc/apt/sources.list.d/cuda.list",
        "deb [signed-by=/x.gpg] https://mirror.example/compute/cuda/repos/debian12/x86_64/ /\n",
    )
    tree.write(
        "/etc/apt/sources.list.d/a.sources",
        "Types: deb\nURIs: https://mirror.example/nvidia/\nSuites: /\n\nEnabled: no\nURIs: https://off.example/nvidia\n",
    )
    tree.write("/etc/apt/sources.list.d/old.list.save", "deb https://mirror.example/cuda /\n")
    assert [Path(source["file"]).name + " " + source["uri"] for source in packages.sources(str(tree.root))] == [
        "a.sources https://mirror.example/nvidia/",
        "cuda.list https://mirror.example/compute/cuda/repos/debian12/x86_64/",
    ]


@pytest.mark.parametrize(
    "content, on",
    [(b"\x06\0\0\0\x01", True), (b"\x06\0\0\0\x00", False), (b"\x06\0\0\0", None), (b"", None)],
)
def test_secure_boot(release_tree: ReleaseTree, content: bytes, on: bool | None) -> None:
    release_tree.write("/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c", content)
    assert system.secure_boot(str(release_tree.root)) is on


def test_no_efi(tmp_path: Path) -> None:
    assert system.secure_boot(str(tmp_path)) is None


def test_pending_reboot(release_tree: ReleaseTree) -> None:
    assert not system.pending_reboot(str(release_tree.root))["required"]
    release_tree.write("/run/reboot-required", "*** System restart required ***\n")
    release_tree.write("/run/reboot-required.pkgs", "linux-base\nlinux-image\nlinux-base\n")
    found = system.pending_reboot(str(release_tree.root))
    assert (found["required"], found["packages"]) == (True, ["linux-base", "linux-image"])


def test_dkms(release_tree: ReleaseTree) -> None:
    tree = release_tree
    tree.write("/var/lib/dkms/nvidia/570.133.20/6.8.0-60-generic/x86_64/module/nvidia.ko.zst", "")
    tree.write("/var/lib/dkms/nvidia/570.133.20/6.8.0-60-generic/x86_64/log/make.log", "")
    tree.write("/var/lib/dkms/nvidia/580.65.06/build/make.log", "error")
    tree.write("/var/lib/dkms/nvidia-open/590.44/source/dkms.conf", "")
    tree.write("/var/lib/dkms/zfs/2.2/build/make.log", "")
    (tree.root / "var/lib/dkms/nvidia/kernel-6.8.0-60-generic-x86_64").symlink_to("570.133.20/6.8.0-60-generic/x86_64")
    assert [
        (entry["module"], entry["version"], entry["kernel"], entry["state"]) for entry in system.dkms(str(tree.root))
    ] == [
        ("nvidia", "570.133.20", "6.8.0-60-generic", "built"),
        ("nvidia", "580.65.06", "", "failed"),
        ("nvidia-open", "590.44", "", "added"),
    ]


def test_os_release(release_tree: ReleaseTree) -> None:
    release_tree.write("/etc/os-release", 'PRETTY_NAME="Ubuntu 24.04.3 LTS"\nID=ubuntu\nVERSION_ID="24.04"\n# x\n')
    assert system.os_release(str(release_tree.root)) == {
        "id": "ubuntu",
        "version": "24.04",
        "name": "Ubuntu 24.04.3 LTS",
    }


def test_no_os_release(tmp_path: Path) -> None:
    assert system.os_release(str(tmp_path)) == {"id": None, "version": None, "name": None}


def test_fabric_manager_and_container_toolkit(release_tree: ReleaseTree) -> None:
    root = str(release_tree.root)
    assert system.fabric_manager(root) == {"program": None, "running": False}
    found = system.container_toolkit(root)
    assert (found["program"], found["docker"]) == (None, False)
    release_tree.write("/usr/bin/nv-fabricmanager", "")
    release_tree.write("/proc/42/comm", "nv-fabricmanage\n")
    release_tree.write("/usr/bin/nvidia-ctk", "")
    release_tree.write("/etc/docker/daemon.json", '{"runtimes": {"nvidia": {}}}')
    assert system.fabric_manager(root) == {"program": "/usr/bin/nv-fabricmanager", "running": True}
    found = system.container_toolkit(root)
    assert (found["program"], found["docker"]) == ("/usr/bin/nvidia-ctk", True)


CONFIG_TOML = """#accept-nvidia-visible-devices-envvar-when-unprivileged = true
[nvidia-container-cli]
%s
[nvidia-container-runtime]
mode = "%s"
"""


@pytest.mark.parametrize(
    ("daemon", "toml", "tree", "expected"),
    [
        (None, None, (), (64, "cgroupfs", False, False, False)),
        ("{broken", ("#no-cgroups = true", "auto"), (), (64, "cgroupfs", False, False, False)),
        ({"default-shm-size": "32G"}, ("no-cgroups = true", "auto"), (), (32768, "cgroupfs", True, False, False)),
        ({"default-shm-size": "512m"}, ("no-cgroups = false", "cdi"), (), (512, "cgroupfs", False, True, False)),
        ({"default-shm-size": "1073741824"}, None, ("v2",), (1024, "cgroupfs", False, False, False)),
        ({}, None, ("v2", "systemd", "links"), (64, "systemd", False, False, True)),
        ({"exec-opts": ["native.cgroupdriver=systemd"]}, None, (), (64, "systemd", False, False, False)),
        (
            {"exec-opts": ["native.cgroupdriver=cgroupfs"]},
            None,
            ("v2", "systemd"),
            (64, "cgroupfs", False, False, False),
        ),
    ],
)
def test_containers_with_gpus_in_fake_trees(
    release_tree: ReleaseTree, daemon: Any, toml: Any, tree: tuple[str, ...], expected: tuple[Any, ...]
) -> None:
    """Made-up files of Docker, the toolkit, systemd and /dev: no daemon and no GPU is asked."""
    places = {
        "v2": "/sys/fs/cgroup/cgroup.controllers",
        "systemd": "/run/systemd/system/x",
        "links": "/dev/char/195:255",
    }
    for name in tree:
        release_tree.write(places[name], "")
    if daemon is not None:
        release_tree.write("/etc/docker/daemon.json", daemon if isinstance(daemon, str) else json.dumps(daemon))
    if toml is not None:
        release_tree.write("/etc/nvidia-container-runtime/config.toml", CONFIG_TOML % toml)
    found = system.container_toolkit(str(release_tree.root))
    assert (
        found["shm_mb"],
        found["cgroup_driver"],
        found["no_cgroups"],
        found["cdi"],
        found["device_links"],
    ) == expected


def test_an_empty_root_is_all_absence(tmp_path: Path) -> None:
    found = system.probe(str(tmp_path))
    assert found["shm_mb"] is None and found["dkms"] == [] and found["modules"] == []
