# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.verl.baremetal.plugins.module_utils.nvidia import apt, host
from ansible_collections.verl.baremetal.plugins.modules import driver_plan


@pytest.fixture
def machine(monkeypatch):
    """A host of the test's own making, whatever machine the test runs on."""
    state = {"status": {}, "loaded": "", "devices": host.Devices([], 0), "busy": []}
    monkeypatch.setattr(driver_plan.host, "pci_devices", lambda: state["devices"])
    monkeypatch.setattr(driver_plan.host, "kernels", lambda running: ["6.1.0-31-amd64"])
    monkeypatch.setattr(driver_plan.host, "loaded_driver", lambda: state["loaded"])
    monkeypatch.setattr(driver_plan.host, "loaded_modules", lambda: state.get("modules", ""))
    monkeypatch.setattr(driver_plan.host, "gpu_processes", lambda ignore: [] if "nv-hostengine" in ignore else state["busy"])
    monkeypatch.setattr(driver_plan.system, "os_release", lambda: {"id": "debian", "version": "12", "name": "Debian 12"})
    monkeypatch.setattr(driver_plan.system, "secure_boot", lambda: None)
    monkeypatch.setattr(driver_plan.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(driver_plan.dkms, "from_tree", list)
    monkeypatch.setattr(driver_plan.transaction.Transaction, "status", lambda self: state["status"])
    monkeypatch.setattr(driver_plan.transaction.Transaction, "managed", lambda self: False)
    return state


def run(capsys, **options):
    with patch_module_args(options), pytest.raises(SystemExit):
        driver_plan.main()
    return json.loads(capsys.readouterr().out)


def test_no_gpu(machine, capsys):
    result = run(capsys)
    assert not result["changed"]
    assert result["plan"]["action"] == "skip"
    assert result["msg"] == "no NVIDIA GPU was found on the PCI bus"


def test_found_gpu(machine, capsys):
    machine["devices"] = host.devices_of(["2330", "22a3"])
    plan = run(capsys)["plan"]
    assert plan["action"] == "install"
    assert plan["packages"] == ["nvidia-driver-cuda", "nvidia-kernel-open-dkms"]
    assert plan["exact"] == ["nvidia-fabricmanager-570"]
    assert plan["headers"] == ["linux-headers-6.1.0-31-amd64"]


def test_processes_that_may_stay_do_not_stop_a_change(machine, capsys):
    machine.update(loaded="570.1", busy=["nv-hostengine (pid 7)"], status={"nvidia-kernel-open-dkms": apt.Installed("570.1-1", "install", "installed")})
    wanted = {"gpus": ["2330"], "branch": 580, "update": True}
    assert "processes use the GPUs: nv-hostengine (pid 7)" in run(capsys, **wanted)["msg"]
    assert run(capsys, **wanted, busy_ignore=["nv-hostengine"])["plan"]["action"] == "install"


def test_driver_of_a_run_file_is_left_alone(machine, capsys):
    machine["loaded"] = "580.65.06"
    plan = run(capsys, gpus=["2330"])["plan"]
    assert (plan["action"], plan["version"], plan["reboot_required"]) == ("keep", "580.65.06", False)


def test_packages_are_found(machine, capsys):
    machine["status"] = {"nvidia-kernel-open-dkms": apt.Installed("575.51.03-1", "install", "installed")}
    plan = run(capsys, gpus=["2330"])["plan"]
    assert (plan["action"], plan["version"], plan["reboot_required"]) == ("keep", "575.51.03", True)


@pytest.mark.parametrize(("name", "action"), [("nvidia-dkms-570", "install"), ("nvidia-dkms-570-open", "keep")])
def test_the_kind_of_the_kernel_modules_is_found(machine, capsys, name, action):
    machine["status"] = {name: apt.Installed("570.133.20-1", "install", "installed")}
    machine["loaded"], machine["modules"] = "570.133.20", "proprietary"
    plan = run(capsys, gpus=["2901"], kernel_modules="open", update=True)["plan"]
    assert (plan["action"], plan["reboot_required"]) == (action, True)


def test_refusal_is_a_failure_in_words(machine, capsys):
    result = run(capsys, gpus=["1db5", "2901"])
    assert result["failed"]
    assert "no driver runs both" in result["msg"]
