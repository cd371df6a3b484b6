# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""CUDA homes made of a fixture of NVIDIA's wheels, and foreign ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils import cuda_layout

FILES = {
    "nvidia/__init__.py": "",
    "nvidia/cuda_runtime/include/cuda.h": "#define CUDA_VERSION 12080\n",
    "nvidia/cuda_runtime/include/cuda_runtime.h": "",
    "nvidia/cuda_runtime/include/crt/host.h": "",
    "nvidia/cuda_runtime/lib/libcudart.so.12": "",
    "nvidia/cuda_runtime/lib/__init__.py": "",
    "nvidia/cuda_nvcc/bin/ptxas": "#!/bin/sh\n",
    "nvidia/cuda_nvcc/include/crt/device.h": "",
    "nvidia/cuda_nvcc/nvvm/libdevice/libdevice.10.bc": "",
    "nvidia/cudnn/include/cudnn_version.h": "#define CUDNN_MAJOR 9\n#define CUDNN_MINOR 8\n#define CUDNN_PATCHLEVEL 0\n",
    "nvidia/cudnn/lib/libcudnn.so.9": "",
    "nvidia/nvjitlink/lib/libnvJitLink.so.12": "",
}
PACKAGES = {"cuda-toolkit": "12.8.1", "nvidia-cuda-nvcc-cu12": "12.8.93", "nvidia-cudnn-cu12": "9.8.0.87", "six": "1"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home whose wheels are unpacked."""
    for name, text in FILES.items():
        path = tmp_path / ".wheels" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def lay_out(home: Path) -> None:
    cuda_layout.lay_out(str(home), str(home / ".wheels"), "12.8.1", PACKAGES)


def test_layout(home: Path) -> None:
    lay_out(home)
    for name in (
        "include/cuda.h", "include/crt/host.h", "include/crt/device.h", "include/cudnn_version.h", "lib64/libcudart.so",
        "lib64/libcudart.so.12", "lib/libnvJitLink.so", "nvvm/libdevice/libdevice.10.bc",
        "targets/x86_64-linux/include/cuda.h", "targets/x86_64-linux/lib/libcudart.so",
    ):  # fmt: skip
        assert (home / name).is_file(), name
    assert (home / "bin/ptxas").stat().st_mode & 0o111
    assert not list(home.glob("lib64/__init__*"))
    # One cuDNN is in use, the environment's: the home has its headers, not its libraries.
    assert not list(home.glob("lib64/libcudnn*"))
    version = json.loads((home / "version.json").read_text())
    assert version["cuda"] == {"name": "CUDA SDK", "version": "12.8.1"}
    assert version["cuda_nvcc"]["version"] == "12.8.93"
    assert version["cudnn"]["version"] == "9.8.0.87"
    assert "six" not in version
    assert cuda_layout.read_toolkit(str(home)) == cuda_layout.Toolkit(str(home), "12.8.1", "9.8.0", False)


def test_layout_can_be_repeated_and_moved(home: Path) -> None:
    lay_out(home)
    (home / "stale").mkdir()
    (home / "include" / "cuda.h").unlink()
    assert not cuda_layout.intact(str(home), str(home / ".wheels"))
    lay_out(home)
    assert cuda_layout.intact(str(home), str(home / ".wheels"))
    assert not (home / "stale").exists()
    moved = home.rename(home.parent / "moved")
    assert cuda_layout.intact(str(moved), str(moved / ".wheels"))


def test_wheels_that_make_no_home(home: Path) -> None:
    (home / ".wheels/nvidia/cuda_runtime/include/cuda.h").unlink()
    with pytest.raises(cuda_layout.LayoutError, match=r"include/cuda\.h is missing"):
        lay_out(home)
    assert not cuda_layout.intact(str(home), str(home / ".wheels"))


@pytest.mark.parametrize(
    ("version_json", "header", "expected"),
    [
        ('{"cuda": {"name": "CUDA SDK", "version": "12.8.1"}}', "", "12.8.1"),
        ("", "#define CUDA_VERSION 12080\n", "12.8"),
        ("{", "#  define CUDA_VERSION 13000\n", "13.0"),
        ("[]", "", ""),
        ('{"cuda": {}}', "#define OTHER 1\n", ""),
    ],
)
def test_versions_of_a_home(tmp_path: Path, version_json: str, header: str, expected: str) -> None:
    (tmp_path / "include").mkdir()
    (tmp_path / "version.json").write_text(version_json)
    (tmp_path / "include" / "cuda.h").write_text(header)
    assert cuda_layout.read_toolkit(str(tmp_path)).version == expected


def test_existing_home(home: Path) -> None:
    lay_out(home)
    assert cuda_layout.check_existing(str(home), "12.8").version == "12.8.1"
    with pytest.raises(cuda_layout.LayoutError, match=r"holds CUDA 12\.8\.1, 12\.6 is needed"):
        cuda_layout.check_existing(str(home), "12.6")
    with pytest.raises(cuda_layout.LayoutError, match="is no CUDA toolkit"):
        cuda_layout.check_existing(str(home / "bin"), "12.8")
