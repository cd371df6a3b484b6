# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils.nvidia import dkms

KERNEL = "6.1.0-31-amd64"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("nvidia/570.133.20, 6.1.0-31-amd64, x86_64: installed", ("nvidia", "570.133.20", KERNEL, "installed")),
        ("nvidia, 570.133.20, 6.1.0-31-amd64, x86_64: installed", ("nvidia", "570.133.20", KERNEL, "installed")),
        (
            "nvidia-current-open/535.261.03, 6.1.0-31-amd64, x86_64: installed (WARNING! Diff between built and installed module!)",
            ("nvidia-current-open", "535.261.03", KERNEL, "installed"),
        ),
        ("nvidia/570.133.20: added", ("nvidia", "570.133.20", "", "added")),
        ("nvidia/570.133.20, 6.1.0-31-amd64, x86_64: built", ("nvidia", "570.133.20", KERNEL, "built")),
    ],
)
def test_status_of_dkms_2_and_3(line, expected):
    assert dkms.parse_status(line) == [expected]


def test_other_modules_do_not_count():
    builds = dkms.parse_status("zfs/2.1, 6.1.0-31-amd64, x86_64: installed\n")
    assert not dkms.is_installed(builds, KERNEL)


def test_version_and_kernel_must_fit():
    builds = dkms.parse_status("nvidia/570.133.20, 6.1.0-31-amd64, x86_64: installed")
    assert dkms.is_installed(builds, KERNEL, "570.133.20")
    assert not dkms.is_installed(builds, KERNEL, "580.65.06")
    assert not dkms.is_installed(builds, "6.1.0-32-amd64", "570.133.20")


def test_missing_headers_are_named(tmp_path):
    text = dkms.explain([], KERNEL, "570.133.20", str(tmp_path))
    assert "install the package linux-headers-6.1.0-31-amd64" in text


def test_the_end_of_the_log_is_shown(tmp_path):
    (tmp_path / "lib/modules" / KERNEL / "build").mkdir(parents=True)
    log = tmp_path / "var/lib/dkms/nvidia/570.133.20/build/make.log"
    log.parent.mkdir(parents=True)
    log.write_text("".join(f"line {number}\n" for number in range(100)) + "fatal error: no compiler\n")
    builds = dkms.parse_status("nvidia/570.133.20: added")
    text = dkms.explain(builds, KERNEL, "570.133.20", str(tmp_path))
    assert text.endswith("line 99\nfatal error: no compiler")
    assert "line 5\n" not in text


def test_built_modules_are_found_in_the_tree(tmp_path):
    module = tmp_path / "var/lib/dkms/nvidia/570.133.20" / KERNEL / "x86_64/module/nvidia.ko.xz"
    module.parent.mkdir(parents=True)
    module.write_text("")
    builds = dkms.from_tree(str(tmp_path))
    assert dkms.has_module(builds, KERNEL, "570.133.20", str(tmp_path)) == "dkms"
    assert dkms.has_module(builds, KERNEL, "580.65.06", str(tmp_path)) == ""
