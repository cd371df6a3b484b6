# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""A web server for one bundle: ranges, no listing, nothing outside of the folder; it ends when its ansible-playbook does.

Run as a program by the action bundle_server: ``python serve.py FOLDER ADDRESS PORT PARENT READY``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import typing as t

try:
    from aiohttp import web
except ImportError:  # one of the controller's tools (requirements/controller.txt); the sanity tests import without
    web = None  # type: ignore[assignment]

WATCH_SECONDS = 2.0


def started(pid: int) -> str:
    """When a process was started, in ticks since boot; empty when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            fields = stream.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]


def reachable_address(hosts: t.Sequence[str]) -> str:
    """The address of this machine that the first reachable one of some hosts sees; that of its name when none is known."""
    for host in hosts:
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))  # sends nothing: it only asks the routing table
            return str(probe.getsockname()[0])
    return socket.gethostbyname(socket.gethostname())


async def serve(folder: str, address: str, port: int, parent: int, ready: str) -> None:
    """Serve until the parent is gone or this process is asked to end."""
    app = web.Application()
    app.router.add_static("/", folder, show_index=False, follow_symlinks=False)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, address or None, port, reuse_address=True)
    await site.start()
    server = t.cast("asyncio.Server", site._server)
    bound = server.sockets[0].getsockname()[1]
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    born = started(parent)
    with open(ready + ".new", "w", encoding="utf-8") as stream:
        json.dump({"pid": os.getpid(), "port": bound, "started": started(os.getpid())}, stream)
    os.replace(ready + ".new", ready)
    while not ended.is_set() and born and started(parent) == born:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(ended.wait(), WATCH_SECONDS)
    await runner.cleanup()


def main(arguments: t.Sequence[str]) -> None:
    """Entry point."""
    folder, address, port, parent, ready = arguments
    try:
        asyncio.run(serve(folder, address, int(port), int(parent), ready))
    except OSError as error:
        sys.exit(f"{address or 'every address'}, port {port}: {error.strerror or error}")


if __name__ == "__main__":
    main(sys.argv[1:])
