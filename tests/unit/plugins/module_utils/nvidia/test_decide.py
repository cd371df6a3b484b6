# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils.nvidia import tables
from ansible_collections.verl.baremetal.plugins.module_utils.nvidia.decide import Found, Gpu, Request, decide

H100 = Gpu("2330", "Hopper")
V100 = Gpu("1db5", "Volta")
B200 = Gpu("2901", "Blackwell")
UNKNOWN = Gpu("3fff", "")


def plan(os_id="ubuntu", version="24.04", request=None, gpus=(H100,), nvswitches=0, found=None, arch="x86_64"):
    return decide(os_id, version, arch, request or Request(), gpus, nvswitches, found)


def test_no_gpu_is_a_skip_with_the_reason():
    answer = plan(gpus=())
    assert answer.action == "skip"
    assert "no NVIDIA GPU" in answer.reason


@pytest.mark.parametrize(
    ("distribution", "branch", "generation"),
    list(itertools.product(tables.DISTRIBUTIONS, tables.KNOWN_BRANCHES, tables.GENERATIONS)),
)
def test_every_supported_combination(distribution, branch, generation):
    answer = plan(distribution.os_id, distribution.version, Request(branch=branch), [Gpu("0000", generation)])
    old = generation in ("Kepler", "Maxwell", "Pascal", "Volta")
    if generation == "Kepler":
        assert answer.action == "refuse"
        assert "cannot run the stack" in answer.problems[0]
        return
    if old and branch > 580:
        assert answer.action == "refuse"
        assert "set driver_branch: 580" in answer.problems[0]
        return
    assert answer.action == "install"
    assert answer.kernel_modules == ("proprietary" if old else "open")
    assert answer.repository == f"{tables.REPOSITORY_BASE}/{distribution.folder}/x86_64/"
    assert answer.pinning == f"nvidia-driver-pinning-{branch}"
    suffixed = any(str(branch) in name for name in answer.packages)
    assert suffixed is (distribution.os_id == "ubuntu" and branch < 590)
    assert ("open" in " ".join(answer.packages)) is not old
    assert not [name for name in answer.packages if tables.is_trap(name)]


@pytest.mark.parametrize(
    ("os_id", "version"), [("rocky", "9.4"), ("rhel", "9"), ("ubuntu", "20.04"), ("debian", "13")]
)
def test_unsupported_systems_are_refused_in_words(os_id, version):
    answer = plan(os_id, version)
    assert answer.action == "refuse"
    assert "Ubuntu 22.04, Ubuntu 24.04, Debian 12" in answer.problems[0]


def test_other_architecture_is_refused():
    assert "aarch64" in plan(arch="aarch64").problems[0]


@pytest.mark.parametrize(
    ("request_", "gpus", "words"),
    [
        (Request(branch=550), [H100], "driver_branch is 550"),
        (Request(version="580.65.06"), [H100], "set driver_branch: 580"),
        (Request(version="570.20.01"), [H100], "needs 570.26 or newer"),
        (Request(kernel_modules="open"), [V100], "do not run Volta"),
        (Request(kernel_modules="proprietary"), [B200], "only with the open kernel modules"),
        (Request(), [V100, B200], "no driver runs both"),
    ],
)
def test_refusals_say_what_to_set(request_, gpus, words):
    answer = plan(request=request_, gpus=gpus)
    assert answer.action == "refuse"
    assert any(words in problem for problem in answer.problems)


def test_one_old_gpu_makes_the_modules_proprietary():
    assert plan(gpus=[V100, H100]).kernel_modules == "proprietary"


def test_unknown_gpu_gets_open_modules():
    assert plan(gpus=[UNKNOWN]).kernel_modules == "open"


def test_kernel_modules_can_be_forced():
    assert plan(request=Request(kernel_modules="proprietary")).kernel_modules == "proprietary"


@pytest.mark.parametrize(
    ("wanted", "switches", "branch", "expected"),
    [
        ("auto", 0, 570, []),
        ("auto", 4, 570, ["nvidia-fabricmanager-570"]),
        ("auto", 4, 580, ["nvidia-fabricmanager"]),
        ("present", 0, 580, ["nvidia-fabricmanager"]),
        ("absent", 4, 570, []),
    ],
)
def test_fabric_manager(wanted, switches, branch, expected):
    answer = plan(request=Request(branch=branch, fabric_manager=wanted), nvswitches=switches)
    assert answer.exact == expected
    assert answer.fabric_manager is bool(expected)


@pytest.mark.parametrize(
    ("found", "action", "reboot"),
    [
        (Found(), "install", True),
        # A driver of a .run file, which no package manager knows.
        (Found(loaded="580.65.06"), "keep", False),
        (Found(loaded="575.51.03", package="575.51.03-0ubuntu1"), "keep", False),
        # Installed, not loaded yet; installed anew under the loaded one.
        (Found(package="570.133.20-1"), "keep", True),
        (Found(loaded="570.124.06", package="570.133.20-1"), "keep", True),
        # Left half done by us: gone on with.
        (Found(package="570.133.20-1", managed=True, complete=False), "install", True),
        (Found(package="570.133.20-1", managed=True, complete=True), "keep", True),
        # Too old.
        (Found(package="550.90.07-0ubuntu1"), "install", True),
        (Found(loaded="550.90.07", package="550.90.07-0ubuntu1"), "install", True),
        (Found(loaded="550.90.07"), "refuse", False),
    ],
)
def test_a_driver_that_is_there(found, action, reboot):
    answer = plan(found=found)
    assert answer.action == action
    assert answer.reboot_required is reboot


def test_update_moves_between_branches():
    found = Found(loaded="570.133.20", package="570.133.20-1", managed=True, complete=True)
    assert plan(request=Request(branch=580), found=found).action == "keep"
    assert "driver_update: true" in plan(request=Request(branch=580), found=found).reason
    moved = plan(request=Request(branch=580, update=True), found=found)
    assert (moved.action, moved.branch) == ("install", 580)
    back = Found(loaded="580.65.06", package="580.65.06-1", managed=True, complete=True)
    assert plan(request=Request(branch=570, update=True), found=back).action == "install"
    assert plan(request=Request(branch=580, update=True), found=back).action == "keep"


MANAGED = Found(loaded="570.133.20", package="570.133.20-1", managed=True, complete=True)


@pytest.mark.parametrize(
    ("kind", "wanted", "gpus", "action", "modules"),
    [
        ("proprietary", "open", [H100], "install", "open"),
        ("open", "proprietary", [H100], "install", "proprietary"),
        ("proprietary", "auto", [B200], "install", "open"),
        ("proprietary", "open", [B200], "install", "open"),
        ("open", "auto", [V100], "install", "proprietary"),
        # It runs the GPUs, and nothing else was asked for.
        ("proprietary", "auto", [H100], "keep", ""),
        ("open", "open", [B200], "keep", ""),
        ("", "open", [H100], "keep", ""),
    ],
)
def test_another_kind_of_kernel_modules_is_a_difference(kind, wanted, gpus, action, modules):
    found = MANAGED._replace(loaded_modules=kind, package_modules=kind)
    request = Request(kernel_modules=wanted, update=True)
    changed = plan(request=request, gpus=gpus, found=found)
    assert (changed.action, changed.kernel_modules) == (action, modules)
    kept = plan(request=request._replace(update=False), gpus=gpus, found=found)
    assert kept.action == "keep"
    hint = f"its kernel modules are {kind}"
    assert (hint in kept.reason and f"driver_update: true to change them to {modules}" in kept.reason) is bool(modules)
    assert ("do not run these GPUs" in kept.reason) is (gpus != [H100] and bool(modules))


def test_the_kind_of_a_driver_of_no_package_counts_too():
    found = Found(loaded="570.133.20", loaded_modules="proprietary")
    assert plan(request=Request(update=True), gpus=[B200], found=found).action == "install"
    assert "which do not run these GPUs" in plan(gpus=[B200], found=found).reason


def test_a_driver_that_only_lacks_its_fabric_manager_keeps_its_kind():
    found = MANAGED._replace(loaded_modules="proprietary", package_modules="proprietary")
    answer = plan(request=Request(kernel_modules="open"), found=found, nvswitches=4)
    assert (answer.action, answer.kernel_modules) == ("install", "proprietary")
    assert plan(request=Request(kernel_modules="open"), gpus=[B200], found=found, nvswitches=4).kernel_modules == "open"


def test_the_other_kind_is_loaded_after_a_reboot():
    assert plan(found=MANAGED._replace(loaded_modules="proprietary", package_modules="open")).reboot_required
    assert not plan(found=MANAGED._replace(loaded_modules="", package_modules="open")).reboot_required


def test_missing_fabric_manager_of_a_kept_driver_has_the_drivers_branch():
    found = Found(loaded="570.133.20", package="570.133.20-1", managed=True, complete=True)
    answer = plan(request=Request(branch=580), found=found, nvswitches=4)
    assert answer.action == "install"
    assert (answer.branch, answer.version, answer.exact) == (570, "570.133.20", ["nvidia-fabricmanager-570"])
    right = found._replace(fabric_manager="570.133.20-1")
    assert plan(request=Request(branch=580), found=right, nvswitches=4).action == "keep"


@pytest.mark.parametrize("package", ["", "580.65.06-0ubuntu0.24.04.1"])
def test_a_drivers_fabric_manager_is_missed_but_the_driver_of_others_is_left_alone(package):
    answer = plan(found=Found(loaded="580.65.06", package=package), nvswitches=4)
    assert answer.action == "keep"
    assert "its fabric manager 580.65.06" in answer.reason


@pytest.mark.parametrize(
    ("mode", "ready", "words"),
    [("refuse", False, "Secure Boot is on"), ("sign", False, "mokutil --import"), ("sign", True, ""), ("ignore", False, "")],
)
def test_secure_boot(mode, ready, words):
    answer = plan(request=Request(secure_boot=mode), found=Found(secure_boot=True, mok_ready=ready))
    assert answer.action == ("refuse" if words else "install")
    assert words in " ".join(answer.problems)


def test_busy_gpus_are_not_changed_under_running_processes():
    found = Found(loaded="550.90.07", package="550.90.07-1", busy=["python (pid 42)"])
    refused = plan(found=found)
    assert refused.action == "refuse"
    assert "python (pid 42)" in refused.problems[0]
    assert plan(found=found, request=Request(allow_busy=True)).action == "install"


def test_headers_for_the_running_and_the_newest_kernel_once():
    found = Found(kernels=["6.1.0-30-amd64", "6.1.0-31-amd64", "6.1.0-30-amd64"])
    assert plan("debian", "12", found=found).headers == ["linux-headers-6.1.0-30-amd64", "linux-headers-6.1.0-31-amd64"]


def test_absent():
    assert plan(request=Request(state="absent")).action == "keep"
    found = Found(packages=["libcuda1"], package="570.133.20-1")
    assert plan(request=Request(state="absent"), found=found, gpus=()).action == "remove"
    busy = found._replace(loaded="570.133.20", busy=["python (pid 7)"])
    assert plan(request=Request(state="absent"), found=busy).action == "refuse"


def test_mirror():
    answer = plan(request=Request(repository_base="http://mirror.example/nvidia/"))
    assert answer.repository == "http://mirror.example/nvidia/ubuntu2404/x86_64/"


def test_full_version_pins_itself():
    answer = plan(request=Request(version="570.133.20"))
    assert answer.pinning == "nvidia-driver-pinning-570.133.20"
