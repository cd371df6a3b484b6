# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Makes the fixtures of the unit tests: a release in a folder, ELF files with given sections, fat binaries.

Use the fixture `release_tree` (conftest.py) for a release below tmp_path.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any

FATBIN_MAGIC = 0xBA55ED50
PTX, SASS = 1, 2
ALONE, FAMILY = 0x100000, 0x200000


def fat_binary(*entries: tuple[int, int, int]) -> bytes:
    """A fat binary of entries (kind, architecture, flags), each with a payload of zeros."""
    body = b""
    for kind, architecture, flags in entries:
        payload = b"\0" * 40
        head = bytearray(64)
        struct.pack_into("<HHIQ", head, 0, kind, 0x101, len(head), len(payload))
        struct.pack_into("<I", head, 28, architecture)
        struct.pack_into("<Q", head, 40, 0x11 | flags)
        body += bytes(head) + payload
    return struct.pack("<IHHQ", FATBIN_MAGIC, 1, 16, len(body)) + body


def elf_file(sections: dict[str, bytes]) -> bytes:
    """A 64-bit little-endian ELF file that holds nothing but the given sections."""
    names = b"\0"
    offsets: list[int] = []
    for name in [*sections, ".shstrtab"]:
        offsets.append(len(names))
        names += name.encode() + b"\0"
    body = b""
    table = [b"\0" * 64]
    for (_name, content), name_at in zip(sections.items(), offsets):
        body += b"\0" * (-len(body) % 8)
        table.append(struct.pack("<IIQQQQIIQQ", name_at, 1, 0, 0, 64 + len(body), len(content), 0, 0, 1, 0))
        body += content
    table.append(struct.pack("<IIQQQQIIQQ", offsets[-1], 3, 0, 0, 64 + len(body), len(names), 0, 0, 1, 0))
    body += names
    body += b"\0" * (-len(body) % 8)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01" + b"\0" * 9, 3, 62, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, len(table), len(table) - 1,
    )  # fmt: skip
    return header + body + b"".join(table)


def dynamic_section(entries: list[tuple[int, str]]) -> dict[str, bytes]:
    """The sections .dynamic and .dynstr with string entries (tag, text): NEEDED is 1, SONAME 14, RPATH 15, RUNPATH 29."""
    strings = b"\0"
    raw = b""
    for tag, text in entries:
        raw += struct.pack("<qQ", tag, len(strings))
        strings += text.encode() + b"\0"
    return {".dynamic": raw + struct.pack("<qQ", 0, 0), ".dynstr": strings}


class ReleaseTree:
    """A fixture: a release as the role `release` leaves it, of empty packages, below a root of its own."""

    def __init__(self, root: Path, python: str = "3.12") -> None:
        self.root = root
        self.release = root / "opt/verl/releases/small-0123456789ab"
        self.venv = self.release / "venv"
        self.site = self.venv / f"lib/python{python}/site-packages"
        self.site.mkdir(parents=True)
        (self.venv / "pyvenv.cfg").write_text(
            f"home = /usr/bin\nversion_info = {python}.3\ninclude-system-site-packages = false\n"
        )
        self.packages: dict[str, dict[str, str]] = {}

    def write(self, path: str, content: str | bytes) -> Path:
        """A file below the root; the path is absolute on the host that the root stands for."""
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.encode())
        return target

    def dist(
        self,
        name: str,
        version: str,
        requires: tuple[str, ...] = (),
        files: dict[str, str | bytes] | None = None,
        lock: bool = True,
    ) -> Path:
        """A package with a true RECORD; `files` lie below site-packages. Returns its metadata folder."""
        stem = name.replace("-", "_")
        info = self.site / f"{stem}-{version}.dist-info"
        head = "".join(f"Requires-Dist: {line}\n" for line in requires)
        contents: dict[str, str | bytes] = {
            f"{info.name}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{head}\nRequires-Dist: not a header\n",
            f"{info.name}/WHEEL": "Wheel-Version: 1.0\n",
            f"{stem}/__init__.py": f"version = {version!r}\n",
            **(files or {}),
        }
        lines = []
        for path, content in contents.items():
            data = content if isinstance(content, bytes) else content.encode()
            target = self.site / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            lines.append(f"{path},sha256={digest},{len(data)}\n")
        record = "".join(lines) + f"{info.name}/RECORD,,\n"
        (info / "RECORD").write_text(record)
        if lock:
            normal = name.lower().replace("_", "-")
            self.packages[normal] = {
                "version": version,
                "layer": "torch",
                "record_sha256": hashlib.sha256(record.encode()).hexdigest(),
            }
        return info

    def manifest(self, definition: dict[str, Any], **fields: Any) -> Path:
        """manifest.json with the packages made so far."""
        value = {
            "schema": 1,
            "id": self.release.name,
            "stack": {"name": "small", "digest": "0" * 64},
            "packages": self.packages,
            "definition": definition,
            "variants": {},
            "skipped": {},
            **fields,
        }
        path = self.release / "manifest.json"
        path.write_text(json.dumps(value))
        return path

    def library(self, path: str, real: str | None = None) -> Path:
        """A file at `path`, or a link there to a file `real` beside it."""
        target = self.write(os.path.join(os.path.dirname(path), real or os.path.basename(path)), b"\x7fELF")
        if real:
            link = self.root / path.lstrip("/")
            link.symlink_to(real)
            return link
        return target

    def gpu(
        self,
        address: str = "0000:0f:00.0",
        device: str = "0x2330",
        class_code: str = "0x030200",
        vendor: str = "0x10de",
    ) -> None:
        """A PCI device in /sys; by default an H100."""
        folder = f"/sys/bus/pci/devices/{address}"
        for name, value in (("vendor", vendor), ("device", device), ("class", class_code), ("numa_node", "0")):
            self.write(f"{folder}/{name}", value + "\n")
