# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""docs/benchmarks.md from the results of one run: report.py [folder of results]"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Dict, List

from bench import RESULTS, ROOT, median

ORDER = (
    "python_stack", "converged", "version_check", "wheel_cache", "switch", "images", "bundle", "bundle_real", "rollouts",
    "rollout",
)  # fmt: skip
HEAD = """# Benchmarks

Made by `make bench` or its parts (`make bench BENCH="version_check switch"`) on one machine. A figure is the median of the runs in its row. Unless its
section says otherwise, the sides of a ratio were measured in turn in one run of that benchmark, and nothing else was at work on the machine. Read the
ratios: the machine is small, and the seconds are its own.
"""
NOT_RUN = {
    "python_stack": "the Python stack from a cold and a warm cache",
    "converged": "a converged rerun of the site playbook",
    "version_check": "version_check against collect_env and imports",
    "wheel_cache": "a second host from the wheel cache against compiling",
    "switch": "a release switch and rollback against reinstalling",
    "images": "image export and load against docker save with gzip",
    "bundle": "an installation from a bundle against one from the index",
    "rollouts": "the site playbook over 1, 8 and 32 hosts, tuned against defaults",
    "rollout": "a rollout over SSH hosts",
}


def seconds(value: float) -> str:
    """Seconds as people read them."""
    if value < 1.0:
        return f"{value * 1000:.0f} ms"
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s" if value < 100 else f"{value:.0f} s"


def section(result: Dict[str, Any]) -> List[str]:
    """One benchmark's part of the page."""
    lines = ["", f"## {result['title']}", "", result["question"], "", "| | median | runs | fastest to slowest |"]
    lines.append("| --- | --- | --- | --- |")
    for name, values in result["runs"].items():
        spread = f"{seconds(min(values))} to {seconds(max(values))}"
        lines.append(f"| {name} | {seconds(median(values))} | {len(values)} | {spread} |")
    if result["ratios"]:
        lines += ["", "| ratio | | target |", "| --- | --- | --- |"]
        for entry in result["ratios"]:
            value = median(result["runs"][entry["of"]]) / median(result["runs"][entry["to"]])
            shown = f"{value:.2f}" if value < 10 else f"{value:.0f}"
            lines.append(f"| {entry['what']} | {shown} | {entry['target']} |")
    figures = {key: value for key, value in result["figures"].items() if key != "self_peak_mib"}
    if figures:
        lines.append("")
        lines += [f"- {key}: {value}" for key, value in figures.items()]
    for note in result["notes"]:
        lines += ["", note]
    if result["left_out"]:
        lines += ["", "Left out: " + "; ".join(result["left_out"]) + "."]
    return lines


def number(value: float) -> str:
    """A figure without more digits than it is worth."""
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def verdict(entry: Dict[str, Any]) -> str:
    """Whether a target was met, and how far off it is where it was not."""
    value, bound = float(entry["value"]), float(entry["bound"])
    more = entry["words"] == "at least"
    if value >= bound if more else value <= bound:
        return "met"
    return f"missed, {(bound / value if more else value / bound):.2g} times off"


def targets(results: List[Dict[str, Any]]) -> List[str]:
    """All targets in one table."""
    every = [entry for result in results for entry in result.get("targets", [])]
    if not every:
        return []
    lines = ["", "## Targets", "", "| | target | measured | | the limit |", "| --- | --- | --- | --- | --- |"]
    for entry in every:
        unit = f" {entry['unit']}" if entry["unit"] else ""
        wanted, found = f"{entry['words']} {number(entry['bound'])}{unit}", f"{number(entry['value'])}{unit}"
        lines.append(f"| {entry['what']} | {wanted} | {found} | {verdict(entry)} | {entry['limit']} |")
    return lines


def page(results: List[Dict[str, Any]]) -> str:
    """The whole page."""
    lines = [HEAD]
    machines = {json.dumps({k: v for k, v in r["machine"].items() if k != "load"}, sort_keys=True) for r in results}
    for text in sorted(machines):
        machine = json.loads(text)
        lines.append(
            f"Machine: {machine['cores']} cores of {machine['processor']}, {machine['memory_gib']} GiB of memory, "
            f"{machine['os']}, kernel {machine['kernel']}, {machine['filesystem']}, Python {machine['python']}; "
            f"{machine['date']}; load at the end of each benchmark "
            f"{', '.join(str(r['machine']['load']) for r in results)}."
        )
    lines += targets(results)
    for result in results:
        lines += section(result)
    names = {r["name"].replace("_real", "") for r in results}  # the same, with the real stack
    absent = [words for name, words in NOT_RUN.items() if name not in names]
    if absent:
        lines += ["", "## Not measured in this run", ""]
        lines += [f"- {words}" for words in absent]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}
    results = [found[name] for name in ORDER if name in found]
    if not results:
        raise SystemExit(f"no results in {folder}: run a benchmark first")
    (ROOT / "docs" / "benchmarks.md").write_text(page(results), encoding="utf-8")
    print(f"docs/benchmarks.md: {len(results)} benchmarks")


if __name__ == "__main__":
    main()
