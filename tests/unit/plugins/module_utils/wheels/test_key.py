# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils.wheels import key


def parts(**changes):
    values = dict(
        package="flash_attn",
        version="2.8.0.post2",
        source={"kind": "sdist", "sha256": "b51d"},
        python="cp312-cpython-312-x86_64-linux-gnu",
        torch={"version": "2.7.1+cu128", "cuda": "12.8", "cxx11_abi": True},
        nvcc="12.8.93",
        archs=["9.0", "8.0"],
        flags={"env": {}, "options": []},
        system="debian-12",
        glibc="2.36",
        machine="x86_64",
    )
    values.update(changes)
    return key.parts(**values)


@pytest.mark.parametrize(
    ("text", "name"),
    [("9.0", "90"), ("90", "90"), ("sm_90", "90"), ("12.0", "120"), ("120", "120"), ("9.0a", "90a"), ("compute_100f", "100f")],
)
def test_an_architecture_has_one_form(text, name):
    assert key.architecture(text) == name


@pytest.mark.parametrize("text", ["", "hopper", "9", "9.0+PTX", "sm_9.x"])
def test_what_is_no_architecture_is_refused_in_words(text):
    with pytest.raises(key.ArchitectureError, match="write it as 9.0"):
        key.architecture(text)


@pytest.mark.parametrize(("name", "dotted"), [("90", "9.0"), ("120", "12.0"), ("90a", "9.0a")])
def test_torch_reads_architectures_with_a_dot(name, dotted):
    assert key.dotted(name) == dotted


def test_order_and_spelling_do_not_change_the_key():
    assert key.digest(parts()) == key.digest(parts(package="Flash-Attn", archs=["sm_80", "90", "8.0"]))


@pytest.mark.parametrize(
    "change",
    [
        {"package": "apex"},
        {"version": "2.8.1"},
        {"source": {"kind": "sdist", "sha256": "ffff"}},
        {"patches": ["fix.patch"]},
        {"python": "cp311-cpython-311-x86_64-linux-gnu"},
        {"torch": {"version": "2.7.1+cu126", "cuda": "12.6", "cxx11_abi": True}},
        {"torch": {"version": "2.7.1+cu128", "cuda": "12.8", "cxx11_abi": False}},
        {"torch": None},
        {"nvcc": "12.4.131"},
        {"archs": ["9.0"]},
        {"flags": {"env": {"A": "1"}, "options": []}},
        {"flags": {"env": {}, "options": ["--cuda_ext"]}},
        {"system": "ubuntu-22.04"},
        {"glibc": "2.35"},
        {"machine": "aarch64"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_part_changes_the_key(change):
    assert key.digest(parts(**change)) != key.digest(parts())


def test_the_key_stands_in_the_name_of_the_wheel():
    short = key.digest(parts())
    name = f"flash_attn-2.8.0.post2-{key.build_tag(short)}-cp312-cp312-linux_x86_64.whl"
    assert key.build_tag(short)[0].isdigit()
    assert key.key_in_name(name) == short
    assert key.key_in_name("flash_attn-2.8.0.post2-cp312-cp312-linux_x86_64.whl") is None
    assert key.key_in_name("flash_attn-2.8.0.post2-1-cp312-cp312-linux_x86_64.whl") is None


@pytest.mark.parametrize(
    ("offered", "wanted", "serves"),
    [
        ({}, {}, True),
        ({}, {"archs": ["9.0"]}, True),
        ({"archs": ["9.0"]}, {}, False),
        ({}, {"nvcc": ""}, True),
        ({}, {"nvcc": "12.4.131"}, False),
        ({}, {"torch": {"version": "2.7.1+cu126", "cuda": "12.6", "cxx11_abi": True}}, False),
        ({}, {"system": "ubuntu-22.04"}, False),
    ],
    ids=["same", "more architectures", "fewer architectures", "host without compiler", "other compiler", "other torch", "other system"],
)
def test_which_wheel_serves_which_host(offered, wanted, serves):
    assert key.serves(parts(**offered), parts(**wanted)) is serves


def test_the_difference_names_the_parts():
    assert key.difference(parts(glibc="2.35", nvcc=""), parts()) == ["glibc", "nvcc"]
