#!/usr/bin/env python3
# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Writes the table of docs/driver.md from the rules themselves: tools/driver_table.py docs/driver.md"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import List

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- table: begin (tools/driver_table.py) -->", "<!-- table: end -->"


def table() -> str:
    """Every supported system, branch and generation against what is installed."""
    from ansible_collections.verl.baremetal.plugins.module_utils.nvidia import tables
    from ansible_collections.verl.baremetal.plugins.module_utils.nvidia.decide import Gpu, Request, decide

    lines = ["| System | Branch | GPU generation | Kernel modules | Packages | Fabric manager |", "| --- | --- | --- | --- | --- | --- |"]
    for system in tables.DISTRIBUTIONS:
        for branch in tables.KNOWN_BRANCHES:
            groups: List[List[str]] = []
            cells: List[str] = []
            for generation in tables.GENERATIONS:
                plan = decide(system.os_id, system.version, "x86_64", Request(branch=branch), [Gpu("", generation)], 1)
                if plan.action == "install":
                    names = [plan.pinning, *plan.packages]
                    cell = f"{plan.kernel_modules} | {', '.join(f'`{name}`' for name in names)} | `{plan.exact[0]}`"
                else:
                    cell = "refused | none: the branch does not run it | -"
                if cells and cells[-1] == cell:
                    groups[-1].append(generation)
                else:
                    groups.append([generation])
                    cells.append(cell)
            lines += [
                f"| {system.os_id.capitalize()} {system.version} | {branch} | {', '.join(group)} | {cell} |"
                for group, cell in zip(groups, cells)
            ]
    return "\n".join(lines)


def replace(text: str) -> str:
    """The page with its table made anew."""
    head, _begin, rest = text.partition(BEGIN)
    _old, _end, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{table()}\n{END}{tail}"


def main() -> None:
    """Rewrite the page."""
    sys.path.insert(0, str(ROOT / ".tree"))
    page = Path(sys.argv[1])
    page.write_text(replace(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
