# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""How many compilers run at a time: from cores and memory together, with control groups counted."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import re
import resource
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

from .. import lock

GIB = 1024**3
_UNLIMITED = 1 << 60
RESERVATION = "jobs.json"


class NotEnoughMemory(Exception):
    """Less memory than one job needs; the text says what to do."""


class Jobs(NamedTuple):
    number: int
    reason: str
    cores: int
    memory: int
    """Bytes that the build may use."""


def _read(path: str) -> Optional[str]:
    try:
        with open(path, encoding="ascii", errors="replace") as handle:
            return handle.read()
    except OSError:
        return None


def _number(text: Optional[str]) -> Optional[int]:
    text = (text or "").strip()
    if not text.isdigit():
        return None
    value = int(text)
    return None if value >= _UNLIMITED else value


def meminfo_available(text: str) -> int:
    """MemAvailable of /proc/meminfo, in bytes."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.M)
    if match is None:
        match = re.search(r"^MemFree:\s+(\d+) kB", text, re.M)
    return int(match.group(1)) * 1024 if match else 0


def groups(root: str, text: str) -> Dict[str, List[str]]:
    """The folders of this process's control groups, innermost first: v2 (unified), v1 memory, v1 cpu.

    text is /proc/self/cgroup. In a container the path of the host may not exist: the mount's top stands for it.
    """
    found: Dict[str, List[str]] = {"v2": [], "memory": [], "cpu": []}
    for line in text.splitlines():
        fields = line.split(":", 2)
        if len(fields) != 3:
            continue
        controllers, path = fields[1].split(","), fields[2].strip()
        if fields[1] == "":
            for mount in ("sys/fs/cgroup", "sys/fs/cgroup/unified"):
                found["v2"] += _upwards(os.path.join(root, mount), path, "memory.max")
        for name in ("memory", "cpu"):
            if name in controllers:
                for mount in (name, "cpu,cpuacct") if name == "cpu" else (name,):
                    probe = "memory.limit_in_bytes" if name == "memory" else "cpu.cfs_quota_us"
                    found[name] += _upwards(os.path.join(root, "sys/fs/cgroup", mount), path, probe)
    return found


def _upwards(mount: str, path: str, probe: str) -> List[str]:
    folders: List[str] = []
    current = path.strip("/")
    while True:
        folder = os.path.join(mount, current) if current else mount
        if os.path.exists(os.path.join(folder, probe)):
            folders.append(folder)
        if not current:
            return folders
        current = os.path.dirname(current)


def _inactive_file(folder: str) -> int:
    """Page cache that the kernel gives back before it kills anybody."""
    match = re.search(r"^(?:total_)?inactive_file (\d+)$", _read(os.path.join(folder, "memory.stat")) or "", re.M)
    return int(match.group(1)) if match else 0


def _group_memory(folder: str, limit_name: str, usage_name: str) -> Optional[int]:
    limit = _number(_read(os.path.join(folder, limit_name)))
    if limit is None:
        return None
    usage = _number(_read(os.path.join(folder, usage_name))) or 0
    return max(0, limit - max(0, usage - _inactive_file(folder)))


def available_memory(root: str = "/") -> Tuple[int, str]:
    """Bytes that may still be used, and what limits them."""
    best = meminfo_available(_read(os.path.join(root, "proc/meminfo")) or "")
    why = "free memory of the machine"
    found = groups(root, _read(os.path.join(root, "proc/self/cgroup")) or "")
    for folder in found["v2"]:
        for name in ("memory.max", "memory.high"):
            value = _group_memory(folder, name, "memory.current")
            if value is not None and value < best:
                best, why = value, "the control group's limit"
    for folder in found["memory"]:
        value = _group_memory(folder, "memory.limit_in_bytes", "memory.usage_in_bytes")
        if value is not None and value < best:
            best, why = value, "the control group's limit"
    return best, why


def usable_cores(root: str = "/") -> int:
    """Cores that this process may use: its affinity, and the control group's quota."""
    try:
        cores = len(os.sched_getaffinity(0))
    except OSError:
        cores = os.cpu_count() or 1
    found = groups(root, _read(os.path.join(root, "proc/self/cgroup")) or "")
    quotas: List[float] = []
    for folder in found["v2"]:
        fields = (_read(os.path.join(folder, "cpu.max")) or "").split()
        if len(fields) == 2 and fields[0].isdigit() and fields[1].isdigit():
            quotas.append(int(fields[0]) / max(1, int(fields[1])))
    for folder in found["cpu"]:
        quota, period = (_read(os.path.join(folder, "cpu.cfs_" + n + "_us")) for n in ("quota", "period"))
        if quota and period and quota.strip().isdigit() and period.strip().isdigit():
            quotas.append(int(quota) / max(1, int(period)))
    for value in quotas:
        cores = min(cores, max(1, int(value + 0.001)))
    return max(1, cores)


def choose(cores: int, memory: int, why: str, gb_per_job: float, reserve_gb: float, limit: int = 0) -> Jobs:
    """Jobs for these resources, at most limit (0: no limit). Raises NotEnoughMemory below one job."""
    usable = memory - int(reserve_gb * GIB)
    by_memory = int(usable / (gb_per_job * GIB)) if gb_per_job > 0 else cores
    if by_memory < 1:
        raise NotEnoughMemory(
            f"One compile job needs {gb_per_job:g} GB and {reserve_gb:g} GB stay in reserve, but "
            f"{memory / GIB:.1f} GB are available "
            f"({why}). Free memory, raise the limit, lower the reserve, or build the wheel on another "
            "host: playbooks/wheels.yml puts it into the cache."
        )
    count = min(cores, by_memory)
    reason = f"{cores} cores" if cores <= by_memory else f"{memory / GIB:.1f} GB ({why}), {gb_per_job:g} GB a job"
    if limit and limit < count:
        count, reason = limit, f"asked for {limit}"
    return Jobs(count, reason, cores, memory)


def decide(gb_per_job: float, reserve_gb: float, limit: int = 0, others: int = 0, root: str = "/") -> Jobs:
    """Jobs on this machine now; others are bytes that builds beside this one will still take."""
    memory, why = available_memory(root)
    if others:
        memory, why = max(0, memory - others), why + f", {others / GIB:.1f} GB of it kept for other builds"
    return choose(usable_cores(root), memory, why, gb_per_job, reserve_gb, limit)


@contextlib.contextmanager
def guarded(folder: str) -> Iterator[None]:
    """One build of this host at a time decides."""
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, ".jobs.guard"), "a", encoding="ascii") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        yield


def claim(path: str, memory: int) -> None:
    """Note that this process's build will take so many bytes."""
    with open(path, "w", encoding="ascii") as handle:
        json.dump(dict(lock.owner_of(os.getpid()), bytes=memory), handle)


def claimed(folder: str, own: str) -> int:
    """Bytes that the living builds in the folders beside one's own have claimed and do not use yet."""
    total = 0
    for path in glob.glob(os.path.join(glob.escape(folder), "*", RESERVATION)):
        try:
            with open(path, encoding="ascii") as handle:
                noted = json.load(handle)
            if path != own and not lock.is_dead(noted):
                total += max(0, int(noted["bytes"]) - resident(int(noted["pid"])))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return total


def resident(pid: int) -> int:
    """Resident bytes of a process and all below it."""
    parents: Dict[int, List[int]] = {}
    sizes: Dict[int, int] = {}
    page = resource.getpagesize()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as handle:
                fields = handle.read().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(name))
        sizes[int(name)] = int(fields[21]) * page
    total, waiting = 0, [pid]
    while waiting:
        current = waiting.pop()
        total += sizes.get(current, 0)
        waiting += parents.get(current, [])
    return total


def kills(root: str = "/") -> int:
    """How often the kernel killed a process for memory in our control group and, where it tells, on the machine."""
    total = 0
    match = re.search(r"^oom_kill (\d+)$", _read(os.path.join(root, "proc/vmstat")) or "", re.M)
    if match:
        total += int(match.group(1))
    found = groups(root, _read(os.path.join(root, "proc/self/cgroup")) or "")
    for folder, name in [(f, "memory.events") for f in found["v2"][:1]] + [
        (f, "memory.oom_control") for f in found["memory"][:1]
    ]:
        match = re.search(r"^oom_kill (\d+)$", _read(os.path.join(folder, name)) or "", re.M)
        if match:
            total += int(match.group(1))
    return total


_KILLED = re.compile(
    r"^(?:.*[:\s])?Killed$|died due to signal 9|[Kk]illed signal terminated program"
    r"|exit(?:ed with)? (?:code|status) -?(?:137|9)\b"
    r"|virtual memory exhausted|:\s*[Cc]annot allocate memory$|throwing an instance of 'std::bad_alloc'|out of memory allocating",
    re.M,
)


def looks_killed(output: str) -> bool:
    """Whether a compiler's output tells of a process that died for want of memory; where ninja names what failed, only that is read."""
    failed = re.findall(r"^FAILED: .*?(?=^\[\d+/\d+\] |\Z)", output, re.M | re.S)
    return any(_KILLED.search(part) for part in failed or [output])
