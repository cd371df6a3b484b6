# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""A second host that takes a compiled wheel from a cache, against compiling it: wheel_cache.py --root STACK_ROOT

STACK_ROOT holds a release of the whole stack, for its Torch and its CUDA home (python_stack.py leaves one). Three
hosts are three folders of this machine: the first compiles, the others find the first one's cache.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any, Dict

from bench import ROOT, Result, ansible_env, interleave, save, timed

WHEEL = "transformer_engine"
PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.import_role:
        name: verl.baremetal.preflight
    - ansible.builtin.import_role:
        name: verl.baremetal.wheels
      vars:
        wheels_wanted: %s
        verl_release: {path: "{{ release }}"}
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, default=Path("/opt/verl"))
    parser.add_argument("--hosts", type=Path, default=Path("/var/tmp/verl-bench-wheels"))
    parser.add_argument("--rounds", type=int, default=3, help="of the hosts that do not compile")
    options = parser.parse_args()
    release = (options.root / "current").resolve()
    if not (release / "manifest.json").exists():
        raise SystemExit(f"{options.root} has no live release: install the stack there first")
    shutil.rmtree(options.hosts, ignore_errors=True)
    options.hosts.mkdir(parents=True)
    play = ROOT / "tests" / "output" / "one_wheel.yml"
    play.parent.mkdir(parents=True, exist_ok=True)
    play.write_text(PLAY % WHEEL, encoding="utf-8")

    def host(name: str, **values: Any) -> float:
        """Have the wheel on a host that has nothing but uv."""
        folder = options.hosts / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "tools").symlink_to(options.root / "tools")
        given: Dict[str, Any] = {
            "stack_root": str(folder),
            "release": str(release),
            "wheels_cache_controller": "",
            **values,
        }
        seconds = timed(["ansible-playbook", str(play), "-e", json.dumps(given)], ansible_env(), cwd=str(ROOT))
        if len(list((folder / "wheels").glob("*.whl"))) != 1:
            raise SystemExit(f"{folder}/wheels does not hold the one wheel")
        return seconds

    controller = str(options.hosts / "controller")
    first = str(options.hosts / "first" / "wheels")
    runs = interleave({"compiling it": lambda: host("first", wheels_cache_controller=controller)}, 1)
    runs.update(
        interleave(
            {
                "from the controller's cache": lambda: host("second", wheels_cache_controller=controller),
                "from a folder that the hosts share": lambda: host("third", wheels_cache_url=first),
            },
            options.rounds,
        )
    )
    size = sum(path.stat().st_size for path in Path(first).glob("*.whl"))
    save(
        Result(
            name="wheel_cache",
            title="A second host and the wheel cache",
            question="TransformerEngine for Torch, the largest wheel that needs no CUDA compiler: compiled on the first host, "
            "taken from a cache on the next ones. One play with the plan and the wheel, in each case.",
            runs=runs,
            ratios=[
                {
                    "what": "compiling to the controller's cache",
                    "of": "compiling it",
                    "to": "from the controller's cache",
                    "target": "",
                },
                {
                    "what": "compiling to a shared folder",
                    "of": "compiling it",
                    "to": "from a folder that the hosts share",
                    "target": "",
                },
            ],  # fmt: skip
            figures={"size of the wheel": f"{size / 1e6:.1f} MB"},
            left_out=[
                "flash-attn and apex: compiling them takes an hour or more on this machine; the way from the cache is the same"
            ],
        )
    )
    shutil.rmtree(options.hosts)


if __name__ == "__main__":
    main()
