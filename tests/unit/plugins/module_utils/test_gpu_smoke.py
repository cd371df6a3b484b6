# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The pure parts of the GPU smoke test, and its supervisor with a fixture in place of the worker."""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import sys
from pathlib import Path

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils import gpu_smoke

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
WORKER = FIXTURES / "gpu_smoke" / "worker.py"
GIB = 1 << 30


def result(name, status="ok", found="fine"):
    return gpu_smoke.make_result(name, status, "something", found, "somewhere")


@pytest.mark.parametrize(
    ("error", "bad", "wrong"),
    [
        (0.0, 0, ""),
        (1e-2, 0, ""),
        (1.01e-2, 0, "error 1.01e-02 is over the allowed 1e-02"),
        (math.nan, 0, "error nan is over the allowed 1e-02"),
        (math.inf, 0, "error inf is over the allowed 1e-02"),
        (0.0, 3, "3 values are NaN or infinite"),
    ],
)
def test_a_nan_never_passes(error, bad, wrong):
    assert gpu_smoke.judge_errors(error, bad, 1e-2) == wrong


@pytest.mark.parametrize(
    ("mask", "names", "bad"),
    [
        (0x0, [], False),
        (0x1, ["idle"], False),
        (0x4, ["power cap"], False),
        (0x8, ["hardware slowdown"], True),
        (0x60, ["thermal (software)", "thermal (hardware)"], True),
        (0x81, ["idle", "power brake"], True),
        (0x1000, ["unknown (0x1000)"], False),
    ],
)
def test_throttle_reasons_are_words(mask, names, bad):
    assert gpu_smoke.decode_throttle(mask) == (names, bad)


HEALTHY = {
    "name": "GPU of a fixture",
    "memory_total": 80 * GIB,
    "memory_free": 79 * GIB,
    "ecc_enabled": True,
    "ecc_uncorrected_volatile": 0,
    "throttle_mask": 0x1,
    "temperature": 34,
    "processes": 0,
}


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({}, "ok", ""),
        ({"ecc_uncorrected_volatile": 2}, "mismatch", "2 uncorrected ECC errors"),
        ({"ecc_uncorrected_volatile": None, "ecc_enabled": None}, "ok", ""),
        ({"remap_failure": True}, "mismatch", "could not be remapped"),
        ({"remap_pending": True}, "warning", "waits for its remapping"),
        ({"throttle_mask": 0x40}, "warning", "thermal (hardware)"),
        ({"throttle_mask": 0x4}, "ok", ""),
        ({"throttle_mask": None}, "ok", ""),
        ({"memory_free": 8 * GIB, "processes": 3}, "warning", "90 % of its memory is taken by 3 processes"),
    ],
)
def test_a_gpus_readings_are_judged(changes, status, words):
    got_status, wrong, remedy = gpu_smoke.judge_gpu({**HEALTHY, **changes}, 0.5)
    assert got_status == status
    assert words in wrong
    assert bool(remedy) == (status != "ok" and "remapped" not in wrong) or "replaced" in remedy


def test_a_gpu_is_described_in_one_line():
    assert gpu_smoke.describe_gpu(HEALTHY) == (
        "GPU of a fixture, 79.0 of 80.0 GiB free, ECC on, 0 uncorrected, 34 C, no throttling"
    )
    assert gpu_smoke.describe_gpu({}) == "unnamed GPU, no ECC, no throttling"


@pytest.mark.parametrize("folder", sorted(FIXTURES.glob("gpu_host_*")), ids=lambda path: path.name)
def test_real_gpus_pass(folder):
    """What NVML said of the GPUs of real machines."""
    for state in json.loads((folder / "nvml.json").read_text())["smoke"]:
        status, wrong, _remedy = gpu_smoke.judge_gpu(state, 0.5)
        assert (status, wrong) == ("ok", "")
        assert state["name"] in gpu_smoke.describe_gpu(state)


def test_summary_counts_and_fails_for_what_is_wrong_or_missing():
    verdict = gpu_smoke.summarise([result("torch"), result("gpus.0", "warning"), result("nccl", "skipped")])
    assert verdict["passed"]
    assert verdict["counts"] == {"ok": 1, "warning": 1, "skipped": 1, "mismatch": 0, "missing": 0}
    assert not gpu_smoke.summarise([result("torch"), result("conv", "mismatch")])["passed"]


def test_a_required_check_may_not_be_skipped():
    checks = [gpu_smoke.skipped("flash_attention", "flash_attn is not installed in this environment")]
    assert gpu_smoke.summarise(checks, ["nccl"])["passed"]
    assert not gpu_smoke.summarise(checks, ["flash_attention"])["passed"]
    assert checks[0]["status"] == "missing"
    assert checks[0]["remedy"]


def test_an_unknown_status_is_refused():
    with pytest.raises(ValueError, match="unknown status 'fine'"):
        gpu_smoke.make_result("torch", "fine", "", "", "")


def test_the_report_is_readable():
    bad = gpu_smoke.make_result("conv", "mismatch", "error at most 1e-02", "7 values are NaN", "cuDNN", "reinstall it")
    report = {"checks": [result("torch"), bad], "seconds": 1.25, **gpu_smoke.summarise([result("torch"), bad])}
    report["summary"] = report["counts"]
    text = gpu_smoke.render(report)
    assert text.splitlines()[0].split() == ["ok", "torch", "fine"]
    assert "expected: error at most 1e-02" in text
    assert "remedy: reinstall it" in text
    assert text.splitlines()[-1].startswith("FAILED: 1 ok, 1 mismatch")


@pytest.mark.parametrize(
    ("text", "line"),
    [("", ""), ("a\nb\n\n", "b"), ("  x  ", "x"), ("y" * 400, "y" * 300)],
)
def test_last_line(text, line):
    assert gpu_smoke.last_line(text) == line


def test_bus_bandwidth_is_counted_as_nccl_tests_do():
    assert gpu_smoke.bus_bandwidth(10**9, 2, 0.01) == pytest.approx(100.0)
    assert gpu_smoke.bus_bandwidth(10**9, 8, 0.01) == pytest.approx(175.0)
    assert gpu_smoke.bus_bandwidth(10**9, 1, 0.01) == 0.0
    assert gpu_smoke.bus_bandwidth(10**9, 2, 0.0) == 0.0


def test_time_limits_are_read():
    assert gpu_smoke.parse_timeouts(["nccl=30", "conv=1.5"]) == {"nccl": 30.0, "conv": 1.5}


@pytest.mark.parametrize("pair", ["nccl", "bogus=3", "nccl=", "nccl=0", "nccl=-1", "nccl=inf", "nccl=nan"])
def test_wrong_time_limits_are_refused(pair):
    with pytest.raises(ValueError):
        gpu_smoke.parse_timeouts([pair])


def test_figures_are_plain_json():
    figures = gpu_smoke.plain({"a": math.nan, "b": [1.0, math.inf], 3: (True, None)})
    assert json.loads(json.dumps(figures, allow_nan=False)) == {"a": "nan", "b": [1.0, "inf"], "3": [True, None]}


def test_a_gpu_is_seen_by_its_device_node_or_the_drivers_folder(tmp_path):
    assert gpu_smoke.visible_gpu_nodes(str(tmp_path)) == []
    (tmp_path / "dev").mkdir()
    for name in ("nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / "dev" / name).touch()
    assert gpu_smoke.visible_gpu_nodes(str(tmp_path)) == []
    (tmp_path / "dev" / "nvidia0").touch()
    (tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0").mkdir(parents=True)
    assert gpu_smoke.visible_gpu_nodes(str(tmp_path)) == ["/dev/nvidia0", "/proc/driver/nvidia/gpus/0000:01:00.0"]


def test_installed_means_a_package_with_code(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "leftover_folder").mkdir()
    (tmp_path / "real_package").mkdir()
    (tmp_path / "real_package" / "__init__.py").touch()
    assert not gpu_smoke.is_installed("leftover_folder")
    assert not gpu_smoke.is_installed("absent_package.core")
    assert gpu_smoke.is_installed("real_package")


def options(**changes):
    base = {"seed": 1, "device": "auto", "require_gpu": False, "min_free": 0.5, "scratch": None}
    return argparse.Namespace(**{**base, **changes})


def test_without_torch_every_check_is_skipped_in_words(monkeypatch):
    monkeypatch.setattr(gpu_smoke, "is_installed", lambda name: False)
    for name in gpu_smoke.CHECKS:
        (one,) = gpu_smoke.run_check(name, gpu_smoke.Context(options()))
        assert (one["name"], one["status"]) == (name, "skipped")
        assert one["found"] == "torch is not installed in this environment"


@pytest.mark.parametrize("name", sorted(gpu_smoke.PACKAGES))
def test_without_its_package_a_check_is_skipped_in_words(name, monkeypatch):
    monkeypatch.setattr(gpu_smoke, "is_installed", lambda package: package == "torch")
    (one,) = gpu_smoke.run_check(name, gpu_smoke.Context(options()))
    assert one["status"] == "skipped"
    assert one["found"] == f"{gpu_smoke.PACKAGES[name]} is not installed in this environment"


class FixtureContext(gpu_smoke.Context):
    """A context whose GPU is said to be there or not, without torch."""

    def __init__(self, gpu):
        super().__init__(options())
        self.gpu = gpu

    @property
    def on_gpu(self):
        return self.gpu


@pytest.mark.parametrize("name", sorted(set(gpu_smoke.CHECKS) - set(gpu_smoke.CPU_CHECKS)))
def test_without_a_gpu_a_gpu_check_never_touches_its_package(name, monkeypatch):
    monkeypatch.setattr(gpu_smoke, "is_installed", lambda package: True)
    monkeypatch.setitem(gpu_smoke.FUNCTIONS, name, lambda context: pytest.fail("it was called"))
    (one,) = gpu_smoke.run_check(name, FixtureContext(gpu=False))
    assert (one["status"], one["found"]) == ("skipped", "there is no GPU to run it on")


def test_what_a_check_raises_is_its_result(monkeypatch, capsys):
    def broken(context):
        raise RuntimeError("first line\nCUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(gpu_smoke, "is_installed", lambda package: True)
    monkeypatch.setitem(gpu_smoke.FUNCTIONS, "conv", broken)
    (one,) = gpu_smoke.run_check("conv", FixtureContext(gpu=True))
    assert one["status"] == "mismatch"
    assert one["found"] == "RuntimeError: CUDA error: an illegal memory access was encountered"
    assert "first line" in capsys.readouterr().err


def test_packages_can_be_hidden_for_a_while(monkeypatch):
    before = sys.modules["json"]
    with gpu_smoke._without("json", "surely_absent"), pytest.raises(ImportError):
        importlib.import_module("json")
    assert sys.modules["json"] is before
    assert "surely_absent" not in sys.modules


def test_the_attention_backend_is_read_from_transformer_engine(monkeypatch):
    class Module:
        _attention_backends = {"use_flash_attention": False, "use_fused_attention": True, "fused_attention_backend": 1}

    monkeypatch.setitem(sys.modules, "transformer_engine.pytorch.of_a_fixture", Module())
    assert gpu_smoke.te_attention_backend() == "FusedAttention 1"
    Module._attention_backends = {"use_flash_attention": True, "flash_attention_backend": "2.7.3"}
    assert gpu_smoke.te_attention_backend() == "FlashAttention 2.7.3"
    Module._attention_backends = {"use_unfused_attention": True}
    assert gpu_smoke.te_attention_backend() == "UnfusedDotProductAttention"
    Module._attention_backends = {}
    assert gpu_smoke.te_attention_backend() == ""


# ---- the supervisor


class Limits(dict):
    """The same time limit for every check of the fixture but those that hang."""

    def __missing__(self, name):
        return 0.2 if name.startswith("hang") else 60.0


def supervise(*checks, startup=60.0):
    def command(left):
        return [sys.executable, str(WORKER), ",".join(left)]

    return gpu_smoke.Supervisor(command, Limits(), startup_timeout=startup).run(checks)


def test_one_worker_answers_for_all_checks():
    assert [(r["name"], r["status"]) for r in supervise("ok_1", "ok_2")] == [("ok_1", "ok"), ("ok_2", "ok")]


def test_a_crash_costs_one_check():
    results = supervise("ok_1", "crash_1", "ok_2", "crash_2")
    assert [(r["name"], r["status"]) for r in results] == [
        ("ok_1", "ok"),
        ("crash_1", "mismatch"),
        ("ok_2", "ok"),
        ("crash_2", "mismatch"),
    ]
    assert results[1]["found"] == "its process was ended by SIGSEGV"


def test_a_check_that_ends_the_worker_is_quoted():
    results = supervise("exit_1", "ok_1")
    assert results[0]["found"] == "its process ended with 3: libfoo.so: cannot open shared object file"
    assert results[1]["status"] == "ok"


def test_a_hang_is_ended_at_its_own_limit():
    results = supervise("hang_1", "ok_1")
    assert (results[0]["status"], results[0]["found"]) == ("mismatch", "no answer after 0.2 s")
    assert results[1]["status"] == "ok"


def test_a_worker_that_never_starts_a_check_is_ended():
    (one,) = supervise("mute", startup=0.5)
    assert one["found"] == "the worker did not start a check within 0.5 s"


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "ended with 0"), (-9, "was ended by SIGKILL"), (-250, "was ended by signal 250"), (None, "ended with None")],
)
def test_ends_are_words(code, words):
    assert gpu_smoke.describe_end(code) == words


# ---- the command line


def test_checks_keep_their_order_and_unknown_ones_are_refused(capsys):
    parsed = gpu_smoke.parser().parse_args(["--checks", "nccl,torch"])
    assert parsed.checks == ["torch", "nccl"]
    with pytest.raises(SystemExit):
        gpu_smoke.parser().parse_args(["--checks", "torch,bogus"])
    assert "unknown check bogus" in capsys.readouterr().err


def test_every_check_has_a_limit_and_a_function():
    assert set(gpu_smoke.CHECKS) == set(gpu_smoke.FUNCTIONS) == set(gpu_smoke.TIMEOUTS)
    assert set(gpu_smoke.PACKAGES) < set(gpu_smoke.CHECKS)
    assert set(gpu_smoke.CPU_CHECKS) < set(gpu_smoke.CHECKS)


def test_the_program_runs_alone_without_torch(tmp_path):
    """The file as it is copied to a host, in a Python that has none of the packages."""
    import subprocess

    script = tmp_path / "gpu_smoke.py"
    script.write_bytes(Path(gpu_smoke.__file__).read_bytes())
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    command = [sys.executable, "-S", str(script), "--json", "--device", "cpu", "--checks", "conv,megatron"]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True)
    report = json.loads(done.stdout)
    assert report["schema"] == gpu_smoke.SCHEMA
    assert {check["status"] for check in report["checks"]} <= {"skipped", "ok"}
    assert [check["name"] for check in report["checks"]] == ["conv", "megatron"]
