# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Rollouts over SSH hosts: what one costs that has nothing to do, and what a real activation costs.

The hosts are containers of this machine, reached over SSH. They hold the prepared release of the tests' small stack, so
that what is measured is the rollout: survey, plan, drain, switch, gate, return. Needs docker and the tests' base image
(make docker).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Callable, Dict, List

from bench import ROOT, Result, ansible_env, interleave, peak_memory, save, timed

NAME = "vb-bench-"
SSH = "-o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no -o LogLevel=ERROR"


def docker(*words: str) -> str:
    """Run docker; its output."""
    done = subprocess.run(["docker", *words], stdout=subprocess.PIPE, check=True, text=True)
    return done.stdout.strip()


class Cluster:
    """Containers with a running sshd, and an inventory of them."""

    def __init__(self, root: Path, count: int, port: int) -> None:
        self.root, self.count, self.port = root, count, port
        self.names = [f"{NAME}{number:02}" for number in range(count)]

    def start(self) -> None:
        """Start the containers and let the benchmark in."""
        key = self.root / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        public = key.with_suffix(".pub").read_text(encoding="utf-8").strip()
        script = f"mkdir -p /run/sshd /root/.ssh; echo '{public}' > /root/.ssh/authorized_keys; ssh-keygen -A; exec /usr/sbin/sshd -D"
        for number, name in enumerate(self.names):
            ports = f"127.0.0.1:{self.port + number}:22"
            docker("run", "-d", "--init", "--name", name, "-p", ports, "vb-debian12:latest", "sh", "-c", script)
        hosts = {name: {"ansible_port": self.port + number} for number, name in enumerate(self.names)}
        variables = {
            "ansible_host": "127.0.0.1",
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(key),
            "ansible_ssh_common_args": SSH,
            "ansible_python_interpreter": "/usr/bin/python3",
            "stack_name": "small",
            "stack_path": [str(ROOT / "tests" / "stacks")],
            "stack_ca_file": "/etc/ssl/certs/ca-certificates.crt",
            "rollout_batches": ["100%"],
            "rollout_dir": str(self.root / "journal"),
        }
        inventory = {"all": {"vars": variables, "hosts": hosts}}
        (self.root / "hosts.json").write_text(json.dumps(inventory), encoding="utf-8")

    def stop(self) -> None:
        """Remove the containers."""
        subprocess.run(
            ["docker", "rm", "-f", *self.names], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
        )

    def prepare(self) -> None:
        """Prepare the release on one host for real, and copy it to the others."""
        timed(self.command(1), ansible_env(), cwd=str(ROOT))
        archive = str(self.root / "releases.tar")
        docker("exec", self.names[0], "tar", "-C", "/opt/verl", "-cf", "/var/tmp/releases.tar", "releases")
        docker("cp", f"{self.names[0]}:/var/tmp/releases.tar", archive)
        for name in self.names[1:]:
            docker("exec", name, "mkdir", "-p", "/opt/verl")
            docker("cp", archive, f"{name}:/var/tmp/releases.tar")
            docker("exec", name, "tar", "-C", "/opt/verl", "-xf", "/var/tmp/releases.tar")

    def command(self, count: int) -> List[str]:
        """The rollout of the first hosts."""
        playbook = str(ROOT / "playbooks" / "rollout.yml")
        return [
            "ansible-playbook",
            "-i",
            str(self.root / "hosts.json"),
            "--limit",
            ",".join(self.names[:count]),
            playbook,
        ]

    def forget(self, count: int) -> None:
        """Take the live release and the memory of it from the first hosts: the release stays prepared."""
        for name in self.names[:count]:
            docker("exec", name, "rm", "-rf", "/opt/verl/current", "/opt/verl/state/rollout.json")


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, default=Path("/var/tmp/verl-bench-rollout"))
    parser.add_argument("--hosts", default="1,8,32")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--port", type=int, default=43200)
    options = parser.parse_args()
    counts = [int(word) for word in options.hosts.split(",")]
    shutil.rmtree(options.root, ignore_errors=True)
    options.root.mkdir(parents=True)
    cluster = Cluster(options.root, counts[-1], options.port)
    cluster.stop()
    try:
        cluster.start()
        cluster.prepare()
        measure(cluster, counts, options.rounds)
    finally:
        cluster.stop()
        shutil.rmtree(options.root, ignore_errors=True)


def measure(cluster: Cluster, counts: List[int], rounds: int) -> None:
    """All cases in turn, both configurations."""
    plain_file = cluster.root / "ansible.cfg"
    plain_file.write_text("[defaults]\n", encoding="utf-8")
    tuned, plain = ansible_env(), ansible_env(ANSIBLE_CONFIG=str(plain_file))

    def activation(count: int, env: Dict[str, str]) -> float:
        cluster.forget(count)
        return timed(cluster.command(count), env, cwd=str(ROOT))

    cases: Dict[str, Callable[[], float]] = {}
    for count in counts:
        for name, env in (("tuned", tuned), ("defaults", plain)):
            cases[f"{count} hosts, activation, {name}"] = lambda count=count, env=env: activation(count, env)
            cases[f"{count} hosts, nothing to do, {name}"] = lambda count=count, env=env: timed(
                cluster.command(count), env, cwd=str(ROOT)
            )
    runs = interleave(cases, rounds)
    most = counts[-1]
    memory = {count: peak_memory(cluster.command(count), tuned) for count in (counts[0], most)}
    idle = spoken(cluster.command(most), tuned)
    cluster.forget(most)
    busy = spoken(cluster.command(most), dict(tuned, ANSIBLE_CALLBACKS_ENABLED="ansible.posix.profile_tasks"))
    slowest = re.findall(r"^(.+?) -{3,} ([\d.]+)s$", busy, re.MULTILINE)[:6]
    save(
        Result(
            name="rollout",
            title="Rollouts",
            question="playbooks/rollout.yml over SSH hosts that hold the prepared release: one that has nothing to do, and one "
            "that makes the release live; with this collection's ansible.cfg (20 forks, pipelining) and with Ansible's "
            "defaults (5 forks, none).",
            runs=runs,
            ratios=[
                {
                    "what": f"defaults to tuned, {what}, {count} hosts",
                    "of": f"{count} hosts, {what}, defaults",
                    "to": f"{count} hosts, {what}, tuned",
                    "target": "",
                }
                for count in counts
                for what in ("activation", "nothing to do")
            ],
            figures={
                "seconds a host, activation": per_host(runs, counts, "activation"),
                "seconds a host, nothing to do": per_host(runs, counts, "nothing to do"),
                "tasks a host, activation": tasks_of(busy, cluster.names[most - 1]),
                "tasks a host, nothing to do": tasks_of(idle, cluster.names[most - 1]),
                "memory of the largest process of the controller": f"{memory[most]:.0f} MiB at {most} hosts",
                "where the time of an activation goes": "; ".join(f"{name}: {seconds} s" for name, seconds in slowest),
            },
            notes=["The hosts are containers of the controller's own machine: their modules share its cores."],
        )
    )


def spoken(command: List[str], env: Dict[str, str]) -> str:
    """A command's output."""
    done = subprocess.run(command, env=dict(os.environ, **env), cwd=str(ROOT), stdout=subprocess.PIPE, check=True)
    return done.stdout.decode("utf-8", "replace")


def per_host(runs: Dict[str, List[float]], counts: List[int], what: str) -> str:
    """Seconds a host for every number of hosts."""
    return ", ".join(f"{min(runs[f'{count} hosts, {what}, tuned']) / count:.2f} at {count}" for count in counts)


def tasks_of(text: str, host: str) -> int:
    """Tasks that a host took part in."""
    found = re.search(rf"^{host}\s+: ok=(\d+)\s.*skipped=(\d+)", text, re.MULTILINE)
    return int(found.group(1)) + int(found.group(2)) if found else 0


if __name__ == "__main__":
    main()
