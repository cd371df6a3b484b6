# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Run molecule scenarios, two at a time, each into its own log.

    python3 tests/ci/scenarios.py [--jobs 2] [--logs .logs] [--list] [name ...]

Without names every scenario of molecule/ runs. A line is printed at least every 25 seconds; a failed scenario's log is printed at once; the last line counts: `N passed, N failed`.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEARTBEAT = 25.0
TAIL_LINES = 250
# The longest come first, so that the short ones fill the other place.
FIRST = ("site", "nvidia_repository", "rollout", "images", "wheels", "airgap", "driver_dkms", "slurm")
ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|\x1b\]8;[^\x1b\x07]*(?:\x1b\\|\x07)")


@dataclass
class Run:
    name: str
    log: Path
    process: subprocess.Popen[bytes]
    begin: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begin

    def last_line(self) -> str:
        lines = [line for line in tail(self.log, 20) if line.strip(" │─┌└")]
        return lines[-1].strip(" │")[:100] if lines else "no output yet"


def tail(path: Path, count: int) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 400 * count))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [ESCAPES.sub("", line) for line in text.splitlines()[-count:]]


def say(text: str) -> None:
    print(f"molecule: {text}", flush=True)


def known() -> list[str]:
    return sorted(path.parent.name for path in (ROOT / "molecule").glob("*/molecule.yml"))


def in_order(names: list[str]) -> list[str]:
    return sorted(names, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))


def start(name: str, logs: Path) -> Run:
    log = logs / f"molecule-{name}.log"
    command = ["bash", str(ROOT / "tests" / "ci" / "scenario.sh"), name, "test"]
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "NO_COLOR": "1", "MOLECULE_COMMAND_BORDERS": "false"}
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, env=environment
        )
    return Run(name, log, process)


def stop(run: Run, reason: str) -> None:
    """End a scenario's own process group, then remove its containers."""
    with run.log.open("ab") as out:
        out.write(f"\n{reason}\n".encode())
    for kind in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(run.process.pid, kind)
        except ProcessLookupError:
            break
        try:
            run.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            continue
    with run.log.open("ab") as out:
        subprocess.run(
            ["bash", str(ROOT / "tests" / "ci" / "scenario.sh"), run.name, "destroy"],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=120, check=False,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description="Run molecule scenarios, two at a time.")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--jobs", type=int, default=int(os.environ.get("VERL_BAREMETAL_JOBS", "2")))
    parser.add_argument("--limit", type=float, default=2400.0, help="seconds that one scenario may take")
    parser.add_argument("--logs", type=Path, default=ROOT / ".logs")
    parser.add_argument("--list", action="store_true", help="print what would run")
    options = parser.parse_args()

    waiting = in_order(options.names or known())
    unknown = [name for name in waiting if name not in known()]
    if unknown:
        print(f"molecule: no such scenario: {', '.join(unknown)}; there are: {', '.join(known())}", file=sys.stderr)
        return 2
    if options.list:
        print("\n".join(waiting))
        return 0
    options.logs.mkdir(parents=True, exist_ok=True)
    say(f"{len(waiting)} scenarios, {options.jobs} at a time; logs in {options.logs}")

    running: list[Run] = []
    results: dict[str, bool] = {}
    last_word = time.monotonic()
    try:
        while waiting or running:
            while waiting and len(running) < options.jobs:
                running.append(start(waiting.pop(0), options.logs))
                say(f"{running[-1].name} starts")
                last_word = time.monotonic()
            time.sleep(0.3)
            for run in list(running):
                code = run.process.poll()
                if code is None and run.seconds > options.limit:
                    stop(run, f"ended after {options.limit:.0f} s, the limit of one scenario")
                    code = 124
                if code is None:
                    continue
                running.remove(run)
                results[run.name] = code == 0
                say(f"{run.name} {'passed' if code == 0 else f'FAILED (exit status {code})'} after {run.seconds:.0f} s")
                if code:
                    print("\n".join(f"{run.name} | {line}" for line in tail(run.log, TAIL_LINES)), flush=True)
                last_word = time.monotonic()
            if time.monotonic() - last_word > HEARTBEAT:
                for run in running:
                    say(f"{run.name}, {run.seconds:.0f} s: {run.last_line()}")
                last_word = time.monotonic()
    except KeyboardInterrupt:
        for run in running:
            stop(run, "interrupted")
        return 130

    failed = sorted(name for name, passed in results.items() if not passed)
    if failed:
        say(f"failed: {', '.join(failed)}")
    print(f"{len(results) - len(failed)} passed, {len(failed)} failed", flush=True)
    return 1 if failed or not results else 0


if __name__ == "__main__":
    sys.exit(main())
