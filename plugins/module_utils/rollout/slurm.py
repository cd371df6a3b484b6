# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""What Slurm says about a node, and what may be done with it. Pure: text in, decisions out."""

from __future__ import annotations

import re
from typing import Any, Dict, FrozenSet, List, NamedTuple

#: How a drain reason of this collection begins: only such a drain is ever undone by it.
OURS = "verl.baremetal"
#: What Slurm's commands say while its controller restarts, fails over or has too much to do.
_SILENT = ("unable to contact", "socket timed out", "zero bytes were transmitted", "in standby mode")
_FIELD = re.compile(r"(?:^|\s)([A-Za-z][\w/:.]*)=")
_FLAG_MARKS = "*~#!%$@^-"


class NodeState(NamedTuple):
    """One node: its base state and flags in upper case, its reason without the signature, jobs' CPUs in use."""

    name: str
    states: FrozenSet[str]
    reason: str
    cpus_in_use: int

    @property
    def draining(self) -> bool:
        """Taken out of service: new jobs do not start here."""
        return "DRAIN" in self.states

    @property
    def ours(self) -> bool:
        """Drained by this collection."""
        return self.draining and self.reason.startswith(OURS)

    @property
    def busy(self) -> bool:
        """A job still runs or is being cleaned up."""
        return self.cpus_in_use > 0 or bool(self.states & {"ALLOCATED", "MIXED", "COMPLETING"})


def parse_node(text: str) -> NodeState:
    """Read the answer of `scontrol --oneliner show node NAME`."""
    line = " ".join(text.split())
    fields = _fields(line)
    if "NodeName" not in fields or "State" not in fields:
        raise ValueError(f"scontrol did not describe a node; it said: {line[:200] or 'nothing'}")
    states = frozenset(part.strip(_FLAG_MARKS).upper() for part in fields["State"].split("+") if part)
    reason = re.sub(r"\s*\[[^\]]*@[^\]]*\]\s*$", "", fields.get("Reason", "")).strip()
    if reason == "(null)":
        reason = ""
    used = fields.get("CPUAlloc", "0")
    return NodeState(fields["NodeName"], states, reason, int(used) if used.isdigit() else 0)


def is_silent(message: str) -> bool:
    """True when a command failed because the controller did not answer, which says nothing about the node."""
    return any(words in message.lower() for words in _SILENT)


def parse_jobs(text: str) -> List[Dict[str, str]]:
    """Read the answer of `squeue --noheader --format '%i|%u|%M|%j'`: job, user, elapsed time, name."""
    jobs = []
    for line in text.splitlines():
        parts = line.strip().split("|", 3)
        if len(parts) == 4:
            jobs.append(dict(zip(("id", "user", "elapsed", "name"), parts)))
    return jobs


def drain_step(node: NodeState) -> str:
    """What a drain has to do: `drain` the node, `keep` ours, or `foreign`: an administrator drained it before."""
    if not node.draining:
        return "drain"
    return "keep" if node.ours else "foreign"


def resume_step(node: NodeState) -> str:
    """What a return has to do: `resume` ours, `keep` a node in service, or `foreign`: not ours to resume."""
    if not node.draining and "DOWN" not in node.states:
        return "keep"
    return "resume" if node.reason.startswith(OURS) else "foreign"


def describe_jobs(jobs: List[Dict[str, str]], limit: int = 5) -> str:
    """The running jobs in one line of words."""
    shown = [f"{job['id']} ({job['user']}, {job['elapsed']})" for job in jobs[:limit]]
    more = len(jobs) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def as_result(node: NodeState) -> Dict[str, Any]:
    """The node as a module's result."""
    return {"state": "+".join(sorted(node.states)), "reason": node.reason, "drained": node.draining, "ours": node.ours}


def _fields(line: str) -> Dict[str, str]:
    marks = list(_FIELD.finditer(line))
    fields: Dict[str, str] = {}
    for number, mark in enumerate(marks):
        if mark.group(1) == "Reason":
            fields["Reason"] = line[mark.end():].strip()
            break
        end = marks[number + 1].start() if number + 1 < len(marks) else len(line)
        fields.setdefault(mark.group(1), line[mark.end():end].strip())
    return fields
