# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The report of a rollout or of a verify run as one small document. Pure.

What most hosts have in common is said once: components and expected versions in a list, and of each host only the
places where it differs, so that a thousand hosts stay a page that a browser opens at once.
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Sequence

from ansible_collections.verl.baremetal.plugins.module_utils.rollout import lines

SCHEMA = 1
#: Statuses of a check that are worth a look, worst first.
BAD = ("mismatch", "missing", "conflict", "denied")


def rollout(run: Mapping[str, Any], hosts: Mapping[str, Mapping[str, Any]], now: float) -> Dict[str, Any]:
    """The report of a rollout, from the journal."""
    found = _skeleton("rollout", str(run.get("title", "Rollout")), now)
    found["started"] = run.get("started")
    found["ended"] = run.get("ended")
    found["stopped"] = run.get("stopped")
    found["direction"] = run.get("direction", "activate")
    batches = list((run.get("batches") or {}).values())
    found["batches"] = sorted(
        (
            {
                "number": item["number"],
                "hosts": len(item["hosts"]),
                "started": item.get("started"),
                "ended": item.get("ended"),
            }
            for item in batches
        ),
        key=lambda item: item["number"],
    )
    table = _Table()
    for name in sorted(hosts):
        entry = hosts[name]
        state = entry.get("rollout") or {}
        times = state.get("times") or {}
        found["hosts"].append(
            {
                "name": name,
                "status": lines.status(entry),
                "batch": state.get("batch") or 0,
                "release": state.get("release"),
                "live": entry.get("live"),
                "previous": state.get("previous"),
                "started": times.get("draining"),
                "ended": times.get("done", times.get("failed")),
                "phases": times,
                "reason": lines.reason(entry),
                "consequence": lines.consequence(entry),
                "cells": table.row(entry.get("checks") or []),
            }
        )
    return _finish(found, table)


def verify(answers: Mapping[str, Mapping[str, Any]], now: float, title: str) -> Dict[str, Any]:
    """The report of a verify run, from each host's answer of version_check."""
    found = _skeleton("verify", title, now)
    table = _Table()
    for name in sorted(answers):
        answer = answers[name]
        checks = answer.get("checks") or []
        bad = [check for check in checks if check.get("status") in BAD]
        if answer.get("unreachable"):
            status, why = "unreachable", str(answer.get("msg", ""))
        elif not checks:
            status, why = "failed", str(answer.get("msg", "no answer"))
        else:
            status = "failed" if bad else "done"
            told = [f"{check['name']}: {check.get('found')} instead of {check.get('expected')}" for check in bad]
            why = "; ".join(told)
        found["hosts"].append(
            {
                "name": name,
                "status": status,
                "batch": 0,
                "reason": " ".join(why.split()),
                "consequence": "",
                "cells": table.row(checks),
            }
        )
    return _finish(found, table)


def verify_lines(report: Mapping[str, Any]) -> List[str]:
    """The words of a verify run on the terminal: the hosts that differ, and the sum."""
    told = []
    for host in report["hosts"]:
        if host["status"] != "done":
            told.append(f"  {host['name']:<24} {host['status']:<11}  {host['reason'][:300]}".rstrip())
    told.append(
        f"{report['title']}: {len(report['hosts'])} hosts: "
        + ", ".join(f"{number} {name}" for name, number in report["counts"].items() if number)
    )
    return told


def _skeleton(kind: str, title: str, now: float) -> Dict[str, Any]:
    return {"schema": SCHEMA, "kind": kind, "title": title, "written": now, "batches": [], "hosts": [], "counts": {}}


def _finish(found: Dict[str, Any], table: _Table) -> Dict[str, Any]:
    counts = dict.fromkeys(lines.STATUSES, 0)
    for host in found["hosts"]:
        counts[host["status"]] += 1
        # A host that was asked before a component was known has no cell for it.
        host["cells"] += [None] * (len(table.components) - len(host["cells"]))
    found["counts"] = counts
    found["components"] = table.components
    return found


class _Table:
    """Components in the order of their first appearance, each with what is expected."""

    def __init__(self) -> None:
        self.components: List[Dict[str, Any]] = []
        self._places: Dict[str, int] = {}

    def row(self, checks: Sequence[Mapping[str, Any]]) -> List[Any]:
        """The cells of a host: 0 for what is as expected, [status, found, expected, remedy] for the rest."""
        cells: List[Any] = [None] * len(self.components)
        for check in checks:
            name, expected = str(check.get("name")), _text(check.get("expected"))
            if name not in self._places:
                self._places[name] = len(self.components)
                self.components.append({"name": name, "expected": expected})
                cells.append(None)
            place = self._places[name]
            found, status = _text(check.get("found")), str(check.get("status", "missing"))
            if status == "ok" and expected == self.components[place]["expected"] and found in (expected, ""):
                cells[place] = 0
                continue
            cell = [status, found, expected, _text(check.get("remedy"))]
            if not cell[3]:
                cell.pop()
                if cell[2] == self.components[place]["expected"]:
                    cell.pop()
            cells[place] = cell
        return cells


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        return ", ".join(str(item) for item in value)
    return str(value)
