# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: interleaved runs, medians, a description of the machine, and results as JSON.

Every benchmark measures all its sides in turn (A B C, A B C, ...) on the same machine in the same run, so that a ratio
of two medians means something even where the seconds do not: on a busy machine both sides suffer alike.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "tests" / "output" / "benchmarks"


@dataclass
class Result:
    """One benchmark's answer, as the page shows it."""

    name: str
    title: str
    question: str
    runs: Dict[str, List[float]]
    # Ratios in words: {"what": "...", "of": case, "to": case, "target": "at most 1.25" or ""}
    ratios: List[Dict[str, Any]] = field(default_factory=list)
    figures: Dict[str, Any] = field(default_factory=dict)
    # What was aimed at; see target().
    targets: List[Dict[str, Any]] = field(default_factory=list)
    notes: List[str] = field(default_factory=list)
    left_out: List[str] = field(default_factory=list)
    machine: Dict[str, Any] = field(default_factory=dict)


def machine() -> Dict[str, Any]:
    """Where the figures were measured; no name and no address of the machine."""
    model = "unknown"
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    release = dict(line.strip().split("=", 1) for line in _lines("/etc/os-release") if "=" in line)
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": round(memory / (1 << 20), 1),
        "os": release.get("PRETTY_NAME", "unknown").strip('"'),
        "kernel": platform.release().partition("-")[0],
        "filesystem": _filesystem(str(ROOT)),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _lines(path: str) -> List[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _filesystem(path: str) -> str:
    done = subprocess.run(["stat", "-f", "-c", "%T", path], stdout=subprocess.PIPE, check=False)
    return done.stdout.decode().strip() or "unknown"


def timed(command: Sequence[str], env: Optional[Mapping[str, str]] = None, **options: Any) -> float:
    """Seconds of a command; one that fails ends the benchmark with its output."""
    started = time.perf_counter()
    done = subprocess.run(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=dict(os.environ, **(env or {})),
        check=False,
        **options,
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.stderr.write(done.stdout.decode("utf-8", "replace")[-4000:])
        raise SystemExit(f"{' '.join(command)[:200]} ended with {done.returncode}")
    return seconds


def busy_seconds() -> float:
    """Seconds of processor time that this machine's processes took since it started, all cores together."""
    user, nice, system = (int(word) for word in _lines("/proc/stat")[0].split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def peak_memory(command: Sequence[str], env: Optional[Mapping[str, str]] = None) -> float:
    """MiB of the largest process among a command and its children."""
    code = (
        "import resource, subprocess, sys; "
        "rc = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode; "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(rc)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command], env=dict(os.environ, **(env or {})), stdout=subprocess.PIPE, check=True
    )
    return int(done.stdout) / 1024.0


def interleave(cases: Mapping[str, Callable[[], Optional[float]]], rounds: int) -> Dict[str, List[float]]:
    """Seconds of every case in every round, the cases in turn. A case that returns a number measured itself."""
    runs: Dict[str, List[float]] = {name: [] for name in cases}
    for number in range(rounds):
        for name, case in cases.items():
            started = time.perf_counter()
            answer = case()
            seconds = time.perf_counter() - started if answer is None else answer
            runs[name].append(round(seconds, 4))
            print(f"  round {number + 1} of {rounds}: {name}: {runs[name][-1]:.3f} s", flush=True)
    return runs


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def ratio(runs: Mapping[str, Sequence[float]], of: str, to: str) -> float:
    """How many times as long the case `of` takes as the case `to`."""
    return median(runs[of]) / median(runs[to])


def target(what: str, value: float, words: str, bound: float, unit: str, limit: str) -> Dict[str, Any]:
    """One aim: what was measured, `words` ("at most", "under" or "at least") the bound, and what the limit is."""
    return {"what": what, "value": value, "words": words, "bound": bound, "unit": unit, "limit": limit}


def save(result: Result) -> Path:
    """Write a result where report.py finds it."""
    result.machine = machine()
    result.figures.setdefault("self_peak_mib", round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{result.name}.json"
    path.write_text(json.dumps(asdict(result), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    for case, values in result.runs.items():
        print(f"{result.name}: {case}: median {median(values):.3f} s of {len(values)}")
    for entry in result.ratios:
        print(f"{result.name}: {entry['what']}: {ratio(result.runs, entry['of'], entry['to']):.2f} {entry['target']}")
    return path


def ansible_env(**extra: str) -> Dict[str, str]:
    """The environment in which ansible finds this checkout."""
    env = {
        "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}",
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".tree"),
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
    }
    env.update(extra)
    return env
