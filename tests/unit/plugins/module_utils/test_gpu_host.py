# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""What real GPU machines said, read by the probes: trees made anew from captured files, links and NVML answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils import gpu_smoke
from ansible_collections.verl.baremetal.plugins.module_utils.nvidia import decide, host
from ansible_collections.verl.baremetal.plugins.module_utils.probes import collect, cuda, driver, gpus, packages, system

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"


class Machine(NamedTuple):
    gpus: int
    device_id: str
    model: str


MACHINES = {
    "gpu_host_h100": Machine(1, "2330", "NVIDIA H100 80GB HBM3"),
    "gpu_host_h100x2": Machine(2, "2330", "NVIDIA H100 80GB HBM3"),
    "gpu_host_h200": Machine(1, "2335", "NVIDIA H200"),
}


def tree(name, root):
    """The captured machine below root; absolute links stay inside of it."""
    captured = json.loads((FIXTURES / name / "host.json").read_text())
    for path, target in captured["links"].items():
        if target and not target.startswith("/") and not Path(target).suffix and "lib" not in Path(path).name:
            (root / path[1:]).parent.joinpath(target).mkdir(parents=True, exist_ok=True)
    for path, content in captured["files"].items():
        where = root / path[1:]
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_text(content)
    for path, target in captured["links"].items():
        where = root / path[1:]
        where.parent.mkdir(parents=True, exist_ok=True)
        if where.exists() or where.is_symlink():
            continue
        if target:
            where.symlink_to(str(root) + target if target.startswith("/") else target)
        else:
            where.touch()
    for path in captured["devices"]:
        where = root / path[1:]
        where.parent.mkdir(parents=True, exist_ok=True)
        where.touch()
    return str(root)


@pytest.fixture(params=sorted(MACHINES))
def machine(request, tmp_path):
    return tree(request.param, tmp_path), MACHINES[request.param]


def test_every_gpu_is_found_on_the_bus_and_nothing_else_is(machine):
    root, known = machine
    found = gpus.scan(root)
    assert [gpu["device_id"] for gpu in found["gpus"]] == [known.device_id] * known.gpus
    assert [gpu["name"] for gpu in found["gpus"]] == [known.model] * known.gpus
    assert {gpu["generation"] for gpu in found["gpus"]} == {"Hopper"}
    assert found["nvswitches"] == 0


def test_a_driver_that_no_package_manager_knows_is_read(machine):
    root, _known = machine
    state = driver.probe(root, kernel="6.18.44", dpkg=packages.read(root))
    assert state["loaded"] == state["userspace"] == "580.159.04"
    assert state["kind"] == "open"
    assert state["libraries"]["libcuda.so.1"]["version"] == "580.159.04"
    assert state["packages"] == {}, "the compat package of CUDA 13.0 is of another driver and none itself"
    assert "nvidia0" in state["device_nodes"]
    assert state["nouveau"] is False


def test_that_driver_is_left_alone(machine):
    """580 runs CUDA 12.8; the role driver must not put a 570 over it."""
    root, _known = machine
    devices = host.pci_devices(root)
    plan = decide.decide(
        "ubuntu",
        "24.04",
        "x86_64",
        decide.Request(),
        devices.gpus,
        devices.nvswitches,
        decide.Found(loaded=host.loaded_driver(root)),
    )
    assert (plan.action, plan.problems, plan.reboot_required) == ("keep", [], False)
    assert plan.reason.startswith("driver 580.159.04 is there and runs CUDA 12.8")


def test_the_toolkit_behind_two_links_is_read_once(machine):
    root, _known = machine
    (home,) = cuda.homes(root)
    assert home["version"] == "13.0"
    assert home["real"].endswith("/usr/local/cuda-13.0")


def test_the_system_is_read(machine):
    root, _known = machine
    release = system.os_release(root)
    assert (release["id"], release["version"]) == ("ubuntu", "24.04")


@pytest.mark.parametrize(("name", "memory_mb"), [("gpu_host_h100", 81559), ("gpu_host_h200", 143771)])
def test_nvml_completes_what_the_bus_says(name, memory_mb, tmp_path):
    root = tree(name, tmp_path)
    answer = json.loads((FIXTURES / name / "nvml.json").read_text())["probe"]
    facts = collect.gpu_facts(root, ask=lambda: answer)
    (gpu,) = facts["gpus"]
    assert gpu["pci"] == "0000:00:06.0"
    assert gpu["compute_capability"] == "9.0"
    assert gpu["memory_mb"] == memory_mb
    assert facts["reason"] is None
    assert facts["nvml"]["cuda"] == "13.0"


def test_the_smoke_test_sees_them(machine):
    root, known = machine
    nodes = gpu_smoke.visible_gpu_nodes(root)
    assert len([node for node in nodes if node.startswith("/dev/")]) == known.gpus


@pytest.mark.parametrize(
    ("name", "required"),
    [
        ("gpu_host_h100x2", ["nccl", "flash_attention"]),
        ("gpu_host_h200", ["nccl", "flash_attention", "flashinfer", "megatron"]),
    ],
)
def test_the_smoke_tests_report(name, required):
    """A real report: judged again, it passes; with a skipped check required it does not."""
    report = json.loads((FIXTURES / name / "smoke.json").read_text())
    verdict = gpu_smoke.summarise(report["checks"], required)
    assert (verdict["passed"], verdict["counts"]) == (report["passed"], report["summary"])
    by_name = {check["name"]: check for check in report["checks"]}
    assert by_name["nccl"]["figures"]["ranks"] == MACHINES[name].gpus
    for name, case in by_name["flash_attention"]["figures"].items():
        if isinstance(case, dict):
            assert max(case.values()) < gpu_smoke.TOLERANCES["attention"], name
    assert not gpu_smoke.summarise(report["checks"], ["transformer_engine"])["passed"]


def test_what_nvml_says_of_a_gpu_that_computes_nothing_passes():
    """An idle GPU's lowered clocks are no fault, and the driver's share of its memory is not missing."""
    (state,) = json.loads((FIXTURES / "gpu_host_h200" / "nvml.json").read_text())["smoke"]
    assert state["throttle_mask"] == 1
    assert gpu_smoke.judge_gpu(state, 0.9) == ("ok", "", "")
