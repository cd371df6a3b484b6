# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""One check and its verdict, and what all of them together say."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Sequence

OK = "ok"
MISMATCH = "mismatch"
MISSING = "missing"
SKIPPED = "skipped"
DENIED = "denied"
CONFLICT = "conflict"
WARNING = "warning"

STATUSES = (OK, MISMATCH, MISSING, SKIPPED, DENIED, CONFLICT, WARNING)
FAILING = frozenset((MISMATCH, MISSING, DENIED, CONFLICT))

# What differs between hosts that are otherwise the same: left out of the fingerprint.
_OF_THE_MOMENT = frozenset(("pending_reboot", "shared_memory", "gpu_health", "integrity"))


class Check(NamedTuple):
    """One line of the report."""

    name: str
    """For programs; unique within a report."""
    title: str
    """For people."""
    status: str
    expected: str
    found: str
    source: str = ""
    """Where it was looked for."""
    remedy: str = ""
    """What to do; empty where nothing has to be done."""

    @property
    def failed(self) -> bool:
        return self.status in FAILING


def summary(checks: Iterable[Check]) -> Dict[str, int]:
    """How many checks have each status; every status is a key."""
    counts = dict.fromkeys(STATUSES, 0)
    for check in checks:
        counts[check.status] += 1
    return counts


def passed(checks: Iterable[Check]) -> bool:
    return not any(check.failed for check in checks)


def as_dicts(checks: Iterable[Check]) -> List[Dict[str, str]]:
    return [dict(check._asdict()) for check in checks]


def fingerprint(checks: Iterable[Check], packages: Mapping[str, str]) -> str:
    """One value that is the same on hosts with the same versions and verdicts: a fleet is uniform when it is."""
    value: Dict[str, Any] = {
        "checks": sorted(
            [check.name, check.found, check.status] for check in checks if check.name not in _OF_THE_MOMENT
        ),
        "packages": dict(packages),
    }
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def message(checks: Sequence[Check]) -> str:
    """The failed checks in words: found, needed, what to do."""
    failed = [check for check in checks if check.failed]
    if not failed:
        return f"all {len(checks)} checks passed"
    lines = [f"{len(failed)} of {len(checks)} checks failed"]
    for check in failed:
        where = f" ({check.source})" if check.source else ""
        line = f"{check.title}: {check.status}: found {check.found or 'nothing'}, needed {check.expected}{where}"
        lines.append(f"{line}. {check.remedy}" if check.remedy else line)
    return "\n".join(lines)
