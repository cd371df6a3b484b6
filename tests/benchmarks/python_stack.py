# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The Python stack and CUDA's wheels, installed by the roles, by pip in the order of the image's recipe, and by bare uv.

python_stack.py --root FOLDER [--wheels FOLDER] [--cold 1] [--warm 3]; FOLDER is emptied and needs 35 GB. What it leaves
there (the release, the environment made by pip, and their caches) is what converged.py measures.

pip has a cache of its own; uv's sides and the roles, which install with uv, use one folder in turn, and each cold run
begins with an empty one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any, Dict, List, Mapping

from bench import ROOT, Result, ansible_env, busy_seconds, interleave, median, ratio, save, target, timed

sys.path.insert(0, str(ROOT / "plugins" / "plugin_utils"))
STACK = "verl0.5-preview-cu128"
BARE = "bare uv pip sync (the limit)"
COMPILED = "uv pip sync with its bytecode"
ROLES = "the roles"


def stack_file() -> Any:
    """The collection's own reader of stack files."""
    sys.path.insert(0, str(ROOT / ".tree"))
    from ansible_collections.verl.baremetal.plugins.plugin_utils import stack_file as module

    return module


class Sides:
    """The three ways of installing the same packages below one folder."""

    def __init__(self, root: Path, wheels: Path, python: str = "/usr/bin/python3") -> None:
        self.root, self.wheels = root, wheels
        self.log = root / "site.log"
        self.reader = stack_file()
        self.stack = self.reader.load(STACK)
        self.python = python
        # Compiled from sources: our side and pip's take them from the wheel cache, where they are there.
        compiled = {str(wheel["dist"]) for wheel in self.stack["wheels"].values()}
        self.cached = {path.name.split("-")[0].replace("_", "-").lower() for path in wheels.glob("*.whl")}
        self.absent = compiled - self.cached

    # -- ours

    def ours(self) -> None:
        """The site playbook, from the locks."""
        for name in ("releases", "state", "current", "wheels", "build"):
            self.remove(self.root / "ours" / name)
        values = {
            "stack_root": str(self.root / "ours"),
            "release_profile": False,
            "venv_cache_dir": str(self.root / "uv-cache"),
            "wheels_cache_controller": str(self.wheels),
        }
        self.log.unlink(missing_ok=True)
        env = ansible_env(ANSIBLE_CALLBACKS_ENABLED="ansible.posix.profile_tasks", ANSIBLE_LOG_PATH=str(self.log))
        timed(["ansible-playbook", "site.yml", "-e", json.dumps(values)], env, cwd=str(ROOT))

    # -- pip, as the image's recipe does it: one command after another, each resolving anew

    def recipe(self) -> List[List[str]]:
        """pip's commands, in the order of the recipe, held to the lock's versions where pip accepts them."""
        trio = ["torch", "torchvision", "torchaudio"]
        layers = {layer["name"]: layer["requires"] for layer in self.stack["layers"]}
        pinned = self.reader.pinned
        rest = [line for line in layers["torch"] if line not in trio]
        commands = [pinned(self.stack, trio), pinned(self.stack, rest)]
        commands.append(["--no-build-isolation", *pinned(self.stack, layers["flashinfer"])])
        commands.append(pinned(self.stack, layers["sglang"]))
        commands.append([f"nvidia-cudnn-cu12=={self.stack['cuda']['cudnn']}"])
        for line in pinned(self.stack, [r for r in layers["megatron"] if r not in self.absent]):
            commands.append(["--no-deps", line])
        return commands

    def constraints(self) -> Path:
        """Every version of the lock but cuDNN's, which torch itself refuses."""
        lines = []
        for name in ("torch.pypi", "flashinfer", "sglang", "megatron"):
            text = (Path(self.stack["folder"]) / "locks" / f"{name}.txt").read_text(encoding="utf-8")
            lines += [
                f"{entry['name']}=={entry['version']}" + (f"; {entry['marker']}" if entry.get("marker") else "")
                for entry in self.reader.parse_lock(text)
                if entry["name"] != "nvidia-cudnn-cu12"
            ]
        path = self.root / "constraints.txt"
        path.write_text("\n".join(sorted(set(lines))) + "\n", encoding="utf-8")
        return path

    def pip_commands(self) -> List[List[str]]:
        """The commands with their options."""
        python = str(self.root / "pip" / "bin" / "python")
        common = [python, "-m", "pip", "install", "-q", "-c", str(self.constraints())]
        common += ["--find-links", str(self.wheels)] if self.cached else []
        return [[*common, *command] for command in self.recipe()]

    def pip(self) -> None:
        """A new environment by pip, and CUDA's wheels into a folder of their own."""
        self.remove(self.root / "pip", self.root / "pip-cuda")
        env = {"PIP_CACHE_DIR": str(self.root / "pip-cache")}
        timed([self.python, "-m", "venv", str(self.root / "pip")])
        for command in self.pip_commands():
            timed(command, env)
        python = str(self.root / "pip" / "bin" / "python")
        lock = Path(self.stack["folder"]) / "locks" / "cuda.txt"
        timed([python, "-m", "pip", "install", "-q", "--no-deps", "--require-hashes", "-r", str(lock), "--target",
               str(self.root / "pip-cuda")], env)  # fmt: skip

    # -- uv alone: the limit

    def uv(self, *more: str) -> None:
        """The wheels of the locks by bare `uv pip sync`: no proof, nothing that has to be built against Torch."""
        self.remove(self.root / "uv", self.root / "uv-cuda")
        env = {"UV_CACHE_DIR": str(self.root / "uv-cache"), "UV_SYSTEM_CERTS": "1", "UV_NATIVE_TLS": "1"}
        uv = str(ROOT / ".venv" / "bin" / "uv")
        timed([uv, "venv", "-q", "--python", self.python, str(self.root / "uv")], env)
        timed(
            [
                uv,
                "pip",
                "sync",
                "-q",
                *more,
                "--require-hashes",
                "--python",
                str(self.root / "uv"),
                str(self.wheel_lock()),
            ],
            env,
        )
        lock = Path(self.stack["folder"]) / "locks" / "cuda.txt"
        timed([uv, "pip", "install", "-q", *more, "--no-deps", "--require-hashes", "-r", str(lock), "--python",
               str(self.root / "uv"), "--target", str(self.root / "uv-cuda")], env)  # fmt: skip

    def uv_compiled(self) -> None:
        """The same with uv's own compilation of bytecode, which the roles have, too."""
        self.uv("--compile-bytecode")

    def wheel_lock(self) -> Path:
        """The locks as one file, without what has no wheel."""
        kept: List[str] = []
        built = {"flashinfer-python", "flash-attn", "transformer-engine-torch", "megatron-core", "pylatexenc",
                 "antlr4-python3-runtime"}  # fmt: skip
        for name in ("torch.pypi", "sglang", "megatron"):
            text = (Path(self.stack["folder"]) / "locks" / f"{name}.txt").read_text(encoding="utf-8")
            block: List[str] = []
            for line in text.splitlines():
                if line.startswith("#") or not line.strip():
                    continue
                if not line.startswith(" "):
                    block = [line]
                    keep = line.split("==")[0].strip() not in built
                else:
                    block = [line]
                if keep:
                    kept += block
        path = self.root / "wheels.txt"
        path.write_text("\n".join(kept) + "\n", encoding="utf-8")
        return path

    @staticmethod
    def remove(*paths: Path) -> None:
        for path in paths:
            if path.is_symlink():
                path.unlink()
            elif path.exists():
                shutil.rmtree(path)


def accounts(busy: Mapping[str, float]) -> str:
    """Where the roles' processor time goes, told by that of uv's sides."""
    return (
        f"of their {busy[ROLES]:.0f} s of processor time, {busy[BARE]:.0f} are what bare uv takes and "
        f"{busy[COMPILED] - busy[BARE]:.0f} what uv's own compilation adds; the other {busy[ROLES] - busy[COMPILED]:.0f} are "
        "what has no wheel (FlashInfer first), the import of the extensions, the proof and Ansible itself."
    )


def slowest_tasks(log: str, count: int = 9) -> str:
    """The slowest tasks of a run, as the callback profile_tasks tells them."""
    found = re.findall(r"\| (.+?) -{2,} ([\d.]+)s$", log.rpartition("TASKS RECAP")[2], re.MULTILINE)
    return ", ".join(f"{name.rpartition(' : ')[2]} {float(seconds):.1f} s" for name, seconds in found[:count])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--wheels", type=Path, default=Path.home() / ".cache/verl-baremetal/wheels")
    parser.add_argument("--python", default="/usr/bin/python3", help="the Python that the roles take on this machine")
    parser.add_argument("--cold", type=int, default=1)
    parser.add_argument("--warm", type=int, default=3)
    options = parser.parse_args()
    options.root.mkdir(parents=True, exist_ok=True)
    sides = Sides(options.root, options.wheels, options.python)
    runs: Dict[str, List[float]] = {}
    busy: Dict[str, List[float]] = {}
    slowest: Dict[str, str] = {}
    cases = {
        "pip, in the recipe's order": (sides.pip, ("pip", "pip-cuda", "pip-cache")),
        BARE: (sides.uv, ("uv", "uv-cuda", "uv-cache")),
        COMPILED: (sides.uv_compiled, ("uv", "uv-cuda", "uv-cache")),
        ROLES: (sides.ours, ("ours", "uv-cache")),
    }
    for temperature, rounds in (("cold", options.cold), ("warm", options.warm)):
        for _round in range(rounds):
            for name, (case, folders) in cases.items():
                if temperature == "cold":
                    sides.remove(*(options.root / folder for folder in folders))
                before = busy_seconds()
                runs.setdefault(f"{name}, {temperature}", []).extend(interleave({name: case}, 1)[name])
                if name == ROLES:
                    slowest[temperature] = slowest_tasks(sides.log.read_text(encoding="utf-8"))
                busy.setdefault(f"{name}, {temperature}", []).append(busy_seconds() - before)
    sides.remove(options.root / "uv", options.root / "uv-cuda")
    kept = sum(path.stat().st_size for path in (options.root / "pip-cache").rglob("*") if path.is_file()) / 1e6
    left_out = sorted(sides.absent)
    least = median(busy[f"{ROLES}, cold"]) / (os.cpu_count() or 1)
    save(
        Result(
            name="python_stack",
            title="The Python stack and CUDA's wheels",
            question="From nothing (cold) and with every file in the installer's cache (warm). The roles also build what has "
            "no wheel, compile bytecode, prove every file against its RECORD, import the extensions, check the versions, "
            "write everything to the disk and switch.",
            runs=runs,
            ratios=[
                {
                    "what": "pip to the roles, cold",
                    "of": "pip, in the recipe's order, cold",
                    "to": "the roles, cold",
                    "target": "",
                },
                {
                    "what": "pip to the roles, warm",
                    "of": "pip, in the recipe's order, warm",
                    "to": "the roles, warm",
                    "target": "",
                },
                {
                    "what": "the roles to uv with its bytecode, cold",
                    "of": "the roles, cold",
                    "to": "uv pip sync with its bytecode, cold",
                    "target": "",
                },
                {
                    "what": "the roles to uv with its bytecode, warm",
                    "of": "the roles, warm",
                    "to": "uv pip sync with its bytecode, warm",
                    "target": "",
                },
                {
                    "what": "the roles to bare uv, cold",
                    "of": "the roles, cold",
                    "to": "bare uv pip sync (the limit), cold",
                    "target": "at most 1.25",
                },
                {
                    "what": "the roles to bare uv, warm",
                    "of": "the roles, warm",
                    "to": "bare uv pip sync (the limit), warm",
                    "target": "",
                },
            ],  # fmt: skip
            figures={
                "processor time of all cores, the whole machine": ", ".join(
                    f"{name} {median(values):.0f} s" for name, values in busy.items()
                ),
                "kept in pip's cache after its runs": f"{kept:.0f} MB",
                **{f"where the roles' time goes, {temperature}": words for temperature, words in slowest.items()},
            },
            targets=[
                target(
                    "the roles to bare uv, cold",
                    ratio(runs, "the roles, cold", f"{BARE}, cold"),
                    "at most",
                    1.25,
                    "times",
                    f"uv with its bytecode: {ratio(runs, f'{COMPILED}, cold', f'{BARE}, cold'):.2f} times; "
                    f"the roles' processor time on cores that never idle: {least / median(runs[f'{BARE}, cold']):.2f} times",
                ),
            ],  # fmt: skip
            notes=[
                "pip's side ends with cuDNN 9.8.0.87 over what Torch asks for, as the recipe does. uv's sides leave out what "
                "has to be built from a source archive (FlashInfer, Megatron core and two small packages); bare uv compiles "
                "no bytecode, pip compiles it. TransformerEngine for Torch comes from the wheel cache on pip's side and the roles'.",
                "Where pip's cache holds less than the stack's gigabytes, pip kept none of the wheels, and its warm runs fetched "
                "them again.",
                "Where a machine has few cores, unpacking keeps all of them busy, and what the roles do beyond uv comes on top: "
                + accounts({name: median(busy[f"{name}, cold"]) for name in (BARE, COMPILED, ROLES)})
                + f" With no core ever idle that would be {least:.0f} s. The modules are compiled in the background of the later layers, and only "
                "once: a warm run takes them from the cache.",
            ],
            left_out=[f"{name}: not in the wheel cache of this machine" for name in left_out],
        )
    )


if __name__ == "__main__":
    main()
