# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The report as a table for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from typing import Iterable, List, Mapping, Sequence

from . import model

WIDTH = 80
_STATUS, _TITLE, _EXPECTED = 8, 24, 19
_FOUND = WIDTH - _STATUS - _TITLE - _EXPECTED - 6


def render(checks: Iterable[Mapping[str, str]]) -> str:
    """Status, what, expected and found of each check; below them, for all that is not ok, the reason and the remedy.

    `checks` are dictionaries as `model.as_dicts` makes them.
    """
    every = list(checks)
    lines = [_line("status", "what", "expected", "found"), "-" * WIDTH]
    for check in every:
        lines.extend(_rows(check))
    lines.append("-" * WIDTH)
    lines.extend(_wrap(_totals(every), ""))
    for check in every:
        lines.extend(_detail(check))
    return "\n".join(lines)


def _line(status: str, title: str, expected: str, found: str) -> str:
    return f"{status:<{_STATUS}}  {title:<{_TITLE}}  {expected:<{_EXPECTED}}  {found}".rstrip()


def _rows(check: Mapping[str, str]) -> List[str]:
    """One check, on as many lines as its longest cell needs."""
    cells = [
        _cell(check["title"], _TITLE),
        _cell(check["expected"], _EXPECTED),
        _cell(check["found"], _FOUND),
    ]
    height = max(len(cell) for cell in cells)
    rows: List[str] = []
    for index in range(height):
        parts = [cell[index] if index < len(cell) else "" for cell in cells]
        rows.append(_line(check["status"] if index == 0 else "", *parts))
    return rows


def _cell(text: str, width: int) -> List[str]:
    if len(text) <= width and text.isprintable():
        return [text.rstrip()]
    return textwrap.wrap(text, width, break_long_words=True, break_on_hyphens=False) or [""]


def _wrap(text: str, indent: str) -> List[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_long_words=True, break_on_hyphens=False)


def _totals(checks: Sequence[Mapping[str, str]]) -> str:
    counts = {status: sum(1 for check in checks if check["status"] == status) for status in model.STATUSES}
    parts = [f"{count} {status}" for status, count in counts.items() if count]
    return f"{len(checks)} checks: " + ", ".join(parts)


def _detail(check: Mapping[str, str]) -> List[str]:
    if check["status"] == model.OK or not (check["remedy"] or check["source"]):
        return []
    if check["status"] == model.SKIPPED and not check["remedy"]:
        return []
    text = f"{check['status']}: {check['title']}: {check['remedy'] or 'looked in ' + check['source']}"
    if check["remedy"] and check["source"]:
        text += f" [{check['source']}]"
    return _wrap(text, "  ")
