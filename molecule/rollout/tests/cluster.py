"""A cluster of containers as an operator sees it: an inventory of SSH hosts, the playbooks, and the hosts themselves."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[3]
HOSTS = [f"vb-rollout-{number}" for number in range(1, 9)]
BOOTS = "vb-rollout-boots"
OUT = "/var/tmp/out-of-service"
BROKEN = "/etc/fixture-broken"
SSH = "-o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no -o ConnectTimeout=5 -o LogLevel=ERROR"


def docker(*words: str, check: bool = True) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, timeout=120)
    if check and done.returncode:
        raise AssertionError(f"docker {' '.join(words)}: {done.stderr}")
    return done.stdout.strip()


def on(host: str, script: str) -> str:
    return docker("exec", host, "sh", "-c", script)


class Cluster:
    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        self.journal = folder / "journal"
        self.processes: list[subprocess.Popen[str]] = []
        # Two states of one stack: each has another environment variable, and so is another release.
        for name in ("first", "second"):
            shutil.copytree(ROOT / "tests" / "stacks" / "small", folder / name / "small")
            path = folder / name / "small" / "stack.yml"
            path.write_text(path.read_text().replace("SMALL_STACK:", f"FIXTURE: {name}\n  SMALL_STACK:"))
        ports = {name: 42200 + number for number, name in enumerate([*HOSTS, BOOTS], 1)}
        inventory = {
            "all": {
                "vars": {
                    "ansible_host": "127.0.0.1",
                    "ansible_user": "root",
                    "ansible_ssh_private_key_file": key,
                    "ansible_ssh_common_args": SSH,
                    "ansible_python_interpreter": "/usr/bin/python3",
                    "stack_name": "small",
                    "stack_ca_file": "/etc/ssl/certs/ca-certificates.crt",
                    "release_keep": 9,
                    "drain_method": "command",
                    "drain_command": ["sh", "-c", f"touch {OUT}; sleep 2"],
                    "drain_return_command": ["rm", "-f", OUT],
                    "rollout_gate_commands": [["test", "!", "-e", BROKEN]],
                    "rollout_gate_gpu": "false",
                },
                "children": {
                    "nodes": {"hosts": {name: {"ansible_port": ports[name]} for name in HOSTS}},
                    "boots": {"hosts": {BOOTS: {"ansible_port": ports[BOOTS]}}},
                },
            }
        }
        (folder / "hosts.yml").write_text(yaml.safe_dump(inventory))

    def command(self, playbook: str, stack: str, *more: str, journal: Path | None = None) -> list[str]:
        paths = json.dumps({"stack_path": [str(self.folder / stack)], "rollout_dir": str(journal or self.journal)})
        return ["ansible-playbook", "-i", str(self.folder / "hosts.yml"), str(ROOT / "playbooks" / playbook), "-e", paths, *more]

    def start(self, *words: str, log: str = "background.log", **options: Path) -> subprocess.Popen[str]:
        # The operator's own configuration, not molecule's; no colours, for they cut words apart.
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "MOLECULE_", "PY_COLORS"))}
        kept.update(ANSIBLE_CONFIG=str(ROOT / "ansible.cfg"), ANSIBLE_COLLECTIONS_PATH=str(ROOT / ".tree"), ANSIBLE_NOCOLOR="1")
        with open(self.folder / log, "w", encoding="utf-8") as stream:
            process = subprocess.Popen(
                self.command(*words, **options), cwd=ROOT, env=kept, text=True, stdout=stream, stderr=stream, start_new_session=True
            )
        self.processes.append(process)
        return process

    def text(self, log: str = "background.log") -> str:
        return (self.folder / log).read_text(errors="replace")

    def stop(self) -> None:
        """Nothing goes on after the tests."""
        for process in self.processes:
            if process.poll() is None:
                self.kill(process)

    def play(self, *words: str, expect: set[int] = frozenset({0}), **options: Path) -> str:
        began = time.monotonic()
        process = self.start(*words, log="play.log", **options)
        process.wait(timeout=1500)
        text = self.text("play.log")
        print(f"--- {' '.join(words)}: exit {process.returncode}, {time.monotonic() - began:.0f} s\n{text}")
        assert process.returncode in expect, text[-6000:]
        return text

    def wait_for(self, host: str, *phases: str, process: subprocess.Popen[str]) -> None:
        """Wait until a host has entered one of the phases, as its own file says."""
        for _attempt in range(3000):
            if self.state(host).get("phase") in phases:
                return
            assert process.poll() is None, self.text()[-6000:]
            time.sleep(0.1)
        raise AssertionError(f"{host} never came to {phases}")

    def kill(self, process: subprocess.Popen[str]) -> None:
        """The controller loses its power."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def state(self, host: str) -> dict:
        text = docker("exec", host, "cat", "/opt/verl/state/rollout.json", check=False)
        return json.loads(text) if text else {}

    def live(self, host: str) -> str:
        return docker("exec", host, "readlink", "/opt/verl/current", check=False).rpartition("/")[2]

    def out_of_service(self, host: str) -> bool:
        return on(host, f"test -e {OUT} && echo yes || echo no") == "yes"

    def status(self) -> dict[str, str]:
        report = json.loads((self.journal / "rollout" / "report.json").read_text())
        return {host["name"]: host["status"] for host in report["hosts"]}


def tasks_of(text: str, host: str) -> int:
    """How many tasks a host took part in, as the recap counts them."""
    found = re.search(rf"^{host}\s+: ok=(\d+)\s+changed=\d+\s+unreachable=\d+\s+failed=\d+\s+skipped=(\d+)", text, re.MULTILINE)
    assert found, text[-3000:]
    return int(found.group(1)) + int(found.group(2))
