# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The GPU smoke test: one self-contained program that runs with a release's own Python.

    /opt/verl/current/venv/bin/python gpu_smoke.py --json

It computes small things with every package of the stack and compares each result with an independent reference. A
supervisor (this file without --worker) starts one worker, gives each check its own time limit, and starts a new
worker after a hang or a crash, so that a segmentation fault in one package costs one check and not the report.

Rules: inputs are random with a seed; memory that results will land in is filled with NaN first; a result that holds a
NaN or an infinity never passes; a package that is absent is skipped in words; no setting of a GPU is ever changed.
Nothing but the standard library is imported before a check asks for it.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import importlib.util
import json
import math
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

Result = Dict[str, Any]

SCHEMA = 1
STATUSES = ("ok", "mismatch", "missing", "skipped", "warning")
FAILING = ("mismatch", "missing")
STARTUP_TIMEOUT = 120.0

# Seconds that each check may take, in the order in which they run. FlashInfer may compile its kernel first.
TIMEOUTS: Dict[str, float] = {
    "torch": 180.0,
    "gpus": 60.0,
    "matmul": 180.0,
    "conv": 180.0,
    "sdpa": 120.0,
    "flash_attention": 120.0,
    "transformer_engine": 180.0,
    "flashinfer": 600.0,
    "sgl_kernel": 120.0,
    "megatron": 180.0,
    "apex": 120.0,
    "nccl": 240.0,
}
CHECKS: Tuple[str, ...] = tuple(TIMEOUTS)

# Checks that mean something without a GPU: the same mathematics, computed by the same packages on the CPU.
CPU_CHECKS = ("torch", "matmul", "conv", "sdpa", "megatron")

# Largest error, relative to the largest reference value. A result is rounded to 8 (bf16) or 11 (fp16) bits.
TOLERANCES: Dict[str, float] = {
    "matmul.bf16": 1e-2,
    "matmul.fp16": 2e-3,
    "conv.bf16": 1e-2,
    "attention": 2e-2,
    "attention.grad": 4e-2,
    "linear.bf16": 1e-2,
    "norm.bf16": 1e-2,
    "l2norm": 1e-4,
}

# Extensions that Apex's C++ and CUDA build makes; the stack needs the first four.
APEX_NEEDED = ("apex_C", "amp_C", "fused_layer_norm_cuda", "fused_weight_gradient_mlp_cuda")
APEX_EXTENSIONS = (
    "apex_C",
    "amp_C",
    "syncbn",
    "fused_layer_norm_cuda",
    "mlp_cuda",
    "fused_dense_cuda",
    "fused_weight_gradient_mlp_cuda",
    "fused_rotary_positional_embedding",
    "scaled_upper_triang_masked_softmax_cuda",
    "scaled_masked_softmax_cuda",
    "scaled_softmax_cuda",
    "generic_scaled_masked_softmax_cuda",
)

# NVML's reasons for a lowered clock; the second column says whether the machine needs a look.
THROTTLE_REASONS: Tuple[Tuple[int, str, bool], ...] = (
    (0x001, "idle", False),
    (0x002, "application clocks", False),
    (0x004, "power cap", False),
    (0x008, "hardware slowdown", True),
    (0x010, "sync boost", False),
    (0x020, "thermal (software)", True),
    (0x040, "thermal (hardware)", True),
    (0x080, "power brake", True),
    (0x100, "display clocks", False),
)


# --------------------------------------------------------------------------------------------------------------------
# Results


def make_result(
    name: str,
    status: str,
    expected: str,
    found: str,
    source: str,
    remedy: str = "",
    figures: Optional[Dict[str, Any]] = None,
) -> Result:
    """One line of the report, in the shape of version_check's."""
    if status not in STATUSES:
        raise ValueError(f"unknown status {status!r}")
    return {
        "name": name,
        "status": status,
        "expected": expected,
        "found": found,
        "source": source,
        "remedy": remedy,
        "figures": figures or {},
        "seconds": 0.0,
    }


def skipped(name: str, why: str) -> Result:
    """A check that was not run, and why."""
    return make_result(name, "skipped", "", why, "")


def summarise(checks: Sequence[Result], required: Sequence[str] = ()) -> Dict[str, Any]:
    """Count the results and say whether the test is passed.

    A check named in required (or one of its parts, name.x) counts as missing when it was skipped.
    """
    counts = dict.fromkeys(STATUSES, 0)
    for check in checks:
        if check["status"] == "skipped" and check["name"].split(".")[0] in required:
            check["status"] = "missing"
            check["expected"] = check["expected"] or "a result"
            check["remedy"] = check["remedy"] or "install what the check needs, or take it off the required ones"
        counts[check["status"]] += 1
    return {"counts": counts, "passed": not any(counts[status] for status in FAILING)}


def render(report: Mapping[str, Any]) -> str:
    """The report as text for people."""
    lines: List[str] = []
    for check in report["checks"]:
        lines.append("{:<9} {:<22} {}".format(check["status"], check["name"], check["found"]))
        if check["status"] not in ("ok", "skipped"):
            if check["expected"]:
                lines.append("{:<33}expected: {}".format("", check["expected"]))
            if check["remedy"]:
                lines.append("{:<33}remedy: {}".format("", check["remedy"]))
    counts = ", ".join(f"{n} {status}" for status, n in report["summary"].items() if n)
    verdict = "passed" if report["passed"] else "FAILED"
    lines.append("{}: {} ({:.1f} s)".format(verdict, counts or "no checks", report["seconds"]))
    return "\n".join(lines)


def judge_errors(max_error: float, bad_values: int, tolerance: float) -> str:
    """'' when a result is right, else what is wrong with it. Written so that a NaN never passes."""
    if bad_values:
        return f"{bad_values} values are NaN or infinite"
    if not max_error <= tolerance:
        return f"error {max_error:.2e} is over the allowed {tolerance:.0e}"
    return ""


def decode_throttle(mask: int) -> Tuple[List[str], bool]:
    """NVML's bit mask of clock reasons in words, and whether one of them is a reason to look at the machine."""
    names: List[str] = []
    bad = False
    known = 0
    for bit, name, is_bad in THROTTLE_REASONS:
        known |= bit
        if mask & bit:
            names.append(name)
            bad = bad or is_bad
    if mask & ~known:
        names.append(f"unknown (0x{mask & ~known:x})")
    return names, bad


def judge_gpu(state: Mapping[str, Any], min_free: float) -> Tuple[str, str, str]:
    """(status, what is wrong, remedy) of one GPU's NVML readings; readings that a GPU does not give are None."""
    uncorrected = state.get("ecc_uncorrected_volatile")
    if uncorrected:
        return (
            "mismatch",
            f"{uncorrected} uncorrected ECC errors since the driver was loaded",
            "drain the host and reset the GPU (nvidia-smi -r); replace it when the errors come back",
        )
    if state.get("remap_failure"):
        return ("mismatch", "a memory row could not be remapped", "have the GPU replaced")
    if state.get("remap_pending"):
        return ("warning", "a memory row waits for its remapping", "drain the host and reset the GPU (nvidia-smi -r)")
    names, bad = decode_throttle(int(state.get("throttle_mask") or 0))
    if bad:
        return ("warning", "clocks are lowered: {}".format(", ".join(names)), "check cooling and power of the host")
    total = state.get("memory_total") or 0
    free = state.get("memory_free") or 0
    if total and free < min_free * total:
        return (
            "warning",
            "{:.0f} % of its memory is taken by {} processes".format(
                100.0 * (total - free) / total, state.get("processes") or "unseen"
            ),
            "look at nvidia-smi for what is running; a smoke test wants an idle GPU",
        )
    return ("ok", "", "")


def describe_gpu(state: Mapping[str, Any]) -> str:
    """One GPU's readings in one line."""
    parts = [str(state.get("name") or "unnamed GPU")]
    if state.get("memory_total"):
        gib = float(1 << 30)
        parts.append("{:.1f} of {:.1f} GiB free".format(state["memory_free"] / gib, state["memory_total"] / gib))
    if state.get("ecc_enabled") is None:
        parts.append("no ECC")
    elif not state["ecc_enabled"]:
        parts.append("ECC off")
    else:
        parts.append("ECC on, {} uncorrected".format(state.get("ecc_uncorrected_volatile") or 0))
    if state.get("temperature") is not None:
        parts.append("{} C".format(state["temperature"]))
    names, bad = decode_throttle(int(state.get("throttle_mask") or 0))
    parts.append("clocks lowered: {}".format(", ".join(names)) if bad else "no throttling")
    return ", ".join(parts)


def plain(value: Any) -> Any:
    """A value that any JSON reader takes: numbers that are not finite become words."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def last_line(text: str, limit: int = 300) -> str:
    """The last non-empty line of a program's output, shortened: what usually says the reason."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:limit] if lines else ""


def bus_bandwidth(n_bytes: int, ranks: int, seconds: float) -> float:
    """Bus bandwidth of an all-reduce in GB/s, as nccl-tests count it."""
    if seconds <= 0.0 or ranks < 2:
        return 0.0
    return 2.0 * (ranks - 1) / ranks * n_bytes / seconds / 1e9


def parse_timeouts(pairs: Sequence[str]) -> Dict[str, float]:
    """['nccl=30', ...] as a dict; names and numbers are checked."""
    timeouts: Dict[str, float] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or name not in CHECKS:
            raise ValueError("{!r} is not CHECK=SECONDS with a check of: {}".format(pair, ", ".join(CHECKS)))
        seconds = float(value)
        if not seconds > 0.0 or math.isinf(seconds):
            raise ValueError(f"the time limit of {name} has to be a positive number of seconds")
        timeouts[name] = seconds
    return timeouts


def is_installed(name: str) -> bool:
    """Whether a package can be imported, without importing it (its parents are)."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None


def visible_gpu_nodes(root: str = "/") -> List[str]:
    """Device nodes or driver folders of NVIDIA GPUs: what shows that a driver is loaded for a GPU."""
    found: List[str] = []
    with contextlib.suppress(OSError):
        for entry in sorted(os.listdir(os.path.join(root, "dev"))):
            if entry.startswith("nvidia") and entry[6:].isdigit():
                found.append("/dev/" + entry)
    with contextlib.suppress(OSError):
        for entry in sorted(os.listdir(os.path.join(root, "proc/driver/nvidia/gpus"))):
            found.append("/proc/driver/nvidia/gpus/" + entry)
    return found


# --------------------------------------------------------------------------------------------------------------------
# NVML, read through ctypes: reading never changes anything


class _Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class Nvml:
    """The few readings that the smoke test needs. Anything that a GPU does not answer is None."""

    def __init__(self, library: str = "libnvidia-ml.so.1") -> None:
        self.lib = ctypes.CDLL(library)
        code = self.lib.nvmlInit_v2()
        if code != 0:
            raise OSError(f"nvmlInit answered {code}")

    def close(self) -> None:
        self.lib.nvmlShutdown()

    def handle(self, uuid: Optional[str], index: int) -> Optional[ctypes.c_void_p]:
        device = ctypes.c_void_p()
        if uuid and self.lib.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(device)) == 0:
            return device
        if uuid is None and self.lib.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(device)) == 0:
            return device
        return None

    def _number(self, function: str, device: ctypes.c_void_p, kind: Any, *arguments: int) -> Optional[int]:
        value = kind()
        call = getattr(self.lib, function, None)
        if call is None or call(device, *[ctypes.c_uint(a) for a in arguments], ctypes.byref(value)) != 0:
            return None
        return int(value.value)

    def throttle_mask(self, device: ctypes.c_void_p) -> Optional[int]:
        return self._number("nvmlDeviceGetCurrentClocksThrottleReasons", device, ctypes.c_ulonglong)

    def read(self, device: ctypes.c_void_p) -> Dict[str, Any]:
        """All readings of one GPU."""
        state: Dict[str, Any] = {}
        text = ctypes.create_string_buffer(96)
        if self.lib.nvmlDeviceGetName(device, text, ctypes.c_uint(96)) == 0:
            state["name"] = text.value.decode("utf-8", "replace")
        memory = _Memory()
        if self.lib.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory)) == 0:
            state["memory_total"], state["memory_free"] = int(memory.total), int(memory.free)
        current, pending = ctypes.c_uint(), ctypes.c_uint()
        enabled = None
        if self.lib.nvmlDeviceGetEccMode(device, ctypes.byref(current), ctypes.byref(pending)) == 0:
            enabled = bool(current.value)
        state["ecc_enabled"] = enabled
        # Type 1 is "uncorrected"; counter 0 since the driver was loaded, 1 over the GPU's life.
        for key, counter in (("ecc_uncorrected_volatile", 0), ("ecc_uncorrected_aggregate", 1)):
            state[key] = self._number("nvmlDeviceGetTotalEccErrors", device, ctypes.c_ulonglong, 1, counter)
        rows = [ctypes.c_uint() for _number in range(4)]
        remapped = getattr(self.lib, "nvmlDeviceGetRemappedRows", None)
        if remapped is not None and remapped(device, *[ctypes.byref(row) for row in rows]) == 0:
            state["remap_pending"], state["remap_failure"] = bool(rows[2].value), bool(rows[3].value)
        state["throttle_mask"] = self.throttle_mask(device)
        state["temperature"] = self._number("nvmlDeviceGetTemperature", device, ctypes.c_uint, 0)
        power = self._number("nvmlDeviceGetPowerUsage", device, ctypes.c_uint)
        state["power_watts"] = None if power is None else power / 1000.0
        count = ctypes.c_uint(0)
        code = self.lib.nvmlDeviceGetComputeRunningProcesses_v3(device, ctypes.byref(count), None)
        state["processes"] = int(count.value) if code in (0, 7) else None  # 7: the list did not fit, count is set
        return state


# --------------------------------------------------------------------------------------------------------------------
# What the checks share


class Context:
    """What a worker knows: the options, the device, and torch (imported at the first use)."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.seed: int = options.seed
        self._torch: Any = None
        self.device = "cpu"
        self.count = 0

    @property
    def torch(self) -> Any:
        if self._torch is None:
            torch = importlib.import_module("torch")
            cuda = self.options.device != "cpu" and bool(torch.cuda.is_available())
            self.count = int(torch.cuda.device_count()) if cuda else 0
            self.device = "cuda" if self.count else "cpu"
            torch.manual_seed(self.seed)
            torch.set_num_threads(max(1, min(8, os.cpu_count() or 1)))
            self._torch = torch
        return self._torch

    @property
    def on_gpu(self) -> bool:
        return bool(self.torch) and self.device == "cuda"

    @property
    def devices(self) -> List[str]:
        return [f"cuda:{i}" for i in range(self.count)] if self.on_gpu else ["cpu"]

    def random(self, shape: Sequence[int], dtype: Any, salt: int) -> Any:
        """Random numbers made on the CPU, so that every GPU and every run gets the same ones."""
        generator = self.torch.Generator().manual_seed(self.seed * 1000003 + salt)
        return self.torch.randn(*shape, generator=generator, dtype=self.torch.float32).to(dtype)

    def poison(self, device: str, *n_bytes: int) -> None:
        """Fill freed memory of these sizes with NaN (all bits set), which the allocator hands out next."""
        blocks = [
            self.torch.full((size,), 255, dtype=self.torch.uint8, device=device)
            for size in n_bytes
            for _copy in range(3)
        ]
        del blocks

    def synchronise(self, device: str = "") -> None:
        if self.on_gpu:
            self.torch.cuda.synchronize(device or None)


def compare(context: Context, out: Any, reference: Any) -> Tuple[float, int]:
    """(largest error relative to the largest reference value, number of NaN or infinite values)."""
    torch = context.torch
    got = out.detach().to("cpu", torch.float64)
    want = reference.detach().to("cpu", torch.float64)
    if tuple(got.shape) != tuple(want.shape):
        raise AssertionError(f"shape {tuple(got.shape)} instead of {tuple(want.shape)}")
    bad = int((~torch.isfinite(got)).sum())
    scale = float(want.abs().max())
    if bad or not math.isfinite(scale) or scale == 0.0:
        return math.nan, bad
    return float((got - want).abs().max()) / scale, 0


def attention_reference(context: Context, q: Any, k: Any, v: Any, causal: bool) -> Any:
    """Plain attention of (batch, length, heads, head dim) in the inputs' precision; k and v may have fewer heads."""
    torch = context.torch
    groups = q.shape[2] // k.shape[2]
    k = k.repeat_interleave(groups, dim=2)
    v = v.repeat_interleave(groups, dim=2)
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1])
    if causal:
        rows, columns = scores.shape[-2:]
        hidden = torch.ones(rows, columns, dtype=torch.bool, device=q.device).triu(1 + columns - rows)
        scores = scores.masked_fill(hidden, float("-inf"))
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)


def compare_attention(
    context: Context, function: Callable[[Any, Any, Any], Any], case: Mapping[str, Any], salt: int
) -> Tuple[Dict[str, float], str]:
    """Run an attention forward and backward on bf16 inputs against float32: (errors by tensor, what is wrong or '')."""
    torch = context.torch
    device = context.devices[0]
    batch, length, heads, kv_heads, dim = (case[x] for x in ("batch", "length", "heads", "kv_heads", "dim"))
    shapes = ((batch, length, heads, dim), (batch, length, kv_heads, dim), (batch, length, kv_heads, dim))
    base = [context.random(shape, torch.bfloat16, salt + i) for i, shape in enumerate(shapes)]
    upstream = context.random(shapes[0], torch.bfloat16, salt + 7).to(device)
    inputs = [tensor.to(device, copy=True).requires_grad_() for tensor in base]
    context.poison(device, *(2 * math.prod(shape) for shape in shapes))
    out = function(*inputs)
    context.poison(device, *(2 * math.prod(shape) for shape in shapes))
    out.backward(upstream.reshape(out.shape))
    context.synchronise()
    exact = [tensor.to(device, torch.float32, copy=True).requires_grad_() for tensor in base]
    reference = attention_reference(context, exact[0], exact[1], exact[2], case["causal"])
    reference.backward(upstream.float())
    errors: Dict[str, float] = {}
    wrong = ""
    pairs = [("out", out.reshape(reference.shape), reference)]
    pairs += [("d" + n, inputs[i].grad, exact[i].grad) for i, n in enumerate("qkv")]
    for name, got, want in pairs:
        error, bad = compare(context, got, want)
        errors[name] = error
        tolerance = TOLERANCES["attention" if name == "out" else "attention.grad"]
        wrong = wrong or judge_errors(error, bad, tolerance)
        if wrong and "in " not in wrong:
            wrong += f" in {name}"
    return errors, wrong


def time_call(context: Context, call: Callable[[], Any], batches: int = 5, repeats: int = 10) -> float:
    """Median seconds of one call on the current GPU, between CUDA events."""
    torch = context.torch
    for _warm_up in range(3):
        call()
    times: List[float] = []
    for _batch in range(batches):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _repeat in range(repeats):
            call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1000.0 / repeats)
    return sorted(times)[len(times) // 2]


def gpu_uuid(properties: Any) -> Optional[str]:
    """A GPU's UUID as NVML spells it, from torch's properties (None in old versions of torch)."""
    uuid = getattr(properties, "uuid", None)
    return f"GPU-{uuid}" if uuid else None


@contextlib.contextmanager
def nvml_or_none() -> Iterator[Optional[Nvml]]:
    try:
        nvml: Optional[Nvml] = Nvml()
    except (OSError, AttributeError):
        nvml = None
    try:
        yield nvml
    finally:
        if nvml is not None:
            nvml.close()


# --------------------------------------------------------------------------------------------------------------------
# The checks: each returns its results; what it raises becomes its result


def check_torch(context: Context) -> List[Result]:
    torch = context.torch
    found = "torch {}, CUDA {}".format(torch.__version__, torch.version.cuda or "none")
    figures: Dict[str, Any] = {"version": str(torch.__version__), "cuda": torch.version.cuda}
    if not context.on_gpu:
        if context.options.require_gpu:
            reason = "no GPU: torch.cuda.is_available() is false"
            if not torch.version.cuda:
                reason = "no GPU: this torch was built without CUDA"
            return [
                make_result(
                    "torch",
                    "missing",
                    "a GPU that torch can use",
                    f"{found}, {reason}",
                    "torch.cuda",
                    "look at the driver (gpu_info) and at CUDA_VISIBLE_DEVICES",
                )
            ]
        return [make_result("torch", "ok", "torch imports", found + ", on the CPU", "torch", figures=figures)]
    archs = list(torch.cuda.get_arch_list())
    cudnn = torch.backends.cudnn.version()
    figures.update(archs=archs, cudnn=cudnn, gpus=context.count, cxx11_abi=bool(torch.compiled_with_cxx11_abi()))
    unsupported: List[str] = []
    for index in range(context.count):
        major, minor = torch.cuda.get_device_capability(index)
        # Machine code of the same major version and a lower minor one runs; so does older PTX.
        runs = any(
            (a.startswith("sm_") and a.rstrip("af")[3:-1] == str(major) and int(a.rstrip("af")[-1]) <= minor)
            or a.startswith("compute_")
            for a in archs
        )
        if not runs:
            unsupported.append(f"sm_{major}{minor}")
    found += f", cuDNN {cudnn}, {context.count} GPU"
    if unsupported:
        return [
            make_result(
                "torch",
                "mismatch",
                "kernels for {}".format(", ".join(sorted(set(unsupported)))),
                "{}, built for {}".format(found, " ".join(archs)),
                "torch.cuda.get_arch_list",
                "install a torch that was built for this GPU",
                figures,
            )
        ]
    total = context.torch.ones(1000, device="cuda").sum().item()
    if total != 1000.0:
        return [make_result("torch", "mismatch", "1000.0", f"a sum of {total}", "torch", "", figures)]
    return [make_result("torch", "ok", "torch runs a kernel on the GPU", found, "torch", figures=figures)]


def check_gpus(context: Context) -> List[Result]:
    torch = context.torch
    results: List[Result] = []
    with nvml_or_none() as nvml:
        for index in range(context.count):
            name = f"gpus.{index}"
            expected = f"no uncorrected ECC error, no slowdown, {context.options.min_free:.0%} of the memory free"
            properties = torch.cuda.get_device_properties(index)
            free, total = torch.cuda.mem_get_info(index)
            state: Dict[str, Any] = {"name": properties.name, "memory_free": free, "memory_total": total}
            handle = None
            if nvml is not None:
                uuid = gpu_uuid(properties)
                hidden = "CUDA_VISIBLE_DEVICES" in os.environ
                handle = nvml.handle(uuid, index) if uuid or not hidden else None
            if nvml is not None and handle is not None:
                state.update(nvml.read(handle))
            status, wrong, remedy = judge_gpu(state, context.options.min_free)
            found = describe_gpu(state)
            if handle is None and status == "ok":
                status, wrong = "warning", "NVML does not answer for it: ECC and throttling are unknown"
                remedy = "make libnvidia-ml.so.1 of the loaded driver visible (it comes with the driver)"
            results.append(
                make_result(name, status, expected, f"{wrong}: {found}" if wrong else found, "NVML", remedy, state)
            )
    return results


def _matmul_on(context: Context, dtype_name: str, device: str) -> Tuple[float, int, Dict[str, Any]]:
    torch = context.torch
    dtype = torch.bfloat16 if dtype_name == "bf16" else torch.float16
    size = 2048 if context.on_gpu else 256
    a_cpu, b_cpu = context.random((size, size), dtype, 1), context.random((size, size), dtype, 2)
    a, b = a_cpu.to(device), b_cpu.to(device)
    out = torch.full((size, size), math.nan, dtype=dtype, device=device)
    torch.mm(a, b, out=out)
    context.synchronise(device if context.on_gpu else "")
    reference = torch.mm(a_cpu.double(), b_cpu.double())
    error, bad = compare(context, out, reference)
    figures: Dict[str, Any] = {"max_error": error}
    if not context.on_gpu:
        return error, bad, figures
    with torch.cuda.device(device):
        big = 8192 if torch.cuda.mem_get_info(device)[0] > 4 << 30 else 2048
        generator = torch.Generator(device=device).manual_seed(context.seed)
        a = torch.randn(big, big, generator=generator, dtype=torch.float32, device=device).to(dtype)
        b = torch.randn(big, big, generator=generator, dtype=torch.float32, device=device).to(dtype)
        out = torch.full((big, big), math.nan, dtype=dtype, device=device)
        seconds = time_call(context, lambda: torch.mm(a, b, out=out))
        bad += int((~torch.isfinite(out)).sum())
        figures.update(size=big, tflops=round(2.0 * big**3 / seconds / 1e12, 1))
        # The clock reasons that matter are those under load: queue more work and read them while it runs.
        for _load in range(20):
            torch.mm(a, b, out=out)
        with nvml_or_none() as nvml:
            handle = None
            if nvml is not None:
                index = int(device.partition(":")[2])
                handle = nvml.handle(gpu_uuid(torch.cuda.get_device_properties(device)), index)
            mask = nvml.throttle_mask(handle) if nvml is not None and handle is not None else None
        figures["throttle_under_load"] = None if mask is None else decode_throttle(mask)[0]
        figures["slowed"] = bool(mask is not None and decode_throttle(mask)[1])
        torch.cuda.synchronize(device)
    return error, bad, figures


def check_matmul(context: Context) -> List[Result]:
    results: List[Result] = []
    for dtype_name in ("bf16", "fp16"):
        name = f"matmul.{dtype_name}"
        tolerance = TOLERANCES[name]
        per_device: Dict[str, Dict[str, Any]] = {}
        wrong: List[str] = []
        slowed: List[str] = []
        for device in context.devices:
            error, bad, figures = _matmul_on(context, dtype_name, device)
            per_device[device] = figures
            problem = judge_errors(error, bad, tolerance)
            if problem:
                wrong.append(f"{device}: {problem}")
            if figures.get("slowed"):
                slowed.append("{}: {}".format(device, ", ".join(figures["throttle_under_load"])))
        worst = max(figures["max_error"] for figures in per_device.values())
        rates = ["{:.0f}".format(f["tflops"]) for f in per_device.values() if "tflops" in f]
        found = f"error {worst:.1e}"
        found += ", {} TFLOP/s".format(" ".join(rates)) if rates else ", on the CPU"
        status, remedy = "ok", ""
        if slowed:
            status, remedy = "warning", "check cooling and power of the host"
            found += "; clocks lowered under load: " + "; ".join(slowed)
        if wrong:
            status, found = "mismatch", "; ".join(wrong)
            remedy = "a GPU that multiplies wrongly has to be taken out of service"
        results.append(
            make_result(
                name, status, f"error at most {tolerance:.0e} against float64", found, "torch.mm", remedy, per_device
            )
        )
    return results


def check_conv(context: Context) -> List[Result]:
    torch = context.torch
    functional = torch.nn.functional
    tolerance = TOLERANCES["conv.bf16"]
    if context.on_gpu and not torch.backends.cudnn.is_available():
        return [
            make_result(
                "conv",
                "mismatch",
                "cuDNN",
                "torch finds no cuDNN",
                "torch.backends.cudnn",
                "install the cuDNN wheel that the stack names",
            )
        ]
    dtype = torch.bfloat16
    x_cpu = context.random((4, 32, 28, 28), dtype, 11)
    w_cpu = context.random((64, 32, 3, 3), dtype, 12)
    exact_x, exact_w = x_cpu.double().requires_grad_(), w_cpu.double().requires_grad_()
    reference = functional.conv2d(exact_x, exact_w, padding=1)
    upstream = context.random(tuple(reference.shape), dtype, 13)
    reference.backward(upstream.double())
    wrong: List[str] = []
    worst = 0.0
    for device in context.devices:
        x, w = (tensor.to(device, copy=True).requires_grad_() for tensor in (x_cpu, w_cpu))
        context.poison(device, 2 * reference.numel(), 2 * x.numel(), 2 * w.numel())
        out = functional.conv2d(x, w, padding=1)
        out.backward(upstream.to(device))
        context.synchronise(device if context.on_gpu else "")
        for label, got, want in (("out", out, reference), ("dx", x.grad, exact_x.grad), ("dw", w.grad, exact_w.grad)):
            error, bad = compare(context, got, want)
            problem = judge_errors(error, bad, tolerance)
            worst = max(worst, error)
            if problem:
                wrong.append(f"{device} {label}: {problem}")
    version = torch.backends.cudnn.version() if context.on_gpu else None
    found = f"cuDNN {version}, error {worst:.1e}" if version else f"error {worst:.1e}, on the CPU"
    return [
        make_result(
            "conv",
            "mismatch" if wrong else "ok",
            f"error at most {tolerance:.0e} against float64, forward and backward",
            "; ".join(wrong) or found,
            "torch.nn.functional.conv2d",
            "compare torch's cuDNN with the stack's (version_check)" if wrong else "",
            {"max_error": worst, "cudnn": version},
        )
    ]


def attention_cases() -> List[Dict[str, Any]]:
    """The attention shapes that are tried: causal and not, head dims 64 and 128, fewer key heads than query heads."""
    return [
        {"batch": 2, "length": 384, "heads": 8, "kv_heads": 2, "dim": dim, "causal": causal}
        for dim in (64, 128)
        for causal in (False, True)
    ]


def case_name(case: Mapping[str, Any]) -> str:
    return "d{} {}".format(case["dim"], "causal" if case["causal"] else "full")


def check_sdpa(context: Context) -> List[Result]:
    torch = context.torch
    attention = importlib.import_module("torch.nn.attention")
    backends: List[Optional[str]] = [None]
    if context.on_gpu:
        names = ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "MATH")
        backends += [n for n in names if hasattr(attention.SDPBackend, n)]
    worst = 0.0
    wrong: List[str] = []
    refused: List[str] = []
    ran: List[str] = []
    for backend in backends:
        label = "default" if backend is None else str(backend).lower()
        for number, case in enumerate(attention_cases()):

            def call(q: Any, k: Any, v: Any, case: Dict[str, Any] = case, backend: Optional[str] = backend) -> Any:
                chosen = contextlib.nullcontext()
                if backend is not None:
                    chosen = attention.sdpa_kernel(getattr(attention.SDPBackend, backend))
                groups = case["heads"] // case["kv_heads"]
                q, k, v = (
                    t.transpose(1, 2) for t in (q, k.repeat_interleave(groups, 2), v.repeat_interleave(groups, 2))
                )
                with chosen:
                    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=case["causal"])
                return out.transpose(1, 2)

            try:
                errors, problem = compare_attention(context, call, case, 100 + 10 * number)
            except RuntimeError as error:
                if backend is None or "No available kernel" not in str(error):
                    raise
                refused.append(label)
                break
            worst = max(worst, *errors.values())
            if problem:
                wrong.append(f"{label} {case_name(case)}: {problem}")
        else:
            ran.append(label)
    found = "{}, error {:.1e}".format(" ".join(ran), worst)
    if refused:
        found += ", not offered here: {}".format(" ".join(refused))
    return [
        make_result(
            "sdpa",
            "mismatch" if wrong else "ok",
            "error at most {:.0e} against float32".format(TOLERANCES["attention"]),
            "; ".join(wrong) or found,
            "torch.nn.functional.scaled_dot_product_attention",
            "reinstall torch and its NVIDIA libraries from the stack's lock" if wrong else "",
            {"max_error": worst, "ran": ran, "refused": refused},
        )
    ]


def check_flash_attention(context: Context) -> List[Result]:
    torch = context.torch
    module = importlib.import_module("flash_attn")
    version = str(getattr(module, "__version__", "unknown"))
    figures: Dict[str, Any] = {"version": version}
    worst = 0.0
    wrong: List[str] = []
    for number, case in enumerate(attention_cases()):

        def call(q: Any, k: Any, v: Any, case: Dict[str, Any] = case) -> Any:
            return module.flash_attn_func(q, k, v, causal=case["causal"])

        def packed(q: Any, k: Any, v: Any, case: Dict[str, Any] = case) -> Any:
            # The same sequences without the batch dimension: how a trainer that removes padding calls it.
            length, batch = case["length"], case["batch"]
            starts = torch.arange(0, (batch + 1) * length, length, dtype=torch.int32, device=q.device)
            q, k, v = (t.reshape(batch * length, t.shape[2], t.shape[3]) for t in (q, k, v))
            return module.flash_attn_varlen_func(q, k, v, starts, starts, length, length, causal=case["causal"])

        for label, function in (("", call), (" packed", packed)):
            errors, problem = compare_attention(context, function, case, 200 + 10 * number)
            worst = max(worst, *errors.values())
            figures[case_name(case) + label] = errors
            if problem:
                wrong.append(f"{case_name(case)}{label}: {problem}")
    if not wrong:
        length, heads, dim = 4096, 16, 128
        q, k, v = (context.random((1, length, heads, dim), torch.bfloat16, 290 + i).to("cuda") for i in range(3))
        with torch.no_grad():
            seconds = time_call(context, lambda: module.flash_attn_func(q, k, v, causal=False))
        figures["tflops"] = round(4.0 * heads * length * length * dim / seconds / 1e12, 1)
    found = "flash_attn {}, error {:.1e}, {} TFLOP/s forward".format(version, worst, figures.get("tflops"))
    expected = "error at most {:.0e} (gradients {:.0e}) against float32".format(
        TOLERANCES["attention"], TOLERANCES["attention.grad"]
    )
    return [
        make_result(
            "flash_attention",
            "mismatch" if wrong else "ok",
            expected,
            "; ".join(wrong) or found,
            "flash_attn_func",
            "rebuild the wheel for this torch and GPU" if wrong else "",
            figures,
        )
    ]


def te_attention_backend() -> str:
    """The attention backend that TransformerEngine chose at its last call; '' when it does not say."""
    for name in sorted(sys.modules):
        if not name.startswith("transformer_engine"):
            continue
        chosen = getattr(sys.modules[name], "_attention_backends", None)
        if not isinstance(chosen, dict):
            continue
        if chosen.get("use_flash_attention"):
            return "FlashAttention {}".format(chosen.get("flash_attention_backend") or "").strip()
        if chosen.get("use_fused_attention"):
            backend = chosen.get("fused_attention_backend")
            return "FusedAttention {}".format(getattr(backend, "name", backend) or "").strip()
        if chosen.get("use_unfused_attention"):
            return "UnfusedDotProductAttention"
    return ""


def check_transformer_engine(context: Context) -> List[Result]:
    torch = context.torch
    te = importlib.import_module("transformer_engine.pytorch")
    results: List[Result] = []
    tolerance = TOLERANCES["linear.bf16"]
    layer = te.Linear(256, 512, bias=True, params_dtype=torch.bfloat16, device="cuda")
    x = context.random((64, 256), torch.bfloat16, 301).to("cuda")
    context.poison("cuda", 64 * 512 * 2)
    with torch.no_grad():
        out = layer(x)
    context.synchronise()
    reference = x.cpu().double() @ layer.weight.detach().cpu().double().t() + layer.bias.detach().cpu().double()
    error, bad = compare(context, out, reference)
    wrong = judge_errors(error, bad, tolerance)
    version = str(getattr(importlib.import_module("transformer_engine"), "__version__", "unknown"))
    results.append(
        make_result(
            "transformer_engine.linear",
            "mismatch" if wrong else "ok",
            f"error at most {tolerance:.0e} against float64",
            wrong or f"transformer_engine {version}, error {error:.1e}",
            "te.Linear",
            "rebuild transformer_engine for this torch" if wrong else "",
            {"max_error": error, "version": version},
        )
    )
    case = {"batch": 2, "length": 256, "heads": 8, "kv_heads": 8, "dim": 64, "causal": True}
    attention = te.DotProductAttention(8, 64, attention_dropout=0.0, qkv_format="bshd", attn_mask_type="causal")
    errors, wrong = compare_attention(context, attention, case, 310)
    backend = te_attention_backend()
    found = "backend {}, error {:.1e}".format(backend or "unknown", max(errors.values()))
    results.append(
        make_result(
            "transformer_engine.attention",
            "mismatch" if wrong else "ok",
            "error at most {:.0e} against float32".format(TOLERANCES["attention"]),
            f"{wrong} ({found})" if wrong else found,
            "te.DotProductAttention",
            "rebuild transformer_engine for this torch and cuDNN" if wrong else "",
            {"backend": backend, "errors": errors},
        )
    )
    return results


def check_flashinfer(context: Context) -> List[Result]:
    torch = context.torch
    flashinfer = importlib.import_module("flashinfer")
    version = str(getattr(flashinfer, "__version__", "unknown"))
    case = {"heads": 8, "kv_heads": 2, "dim": 128, "length": 256}
    q = context.random((case["heads"], case["dim"]), torch.float16, 401).to("cuda")
    k, v = (
        context.random((case["length"], case["kv_heads"], case["dim"]), torch.float16, 402 + i).to("cuda")
        for i in range(2)
    )
    context.poison("cuda", q.numel() * 2)
    try:
        out = flashinfer.single_decode_with_kv_cache(q, k, v)
    except Exception as problem:  # whatever its compiler run raises
        if shutil.which("nvcc") or os.environ.get("CUDA_HOME"):
            raise
        return [
            make_result(
                "flashinfer",
                "warning",
                "a decode kernel",
                "{}: {}".format("it compiles its kernels at the first use and found no nvcc", last_line(str(problem))),
                "flashinfer.single_decode_with_kv_cache",
                "install the CUDA toolkit (cuda_source nvidia or existing) or set CUDA_HOME",
            )
        ]
    context.synchronise()
    reference = attention_reference(context, q.float()[None, None], k.float()[None], v.float()[None], causal=False)[
        0, 0
    ]
    error, bad = compare(context, out, reference)
    wrong = judge_errors(error, bad, TOLERANCES["attention"])
    return [
        make_result(
            "flashinfer",
            "mismatch" if wrong else "ok",
            "error at most {:.0e} against float32".format(TOLERANCES["attention"]),
            wrong or f"flashinfer {version}, error {error:.1e}",
            "flashinfer.single_decode_with_kv_cache",
            "clear its kernel cache and reinstall it for this torch" if wrong else "",
            {"max_error": error, "version": version},
        )
    ]


def check_sgl_kernel(context: Context) -> List[Result]:
    torch = context.torch
    sgl_kernel = importlib.import_module("sgl_kernel")
    version = str(getattr(sgl_kernel, "__version__", "unknown"))
    x = context.random((64, 1024), torch.bfloat16, 501).to("cuda")
    weight = context.random((1024,), torch.bfloat16, 502).to("cuda")
    out = torch.full_like(x, math.nan)
    sgl_kernel.rmsnorm(x, weight, 1e-6, out=out)
    context.synchronise()
    exact = x.double()
    reference = exact * torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + 1e-6) * weight.double()
    error, bad = compare(context, out, reference)
    wrong = judge_errors(error, bad, TOLERANCES["norm.bf16"])
    return [
        make_result(
            "sgl_kernel",
            "mismatch" if wrong else "ok",
            "error at most {:.0e} against float64".format(TOLERANCES["norm.bf16"]),
            wrong or f"sgl_kernel {version}, error {error:.1e}",
            "sgl_kernel.rmsnorm",
            "install the sgl-kernel wheel that the stack names" if wrong else "",
            {"max_error": error, "version": version},
        )
    ]


@contextlib.contextmanager
def _without(*names: str) -> Iterator[None]:
    """Make packages look absent to whoever imports them meanwhile."""
    kept = {name: sys.modules.get(name) for name in names}
    for name in names:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name, module in kept.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module


class _CpuBuffer:
    """Stands in for Megatron's buffer of reused memory, which exists on GPUs only."""

    def __init__(self, torch: Any) -> None:
        self.torch = torch

    def get_tensor(self, shape: Any, dtype: Any, name: str, mem_alloc_context: Any = None) -> Any:
        return self.torch.empty(shape, dtype=dtype)


def _megatron_layer(context: Context) -> Tuple[Any, str]:
    """One tiny transformer layer, and the words for whose parts it is made of."""
    torch = context.torch
    state = importlib.import_module("megatron.core.parallel_state")
    random = importlib.import_module("megatron.core.tensor_parallel.random")
    config_class = importlib.import_module("megatron.core.transformer.transformer_config").TransformerConfig
    specs = importlib.import_module("megatron.core.models.gpt.gpt_layer_specs")
    build_module = importlib.import_module("megatron.core.transformer.spec_utils").build_module
    state.initialize_model_parallel()
    dtype = torch.bfloat16 if context.on_gpu else torch.float32
    settings: Dict[str, Any] = {
        "num_layers": 1,
        "hidden_size": 256,
        "num_attention_heads": 4,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "params_dtype": dtype,
        "bf16": context.on_gpu,
        "gradient_accumulation_fusion": False,
        "use_cpu_initialization": not context.on_gpu,
    }
    use_te = context.on_gpu and is_installed("transformer_engine")
    if context.on_gpu:
        random.model_parallel_cuda_manual_seed(context.seed)
    else:
        # Megatron keeps its random state and a buffer on the GPU even for layers that live on the CPU.
        settings.update(
            masked_softmax_fusion=False,
            bias_activation_fusion=False,
            bias_dropout_fusion=False,
            persist_layer_norm=False,
        )
        random.initialize_rng_tracker()
        random.get_cuda_rng_tracker().fork = lambda *_args, **_kwargs: contextlib.nullcontext()
        vars(state)["_GLOBAL_MEMORY_BUFFER"] = _CpuBuffer(torch)
    spec = specs.get_gpt_layer_with_transformer_engine_spec() if use_te else specs.get_gpt_layer_local_spec()
    layer = build_module(spec, config=config_class(**settings), layer_number=1)
    if context.on_gpu:
        layer = layer.cuda().to(dtype)
    words = "TransformerEngine's layers" if use_te else "Megatron's own layers"
    return layer, words + ("" if context.on_gpu else ", on the CPU")


def _megatron_step(context: Context, layer: Any, x: Any) -> Any:
    torch = context.torch
    length = x.shape[0]
    mask = torch.ones(1, 1, length, length, dtype=torch.bool, device=x.device).triu(1)
    out = layer(hidden_states=x, attention_mask=mask)
    return out[0] if isinstance(out, tuple) else out


def check_megatron(context: Context) -> List[Result]:
    torch = context.torch
    distributed = importlib.import_module("torch.distributed")
    hidden_packages = () if context.on_gpu else ("transformer_engine", "apex")
    folder = tempfile.mkdtemp(dir=context.options.scratch)
    with _without(*hidden_packages):
        core = importlib.import_module("megatron.core")
        distributed.init_process_group(
            "nccl" if context.on_gpu else "gloo", rank=0, world_size=1, init_method=f"file://{folder}/store"
        )
        try:
            layer, words = _megatron_layer(context)
            device = context.devices[0]
            dtype = torch.bfloat16 if context.on_gpu else torch.float32
            length = 64
            x_cpu = context.random((length, 2, 256), dtype, 601)
            x = x_cpu.to(device).requires_grad_()
            context.poison(device, x.numel() * x.element_size())
            out = _megatron_step(context, layer, x)
            out.float().pow(2).mean().backward()
            context.synchronise()
            # The last token must not reach the tokens before it.
            changed = x_cpu.clone()
            changed[-1] += 1.0
            with torch.no_grad():
                other = _megatron_step(context, layer, changed.to(device))
            leak, leak_bad = compare(context, other[:-1], out[:-1])
            moved = float((other[-1] - out[-1]).abs().max())
        finally:
            distributed.destroy_process_group()
    wrong = ""
    tensors = [("output", out), ("gradient of input", x.grad)]
    tensors += [("gradient of " + name, parameter.grad) for name, parameter in layer.named_parameters()]
    for name, tensor in tensors:
        if tensor is None:
            wrong = wrong or f"no {name}"
        elif not bool(torch.isfinite(tensor).all()):
            wrong = wrong or f"NaN or infinity in the {name}"
        elif not bool(tensor.abs().max() > 0):
            wrong = wrong or f"the {name} is all zero"
    if tuple(out.shape) != tuple(x.shape):
        wrong = wrong or f"shape {tuple(out.shape)} instead of {tuple(x.shape)}"
    wrong = wrong or judge_errors(leak, leak_bad, 1e-2 if context.on_gpu else 1e-5)
    if not wrong and not moved > 0.0:
        wrong = "the output does not depend on the input"
    version = str(getattr(core, "__version__", "unknown"))
    return [
        make_result(
            "megatron",
            "mismatch" if wrong else "ok",
            "a causal layer with finite outputs and gradients",
            wrong or f"megatron core {version}, {words}, {len(tensors) - 1} gradients",
            "megatron.core TransformerLayer",
            "compare megatron-core, transformer_engine and apex with the stack (version_check)" if wrong else "",
            {"version": version, "layers": words, "causal_leak": leak},
        )
    ]


def check_apex(context: Context) -> List[Result]:
    torch = context.torch
    importlib.import_module("apex")
    loaded: List[str] = []
    absent: List[str] = []
    broken: List[str] = []
    for name in APEX_EXTENSIONS:
        if not is_installed(name):
            absent.append(name)
            continue
        try:
            importlib.import_module(name)
            loaded.append(name)
        except ImportError as problem:
            broken.append(f"{name} ({last_line(str(problem), 120)})")
    figures: Dict[str, Any] = {"loaded": loaded, "absent": absent, "broken": broken}
    wrong = ""
    if broken:
        wrong = "does not load: " + ", ".join(broken)
    elif set(APEX_NEEDED) & set(absent):
        wrong = "not built: " + ", ".join(absent)
    elif context.on_gpu:
        x = context.random((1 << 16,), torch.float32, 701).to("cuda")
        flag = torch.zeros(1, dtype=torch.int32, device="cuda")
        context.poison("cuda", 4)
        norm = sys.modules["amp_C"].multi_tensor_l2norm(2048 * 32, flag, [[x]], False)[0]
        error, bad = compare(context, norm.reshape(1), x.double().norm().reshape(1))
        figures["max_error"] = error
        wrong = judge_errors(error, bad, TOLERANCES["l2norm"])
    return [
        make_result(
            "apex",
            "mismatch" if wrong else "ok",
            "its C++ and CUDA extensions",
            wrong or f"{len(loaded)} extensions load, amp_C's norm is right",
            "apex",
            "build Apex with its C++ and CUDA extensions against this torch" if wrong else "",
            figures,
        )
    ]


def check_nccl(context: Context) -> List[Result]:
    torch = context.torch
    ranks = context.count
    folder = tempfile.mkdtemp(dir=context.options.scratch)
    processes = []
    for rank in range(ranks):
        command = [
            sys.executable,
            os.path.abspath(__file__),
            "--nccl-rank",
            str(rank),
            "--nccl-ranks",
            str(ranks),
            "--scratch",
            folder,
            "--seed",
            str(context.seed),
        ]
        with open(os.path.join(folder, f"stderr.{rank}"), "wb") as stream:
            processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream))
    answers: List[Dict[str, Any]] = []
    wrong: List[str] = []
    failed = False
    while any(process.poll() is None for process in processes) and not failed:
        failed = any(process.poll() not in (None, 0) for process in processes)
        time.sleep(0.05)
    for rank, process in enumerate(processes):
        if process.poll() is None:
            process.kill()  # the others wait for ever for a rank that is gone
        process.wait()
        path = os.path.join(folder, f"rank.{rank}.json")
        if process.returncode == 0 and os.path.exists(path):
            with open(path, encoding="utf-8") as stream_in:
                answers.append(json.load(stream_in))
            if answers[-1]["wrong"]:
                wrong.append("rank {}: {}".format(rank, answers[-1]["wrong"]))
        elif process.returncode != -signal.SIGKILL:
            with open(os.path.join(folder, f"stderr.{rank}"), encoding="utf-8", errors="replace") as stream_in:
                wrong.append(f"rank {rank} ended with {process.returncode}: {last_line(stream_in.read())}")
    if len(answers) != ranks and not wrong:
        wrong.append(f"{len(answers)} of {ranks} ranks answered")
    version = ".".join(str(part) for part in torch.cuda.nccl.version())
    figures: Dict[str, Any] = {"ranks": ranks, "version": version}
    found = f"NCCL {version}, one GPU: the sum is right, there is no link to measure"
    if ranks > 1 and not wrong:
        seconds = max(answer["seconds"] for answer in answers)
        figures["bus_gb_per_s"] = round(bus_bandwidth(answers[0]["bytes"], ranks, seconds), 1)
        figures["bytes"] = answers[0]["bytes"]
        found = "NCCL {}, {} GPUs, sum right, {} GB/s (bus) at {} MiB".format(
            version, ranks, figures["bus_gb_per_s"], figures["bytes"] >> 20
        )
    return [
        make_result(
            "nccl",
            "mismatch" if wrong else "ok",
            "the exact sum on every GPU",
            "; ".join(wrong) or found,
            "torch.distributed.all_reduce",
            "run again with NCCL_DEBUG=INFO; look at fabric manager and NVLink (gpu_info)" if wrong else "",
            figures,
        )
    ]


def nccl_rank(options: argparse.Namespace) -> int:
    """One process of the all-reduce: integers as float32, whose sum is exact whatever the order of adding."""
    _die_with_parent()
    torch = importlib.import_module("torch")
    distributed = importlib.import_module("torch.distributed")
    rank, ranks = options.nccl_rank, options.nccl_ranks
    torch.cuda.set_device(rank)
    distributed.init_process_group("nccl", rank=rank, world_size=ranks, init_method=f"file://{options.scratch}/store")
    count = 1 << 20

    def part(which: int) -> Any:
        generator = torch.Generator().manual_seed(options.seed * 1000003 + which)
        return torch.randint(-1000, 1000, (count,), generator=generator).float()

    expected = sum(part(which) for which in range(ranks))
    mine = part(rank).cuda()
    distributed.all_reduce(mine)
    torch.cuda.synchronize()
    differing = int((mine.cpu() != expected).sum())  # a NaN differs from everything
    answer: Dict[str, Any] = {"wrong": "", "seconds": 0.0, "bytes": 0}
    if differing:
        answer["wrong"] = f"{differing} of {count} sums are wrong"
    if ranks > 1:
        big = torch.zeros(64 << 20, dtype=torch.float32, device="cuda")
        times = []
        for number in range(25):
            distributed.barrier()
            torch.cuda.synchronize()
            started = time.perf_counter()
            distributed.all_reduce(big)
            torch.cuda.synchronize()
            if number >= 5:
                times.append(time.perf_counter() - started)
        answer["seconds"] = sorted(times)[len(times) // 2]
        answer["bytes"] = big.numel() * 4
    distributed.destroy_process_group()
    path = os.path.join(options.scratch, f"rank.{rank}.json")
    with open(path + ".part", "w", encoding="utf-8") as stream:
        json.dump(answer, stream)
    os.rename(path + ".part", path)
    return 0


FUNCTIONS: Dict[str, Callable[[Context], List[Result]]] = {
    "torch": check_torch,
    "gpus": check_gpus,
    "matmul": check_matmul,
    "conv": check_conv,
    "sdpa": check_sdpa,
    "flash_attention": check_flash_attention,
    "transformer_engine": check_transformer_engine,
    "flashinfer": check_flashinfer,
    "sgl_kernel": check_sgl_kernel,
    "megatron": check_megatron,
    "apex": check_apex,
    "nccl": check_nccl,
}

# The package that a check needs besides torch.
PACKAGES: Dict[str, str] = {
    "flash_attention": "flash_attn",
    "transformer_engine": "transformer_engine",
    "flashinfer": "flashinfer",
    "sgl_kernel": "sgl_kernel",
    "megatron": "megatron.core",
    "apex": "apex",
}


# --------------------------------------------------------------------------------------------------------------------
# The worker: runs checks, one JSON line for each thing that happens


def run_check(name: str, context: Context) -> List[Result]:
    """One check; whatever it raises becomes a result."""
    if not is_installed("torch"):
        return [skipped(name, "torch is not installed in this environment")]
    package = PACKAGES.get(name)
    if package and not is_installed(package):
        return [skipped(name, f"{package} is not installed in this environment")]
    started = time.perf_counter()
    try:
        if name not in CPU_CHECKS and not context.on_gpu:
            return [skipped(name, "there is no GPU to run it on")]
        results = FUNCTIONS[name](context)
    except Exception as error:  # a package may raise anything: that is this check's result
        reason = "{}: {}".format(type(error).__name__, last_line(str(error)) or "no message")
        results = [
            make_result(
                name,
                "mismatch",
                "an answer",
                reason,
                PACKAGES.get(name, "torch"),
                f"run it alone (--checks {name}) to see the whole error",
            )
        ]
        sys.stderr.write(f"{name}: {error}\n")
    seconds = time.perf_counter() - started
    for result in results:
        result["figures"] = plain(result["figures"])
        result["seconds"] = round(seconds / len(results), 3)
    return results


def _die_with_parent() -> None:
    """Ask Linux to end this process when its parent ends, so that a killed test leaves nothing on the GPU."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG


def worker(options: argparse.Namespace) -> int:
    """Run the checks in order and say what happens on the real standard output; all prints go to standard error."""
    _die_with_parent()
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(**event: Any) -> None:
        stream.write(json.dumps(event, sort_keys=True, default=str) + "\n")
        stream.flush()

    context = Context(options)
    for name in options.checks:
        say(event="start", check=name)
        say(event="end", check=name, results=run_check(name, context))
    return 0


# --------------------------------------------------------------------------------------------------------------------
# The supervisor


def describe_end(code: Optional[int]) -> str:
    """A worker's exit in words."""
    if code is not None and code < 0:
        try:
            return f"was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"was ended by signal {-code}"
    return f"ended with {code}"


def kill_group(process: Any) -> None:
    """End a process that leads its own group, with everything in the group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Supervisor:
    """Runs checks in workers; each check has its own time limit; a lost worker is replaced for the checks after it."""

    def __init__(
        self,
        command: Callable[[List[str]], List[str]],
        timeouts: Mapping[str, float],
        startup_timeout: float = STARTUP_TIMEOUT,
        progress: Optional[Callable[[str], None]] = None,
    ) -> None:
        self.command = command
        self.timeouts = timeouts
        self.startup_timeout = startup_timeout
        self.progress = progress or (lambda _text: None)

    def run(self, checks: Sequence[str]) -> List[Result]:
        results: List[Result] = []
        left = list(checks)
        while left:
            done, left = self._one_worker(left)
            results.extend(done)
        return results

    def _one_worker(self, checks: List[str]) -> Tuple[List[Result], List[str]]:
        """Results of one worker and the checks that are still to be run after it. At least one check gets a result."""
        results: List[Result] = []
        left = list(checks)
        current: Optional[str] = None
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                self.command(left),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
            try:
                pipe = process.stdout
                if pipe is None:
                    raise RuntimeError("the worker has no output pipe")
                descriptor = pipe.fileno()
                buffer = b""
                deadline = time.monotonic() + self.startup_timeout
                while left:
                    ready = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]
                    chunk = os.read(descriptor, 65536) if ready else b""
                    if not chunk:
                        reason = self._lost(process, errors, timed_out=not ready, check=current)
                        results.append(
                            make_result(
                                current or left[0],
                                "mismatch",
                                "an answer",
                                reason,
                                "the worker process",
                                f"run it alone (--checks {current or left[0]}) to see the whole error",
                            )
                        )
                        left = left[left.index(current or left[0]) + 1 :]
                        break
                    buffer += chunk
                    *lines, buffer = buffer.split(b"\n")
                    for line in lines:
                        event = json.loads(line.decode("utf-8"))
                        if event["event"] == "start":
                            current = str(event["check"])
                            self.progress(current)
                            deadline = time.monotonic() + self.timeouts[current]
                        elif event["event"] == "end":
                            results.extend(event["results"])
                            left.remove(str(event["check"]))
                            current = None
                            deadline = time.monotonic() + self.startup_timeout
            finally:
                kill_group(process)
                if process.stdout is not None:
                    process.stdout.close()
        return results, left

    def _lost(self, process: Any, errors: Any, timed_out: bool, check: Optional[str]) -> str:
        """Why a worker gave no more answers, in words."""
        if timed_out:
            if check is None:
                return f"the worker did not start a check within {self.startup_timeout:g} s"
            return f"no answer after {self.timeouts[check]:g} s"
        kind = describe_end(process.wait())
        errors.seek(0)
        text = last_line(errors.read().decode("utf-8", "replace"))
        return "its process {}{}".format(kind, ": " + text if text else "")


def run(options: argparse.Namespace) -> Dict[str, Any]:
    """The whole test: the report."""
    started = time.monotonic()
    scratch = tempfile.mkdtemp(prefix="verl-gpu-smoke-")
    timeouts = dict(TIMEOUTS)
    timeouts.update(parse_timeouts(options.timeout))

    def command(checks: List[str]) -> List[str]:
        arguments = [
            sys.executable,
            os.path.abspath(__file__),
            "--worker",
            "--checks",
            ",".join(checks),
            "--seed",
            str(options.seed),
            "--device",
            options.device,
            "--min-free",
            str(options.min_free),
            "--scratch",
            scratch,
        ]
        return arguments + (["--require-gpu"] if options.require_gpu else [])

    def progress(name: str) -> None:
        if options.progress:
            sys.stderr.write(f"{name} ...\n")

    try:
        checks = Supervisor(command, timeouts, progress=progress).run(options.checks)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    verdict = summarise(checks, options.require)
    return {
        "schema": SCHEMA,
        "python": sys.executable,
        "checks": checks,
        "summary": verdict["counts"],
        "passed": verdict["passed"],
        "seconds": round(time.monotonic() - started, 2),
    }


def _names(text: str) -> List[str]:
    names = [name for name in text.split(",") if name]
    unknown = [name for name in names if name not in CHECKS]
    if unknown:
        raise argparse.ArgumentTypeError(
            "unknown check {}; there are: {}".format(", ".join(unknown), ", ".join(CHECKS))
        )
    return [name for name in CHECKS if name in names]


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        prog="gpu_smoke.py",
        description="Compute small things with every package of the stack and compare each result with a reference.",
    )
    arguments.add_argument("--json", action="store_true", help="print the report as JSON")
    arguments.add_argument("--checks", type=_names, default=list(CHECKS), metavar="A,B", help=", ".join(CHECKS))
    arguments.add_argument("--require", type=_names, default=[], metavar="A,B", help="checks that must not be skipped")
    arguments.add_argument("--require-gpu", action="store_true", help="fail when torch can use no GPU")
    arguments.add_argument("--device", choices=("auto", "cpu"), default="auto", help="cpu: leave the GPUs alone")
    arguments.add_argument("--timeout", action="append", default=[], metavar="CHECK=SECONDS", help="may be repeated")
    arguments.add_argument("--min-free", type=float, default=0.5, help="part of a GPU's memory that has to be free")
    arguments.add_argument("--seed", type=int, default=20250701)
    arguments.add_argument("--progress", action="store_true", help="say on standard error which check is running")
    for hidden in ("--worker",):
        arguments.add_argument(hidden, action="store_true", help=argparse.SUPPRESS)
    arguments.add_argument("--scratch", help=argparse.SUPPRESS)
    arguments.add_argument("--nccl-rank", type=int, help=argparse.SUPPRESS)
    arguments.add_argument("--nccl-ranks", type=int, help=argparse.SUPPRESS)
    return arguments


def main(argv: Optional[Sequence[str]] = None) -> int:
    options = parser().parse_args(argv)
    if options.nccl_rank is not None:
        return nccl_rank(options)
    if options.worker:
        return worker(options)
    try:
        parse_timeouts(options.timeout)
    except ValueError as error:
        parser().error(str(error))
    report = run(options)
    sys.stdout.write((json.dumps(report, indent=1, sort_keys=True) if options.json else render(report)) + "\n")
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    # The folder of this file must not shadow a package of the environment under test.
    sys.path[:] = [
        path for path in sys.path if os.path.abspath(path or ".") != os.path.dirname(os.path.abspath(__file__))
    ]
    sys.exit(main())
