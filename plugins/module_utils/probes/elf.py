# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Just enough of the ELF format: sections, the dynamic section and names of 64-bit little-endian files.

Only headers and the asked-for sections are read, so a library of a gigabyte costs a few kilobytes.
"""

from __future__ import annotations

import os
import struct
from types import TracebackType
from typing import Dict, List, NamedTuple, Optional, Tuple, Type

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_DYN = struct.Struct("<qQ")
_VERNEED = struct.Struct("<HHIII")
_VERNAUX = struct.Struct("<IHHII")
_MAX_SECTIONS = 65536
_MAX_TABLE = 512 * 1024 * 1024

_DT_NEEDED, _DT_SONAME, _DT_RPATH, _DT_RUNPATH = 1, 14, 15, 29
_SHT_NOBITS = 8


class ElfError(ValueError):
    """The file is no ELF file that this reader understands; the message says why."""


class Section(NamedTuple):
    name: str
    kind: int
    offset: int
    size: int
    link: int


class Dynamic(NamedTuple):
    needed: List[str]
    soname: Optional[str]
    rpath: List[str]
    runpath: List[str]


class ElfFile:
    """An open ELF file; use as a context manager."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        try:
            self.size = os.fstat(self._fd).st_size
            self.sections = self._read_sections()
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> ElfFile:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        os.close(self._fd)

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes at `offset`."""
        data = os.pread(self._fd, size, offset)
        if len(data) != size:
            raise ElfError(f"{self.path}: ends at {self.size} bytes, {offset + size} are needed (truncated file)")
        return data

    def _read_sections(self) -> List[Section]:
        if self.size < _EHDR.size:
            raise ElfError(f"{self.path}: {self.size} bytes are no ELF file")
        head = _EHDR.unpack(self.read(0, _EHDR.size))
        ident, table, entry_size, count, names_index = head[0], head[6], head[11], head[12], head[13]
        if ident[:4] != b"\x7fELF":
            raise ElfError(f"{self.path}: begins with {ident[:4]!r}, not with the mark of an ELF file")
        if ident[4] != 2 or ident[5] != 1:
            raise ElfError(f"{self.path}: not a 64-bit little-endian ELF file")
        if table == 0 or count == 0:
            return []
        if entry_size != _SHDR.size or count > _MAX_SECTIONS:
            raise ElfError(f"{self.path}: section table of {count} entries of {entry_size} bytes is not understood")
        raw = self.read(table, entry_size * count)
        headers = [_SHDR.unpack_from(raw, index * entry_size) for index in range(count)]
        if names_index >= count:
            raise ElfError(f"{self.path}: section names are in section {names_index} of {count}")
        names = self._table(headers[names_index][4], headers[names_index][5])
        return [Section(_string(names, head[0]), head[1], head[4], head[5], head[6]) for head in headers]

    def _table(self, offset: int, size: int) -> bytes:
        if size > _MAX_TABLE:
            raise ElfError(f"{self.path}: a table of {size} bytes is not credible")
        return self.read(offset, size)

    def section(self, name: str) -> Optional[Section]:
        return next((section for section in self.sections if section.name == name), None)

    def content(self, name: str) -> bytes:
        """The bytes of a section, empty where the file has none of that name."""
        section = self.section(name)
        if section is None or section.kind == _SHT_NOBITS:
            return b""
        return self._table(section.offset, section.size)

    def dynamic(self) -> Dynamic:
        """What the loader will look for, and where."""
        strings = self.content(".dynstr")
        values: Dict[int, List[str]] = {}
        raw = self.content(".dynamic")
        for offset in range(0, len(raw) - len(raw) % _DYN.size, _DYN.size):
            tag, value = _DYN.unpack_from(raw, offset)
            if tag == 0:
                break
            if tag in (_DT_NEEDED, _DT_SONAME, _DT_RPATH, _DT_RUNPATH):
                values.setdefault(tag, []).append(_string(strings, value))
        return Dynamic(
            values.get(_DT_NEEDED, []),
            values.get(_DT_SONAME, [None])[0],  # type: ignore[list-item]
            _paths(values.get(_DT_RPATH, [])),
            _paths(values.get(_DT_RUNPATH, [])),
        )

    def needed_versions(self) -> Dict[str, List[str]]:
        """Symbol versions asked of each library, for example {"libc.so.6": ["GLIBC_2.28"]}."""
        strings = self.content(".dynstr")
        raw = self.content(".gnu.version_r")
        found: Dict[str, List[str]] = {}
        at = 0
        for _guard in range(1024):
            if at + _VERNEED.size > len(raw):
                break
            _version, count, file, aux, following = _VERNEED.unpack_from(raw, at)
            names: List[str] = []
            aux_at = at + aux
            for _entry in range(count):
                if aux_at + _VERNAUX.size > len(raw):
                    break
                _hash, _flags, _other, name, aux_next = _VERNAUX.unpack_from(raw, aux_at)
                names.append(_string(strings, name))
                if not aux_next:
                    break
                aux_at += aux_next
            found.setdefault(_string(strings, file), []).extend(names)
            if not following:
                break
            at += following
        return found

    def cxx11_abi(self) -> Optional[bool]:
        """Whether C++ names of torch use the C++11 ABI of the standard library; None where nothing tells."""
        names = self.content(".dynstr")
        if b"__cxx11" in names:
            return True
        # std::string of the old ABI is mangled as Ss: looked for only in names of torch's own namespaces
        mine = (name for name in names.split(b"\0") if name.startswith((b"_ZN3c10", b"_ZN2at", b"_ZNK3c10")))
        return False if any(b"Ss" in name for name in mine) else None


def _string(table: bytes, offset: int) -> str:
    end = table.find(b"\0", offset)
    if offset >= len(table) or end < 0:
        return ""
    return table[offset:end].decode("utf-8", "replace")


def _paths(values: List[str]) -> List[str]:
    return [part for value in values for part in value.split(":") if part]


def maximum_glibc(versions: Dict[str, List[str]]) -> Optional[Tuple[int, ...]]:
    """The newest glibc that the file asks for."""
    found: List[Tuple[int, ...]] = []
    for names in versions.values():
        for name in names:
            numbers = name[len("GLIBC_") :].split(".") if name.startswith("GLIBC_") else []
            if numbers and all(part.isdigit() for part in numbers):
                found.append(tuple(int(part) for part in numbers))
    return max(found) if found else None
