# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""version_check against torch's collect_env and an import of every package: version_check.py [release folder]"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from bench import ROOT, Result, ansible_env, interleave, ratio, save, target, timed

PROGRAM = "ansible_collections.verl.baremetal.plugins.module_utils.checks"
ALONE = "its checks as a program, without Ansible"
LIBRARY = "importing Ansible's module library"
STARTED = "starting Python with what of its library the checks need"
IMPORTS = (
    "torch", "torchvision", "torchaudio", "transformers", "tensordict", "datasets", "ray", "flash_attn", "flashinfer",
    "sglang", "sgl_kernel", "transformer_engine", "megatron.core", "apex",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("release", nargs="?", default="/opt/verl/current", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    python = str(options.release / "venv/bin/python")
    if not os.access(python, os.X_OK):
        raise SystemExit(f"{options.release} is no release: install one first, or name its folder")
    arguments = {"ANSIBLE_MODULE_ARGS": {"release": str(options.release), "policy": "warn"}}
    scratch = ROOT / "tests" / "output"
    scratch.mkdir(parents=True, exist_ok=True)
    request = scratch / "version_check_arguments.json"
    request.write_text(json.dumps(arguments), encoding="utf-8")
    module = str(ROOT / "plugins/modules/version_check.py")
    # What a host runs: the module's own process, with the controller's Python in place of the host's.
    env = ansible_env(PYTHONPATH=str(ROOT / ".tree"))
    present = "import importlib.util as u, importlib as i\nfor n in {!r}:\n try:\n  s = u.find_spec(n)\n except ImportError:\n  s = None\n if s is not None:\n  try:\n   i.import_module(n)\n  except Exception as e:\n   print(n, e)\n"
    runs = interleave(
        {
            "version_check": lambda: timed([sys.executable, module, str(request)], env),
            "version_check on a host by ansible (one ad-hoc task)": lambda: timed(
                [
                    "ansible",
                    "-i",
                    str(ROOT / "inventories/local"),
                    "all",
                    "-m",
                    "verl.baremetal.version_check",
                    "-a",
                    f"release={options.release} policy=warn",
                ],
                ansible_env(),
            ),  # fmt: skip
            ALONE: lambda: timed([sys.executable, "-m", PROGRAM, str(options.release)], env),
            LIBRARY: lambda: timed([sys.executable, "-c", "import ansible.module_utils.basic"]),
            "torch.utils.collect_env": lambda: timed([python, "-m", "torch.utils.collect_env"]),
            "import of every package": lambda: timed([python, "-c", present.format(IMPORTS)]),
            STARTED: lambda: timed([sys.executable, "-c", "import typing, re, json, hashlib, glob, struct, textwrap"]),
            "starting Python": lambda: timed([sys.executable, "-c", "pass"]),
        },
        options.rounds,
    )
    save(
        Result(
            name="version_check",
            title="version_check",
            question="How long the comparison of a host with its stack takes, against asking the packages themselves.",
            runs=runs,
            ratios=[
                {
                    "what": "collect_env to version_check",
                    "of": "torch.utils.collect_env",
                    "to": "version_check",
                    "target": "at least 30",
                },
                {
                    "what": "collect_env to the checks as a program",
                    "of": "torch.utils.collect_env",
                    "to": "its checks as a program, without Ansible",
                    "target": "at least 30",
                },
                {
                    "what": "importing every package to version_check",
                    "of": "import of every package",
                    "to": "version_check",
                    "target": "",
                },
                {
                    "what": "version_check to its limit, importing Ansible's module library",
                    "of": "version_check",
                    "to": "importing Ansible's module library",
                    "target": "",
                },
                {
                    "what": "the checks as a program to their limit, Python and its library",
                    "of": "its checks as a program, without Ansible",
                    "to": STARTED,
                    "target": "",
                },
            ],  # fmt: skip
            targets=[
                target(
                    "collect_env to version_check",
                    ratio(runs, "torch.utils.collect_env", "version_check"),
                    "at least",
                    30,
                    "times",
                    f"importing Ansible's module library: {ratio(runs, 'torch.utils.collect_env', LIBRARY):.0f} times",
                ),
                target(
                    "collect_env to the same checks as a program",
                    ratio(runs, "torch.utils.collect_env", ALONE),
                    "at least",
                    30,
                    "times",
                    f"starting Python with what of its library they need: {ratio(runs, 'torch.utils.collect_env', STARTED):.0f} times",
                ),
            ],  # fmt: skip
            notes=[
                "collect_env reads versions and checks nothing; the import reads them from every package that is installed. "
                "A module cannot be faster than the import of Ansible's module library, which every module needs; scripts "
                f"have the same checks as a program: `python3 -m {PROGRAM} RELEASE`."
            ],
        )
    )


if __name__ == "__main__":
    main()
