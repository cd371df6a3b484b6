# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""A release switch and a rollback against installing again: switch.py [--root FOLDER], which is emptied.

Two releases of the small stack of the tests are made; the switch itself does not depend on what a release holds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any, Dict

from bench import ROOT, Result, ansible_env, interleave, median, save, target, timed


def site(root: Path, stacks: Path, name: str) -> float:
    """Install a stack below root."""
    values = [
        f"stack_root={root}",
        f"stack_name={name}",
        json.dumps({"stack_path": [str(stacks)]}),
        "release_profile=false",
    ]
    words = [word for value in values for word in ("-e", value)]
    return timed(["ansible-playbook", "site.yml", *words], ansible_env(), cwd=str(ROOT))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, default=Path("/var/tmp/verl-bench-switch"))
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    shutil.rmtree(options.root, ignore_errors=True)
    stacks = options.root / "stacks"
    for name in ("first", "second"):
        shutil.copytree(ROOT / "tests/stacks/small", stacks / name)
        path = stacks / name / "stack.yml"
        path.write_text(path.read_text(encoding="utf-8").replace("name: small\n", f"name: {name}\n"), encoding="utf-8")
    root = options.root / "verl"
    for name in ("first", "second"):
        site(root, stacks, name)
    names = {path.name.split("-")[0]: path.name for path in (root / "releases").iterdir()}
    live = {"now": "second"}
    request = options.root / "arguments.json"

    def other() -> str:
        live["now"] = "first" if live["now"] == "second" else "second"
        return names[live["now"]]

    def by_module() -> float:
        arguments: Dict[str, Any] = {"state": "rollback", "root": str(root), "to": other()}
        request.write_text(json.dumps({"ANSIBLE_MODULE_ARGS": arguments}), encoding="utf-8")
        seconds = timed([sys.executable, str(ROOT / "plugins/modules/release.py"), str(request)],
                        ansible_env(PYTHONPATH=str(ROOT / ".tree")))  # fmt: skip
        found = os.path.basename(os.path.realpath(root / "current"))
        if found != arguments["to"]:
            raise SystemExit(f"{found} is live in place of {arguments['to']}")
        return seconds

    def by_ansible() -> float:
        return timed(["ansible", "-i", str(ROOT / "inventories/local"), "all", "-m", "verl.baremetal.release", "-a",
                      f"state=rollback root={root} to={other()}"], ansible_env())  # fmt: skip

    def again() -> float:
        if live["now"] == "first":
            by_module()
        shutil.rmtree(root / "releases" / names["first"])
        live["now"] = "first"
        return site(root, stacks, "first")

    runs = interleave({"switch, the module alone": by_module, "switch by one ansible task": by_ansible}, options.rounds)
    runs.update(interleave({"installing the small stack again, warm": again}, 2))
    save(
        Result(
            name="switch",
            title="Switch and rollback",
            question="Going to another complete release and back, against installing it again. The releases are of the "
            "small stack of the tests, so the reinstallation is the cheapest there is.",
            runs=runs,
            ratios=[
                {
                    "what": "reinstalling the small stack to a switch",
                    "of": "installing the small stack again, warm",
                    "to": "switch by one ansible task",
                    "target": "",
                },
            ],  # fmt: skip
            targets=[
                target(
                    "a release switch, the module alone",
                    median(runs["switch, the module alone"]),
                    "under",
                    1,
                    "s",
                    "one rename, after the import of Ansible's module library",
                ),
            ],  # fmt: skip
        )
    )
    shutil.rmtree(options.root)


if __name__ == "__main__":
    main()
