# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The ELF reader on a real library (Python's own), on made files and on broken ones."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from factories import dynamic_section, elf_file

from ansible_collections.verl.baremetal.plugins.module_utils.probes import elf


def write(folder: Path, content: bytes) -> str:
    path = folder / "lib.so"
    path.write_bytes(content)
    return str(path)


def test_what_the_loader_is_told(tmp_path: Path) -> None:
    sections = dynamic_section(
        [(1, "libc10.so"), (1, "libc.so.6"), (14, "libx.so.1"), (15, "/old:$ORIGIN/a"), (29, "$ORIGIN/../lib")]
    )
    with elf.ElfFile(write(tmp_path, elf_file(sections))) as file:
        found = file.dynamic()
    assert found == elf.Dynamic(["libc10.so", "libc.so.6"], "libx.so.1", ["/old", "$ORIGIN/a"], ["$ORIGIN/../lib"])


def test_a_file_without_a_dynamic_section(tmp_path: Path) -> None:
    with elf.ElfFile(write(tmp_path, elf_file({".text": b"x"}))) as file:
        assert file.dynamic() == elf.Dynamic([], None, [], [])
        assert file.needed_versions() == {}
        assert file.content(".nothing") == b""


def test_needed_versions(tmp_path: Path) -> None:
    strings = b"\0libc.so.6\0GLIBC_2.28\0GLIBC_2.4\0"
    raw = struct.pack("<HHIII", 1, 2, 1, 16, 0)
    raw += struct.pack("<IHHII", 0, 0, 2, 11, 16) + struct.pack("<IHHII", 0, 0, 3, 22, 0)
    with elf.ElfFile(write(tmp_path, elf_file({".dynstr": strings, ".gnu.version_r": raw}))) as file:
        found = file.needed_versions()
    assert found == {"libc.so.6": ["GLIBC_2.28", "GLIBC_2.4"]}
    assert elf.maximum_glibc(found) == (2, 28)
    assert elf.maximum_glibc({"libc.so.6": ["GLIBC_PRIVATE"]}) is None


def test_a_real_library() -> None:
    import _ctypes

    with elf.ElfFile(_ctypes.__file__) as file:
        assert any(name.startswith("libc.so") for name in file.dynamic().needed)
        assert elf.maximum_glibc(file.needed_versions()) is not None


@pytest.mark.parametrize(
    "names, abi",
    [
        (b"\0_ZN3c105ErrorC2ENS_14SourceLocationENSt7__cxx1112basic_stringIcEE\0", True),
        (b"\0_ZN3c106detail14torchCheckFailEPKcS2_jRKSs\0", False),
        (b"\0_ZN3foo3barERKSs\0", None),
        (b"\0PyInit_x\0", None),
        (b"", None),
    ],
)
def test_cxx11_abi(tmp_path: Path, names: bytes, abi: bool | None) -> None:
    with elf.ElfFile(write(tmp_path, elf_file({".dynstr": names}))) as file:
        assert file.cxx11_abi() is abi


GOOD = elf_file({".text": b"x" * 100})


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "no ELF file"),
        (b"#!/bin/sh\n" * 20, "not with the mark"),
        (GOOD[:40], "no ELF file"),
        (GOOD[:100], "truncated"),
        (GOOD[:-10], "truncated"),
        (b"\x7fELF\x01" + GOOD[5:], "64-bit"),
        (b"\x7fELF\x02\x02" + GOOD[6:], "64-bit"),
        (GOOD[:40] + struct.pack("<Q", 2**62) + GOOD[48:], "truncated"),
        (GOOD[:58] + struct.pack("<H", 12) + GOOD[60:], "not understood"),
        (GOOD[:62] + struct.pack("<H", 999) + GOOD[64:], "section names"),
    ],
    ids=[
        "empty",
        "script",
        "short",
        "cut",
        "cut at the end",
        "32 bits",
        "big-endian",
        "far table",
        "entry size",
        "no names",
    ],
)
def test_a_broken_file_is_an_error_in_words(tmp_path: Path, content: bytes, words: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(elf.ElfError, match=words) as error:
        elf.ElfFile(path)
    assert path in str(error.value)


def test_a_file_without_sections(tmp_path: Path) -> None:
    with elf.ElfFile(write(tmp_path, GOOD[:40] + b"\0" * 24 + GOOD[64:])) as file:
        assert file.sections == []


def test_no_file_is_left_open(tmp_path: Path) -> None:
    import os

    path = write(tmp_path, b"garbage" * 20)
    before = len(os.listdir("/proc/self/fd"))
    for _try in range(5):
        with pytest.raises(elf.ElfError):
            elf.ElfFile(path)
    assert len(os.listdir("/proc/self/fd")) == before
