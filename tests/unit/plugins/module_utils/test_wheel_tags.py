# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Which file of a distribution serves which Python, told from names; compared with the reference implementation."""

from __future__ import annotations

import pytest
from packaging import tags, utils

from ansible_collections.verl.baremetal.plugins.module_utils import wheel_tags

P311 = wheel_tags.Target("3.11")
NAMES = [
    "a-1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    "a-1-cp311-cp311-manylinux_2_28_x86_64.whl",
    "a-1-cp311-cp311-manylinux_2_34_x86_64.whl",
    "a-1-cp311-cp311-manylinux_2_28_aarch64.whl",
    "a-1-cp311-cp311-musllinux_1_2_x86_64.whl",
    "a-1-cp311-cp311-win_amd64.whl",
    "a-1-cp311-cp311-macosx_11_0_arm64.whl",
    "a-1-cp39-abi3-manylinux1_x86_64.whl",
    "a-1-cp38-abi3-manylinux_2_12_x86_64.manylinux2010_x86_64.whl",
    "a-1-cp312-abi3-manylinux2014_x86_64.whl",
    "a-1-cp312-cp312-linux_x86_64.whl",
    "a-1-cp313-cp313t-linux_x86_64.whl",
    "a-1-cp310-none-any.whl",
    "a-1-cp311-none-any.whl",
    "a-1-py3-none-manylinux2014_x86_64.whl",
    "a-1-py2.py3-none-any.whl",
    "a-1-py2-none-any.whl",
    "a-1-py310-none-any.whl",
    "a-1-py312-none-any.whl",
    "a-1-1-py3-none-any.whl",
    "a-1.tar.gz",
    "no wheel.whl",
]


def supported(python):
    major, minor = (int(part) for part in python.split("."))
    platforms = [f"manylinux_2_{n}_x86_64" for n in range(28, 4, -1)]
    old = {17: "manylinux2014_x86_64", 12: "manylinux2010_x86_64", 5: "manylinux1_x86_64"}
    platforms = [p for n in range(28, 4, -1) for p in [f"manylinux_2_{n}_x86_64", *([old[n]] if n in old else [])]] + ["linux_x86_64"]
    found = list(tags.cpython_tags((major, minor), platforms=platforms))
    return [*found, *tags.compatible_tags((major, minor), f"cp{major}{minor}", platforms)]


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12"])
@pytest.mark.parametrize("name", NAMES)
def test_the_same_files_serve_as_the_reference_says(python, name):
    expected = False
    if name.endswith(".whl") and " " not in name:
        expected = bool(utils.parse_wheel_filename(name)[3].intersection(supported(python)))
    assert (wheel_tags.rank(name, wheel_tags.Target(python)) is not None) == expected


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (NAMES, "a-1-cp311-cp311-manylinux_2_28_x86_64.whl"),
        (["a-1-py3-none-any.whl", "a-1-cp39-abi3-manylinux1_x86_64.whl"], "a-1-cp39-abi3-manylinux1_x86_64.whl"),
        (["a-1-cp38-abi3-linux_x86_64.whl", "a-1-cp39-abi3-linux_x86_64.whl"], "a-1-cp39-abi3-linux_x86_64.whl"),
        (["a-1.tar.gz", "a-1-py2.py3-none-any.whl"], "a-1-py2.py3-none-any.whl"),
        (["a-1.tar.gz", "a-1-cp312-cp312-linux_x86_64.whl"], "a-1.tar.gz"),
        (["a-1-cp312-cp312-linux_x86_64.whl"], None),
        ([], None),
    ],
)
def test_the_most_specific_file_is_chosen_and_a_source_last(offered, chosen):
    assert wheel_tags.choose(reversed(offered), P311) == chosen


def test_an_older_c_library_takes_the_older_wheel():
    assert wheel_tags.choose(NAMES, wheel_tags.Target("3.11", (2, 17))) == NAMES[0]
