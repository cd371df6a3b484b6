# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""What the driver says of its GPUs, asked of NVIDIA's management library (NVML) without creating a CUDA context.

The library is asked in a child process: a GPU that has fallen off the bus can hang or crash the caller.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import time
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

TIMEOUT = 20.0
LIBRARY = "libnvidia-ml.so.1"

# nvmlReturn_t: what it means, and what to do
ERRORS: Dict[int, Tuple[str, str]] = {
    1: ("NVML is not initialised", "report this: the library was asked in the wrong order"),
    4: ("no permission to use the GPU", "give the user access to /dev/nvidia*"),
    9: ("the driver is not loaded", "load the module (modprobe nvidia) or reboot; see dmesg for the reason"),
    10: ("the GPU's interrupt does not arrive", "reboot; check the slot and the kernel's command line"),
    12: ("the driver's user space (libnvidia-ml.so.1) is not installed", "install the driver's compute packages"),
    15: ("a GPU has fallen off the bus", "reboot the host; if it stays away, check slot, power and cooling"),
    16: ("a GPU needs a reset", "reset it (nvidia-smi --gpu-reset) or reboot, after draining the host"),
    17: ("the operating system blocks the GPU", "check cgroups and the container's devices"),
    18: (
        "the loaded kernel module and the user space are of different versions",
        "reboot, or unload and load the module",
    ),
    999: ("NVML reports an unknown error", "see dmesg for NVRM or Xid lines"),
}


class NvmlError(Exception):
    """NVML answered with an error; `code` is its number."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(ERRORS.get(code, (f"NVML answers with error {code}", ""))[0])


class _PciInfo(ctypes.Structure):
    _fields_ = [
        ("legacy", ctypes.c_char * 16),
        ("domain", ctypes.c_uint),
        ("bus", ctypes.c_uint),
        ("device", ctypes.c_uint),
        ("pci_device_id", ctypes.c_uint),
        ("pci_subsystem_id", ctypes.c_uint),
        ("bus_id", ctypes.c_char * 32),
    ]


class _Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


def _check(code: int) -> None:
    if code:
        raise NvmlError(code)


class _Nvml:
    """The few calls that are needed; each returns a value or None where the GPU does not support it."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def call(self, name: str, *arguments: Any) -> None:
        _check(getattr(self._library, name)(*arguments))

    def text(self, name: str, *before: Any, size: int = 96) -> Optional[str]:
        buffer = ctypes.create_string_buffer(size)
        return self._maybe(
            lambda: self.call(name, *before, buffer, ctypes.c_uint(size)),
            lambda: buffer.value.decode("utf-8", "replace"),
        )

    def number(self, name: str, *before: Any, kind: Any = ctypes.c_uint) -> Optional[int]:
        value = kind()
        return self._maybe(lambda: self.call(name, *before, ctypes.byref(value)), lambda: int(value.value))

    def numbers(self, name: str, count: int, *before: Any, kind: Any = ctypes.c_uint) -> Optional[List[int]]:
        values = [kind() for _index in range(count)]
        return self._maybe(
            lambda: self.call(name, *before, *(ctypes.byref(value) for value in values)),
            lambda: [int(value.value) for value in values],
        )

    @staticmethod
    def _maybe(ask: Callable[[], None], answer: Callable[[], Any]) -> Any:
        try:
            ask()
        except (NvmlError, AttributeError):  # not supported by this GPU, or by this version of the library
            return None
        return answer()


def normal_pci(bus_id: str) -> str:
    """NVML's 00000000:0F:00.0 as /sys writes it: 0000:0f:00.0."""
    parts = bus_id.strip().lower().split(":")
    if len(parts) == 3:
        parts[0] = parts[0][-4:]
    return ":".join(parts)


def _device(nvml: _Nvml, handle: Any) -> Dict[str, Any]:
    pci = _PciInfo()
    memory = _Memory()
    capability = nvml.numbers("nvmlDeviceGetCudaComputeCapability", 2, handle, kind=ctypes.c_int)
    bus_id = nvml._maybe(
        lambda: nvml.call("nvmlDeviceGetPciInfo_v3", handle, ctypes.byref(pci)),
        lambda: pci.bus_id.decode("ascii", "replace"),
    )
    has_memory = nvml._maybe(lambda: nvml.call("nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory)), lambda: True)
    remapped = nvml.numbers("nvmlDeviceGetRemappedRows", 4, handle)
    mig = nvml.numbers("nvmlDeviceGetMigMode", 2, handle)
    ecc = nvml.numbers("nvmlDeviceGetEccMode", 2, handle)
    # memory error type 1 is uncorrected, counter 0 counts since the driver was loaded
    uncorrected = nvml.number("nvmlDeviceGetTotalEccErrors", handle, 1, 0, kind=ctypes.c_ulonglong)
    return {
        "pci": normal_pci(bus_id) if bus_id else None,
        "device_id": f"{pci.pci_device_id >> 16:04x}" if bus_id else None,
        "name": nvml.text("nvmlDeviceGetName", handle),
        "uuid": nvml.text("nvmlDeviceGetUUID", handle),
        "compute_capability": f"{capability[0]}.{capability[1]}" if capability else None,
        "memory_mb": int(memory.total) // (1024 * 1024) if has_memory else None,
        "memory_free_mb": int(memory.free) // (1024 * 1024) if has_memory else None,
        "persistence": _flag(nvml.number("nvmlDeviceGetPersistenceMode", handle)),
        "compute_mode": nvml.number("nvmlDeviceGetComputeMode", handle),
        "mig": _flag(mig[0]) if mig else None,
        "ecc": _flag(ecc[0]) if ecc else None,
        "ecc_uncorrected": uncorrected,
        "remapped_rows": {
            "correctable": remapped[0],
            "uncorrectable": remapped[1],
            "pending": bool(remapped[2]),
            "failed": bool(remapped[3]),
        }
        if remapped
        else None,
        "pcie": {
            "generation": nvml.number("nvmlDeviceGetCurrPcieLinkGeneration", handle),
            "width": nvml.number("nvmlDeviceGetCurrPcieLinkWidth", handle),
            "max_generation": nvml.number("nvmlDeviceGetMaxPcieLinkGeneration", handle),
            "max_width": nvml.number("nvmlDeviceGetMaxPcieLinkWidth", handle),
        },
        "throttle_reasons": nvml.number("nvmlDeviceGetCurrentClocksThrottleReasons", handle, kind=ctypes.c_ulonglong),
        "nvlinks": _nvlinks(nvml, handle),
    }


def _flag(value: Optional[int]) -> Optional[bool]:
    return None if value is None else bool(value)


def _nvlinks(nvml: _Nvml, handle: Any) -> Dict[str, int]:
    active = inactive = 0
    for link in range(18):
        state = nvml.number("nvmlDeviceGetNvLinkState", handle, ctypes.c_uint(link))
        if state is None:
            continue
        if state:
            active += 1
        else:
            inactive += 1
    return {"active": active, "inactive": inactive}


def ask(library: Any) -> Dict[str, Any]:
    """Driver, CUDA version and GPUs from a loaded NVML; raises NvmlError where it refuses."""
    nvml = _Nvml(library)
    nvml.call("nvmlInit_v2")
    try:
        cuda = nvml.number("nvmlSystemGetCudaDriverVersion_v2", kind=ctypes.c_int)
        gpus: List[Dict[str, Any]] = []
        for index in range(nvml.number("nvmlDeviceGetCount_v2") or 0):
            handle = ctypes.c_void_p()
            try:
                nvml.call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))
            except NvmlError as error:
                gpus.append({"index": index, "error": str(error), "code": error.code})
                continue
            gpus.append({"index": index, **_device(nvml, handle)})
        return {
            "driver": nvml.text("nvmlSystemGetDriverVersion"),
            "nvml": nvml.text("nvmlSystemGetNVMLVersion"),
            "cuda": f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else None,
            "gpus": gpus,
            "error": None,
            "code": 0,
            "remedy": None,
        }
    finally:
        library.nvmlShutdown()


def failure(code: int, detail: str = "") -> Dict[str, Any]:
    """The answer of `probe` where NVML cannot be used."""
    words, remedy = ERRORS.get(code, (f"NVML answers with error {code}", "see dmesg for NVRM or Xid lines"))
    return {
        "driver": None,
        "nvml": None,
        "cuda": None,
        "gpus": [],
        "error": f"{words}: {detail}" if detail else words,
        "code": code,
        "remedy": remedy,
    }


def _child(names: Sequence[str]) -> Dict[str, Any]:
    library: Any = None
    for name in names:
        try:
            library = ctypes.CDLL(name)
            break
        except OSError:
            continue
    if library is None:
        return failure(12)
    try:
        return ask(library)
    except NvmlError as error:
        return failure(error.code)
    except AttributeError as error:
        return failure(12, str(error))


def probe(names: Sequence[str] = (LIBRARY,), timeout: float = TIMEOUT) -> Dict[str, Any]:
    """What NVML says, asked in a child process that is killed after `timeout` seconds."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            with os.fdopen(writer, "w") as stream:
                json.dump(_child(names), stream)
        finally:
            os._exit(0)
    os.close(writer)
    content = b""
    deadline = time.monotonic() + timeout
    try:
        while True:
            ready, _none, _none2 = select.select([reader], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                os.kill(pid, signal.SIGKILL)
                return failure(999, f"NVML did not answer within {timeout:g} s")
            chunk = os.read(reader, 65536)
            if not chunk:
                break
            content += chunk
    finally:
        os.close(reader)
        # a process that hangs inside the driver cannot be killed: it is not waited for
        os.waitpid(pid, os.WNOHANG if time.monotonic() >= deadline else 0)
    try:
        value = json.loads(content.decode("utf-8", "replace"))
    except ValueError:
        return failure(999, "the library crashed")
    return value if isinstance(value, dict) else failure(999, "the library crashed")
