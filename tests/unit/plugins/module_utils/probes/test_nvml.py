# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""NVML through ctypes, against a fixture library; what a real one says is in fixtures/probes/h100_driver580_facts.json."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from factories import ReleaseTree

from ansible_collections.verl.baremetal.plugins.module_utils.probes import collect, nvml

NOT_SUPPORTED = 3


class Library:
    """A fixture for libnvidia-ml: answers by name, everything else is not supported."""

    def __init__(self, **codes: int) -> None:
        self.codes = codes
        self.shut_down = False

    def __getattr__(self, name: str) -> Any:
        if name not in dir(type(self)) and not name.startswith("nvml"):
            raise AttributeError(name)
        if name == "nvmlDeviceGetMigMode":
            raise AttributeError(name)  # an old library that lacks the function

        def call(*arguments: Any) -> int:
            if name in self.codes:
                return self.codes[name]
            answer = getattr(self, "_" + name[4:], None) if hasattr(type(self), "_" + name[4:]) else None
            if answer is None:
                return NOT_SUPPORTED
            answer(*arguments)
            return 0

        return call

    def nvmlShutdown(self) -> int:
        self.shut_down = True
        return 0

    def _Init_v2(self) -> None:
        pass

    def _SystemGetCudaDriverVersion_v2(self, value: Any) -> None:
        value._obj.value = 12080

    def _SystemGetDriverVersion(self, buffer: Any, _size: Any) -> None:
        buffer.value = b"570.133.20"

    def _DeviceGetCount_v2(self, value: Any) -> None:
        value._obj.value = 1

    def _DeviceGetHandleByIndex_v2(self, _index: Any, _handle: Any) -> None:
        pass

    def _DeviceGetName(self, _handle: Any, buffer: Any, _size: Any) -> None:
        buffer.value = b"NVIDIA H100 80GB HBM3"

    def _DeviceGetUUID(self, _handle: Any, buffer: Any, _size: Any) -> None:
        buffer.value = b"GPU-00000000-1111-2222-3333-444444444444"

    def _DeviceGetPciInfo_v3(self, _handle: Any, info: Any) -> None:
        info._obj.bus_id = b"00000000:0F:00.0"
        info._obj.pci_device_id = 0x233010DE

    def _DeviceGetCudaComputeCapability(self, _handle: Any, major: Any, minor: Any) -> None:
        major._obj.value, minor._obj.value = 9, 0

    def _DeviceGetMemoryInfo(self, _handle: Any, memory: Any) -> None:
        memory._obj.total, memory._obj.free = 81559 << 20, 1000 << 20

    def _DeviceGetRemappedRows(self, _handle: Any, *values: Any) -> None:
        for value, number in zip(values, (1, 2, 1, 0)):
            value._obj.value = number

    def _DeviceGetTotalEccErrors(self, _handle: Any, kind: int, counter: int, value: Any) -> None:
        assert (kind, counter) == (1, 0)
        value._obj.value = 7

    def _DeviceGetNvLinkState(self, _handle: Any, link: ctypes.c_uint, value: Any) -> None:
        value._obj.value = int(link.value < 17)


def test_what_a_gpu_tells() -> None:
    library = Library()
    found = nvml.ask(library)
    assert (found["driver"], found["cuda"], found["code"], found["error"]) == ("570.133.20", "12.8", 0, None)
    (gpu,) = found["gpus"]
    assert (gpu["pci"], gpu["device_id"], gpu["compute_capability"], gpu["memory_mb"]) == (
        "0000:0f:00.0",
        "2330",
        "9.0",
        81559,
    )
    assert gpu["remapped_rows"] == {"correctable": 1, "uncorrectable": 2, "pending": True, "failed": False}
    assert (gpu["ecc_uncorrected"], gpu["nvlinks"]) == (7, {"active": 17, "inactive": 1})
    assert (gpu["mig"], gpu["ecc"], gpu["persistence"]) == (None, None, None), "what is not supported is None"
    assert library.shut_down


def test_a_lost_gpu_is_one_entry_with_its_error() -> None:
    found = nvml.ask(Library(nvmlDeviceGetHandleByIndex_v2=15))
    assert found["gpus"] == [{"index": 0, "error": "a GPU has fallen off the bus", "code": 15}]


@pytest.mark.parametrize("code", [9, 12, 15, 16, 18, 999, 4711])
def test_a_refusal_is_told_in_words(code: int) -> None:
    with pytest.raises(nvml.NvmlError) as error:
        nvml.ask(Library(nvmlInit_v2=code))
    assert error.value.code == code
    answer = nvml.failure(code)
    assert answer["error"] and answer["remedy"] and answer["gpus"] == []


def test_no_library_is_an_answer() -> None:
    found = nvml.probe(["libnothing-of-this-name.so.1"])
    assert (found["code"], found["gpus"]) == (12, [])


@pytest.mark.parametrize(
    "child, words",
    [
        (lambda _names: os.kill(os.getpid(), signal.SIGKILL), "crashed"),
        (lambda _names: os._exit(0), "crashed"),
        (lambda _names: time.sleep(60), "did not answer"),
        (lambda _names: [], "crashed"),
    ],
    ids=["killed", "exit", "hang", "not a dictionary"],
)
def test_a_library_that_hangs_or_crashes_does_not_take_the_caller_along(
    monkeypatch: pytest.MonkeyPatch, child: Any, words: str
) -> None:
    monkeypatch.setattr(nvml, "_child", child)
    found = nvml.probe(timeout=0.3)
    assert found["code"] == 999 and words in found["error"]


def test_a_library_without_the_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    assert nvml.probe(["libc.so.6"])["code"] == 12


@pytest.mark.parametrize(
    "bus_id, expected", [("00000000:0F:00.0", "0000:0f:00.0"), ("0001:0a:00.0", "0001:0a:00.0"), ("x", "x"), ("", "")]
)
def test_normal_pci(bus_id: str, expected: str) -> None:
    assert nvml.normal_pci(bus_id) == expected


def test_gpu_facts_join_pci_and_nvml(release_tree: ReleaseTree) -> None:
    release_tree.gpu("0000:0f:00.0")
    release_tree.gpu("0000:10:00.0")
    release_tree.write(
        "/proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.133.20  Release\n"
    )
    found = collect.gpu_facts(str(release_tree.root), lambda: nvml.ask(Library()), {})
    assert [gpu.get("uuid") is not None for gpu in found["gpus"]] == [True, False]
    assert found["gpus"][0]["memory_mb"] == 81559 and found["gpus"][1]["memory_mb"] is None
    assert found["nvml"]["cuda"] == "12.8" and "gpus" not in found["nvml"]
    assert found["reason"] is None


def test_gpus_that_only_nvml_sees_count(release_tree: ReleaseTree) -> None:
    """In a container /sys may hide what the driver shows."""
    release_tree.write(
        "/proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.133.20  Mon\n"
    )
    found = collect.gpu_facts(str(release_tree.root), lambda: nvml.ask(Library()), {})
    assert [(gpu["pci"], gpu["generation"], gpu["compute_capability"]) for gpu in found["gpus"]] == [
        ("0000:0f:00.0", "Hopper", "9.0")
    ]


def test_reasons(release_tree: ReleaseTree, tmp_path: Path) -> None:
    root = str(release_tree.root)
    asked: list[int] = []

    def ask() -> dict[str, Any]:
        asked.append(1)
        return nvml.failure(18)

    assert collect.gpu_facts(root, ask, {})["reason"] == "no NVIDIA GPU: /sys/bus/pci is not readable here"
    release_tree.gpu("0000:00:02.0", "0x1234", "0x030000", vendor="0x8086")
    assert collect.gpu_facts(root, ask, {})["reason"] == "no NVIDIA GPU on the PCI bus"
    release_tree.gpu()
    assert collect.gpu_facts(root, ask, {})["reason"] == "no NVIDIA driver is installed"
    release_tree.library("/usr/lib/x86_64-linux-gnu/libcuda.so.1", "libcuda.so.570.133.20")
    assert collect.gpu_facts(root, ask, {})["reason"] == "the NVIDIA driver is not loaded"
    assert not asked, "NVML is not asked without a loaded driver"
    release_tree.write("/sys/module/nvidia/version", "570.124.06\n")
    assert "different versions" in collect.gpu_facts(root, ask, {})["reason"]
    assert collect.gpu_facts(root, None, {})["nvml"] is None
