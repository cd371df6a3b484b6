# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""GPU architectures inside an extension, read from its ELF section .nv_fatbin.

The section holds containers, each with a header (magic, version, header size, content size) and a run of entries:
kind (1 PTX, 2 machine code), version, header size, payload size, the architecture as a number at offset 28 and flags
at offset 40, of which two say that the code is for this architecture alone (sm_90a) or for its family (sm_100f).
Only these headers are read; the payloads, most of the file, are skipped.

An architecture is written as the compiler writes it: "90", "90a", "100f".
"""

from __future__ import annotations

import re
import struct
from typing import Dict, FrozenSet, Iterable, List, Mapping, NamedTuple, Set, Tuple

from . import elf

MAGIC = 0xBA55ED50
_CONTAINER = struct.Struct("<IHHQ")
_ENTRY = struct.Struct("<HHIQ")
_ARCH_OFFSET = 28
_ENTRY_HEAD = 48
_FLAGS_OFFSET = 40
_FLAG_ALONE = 0x100000
_FLAG_FAMILY = 0x200000
_ALIGN = 8
_SECTIONS = (".nv_fatbin", "__nv_relfatbin")
_ZERO_BLOCK = 4096


class Architectures(NamedTuple):
    sass: FrozenSet[str]
    """Machine code."""
    ptx: FrozenSet[str]

    def __bool__(self) -> bool:
        return bool(self.sass or self.ptx)


def read(path: str) -> Architectures:
    """The architectures in the file; none where it holds no device code. Raises ElfError, OSError."""
    sass: Set[str] = set()
    ptx: Set[str] = set()
    with elf.ElfFile(path) as file:
        for section in file.sections:
            if section.name in _SECTIONS and section.size:
                _walk(file, section, sass, ptx)
    return Architectures(frozenset(sass), frozenset(ptx))


def _walk(file: elf.ElfFile, section: elf.Section, sass: Set[str], ptx: Set[str]) -> None:
    at, end = section.offset, section.offset + section.size
    while at + _CONTAINER.size <= end:
        head = file.read(at, _CONTAINER.size)
        magic, _version, header_size, size = _CONTAINER.unpack(head)
        if magic == 0:
            at = _skip_zeros(file, at, end)
            continue
        if magic != MAGIC or header_size < _CONTAINER.size:
            raise elf.ElfError(f"{file.path}: no fat binary at offset {at} of {section.name} (found {magic:#x})")
        body = at + header_size
        if body + size > end:
            raise elf.ElfError(f"{file.path}: the fat binary at offset {at} ends behind its section (truncated file)")
        _entries(file, body, body + size, sass, ptx)
        at = _aligned(body + size)


def _entries(file: elf.ElfFile, at: int, end: int, sass: Set[str], ptx: Set[str]) -> None:
    while at + _ENTRY_HEAD <= end:
        raw = file.read(at, _ENTRY_HEAD)
        kind, _version, header_size, size = _ENTRY.unpack_from(raw)
        if header_size < _ENTRY_HEAD or at + header_size + size > end:
            raise elf.ElfError(f"{file.path}: the entry at offset {at} does not fit into its fat binary")
        architecture = _name(
            *struct.unpack_from("<I", raw, _ARCH_OFFSET), *struct.unpack_from("<Q", raw, _FLAGS_OFFSET)
        )
        if kind == 1:
            ptx.add(architecture)
        elif kind == 2:
            sass.add(architecture)
        at += header_size + size


def _aligned(offset: int) -> int:
    return (offset + _ALIGN - 1) // _ALIGN * _ALIGN


def _skip_zeros(file: elf.ElfFile, at: int, end: int) -> int:
    """The first place from `at` on, at the sections' alignment, that is not padding."""
    while at < end:
        block = file.read(at, min(_ZERO_BLOCK, end - at))
        rest = block.lstrip(b"\0")
        if rest:
            return at + (len(block) - len(rest)) // _ALIGN * _ALIGN
        at += len(block)
    return end


def _name(number: int, flags: int) -> str:
    suffix = "a" if flags & _FLAG_ALONE else "f" if flags & _FLAG_FAMILY else ""
    return f"{number}{suffix}"


def _split(architecture: str) -> Tuple[int, str]:
    match = re.fullmatch(r"(\d+)([af]?)", architecture)
    if match is None:
        raise ValueError(f"{architecture!r} is no architecture (example: 90 or 90a)")
    return int(match.group(1)), match.group(2)


def capability_number(text: str) -> int:
    """90 for "9.0", 120 for "12.0"."""
    major, _dot, minor = text.partition(".")
    return int(major) * 10 + int(minor or 0)


def runs_on(architectures: Architectures, capability: int) -> bool:
    """Whether a GPU of this compute capability (90 for 9.0) has a kernel: machine code of its major version and no
    newer minor version, or PTX no newer than the GPU, which the driver compiles. Code for one architecture alone
    (90a) runs on just that one, code for a family (100f) on newer minor versions of it, as PTX too."""
    for architecture in architectures.sass | architectures.ptx:
        number, suffix = _split(architecture)
        if number == capability:
            return True
        same_major = number // 10 == capability // 10
        if suffix != "a" and number < capability and (same_major or (not suffix and architecture in architectures.ptx)):
            return True
    return False


def ordered(architectures: Iterable[str]) -> List[str]:
    return sorted(architectures, key=_split)


def words(architectures: Architectures) -> str:
    """`sm_80 sm_90a ptx_90`, for people."""
    names = [f"sm_{arch}" for arch in ordered(architectures.sass)]
    names.extend(f"ptx_{arch}" for arch in ordered(architectures.ptx))
    return " ".join(names) or "none"


def merged(parts: Iterable[Architectures]) -> Architectures:
    every = list(parts)
    return Architectures(
        frozenset(arch for part in every for arch in part.sass),
        frozenset(arch for part in every for arch in part.ptx),
    )


def missing(architectures: Architectures, capabilities: Iterable[int]) -> List[int]:
    """The capabilities (90 for 9.0) that have no kernel."""
    return sorted({capability for capability in capabilities if not runs_on(architectures, capability)})


def from_dict(value: Mapping[str, Iterable[str]]) -> Architectures:
    return Architectures(frozenset(value.get("sass", ())), frozenset(value.get("ptx", ())))


def as_dict(architectures: Architectures) -> Dict[str, List[str]]:
    return {"sass": ordered(architectures.sass), "ptx": ordered(architectures.ptx)}
