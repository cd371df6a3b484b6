# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils.nvidia import openpgp

FIXTURES = Path(__file__).resolve().parents[3] / "fixtures" / "nvidia"
RSA = "F2B6CFC6943D50DA5B22E5674453D3D070E04D76"
ED25519 = "AF2C659A1BD4EF65CAE4C5EFC50DA3879A9EC335"
SUBKEY = "44572907E289EDEA362B2F977B33A0DAC0B7A3D8"


def armoured(name="fixture_key.asc"):
    return (FIXTURES / name).read_bytes()


def test_fingerprint_of_an_armoured_key_as_gpg_prints_it():
    assert openpgp.fingerprints(armoured()) == [(RSA, True)]


def test_fingerprints_of_a_key_with_a_subkey():
    assert openpgp.fingerprints(armoured("fixture_key_ed25519.asc")) == [(ED25519, True), (SUBKEY, False)]


def test_binary_key():
    binary = openpgp.dearmor(armoured())
    assert openpgp.fingerprints(binary) == [(RSA, True)]


def test_windows_line_ends_and_armour_headers():
    text = armoured().replace(b"BLOCK-----\n\n", b"BLOCK-----\nVersion: fixture\nComment: one\n\n", 1)
    assert openpgp.fingerprints(text.replace(b"\n", b"\r\n")) == [(RSA, True)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: b"", "empty"),
        (lambda data: b"<html>404 Not Found</html>", "neither"),
        (lambda data: data[:300], "cut off"),
        (lambda data: data.replace(b"mQEN", b"mQEM"), "checksum is wrong"),
        (lambda data: data.replace(b"PUBLIC", b"PRIVATE"), "no PUBLIC KEY BLOCK"),
        (lambda data: openpgp.dearmor(data)[:100], "cut off"),
        (lambda data: b"\xb4\x03abc", "no OpenPGP public key"),
    ],
)
def test_damaged_keys_are_refused(change, words):
    with pytest.raises(openpgp.InvalidKey, match=words):
        openpgp.fingerprints(change(armoured()))


def test_trust():
    spaced = " ".join([RSA[:4], RSA[4:].lower()])
    assert openpgp.trusted(armoured(), [spaced]) == RSA
    with pytest.raises(openpgp.InvalidKey, match="found a key with the fingerprint " + RSA):
        openpgp.trusted(armoured(), [ED25519])


def test_a_second_key_in_the_file_is_not_let_in():
    both = armoured() + armoured("fixture_key_ed25519.asc")
    with pytest.raises(openpgp.InvalidKey, match=ED25519):
        openpgp.trusted(both, [RSA])
