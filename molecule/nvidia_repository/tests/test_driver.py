# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""What must be on the hosts after everything that was done to them. The packages are the fixture's."""

from __future__ import annotations

import json

import pytest
import testinfra

DEBIAN, NOBLE, JAMMY, ALONE = "vb-nvidia-debian", "vb-nvidia-noble", "vb-nvidia-jammy", "vb-nvidia-alone"
BUNDLE = "/srv/bundles/nvidia/apt/debian12/x86_64"


def connect(name):
    return testinfra.get_host("docker://" + name)


def packages(name):
    """Versions of the installed packages, by name."""
    lines = connect(name).check_output("dpkg-query -W -f '${Package} ${Version} ${db:Status-Status}\\n'").splitlines()
    return {package: version for package, version, state in (line.split() for line in lines) if state == "installed"}


def test_debian_has_one_driver_with_the_fabric_manager_of_its_version():
    there = packages(DEBIAN)
    driver = {name: there[name] for name in there if "nvidia" in name and "container" not in name}
    assert set(driver.values()) == {"570.133.20-1"}
    assert {"nvidia-kernel-open-dkms", "nvidia-driver-pinning-570", "nvidia-fabricmanager-570"} <= set(driver)
    assert there["libcuda1"] == "570.133.20-1"


def test_noble_has_the_full_version_that_was_pinned():
    there = packages(NOBLE)
    driver = {name: there[name] for name in there if "nvidia" in name}
    assert set(driver.values()) == {"570.124.06-0ubuntu1"}
    assert {"nvidia-dkms-570-open", "nvidia-driver-pinning-570.124.06", "libnvidia-compute-570"} <= set(driver)


def test_upgrades_were_at_work_and_moved_only_the_witness():
    for name in (DEBIAN, NOBLE):
        assert packages(name)["fixture-witness"] == "2.0-1"


@pytest.mark.parametrize("name", [DEBIAN, NOBLE])
def test_apt_would_not_move_the_driver(name):
    host = connect(name)
    simulated = host.check_output("apt-get --simulate dist-upgrade")
    assert "nvidia" not in " ".join(line for line in simulated.splitlines() if line.startswith(("Inst", "Remv")))


@pytest.mark.parametrize("name", [DEBIAN, NOBLE, JAMMY])
def test_no_trap_was_installed(name):
    there = packages(name)
    assert not {"cuda", "cuda-12-8", "cuda-runtime-12-8", "cuda-drivers", "cuda-drivers-570"} & set(there)


def test_a_driver_is_built_for_the_kernel():
    assert connect(DEBIAN).check_output("dkms status") == "nvidia/570.133.20, 6.1.0-99-amd64, x86_64: installed"


def test_services_are_enabled_where_systemd_runs():
    host = connect(DEBIAN)
    assert host.service("nvidia-persistenced").is_enabled
    assert host.service("nvidia-fabricmanager").is_enabled


@pytest.mark.parametrize("name", [DEBIAN, NOBLE])
def test_nouveau_is_kept_out(name):
    assert "blacklist nouveau" in connect(name).file("/etc/modprobe.d/verl-nouveau.conf").content_string


@pytest.mark.parametrize("name", [DEBIAN, NOBLE, JAMMY])
def test_needrestart_was_not_let_loose(name):
    # An administrator's own apt-get on the first host lets it loose, as it should.
    restarted = connect(name).file("/var/tmp/needrestart-restarted").exists
    assert restarted is (name in (DEBIAN, NOBLE))


def test_only_our_source_names_the_repository():
    host = connect(DEBIAN)
    assert not host.file("/etc/apt/sources.list.d/cuda-debian12-x86_64.list").exists
    assert not host.file("/etc/apt/preferences.d/cuda-repository-pin-600").exists
    source = host.file("/etc/apt/sources.list.d/verl-nvidia.sources").content_string
    assert "URIs: http://vb-nvidia-repo/mirror/repos/debian12/x86_64/" in source
    assert "Signed-By: /etc/apt/keyrings/verl-nvidia.asc" in source


def test_the_key_is_the_trusted_one_after_two_attempts_with_another():
    fingerprint = connect("vb-nvidia-repo").check_output("cat /srv/fixture/www/fingerprint")
    shown = connect(DEBIAN).check_output("gpg --batch --with-colons --show-keys /etc/apt/keyrings/verl-nvidia.asc")
    assert fingerprint in shown
    assert shown.count("pub:") == 1


def test_cuda_stands_beside_another_toolkit_and_is_held():
    host = connect(DEBIAN)
    there = packages(DEBIAN)
    assert there["cuda-toolkit-12-8"] == "12.8.1-1"
    assert there["libcudnn9-cuda-12"] == there["libcudnn9-dev-cuda-12"] == "9.8.0.87-1"
    assert there["cuda-toolkit-13-0"] == "13.0.0-1"
    held = set(host.check_output("apt-mark showhold").split())
    assert {"cuda-toolkit-12-8", "libcudnn9-cuda-12", "libcudnn9-dev-cuda-12"} <= held
    assert "release 12.8" in host.check_output("/usr/local/cuda-12.8/bin/nvcc")
    assert "release 12.8" in host.check_output("/opt/verl/releases/fixture/cuda/bin/nvcc")
    assert host.check_output("readlink -f /usr/local/cuda") == "/usr/local/cuda-13.0"


def test_docker_keeps_its_owners_configuration():
    file = connect(DEBIAN).file("/etc/docker/daemon.json")
    config = json.loads(file.content_string)
    assert config == {
        "log-driver": "journald",
        "runtimes": {
            "crun": {"path": "/usr/bin/crun"},
            "nvidia": {"path": "nvidia-container-runtime", "args": []},
        },
    }
    assert file.mode == 0o640


def test_the_container_toolkit_is_held_at_its_version():
    there = packages(DEBIAN)
    names = ["nvidia-container-toolkit", "nvidia-container-toolkit-base", "libnvidia-container-tools", "libnvidia-container1"]
    assert {there[name] for name in names} == {"1.17.8-1"}
    assert set(names) <= set(connect(DEBIAN).check_output("apt-mark showhold").split())


def test_a_removed_driver_leaves_nothing_behind():
    host = connect(JAMMY)
    assert not [name for name in packages(JAMMY) if "nvidia" in name or name == "libcuda1"]
    for path in (
        "/etc/apt/preferences.d/00verl-nvidia-driver",
        "/etc/apt/preferences.d/nvidia-driver-pinning",
        "/etc/apt/apt.conf.d/52verl-nvidia",
        "/etc/modprobe.d/verl-nouveau.conf",
    ):
        assert not host.file(path).exists


def test_a_host_without_a_network_has_driver_and_cuda_from_the_bundle():
    host, there = connect(ALONE), packages(ALONE)
    assert host.check_output("ls /sys/class/net") == "lo"
    driver = {name: there[name] for name in there if "nvidia" in name}
    assert set(driver.values()) == {"570.133.20-1"}
    assert {"nvidia-kernel-open-dkms", "nvidia-driver-pinning-570", "nvidia-fabricmanager-570"} <= set(driver)
    assert there["cuda-toolkit-12-8"] == "12.8.1-1" and there["libcudnn9-dev-cuda-12"] == "9.8.0.87-1"
    assert host.check_output("dkms status") == "nvidia/570.133.20, 6.1.0-99-amd64, x86_64: installed"
    assert "release 12.8" in host.check_output("/opt/verl/current/cuda/bin/nvcc")
    assert "g++" in there, "what compiling needs comes from the bundle too"


def test_the_hosts_own_apt_does_not_know_the_bundle():
    # Its folder may be gone one day: then the host's own updates must go on.
    assert connect(ALONE).run("grep -r /srv/bundles /etc/apt").rc == 1


def test_apt_refuses_a_package_of_the_bundle_that_was_damaged():
    host = connect(ALONE)
    run = (
        f"cp -r {BUNDLE} /tmp/apt && cd /tmp/apt && f=$(ls libcudnn9-cuda-12_*.deb) && size=$(stat -c %s $f) && "
        "head -c $size /dev/zero > $f && echo 'deb [signed-by=/tmp/apt/3bf863cc.pub] file:///tmp/apt /' > /tmp/list && "
        "o='-o Dir::Etc::sourcelist=/tmp/list -o Dir::Etc::sourceparts=none -o APT::Get::List-Cleanup=0' && apt-get $o -q update && "
        "apt-get $o -y --allow-change-held-packages --reinstall install libcudnn9-cuda-12"
    )
    refused = host.run(run)
    assert refused.rc != 0 and "Hash Sum mismatch" in refused.stdout + refused.stderr
