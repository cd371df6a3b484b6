# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os

from ansible_collections.verl.baremetal.plugins.module_utils.nvidia import apt

STATUS = """Package: libcuda1
Status: install ok installed
Version: 570.133.20-1

Package: cuda-toolkit-12-8
Status: hold ok installed
Version: 12.8.1-1

Package: nvidia-kernel-open-dkms
Status: install ok half-configured
Version: 570.133.20-1

Package: old
Status: deinstall ok config-files
Version: 1
"""
# Captured from apt-cache of Debian 12 on the fixture repository.
POLICY = """nvidia-fabricmanager-570:
  Installed: (none)
  Candidate: 570.133.20-1
  Version table:
     570.148.08-1 600
        600 http://vb-nvidia-repo/cuda/repos/debian12/x86_64  Packages
     570.133.20-1 1001
       1001 http://vb-nvidia-repo/cuda/repos/debian12/x86_64  Packages
     570.124.06-1 600
        600 http://vb-nvidia-repo/cuda/repos/debian12/x86_64  Packages
libcuda1:
  Installed: 570.133.20-1
  Candidate: 570.133.20-1
  Version table:
     590.44.01-1 600
        600 http://vb-nvidia-repo/cuda/repos/debian12/x86_64  Packages
 *** 570.133.20-1 1001
       1001 http://vb-nvidia-repo/cuda/repos/debian12/x86_64  Packages
        100 /var/lib/dpkg/status
nothing:
  Installed: (none)
  Candidate: (none)
  Version table:
"""
SIMULATION = """NOTE: This is only a simulation!
Reading package lists...
Remv nvidia-fabricmanager-570 [570.133.20-1]
Inst libcuda1 [570.133.20-1] (580.65.06-1 NVIDIA:stable [amd64])
Inst nvidia-driver-pinning-580 (580.65.06-1 NVIDIA:stable [amd64])
Conf libcuda1 (580.65.06-1 NVIDIA:stable [amd64])
"""


def test_status():
    packages = apt.parse_status(STATUS)
    assert packages["libcuda1"].present
    assert packages["cuda-toolkit-12-8"].held
    assert not packages["old"].present
    assert apt.unfinished(packages) == ["nvidia-kernel-open-dkms"]


def test_the_native_package_wins_over_a_foreign_one_that_is_gone():
    text = "Package: x\nStatus: install ok installed\nVersion: 2\n\nPackage: x\nStatus: deinstall ok config-files\nVersion: 1\n"
    assert apt.parse_status(text)["x"].version == "2"


def test_policy():
    policy = apt.parse_policy(POLICY)
    assert policy["nvidia-fabricmanager-570"] == ("", "570.133.20-1", ["570.148.08-1", "570.133.20-1", "570.124.06-1"])
    assert policy["libcuda1"] == ("570.133.20-1", "570.133.20-1", ["590.44.01-1", "570.133.20-1"])
    assert policy["nothing"] == ("", "", [])


def test_simulation():
    steps = apt.parse_simulation(SIMULATION)
    assert steps[0] == ("Remv", "nvidia-fabricmanager-570", "570.133.20-1", "")
    assert steps[1] == ("Inst", "libcuda1", "570.133.20-1", "580.65.06-1")
    assert steps[2] == ("Inst", "nvidia-driver-pinning-580", "", "580.65.06-1")


def test_lock_holder(tmp_path):
    lock = tmp_path / "var/lib/dpkg/lock-frontend"
    lock.parent.mkdir(parents=True)
    lock.write_text("")
    proc = tmp_path / "proc"
    (proc / "4711").mkdir(parents=True)
    (proc / "4711/cmdline").write_bytes(b"/usr/bin/python3\0/usr/bin/unattended-upgrade\0")
    inode = os.stat(lock).st_ino
    (proc / "locks").write_text(
        f"1: POSIX  ADVISORY  WRITE 4711 fe:01:{inode} 0 EOF\n2: POSIX  ADVISORY  WRITE 12 fe:01:{inode + 1} 0 EOF\n"
        f"1: -> POSIX  ADVISORY  WRITE 99 fe:01:{inode} 0 EOF\n3: OFDLCK ADVISORY  READ -1 00:06:3 0 EOF\n"
    )
    assert apt.lock_holders(str(tmp_path)) == [(4711, "/usr/bin/python3 /usr/bin/unattended-upgrade")]


def test_source():
    text = apt.render_source("http://mirror/x/", "/etc/apt/keyrings/k.asc", "/", [], "amd64", "verl-nvidia")
    assert "URIs: http://mirror/x/\nSuites: /\n" in text
    assert text.endswith("Architectures: amd64\nSigned-By: /etc/apt/keyrings/k.asc\n")
    assert "Components" not in text


def test_host_of():
    assert apt.host_of("https://user:secret@mirror.example:8443/a/b") == "mirror.example"


def test_entries_of_others_stay():
    text = "# mine\ndeb http://a/ x main\ndeb http://gone/cuda/ /\n"
    assert apt.sources_without(text, ["gone/cuda"], False) == "# mine\ndeb http://a/ x main\n"
    assert apt.sources_without("deb http://gone/cuda/ /\n# note\n", ["gone/cuda"], False) == ""
    blocks = "Types: deb\nURIs: http://gone/cuda/\n\nTypes: deb\nURIs: http://a/\n"
    assert apt.sources_without(blocks, ["gone/cuda"], True) == "Types: deb\nURIs: http://a/\n"
