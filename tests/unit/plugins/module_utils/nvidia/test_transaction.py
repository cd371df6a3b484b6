# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from ansible_collections.verl.baremetal.plugins.module_utils.nvidia import transaction
from ansible_collections.verl.baremetal.plugins.module_utils.nvidia.transaction import Ran, Refused, Transaction, Wanted

DRIVER = Wanted(
    packages=["nvidia-driver-cuda", "nvidia-kernel-open-dkms"], branch=570, pinning="nvidia-driver-pinning-570"
)
VERSIONS = ["580.65.06-1", "570.133.20-1", "570.124.06-1"]


class Host:
    """A host with a dpkg status file, whose apt is played from a table of packages and versions."""

    def __init__(self, root, installed=None, offered=None, simulated=""):
        self.root = root
        self.installed = dict(installed or {})
        self.states = {}
        self.held = set()
        self.offered = offered or {}
        self.simulated = simulated
        self.calls = []
        self.write()

    def write(self):
        folder = self.root / "var/lib/dpkg"
        folder.mkdir(parents=True, exist_ok=True)
        blocks = [
            f"Package: {name}\nStatus: {'hold' if name in self.held else 'install'} ok {self.states.get(name, 'installed')}\nVersion: {version}\n"
            for name, version in self.installed.items()
        ]
        (folder / "status").write_text("\n".join(blocks))

    def run(self, argv):
        self.calls.append(list(argv))
        if argv[:2] == ["apt-cache", "policy"]:
            return Ran(0, "".join(self.policy(name) for name in argv[2:]), "")
        if argv[:2] == ["apt-cache", "pkgnames"]:
            return Ran(0, "\n".join(name for name in self.offered if name.startswith(argv[2])), "")
        if argv[:2] == ["dpkg", "--configure"]:
            self.states = {}
            self.write()
        if argv[0] == "apt-mark":
            self.held = (self.held | set(argv[2:])) if argv[1] == "hold" else (self.held - set(argv[2:]))
            self.write()
        if argv[0] == "apt-get" and "--simulate" in argv:
            return Ran(0, self.simulated, "")
        if argv[0] == "apt-get" and self.held & {name for word in argv for name in (word.partition("=")[0], word.rstrip("-"))}:
            return Ran(100, "", "E: Held packages were changed and -y was used without --allow-change-held-packages.\n")
        if argv[0] == "apt-get" and "install" in argv:
            for word in argv[argv.index("install") + 1 :]:
                if word.endswith("-"):
                    self.installed.pop(word[:-1], None)
                elif not word.startswith("-"):
                    name, _equals, version = word.partition("=")
                    self.installed[name] = version or self.offered[name][0]
            self.write()
        if argv[0] == "apt-get" and "purge" in argv:
            for name in argv[argv.index("purge") + 1 :]:
                self.installed.pop(name, None)
            self.write()
        return Ran(0, "", "")

    def policy(self, name):
        if name not in self.offered:
            return ""
        lines = "".join(f"     {version} 600\n        600 http://fixture Packages\n" for version in self.offered[name])
        pin = self.root / transaction.PREFERENCES
        text = pin.read_text() if pin.exists() else ""
        fits = [version for version in self.offered[name] if f"version {version.split('-')[0]}-*" in text]
        return f"{name}:\n  Installed: (none)\n  Candidate: {(fits or self.offered[name])[0]}\n  Version table:\n{lines}"

    def work(self, wanted=DRIVER, **more):
        return Transaction(wanted, runner=self.run, root=str(self.root), sleep=lambda seconds: None, **more)

    def pinned(self):
        return (self.root / transaction.PREFERENCES).read_text()


def offers():
    return {
        "nvidia-driver-cuda": VERSIONS,
        "nvidia-kernel-open-dkms": VERSIONS,
        "nvidia-persistenced": VERSIONS,
        "libcuda1": VERSIONS,
        "nvidia-fabricmanager-570": ["570.148.08-1", "570.133.20-1"],
        "nvidia-driver-pinning-570": ["570.133.20-1"],
        "nvidia-driver-pinning-580": ["580.65.06-1"],
        "nvidia-driver-pinning-580.65.06": ["580.65.06-1"],
        "linux-headers-6.1.0-31-amd64": ["6.1.128-1"],
    }


def test_pinning_comes_before_the_driver_and_the_version_is_pinned(tmp_path):
    host = Host(tmp_path, offered=offers())
    outcome = host.work(DRIVER._replace(optional=["nvidia-persistenced"], headers=["linux-headers-6.1.0-31-amd64"])).ensure()
    assert outcome.changed
    assert outcome.version == "570.133.20"
    installs = [call for call in host.calls if call[0] == "apt-get" and "install" in call and "--simulate" not in call]
    assert installs[0][-1] == "nvidia-driver-pinning-570"
    assert installs[1][-4:] == [
        "nvidia-driver-cuda=570.133.20-1",
        "nvidia-kernel-open-dkms=570.133.20-1",
        "nvidia-persistenced=570.133.20-1",
        "linux-headers-6.1.0-31-amd64",
    ]
    assert "Pin: version 570.133.20-*\nPin-Priority: 1001" in host.pinned()
    assert not host.work().ensure().changed


def test_fabric_manager_has_exactly_the_drivers_version(tmp_path):
    host = Host(tmp_path, offered=offers())
    host.work(DRIVER._replace(exact=["nvidia-fabricmanager-570"])).ensure()
    assert host.installed["nvidia-fabricmanager-570"] == "570.133.20-1"


def test_fabric_manager_without_that_version_is_refused(tmp_path):
    offered = dict(offers(), **{"nvidia-fabricmanager-570": ["570.148.08-1"]})
    with pytest.raises(Refused, match=r"must have exactly the driver's version 570\.133\.20.*570\.148\.08-1"):
        Host(tmp_path, offered=offered).work(DRIVER._replace(exact=["nvidia-fabricmanager-570"])).ensure()


def test_downgrade_takes_the_whole_set_along(tmp_path):
    have = dict.fromkeys(("nvidia-driver-cuda", "nvidia-kernel-open-dkms", "libcuda1", "nvidia-driver-cuda-old"), "580.65.06-1")
    host = Host(tmp_path, installed=have, offered=offers())
    outcome = host.work().ensure()
    assert {version for name, version in host.installed.items()} == {"570.133.20-1"}
    assert outcome.removed == ["nvidia-driver-cuda-old"]


def test_missing_branch_lists_the_others_and_keeps_the_pin(tmp_path):
    host = Host(tmp_path, offered=offers())
    host.work().ensure()
    before = host.pinned()
    with pytest.raises(Refused, match=r"no branch 575.*570, 580 and the versions 580\.65\.06"):
        host.work(DRIVER._replace(branch=575, pinning="nvidia-driver-pinning-575")).ensure()
    assert host.pinned() == before


def test_full_version(tmp_path):
    host = Host(tmp_path, offered=offers())
    outcome = host.work(DRIVER._replace(version="570.124.06", pinning="nvidia-driver-pinning-570.124.06")).ensure()
    assert outcome.version == "570.124.06"
    assert "has no package nvidia-driver-pinning-570.124.06" in outcome.notes[0]


def test_missing_headers(tmp_path):
    with pytest.raises(Refused, match="headers' package linux-headers-9"):
        Host(tmp_path, offered=offers()).work(DRIVER._replace(headers=["linux-headers-9"])).ensure()


def test_interrupted_dpkg_is_finished_first(tmp_path):
    host = Host(tmp_path, installed={"other": "1"}, offered=offers())
    host.states = {"other": "half-configured"}
    host.write()
    assert host.work().ensure().repaired == ["other"]
    assert ["dpkg", "--configure", "-a", "--force-confdef", "--force-confold"] in host.calls


@pytest.mark.parametrize(
    ("simulated", "words"),
    [
        ("Inst cuda (13.0.0-1 fixture [amd64])\n", "would bring in cuda"),
        ("Inst cuda-runtime-12-8 (12.8.1-1 fixture [amd64])\n", "would bring in cuda-runtime-12-8"),
        ("Remv docker.io [20.10]\n", "would remove docker.io"),
    ],
)
def test_surprises_are_refused_before_anything_is_done(tmp_path, simulated, words):
    host = Host(tmp_path, offered=offers(), simulated=simulated)
    with pytest.raises(Refused, match=words):
        host.work().ensure()
    assert "nvidia-driver-cuda" not in host.installed
    assert not (tmp_path / transaction.PREFERENCES).exists()


def test_a_toolkit_that_brings_a_driver_is_refused(tmp_path):
    host = Host(tmp_path, offered={"cuda-toolkit-12-8": ["12.8.1-1"]}, simulated="Inst libcuda1 (580-1 x [amd64])\n")
    with pytest.raises(Refused, match="would bring in libcuda1"):
        host.work(Wanted(packages=["cuda-toolkit-12-8=12.8.1-1"], hold=True)).ensure()


def test_held_packages_are_changed_and_held_again(tmp_path):
    host = Host(tmp_path, installed={"libcudnn9-cuda-12": "9.7.0-1"}, offered={"libcudnn9-cuda-12": ["9.8.0.87-1", "9.7.0-1"]})
    host.held = {"libcudnn9-cuda-12"}
    host.write()
    wanted = Wanted(packages=["libcudnn9-cuda-12=9.8.0.87-1"], hold=True)
    assert host.work(wanted).ensure().changed
    assert host.installed["libcudnn9-cuda-12"] == "9.8.0.87-1"
    assert host.held == {"libcudnn9-cuda-12"}
    assert not host.work(wanted).ensure().changed


def test_a_held_driver_moves_between_branches(tmp_path):
    have = dict.fromkeys(("nvidia-driver-cuda", "nvidia-kernel-open-dkms", "libcuda1", "nvidia-utils-580"), "580.65.06-1")
    host = Host(tmp_path, installed={**have, "nvidia-driver-pinning-580": "580.65.06-1"}, offered=offers())
    host.held = set(host.installed)
    host.write()
    assert host.work().ensure().version == "570.133.20"
    assert "nvidia-utils-580" not in host.installed
    # What is still there is held as it was; what is gone is not held for a later installation.
    assert host.held == {"nvidia-driver-cuda", "nvidia-kernel-open-dkms", "libcuda1"}


@pytest.mark.parametrize("version", ["570.133.20-1", "580.65.06-1"])
def test_the_other_kind_of_kernel_modules_goes(tmp_path, version):
    have = dict.fromkeys(("nvidia-driver-cuda", "nvidia-kernel-dkms"), version)
    host = Host(tmp_path, installed=have, offered=dict(offers(), **{"nvidia-kernel-dkms": VERSIONS}))
    host.held = {"nvidia-kernel-dkms"}
    host.write()
    host.work().ensure()
    assert "nvidia-kernel-dkms" not in host.installed
    assert host.installed["nvidia-kernel-open-dkms"] == "570.133.20-1"


def test_held_leftovers_are_purged(tmp_path):
    host = Host(tmp_path, installed=dict.fromkeys(["nvidia-driver-cuda", "libcuda1"], "580.65.06-1"), offered=offers())
    host.held = {"libcuda1"}
    host.write()
    # apt leaves it at its version.
    run, host.offered["libcuda1"] = host.run, ["580.65.06-1"]

    def keep(argv):
        return run([word for word in argv if word != "libcuda1-"] if argv[0] == "apt-get" else argv)

    host.run = keep
    host.work().ensure()
    assert "libcuda1" not in host.installed


def test_a_version_that_is_not_there(tmp_path):
    host = Host(tmp_path, offered={"cuda-toolkit-12-8": ["12.8.0-1"]})
    with pytest.raises(Refused, match=r"cuda-toolkit-12-8=12\.8\.1-1 is in no repository.*12\.8\.0-1"):
        host.work(Wanted(packages=["cuda-toolkit-12-8=12.8.1-1"])).ensure()


def test_the_lock_is_waited_for_and_its_holder_named(tmp_path, monkeypatch):
    host = Host(tmp_path, offered=offers())
    monkeypatch.setattr(transaction.apt, "lock_holders", lambda root: [(12, "unattended-upgrade")])
    seconds = iter(range(0, 1000, 10))
    with pytest.raises(Refused, match=r"held by unattended-upgrade \(pid 12\); waited 30 s"):
        host.work(DRIVER._replace(lock_timeout=30), clock=lambda: float(next(seconds))).ensure()


def test_check_mode_changes_nothing(tmp_path):
    host = Host(tmp_path, offered=offers())
    outcome = host.work(check=True).ensure()
    assert outcome.changed
    assert host.calls == []
    assert host.installed == {}


def test_a_pin_that_does_not_hold_is_a_failure(tmp_path):
    host = Host(tmp_path, offered=offers())
    host.policy_of = host.policy
    host.policy = lambda name: host.policy_of(name).replace("Candidate: 570.133.20-1", "Candidate: 580.65.06-1")
    with pytest.raises(Refused, match=r"apt would move .*nvidia-driver-cuda from 570\.133\.20-1 to 580\.65\.06-1"):
        host.work().ensure()


def test_absent(tmp_path):
    host = Host(tmp_path, offered=offers(), installed={"nvidia-container-toolkit": "1.17.8-1", "cuda-toolkit-12-8": "12.8.1-1"})
    host.work().ensure()
    outcome = host.work().remove([])
    assert outcome.changed
    assert sorted(host.installed) == ["cuda-toolkit-12-8", "nvidia-container-toolkit"]
    assert not (tmp_path / transaction.PREFERENCES).exists()
    assert not host.work().remove([]).changed
