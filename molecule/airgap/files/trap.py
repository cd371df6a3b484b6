#!/usr/bin/env python3
# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Fixture: stands in for the name server of a host without a network, and notes every name that is asked for.

It refuses each question, so that whoever asks fails at once; what swallows the failure is noted all the same.
"""

import socket
import time

LOG = "/var/tmp/attempts"


def name_of(packet: bytes) -> str:
    """The name in a DNS question."""
    labels, place = [], 12
    while place < len(packet) and packet[place]:
        labels.append(packet[place + 1 : place + 1 + packet[place]].decode("ascii", "replace"))
        place += packet[place] + 1
    return ".".join(labels)


def main() -> None:
    """Answer until the container ends."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))
    open(LOG, "a", encoding="utf-8").close()
    while True:
        packet, sender = server.recvfrom(4096)
        with open(LOG, "a", encoding="utf-8") as stream:
            stream.write(f"{time.strftime('%H:%M:%S')} {name_of(packet)}\n")
        # The question back, as an answer with the code REFUSED.
        server.sendto(packet[:2] + b"\x81\x05" + packet[4:6] + b"\x00" * 6 + packet[12:], sender)


main()
