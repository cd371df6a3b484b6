# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""What a rollout says on the terminal: one line a host, one block at the end. Pure."""

from __future__ import annotations

import re
from typing import Any, Dict, List, Mapping, Optional

_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
STATUSES = ("done", "failed", "unreachable", "interrupted", "waiting")


def status(entry: Mapping[str, Any]) -> str:
    """One word for a host: done, failed, unreachable, interrupted (left in the middle) or waiting."""
    if entry.get("unreachable") is not None:
        return "unreachable"
    if entry.get("done"):
        return "done"
    phase = (entry.get("rollout") or {}).get("phase", "new")
    if phase in ("done", "failed"):
        return str(phase)
    return "interrupted" if phase in ("draining", "changing", "checking", "returning") else "waiting"


def seconds(entry: Mapping[str, Any]) -> Optional[float]:
    """How long the host's activation took."""
    times = (entry.get("rollout") or {}).get("times") or {}
    end = times.get("done", times.get("failed"))
    if "draining" not in times or end is None:
        return None
    return max(0.0, float(end) - float(times["draining"]))


def reason(entry: Mapping[str, Any]) -> str:
    """Why a host is not done, in words."""
    if entry.get("unreachable") is not None:
        return " ".join(str(entry["unreachable"]).split())
    failure = (entry.get("rollout") or {}).get("failure") or {}
    if not failure:
        if status(entry) == "interrupted":
            return f"the run ended while this host was {entry['rollout']['phase']}; run the rollout again"
        return ""
    told = f"{failure.get('task', '')}: {failure.get('reason', '')}".strip(": ")
    return " ".join(_COLOUR.sub("", told).split())


def consequence(entry: Mapping[str, Any]) -> str:
    """What became of a host that is not done."""
    state = entry.get("rollout") or {}
    failure = state.get("failure") or {}
    told = []
    if failure.get("rolled_back"):
        told.append(f"back on {failure['rolled_back']}")
    if "in_service" in failure:
        told.append("in service" if failure["in_service"] else "kept out of service")
    elif state.get("drained"):
        told.append("out of service")
    return ", ".join(told)


def duration(value: Optional[float]) -> str:
    """Seconds as people say them."""
    if value is None:
        return ""
    whole = round(value)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def host_line(name: str, entry: Mapping[str, Any]) -> str:
    """The line of a host."""
    state = entry.get("rollout") or {}
    batch = f"batch {state['batch']}" if state.get("batch") else "prepare"
    parts = [f"  {name:<24} {status(entry):<11} {batch:<9}", duration(seconds(entry))]
    found = status(entry)
    if found == "done":
        parts.append(str(state.get("release") or ""))
    elif found == "failed":
        parts.append(f"{reason(entry)[:300]} ({consequence(entry)})" if consequence(entry) else reason(entry)[:300])
    elif found == "unreachable":
        parts.append(reason(entry)[:200])
    elif consequence(entry):
        parts.append(f"({consequence(entry)})")
    return "  ".join(part for part in parts if part).rstrip()


def color(entry: Mapping[str, Any]) -> str:
    """The line's colour."""
    return {"done": "green", "failed": "red", "unreachable": "bright red", "interrupted": "yellow"}.get(
        status(entry), "blue"
    )


def counts(hosts: Mapping[str, Mapping[str, Any]]) -> Dict[str, int]:
    """How many hosts have each status."""
    found = dict.fromkeys(STATUSES, 0)
    for entry in hosts.values():
        found[status(entry)] += 1
    return found


def summary(title: str, hosts: Mapping[str, Mapping[str, Any]], page: str, stopped: Optional[str]) -> List[str]:
    """The block at the end of a run."""
    found = counts(hosts)
    told = ", ".join(f"{number} {name}" for name, number in found.items() if number)
    block = [f"{title}: {len(hosts)} hosts: {told or 'none'}"]
    for name, entry in sorted(hosts.items()):
        out = status(entry) == "waiting" and (entry.get("rollout") or {}).get("drained")
        if out or status(entry) in ("failed", "unreachable", "interrupted"):
            block.append(host_line(name, entry))
    if stopped:
        block.append(f"Stopped: {stopped}")
    if found["done"] < len(hosts):
        block.append("Run the same command again to go on; hosts that are done are left alone.")
    if page:
        block.append(f"Report: {page}")
    return block
