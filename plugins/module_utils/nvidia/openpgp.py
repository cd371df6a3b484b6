# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Reads the fingerprints of an OpenPGP public key file (RFC 4880, version 4 keys) without any external program."""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Iterator, List, NamedTuple, Tuple

PUBLIC_KEY = 6
PUBLIC_SUBKEY = 14
_SECRET = (5, 7)


class InvalidKey(ValueError):
    """The data is no OpenPGP public key; the message says why."""


class Fingerprint(NamedTuple):
    """A key's fingerprint; primary is False for a subkey."""

    hex: str
    primary: bool


def dearmor(data: bytes) -> bytes:
    """The binary packets of an armoured (or already binary) key file, its checksum verified."""
    if not data.strip():
        raise InvalidKey("the key file is empty")
    if b"-----BEGIN PGP" not in data:
        if data[0] & 0x80:
            return data
        raise InvalidKey(f"this is neither an armoured nor a binary OpenPGP key (it begins with {data[:24]!r})")
    if b"-----BEGIN PGP PUBLIC KEY BLOCK-----" not in data:
        raise InvalidKey("the armour holds no PUBLIC KEY BLOCK")
    packets = b""
    rest = data.decode("ascii", "replace")
    while "-----BEGIN PGP PUBLIC KEY BLOCK-----" in rest:
        block = rest.split("-----BEGIN PGP PUBLIC KEY BLOCK-----", 1)[1]
        if "-----END PGP PUBLIC KEY BLOCK-----" not in block:
            raise InvalidKey("the armour has no end line: the file was cut off")
        block, rest = block.split("-----END PGP PUBLIC KEY BLOCK-----", 1)
        packets += _dearmor_block(block)
    return packets


def _dearmor_block(block: str) -> bytes:
    lines = [line.strip() for line in block.splitlines()][1:]
    # Armour headers end with an empty line.
    if "" in lines:
        lines = lines[lines.index("") + 1:]
    body = [line for line in lines if line and not line.startswith("=")]
    check = [line[1:] for line in lines if line.startswith("=") and len(line) == 5]
    try:
        packets = base64.b64decode("".join(body), validate=True)
        expected = base64.b64decode(check[0]) if check else b""
    except (binascii.Error, ValueError) as error:
        raise InvalidKey(f"the armour is not valid base64: {error}") from error
    if expected and crc24(packets) != int.from_bytes(expected, "big"):
        raise InvalidKey("the armour's checksum is wrong: the file was damaged")
    return packets


def armor(data: bytes) -> str:
    """The armoured text of binary packets."""
    body = base64.b64encode(data).decode("ascii")
    lines = [body[start : start + 64] for start in range(0, len(body), 64)]
    check = "=" + base64.b64encode(crc24(data).to_bytes(3, "big")).decode("ascii")
    begin, end = "-----BEGIN PGP PUBLIC KEY BLOCK-----", "-----END PGP PUBLIC KEY BLOCK-----"
    return "\n".join([begin, "", *lines, check, end, ""])


def crc24(data: bytes) -> int:
    """OpenPGP's checksum of armoured data."""
    crc = 0xB704CE
    for byte in data:
        crc ^= byte << 16
        for _dummy in range(8):
            crc <<= 1
            if crc & 0x1000000:
                crc ^= 0x1864CFB
    return crc & 0xFFFFFF


def packets(data: bytes) -> Iterator[Tuple[int, bytes]]:
    """The packets of binary OpenPGP data as (tag, body)."""
    position = 0
    while position < len(data):
        first = data[position]
        if not first & 0x80:
            raise InvalidKey(f"there is no OpenPGP packet at byte {position}")
        position += 1
        if first & 0x40:
            tag = first & 0x3F
            length, position = _new_length(data, position)
        else:
            tag = (first >> 2) & 0x0F
            size = {0: 1, 1: 2, 2: 4}.get(first & 3)
            if size is None:
                raise InvalidKey("a packet of indeterminate length has no place in a key")
            length = int.from_bytes(data[position:position + size], "big")
            position += size
        if position + length > len(data):
            raise InvalidKey("the last packet is cut off")
        yield tag, data[position:position + length]
        position += length


def _new_length(data: bytes, position: int) -> Tuple[int, int]:
    octets = data[position:position + 5]
    if not octets:
        raise InvalidKey("the last packet is cut off")
    if octets[0] < 192:
        return octets[0], position + 1
    if octets[0] < 224 and len(octets) >= 2:
        return ((octets[0] - 192) << 8) + octets[1] + 192, position + 2
    if octets[0] == 255 and len(octets) == 5:
        return int.from_bytes(octets[1:5], "big"), position + 5
    raise InvalidKey("a packet of partial length has no place in a key")


def fingerprints(data: bytes) -> List[Fingerprint]:
    """Fingerprints of every key and subkey of a key file, in its order."""
    found = []
    for tag, body in packets(dearmor(data)):
        if tag in _SECRET:
            raise InvalidKey("the file holds a secret key; only public keys are wanted here")
        if tag not in (PUBLIC_KEY, PUBLIC_SUBKEY):
            continue
        if not body or body[0] != 4:
            raise InvalidKey("only version 4 keys are supported, found version %s" % (body[0] if body else "none"))
        # Version 4 fingerprints are SHA-1 by definition (RFC 4880, 12.2).
        digest = hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body).hexdigest().upper()
        found.append(Fingerprint(digest, tag == PUBLIC_KEY))
    if not found:
        raise InvalidKey("the file holds no OpenPGP public key")
    return found


def normalise(fingerprint: str) -> str:
    """A fingerprint without spaces and colons, in capitals."""
    return "".join(fingerprint.replace(":", " ").split()).upper()


def trusted(data: bytes, expected: List[str]) -> str:
    """Raises unless every primary key of the file is one of the expected; returns the first one's fingerprint."""
    wanted = [normalise(item) for item in expected]
    primary = [item.hex for item in fingerprints(data) if item.primary]
    strangers = [item for item in primary if item not in wanted]
    if strangers or not primary:
        raise InvalidKey(
            f"found a key with the fingerprint {', '.join(strangers) or 'none'}, expected {' or '.join(wanted)}"
        )
    return primary[0]
