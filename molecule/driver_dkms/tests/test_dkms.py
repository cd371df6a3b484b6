# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The module was really built."""

from __future__ import annotations


def test_dkms_has_installed_the_module(host):
    assert ": installed" in host.check_output("dkms status")


def test_the_modules_are_there_and_say_their_version(host):
    names = host.check_output("find /lib/modules -name 'nvidia*.ko*'").split()
    assert len(names) >= 4
    version = host.check_output("dpkg-query -W -f '${Version}' nvidia-open-kernel-dkms").split("-")[0]
    main = next(name for name in names if "/nvidia.ko" in name or "/nvidia-current" in name)
    assert host.check_output("modinfo -F version " + main) == version
