# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Architectures out of fat binaries: captured from two compilers, made by hand, and broken.

kernels_*.fatbin were compiled from one empty-handed kernel of our own (`nvcc -fatbin -gencode ...`);
kernels_12.4.cuobjdump.txt is what NVIDIA's cuobjdump lists of the first.
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from factories import ALONE, FAMILY, PTX, SASS, elf_file, fat_binary

from ansible_collections.verl.baremetal.plugins.module_utils.probes import elf, fatbin

A = fatbin.Architectures


def architectures(sass: str = "", ptx: str = "") -> fatbin.Architectures:
    return A(frozenset(sass.split()), frozenset(ptx.split()))


def extension(folder: Path, content: bytes, section: str = ".nv_fatbin") -> str:
    path = folder / "extension.so"
    path.write_bytes(elf_file({".text": b"\x90" * 100, section: content, ".data": b"\0"}))
    return str(path)


def listed(text: str) -> fatbin.Architectures:
    """The architectures in cuobjdump's listing."""
    return A(
        frozenset(re.findall(r"^ELF file.*\.sm_(\w+)\.cubin$", text, re.M)),
        frozenset(re.findall(r"^PTX file.*\.sm_(\w+)\.ptx$", text, re.M)),
    )


@pytest.mark.parametrize(
    "name, expected",
    [
        ("kernels_12.4.fatbin", architectures("80 90a", "90")),
        ("kernels_13.0.fatbin", architectures("80 90a 100f", "90 120a")),
    ],
)
def test_captured_fat_binaries(tmp_path: Path, data: Path, name: str, expected: fatbin.Architectures) -> None:
    assert fatbin.read(extension(tmp_path, (data / "probes" / name).read_bytes())) == expected


def test_the_reader_agrees_with_a_captured_listing_of_cuobjdump(tmp_path: Path, data: Path) -> None:
    found = fatbin.read(extension(tmp_path, (data / "probes/kernels_12.4.fatbin").read_bytes()))
    assert found == listed((data / "probes/kernels_12.4.cuobjdump.txt").read_text())


@pytest.mark.skipif(
    shutil.which("cuobjdump") is None, reason="cuobjdump is not installed; a captured listing of it is compared always"
)
def test_the_reader_agrees_with_cuobjdump(tmp_path: Path, data: Path) -> None:
    path = data / "probes/kernels_12.4.fatbin"
    done = subprocess.run(
        ["cuobjdump", "--list-elf", "--list-ptx", str(path)], stdout=subprocess.PIPE, check=True, text=True
    )
    assert fatbin.read(extension(tmp_path, path.read_bytes())) == listed(done.stdout)


@pytest.mark.parametrize(
    "content, expected",
    [
        (fat_binary((SASS, 80, 0)), architectures("80")),
        (fat_binary((SASS, 80, 0), (SASS, 90, ALONE), (PTX, 90, 0)), architectures("80 90a", "90")),
        (fat_binary((SASS, 100, FAMILY), (PTX, 120, ALONE)), architectures("100f", "120a")),
        (fat_binary((SASS, 80, 0)) + fat_binary((SASS, 90, 0)), architectures("80 90")),
        (fat_binary((SASS, 80, 0)) + b"\0" * 16 + fat_binary((SASS, 90, 0)), architectures("80 90")),
        (fat_binary((SASS, 80, 0)) + b"\0" * 9000 + fat_binary((SASS, 90, 0)) + b"\0" * 40, architectures("80 90")),
        (fat_binary((7, 80, 0), (SASS, 75, 0)), architectures("75")),
        (fat_binary(), architectures()),
        (b"", architectures()),
        (b"\0" * 10000, architectures()),
    ],
    ids=[
        "one",
        "three",
        "variants",
        "two containers",
        "padding",
        "much padding",
        "unknown kind",
        "no entry",
        "no content",
        "zeros",
    ],
)
def test_made_fat_binaries(tmp_path: Path, content: bytes, expected: fatbin.Architectures) -> None:
    assert fatbin.read(extension(tmp_path, content)) == expected


def test_relocatable_code_counts(tmp_path: Path) -> None:
    assert fatbin.read(extension(tmp_path, fat_binary((SASS, 86, 0)), "__nv_relfatbin")) == architectures("86")


def test_a_library_without_device_code_has_no_architectures(tmp_path: Path) -> None:
    found = fatbin.read(extension(tmp_path, b"", ".other"))
    assert not found
    assert fatbin.words(found) == "none"


GOOD = fat_binary((SASS, 80, 0), (SASS, 90, 0))


@pytest.mark.parametrize(
    "content",
    [
        b"garbage!" * 20,
        GOOD[:-30],
        GOOD[:20],
        GOOD[:8] + struct.pack("<Q", 2**60) + GOOD[16:],
        GOOD[:6] + struct.pack("<H", 3) + GOOD[8:],
        GOOD[:24] + struct.pack("<Q", 2**40) + GOOD[32:],
        GOOD[:20] + struct.pack("<I", 0) + GOOD[24:],
    ],
    ids=[
        "garbage",
        "cut",
        "cut early",
        "size of a container",
        "size of a header",
        "size of an entry",
        "size of an entry's header",
    ],
)
def test_a_broken_fat_binary_is_an_error_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    path = extension(tmp_path, content)
    with pytest.raises(elf.ElfError, match=re.escape(path)):
        fatbin.read(path)


@pytest.mark.parametrize(
    "sass, ptx, capability, runs",
    [
        ("80", "", 80, True),
        ("80", "", 86, True),
        ("86", "", 80, False),
        ("80", "", 90, False),
        ("90", "", 90, True),
        ("90a", "", 90, True),
        ("90a", "", 100, False),
        ("", "90a", 90, True),
        ("", "90a", 100, False),
        ("", "80", 120, True),
        ("", "90", 89, False),
        ("100f", "", 103, True),
        ("100f", "", 100, True),
        ("100a", "", 103, False),
        ("100f", "", 120, False),
        ("", "100f", 103, True),
        ("", "100f", 120, False),
        ("75 80 89 90 90a", "", 100, False),
        ("70 80 89 90 100 120", "70", 103, True),
        ("", "", 90, False),
    ],
)
def test_runs_on(sass: str, ptx: str, capability: int, runs: bool) -> None:
    assert fatbin.runs_on(architectures(sass, ptx), capability) is runs
    assert fatbin.missing(architectures(sass, ptx), [capability]) == ([] if runs else [capability])


@pytest.mark.parametrize("text, number", [("9.0", 90), ("12.0", 120), ("8.6", 86), ("10.3", 103), ("10", 100)])
def test_capability_number(text: str, number: int) -> None:
    assert fatbin.capability_number(text) == number


def test_words_are_in_the_order_of_numbers() -> None:
    assert fatbin.words(architectures("120 90a 80 90", "90")) == "sm_80 sm_90 sm_90a sm_120 ptx_90"


def test_a_dictionary_and_back() -> None:
    value = architectures("120 80", "90")
    assert fatbin.as_dict(value) == {"sass": ["80", "120"], "ptx": ["90"]}
    assert fatbin.from_dict(fatbin.as_dict(value)) == value
    assert fatbin.merged([architectures("80"), architectures("90", "90")]) == architectures("80 90", "90")
