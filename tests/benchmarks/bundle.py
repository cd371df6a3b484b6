# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""A bundle: its size, the time to make, find and verify it, and installing from it against the index: bundle.py [--stack NAME].

The real stack needs 30 GB below --root and fetches 6 GB in every round, and as much again from the index.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from bench import ROOT, Result, ansible_env, interleave, save, timed


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, default=Path("/var/tmp/verl-bench-bundle"))
    parser.add_argument("--stack", default="small")
    parser.add_argument("--python", default="3.11", help="a version that this machine has")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    shutil.rmtree(options.root, ignore_errors=True)
    folder, verl = options.root / "bundle", options.root / "verl"
    values = {
        "stack_name": options.stack,
        "stack_path": [str(ROOT / "tests/stacks")],
        "venv_torch_variant": "pypi",
        "flash_attention_method": "auto",  # where a cache has it
        "venv_python": options.python,
        "bundle_path": str(folder),
        "bundle_pythons": [options.python],
        "release_profile": False,
    }

    def play(playbook: str, *words: str, **more: Any) -> float:
        command = ["ansible-playbook", playbook, *words, "-e", json.dumps({**values, **more})]
        return timed(command, ansible_env(), cwd=str(ROOT))

    def make() -> float:
        shutil.rmtree(folder, ignore_errors=True)
        return play("playbooks/bundle.yml")

    def install(**more: Any) -> float:
        shutil.rmtree(verl, ignore_errors=True)
        return play("site.yml", stack_root=str(verl), **more)

    runs = interleave(
        {
            "make it cold": make,
            "find it complete": lambda: play("playbooks/bundle.yml"),
            "verify it": lambda: play("playbooks/bundle.yml", "--tags", "verify"),
            "install from the bundle": lambda: install(stack_bundle=str(folder)),
            "install from the index": install,
        },
        options.rounds,
    )
    index = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    save(
        Result(
            "bundle" if options.stack == "small" else "bundle_real",
            "The offline bundle" if options.stack == "small" else f"The offline bundle of {options.stack}",
            f"What does a bundle of the stack {options.stack} cost, and is installing from it as fast as from the index?",
            runs,
            [
                {
                    "what": "bundle to index",
                    "of": "install from the bundle",
                    "to": "install from the index",
                    "target": "",
                }
            ],
            {"megabytes": round(index["bytes"] / 1e6, 1), "files": len(index["files"])},
            notes=[
                "Package caches are empty in every installation.",
                f"For Python {options.python}, with the controller's own tools.",
            ],
        )
    )
    shutil.rmtree(options.root, ignore_errors=True)


if __name__ == "__main__":
    main()
