# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Writes the tables of README.md and docs/ that follow from the stack file: ``python tools/tables.py [--check]``.

A table stands between ``<!-- table: name -->`` and ``<!-- end -->``; what is between them is replaced.
"""

from __future__ import annotations

import pathlib
import re
import sys
import typing as t

ROOT = pathlib.Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / ".tree"))

from ansible_collections.verl.baremetal.plugins.plugin_utils import stack_file  # noqa: E402

STACK = "verl0.5-preview-cu128"


def row(cells: t.Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def versions(stack: dict[str, t.Any]) -> list[str]:
    """What the stack holds."""
    origin = {
        "driver": "NVIDIA's repository, or the one that is there",
        "cuda": "NVIDIA's repository, or NVIDIA's wheels",
        "cudnn": "the same",
    }
    newest = stack["python"]["preferred"][0]
    built: set[str] = set()
    for layer in stack["layers"]:
        variant = next(iter(stack["variants"].get(layer["name"], {})), None)
        built.update(stack_file.requirements(stack, layer["name"], newest, variant)["build"])
    compiled = {w["component"]: w["source"]["kind"] for w in stack["wheels"].values()}
    lines = [row(["component", "version", "from"]), row(["---"] * 3)]
    for component in stack["components"]:
        version = component.get("version") or component["minimum"] + " or newer"
        if component["kind"] == "commit":
            version = "commit " + component["commit"][:12]
        where = origin.get(component["name"], "wheel, locked by hash")
        if component["name"] in compiled:
            where = "compiled once from the %s" % (
                "git commit" if compiled[component["name"]] == "git" else "locked sdist"
            )
        elif component.get("dist") in built:
            where = "locked sdist, built in the release's environment"
        lines.append(row([component["title"], version, where]))
    lines.append(row(["Python", ", ".join(stack["python"]["preferred"]), "the system, or uv"]))
    return lines


def denied(stack: dict[str, t.Any]) -> list[str]:
    """What is refused, and why."""
    return [row(["package", "why not"]), row(["---"] * 2)] + [row([d["name"], d["reason"]]) for d in stack["denied"]]


TABLES = {"versions": versions, "denied": denied}


def fill(text: str, stack: dict[str, t.Any]) -> str:
    """The text with every table made anew."""

    def table(match: re.Match[str]) -> str:
        return "%s\n%s\n%s" % (match.group(1), "\n".join(TABLES[match.group(2)](stack)), match.group(3))

    return re.sub(r"(<!-- table: (\w+) -->)\n.*?(<!-- end -->)", table, text, flags=re.S)


def pages() -> list[pathlib.Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def main() -> int:
    stack = stack_file.load(STACK)
    stale = []
    for path in pages():
        text = path.read_text(encoding="utf-8")
        new = fill(text, stack)
        if new != text:
            stale.append(path.name)
            if "--check" not in sys.argv:
                path.write_text(new, encoding="utf-8")
    if stale:
        print("tables %s: %s" % ("out of date" if "--check" in sys.argv else "written", ", ".join(stale)))
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
