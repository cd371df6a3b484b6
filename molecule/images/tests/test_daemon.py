# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""A real daemon that is killed in the middle of a commit: the test's own dockerd, since others use the machine's.

The release in its container is a fixture of three files, with ballast so that the commit takes a while.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TAG = "vb-images/killed:1"
NAME = "build"
FIXTURE = r"""
set -e
mkdir -p /opt/verl/releases/fixture && cd /opt/verl/releases/fixture
printf '{"name": "fixture", "digest": "0"}' > manifest.json
printf 'export FIXTURE=1\n' > env.sh
head -c 300000000 /dev/zero > ballast
ln -s releases/fixture /opt/verl/current
"""


class Daemon:
    """A dockerd with a data folder, a socket and processes of its own, and no network."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "d.sock"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        # In a network of its own: a dockerd without a bridge takes docker0 away, which the machine's daemon needs.
        command = [
            "unshare", "--net", "dockerd", f"--data-root={self.folder}/data", f"--exec-root={self.folder}/exec",
            f"--pidfile={self.folder}/pid", f"--host=unix://{self.socket}", "--bridge=none", "--iptables=false", "--ip6tables=false",
        ]  # fmt: skip
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        for _attempt in range(150):
            if self.docker("version", check=False).returncode == 0:
                return
            assert self.process.poll() is None, (self.folder / "log").read_text()[-3000:]
            time.sleep(0.2)
        raise AssertionError("dockerd does not come up: " + (self.folder / "log").read_text()[-3000:])

    def kill(self) -> None:
        """As the machine's memory killer would: nothing is written any more. Its containerd goes, too."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(timeout=30)
        self.end_containerd()

    def end_containerd(self) -> None:
        file = self.folder / "exec" / "containerd" / "containerd.pid"
        with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
            pid = int(file.read_text())
            if str(self.folder) in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(pid, signal.SIGKILL)
        for left in (file, self.folder / "pid"):
            left.unlink(missing_ok=True)

    def stop(self) -> None:
        self.docker("rm", "-f", NAME, check=False)
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=30)
        self.end_containerd()
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in sorted((one for one in mounts if one.startswith(f"{self.folder}/")), reverse=True):
            subprocess.run(["umount", "-l", mount], check=False)

    def docker(self, *words: str, check: bool = True, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        command = ["docker", "-H", f"unix://{self.socket}", *words]
        return subprocess.run(command, capture_output=True, check=check, input=stdin)

    def commits(self) -> bool:
        """Whether a layer is being written."""
        return any((self.folder / "data" / "image").glob("*/layerdb/tmp/write-set-*"))


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    if os.geteuid() != 0 or not (shutil.which("dockerd") and shutil.which("unshare")):
        pytest.skip("only root can start a second dockerd, and only where dockerd and unshare are")
    bridge = Path("/sys/class/net/docker0")
    before = bridge.exists()
    folder = Path(tempfile.mkdtemp(prefix="vb-dockerd-"))  # short: a socket's path has at most 107 characters
    one = Daemon(folder)
    try:
        one.start()
        yield one
    finally:
        one.stop()
        shutil.rmtree(folder, ignore_errors=True)
    assert bridge.exists() == before, "the machine's own daemon lost its bridge"


def commit(daemon: Daemon) -> subprocess.Popen[str]:
    """The module, as the playbook calls it."""
    arguments = {
        "state": "committed",
        "tag": TAG,
        "container": NAME,
        "input": "0" * 64,
        "socket": str(daemon.socket),
    }
    command = [
        "ansible",
        "-i",
        "localhost,",
        "localhost",
        "-c",
        "local",
        "-e",
        "ansible_python_interpreter={{ ansible_playbook_python }}",
    ]
    return subprocess.Popen(
        [*command, "-m", "verl.baremetal.image_commit", "-a", json.dumps(arguments)],
        cwd=ROOT, env=dict(os.environ, ANSIBLE_FORCE_COLOR="0", NO_COLOR="1"), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def test_a_daemon_that_is_killed_in_a_commit(daemon: Daemon):
    saved = subprocess.run(["docker", "save", "vb-debian12:latest"], capture_output=True, check=True).stdout
    daemon.docker("load", "-q", stdin=saved)
    daemon.docker("run", "-d", "--init", "--name", NAME, "--network", "none", "vb-debian12:latest", "sleep", "infinity")
    daemon.docker("exec", NAME, "sh", "-c", FIXTURE)

    running = commit(daemon)
    until = time.monotonic() + 60
    while not daemon.commits() and time.monotonic() < until:
        time.sleep(0.002)
    assert daemon.commits() and running.poll() is None
    daemon.kill()
    said, _ = running.communicate(timeout=60)
    assert running.returncode != 0
    assert "went away in the middle" in " ".join(said.split()) and "start it and run again" in " ".join(said.split())

    daemon.start()
    assert daemon.docker("image", "inspect", TAG, check=False).returncode != 0
    state = json.loads(daemon.docker("inspect", NAME).stdout)[0]
    assert state["Name"] == f"/{NAME}"
    daemon.docker("start", NAME)
    again = commit(daemon)
    said, _ = again.communicate(timeout=120)
    assert again.returncode == 0, said
    image = json.loads(daemon.docker("image", "inspect", TAG).stdout)[0]
    assert image["Config"]["Labels"]["verl.baremetal.release"] == "fixture" and "FIXTURE=1" in image["Config"]["Env"]
    ran = daemon.docker(
        "run", "--rm", "--network", "none", "--entrypoint", "stat", TAG, "-c", "%s", "/opt/verl/current/ballast"
    )
    assert ran.stdout.strip() == b"300000000"
