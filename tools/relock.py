#!/usr/bin/env python3
# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Makes the locks of a stack with uv: one resolution, cut into layers: `python tools/relock.py FOLDER [--uv PATH]`.

Reads stack.yml and relock.yml of the stack's folder and writes its locks/*.txt.
A package belongs to the first layer whose closure needs it, so layers are disjoint and together are the resolution.
Only files that the supported Pythons on x86_64 Linux can use keep their hashes; a source distribution is allowed where
a supported Python has no wheel, and is then named in the lock's header (`# sources:`).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomllib
import yaml
from packaging.markers import Marker
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / ".tree"))

from ansible_collections.verl.baremetal.plugins.plugin_utils import stack_file

ENVIRONMENT = "sys_platform == 'linux' and platform_machine == 'x86_64' and implementation_name == 'cpython'"
PATCHES = range(30)


@dataclass(frozen=True)
class Package:
    """One pin: a name, a version, the Pythons it is for and the files that may be installed."""

    name: str
    version: str
    pythons: tuple[str, ...]
    wheels: tuple[tuple[str, str], ...] = ()  # (file name, sha256)
    sdist: tuple[str, str] | None = None
    size: int = 0  # of the wheels of the newest Python, or of the sdist

    @property
    def key(self) -> tuple[str, str]:
        return (self.name, self.version)


class RelockError(Exception):
    """Says what was found, what is needed and what to do."""


def python_tuple(text: str) -> tuple[int, int]:
    major, minor = text.split(".")
    return int(major), int(minor)


def platforms(glibc: str) -> list[str]:
    """Platform tags of x86_64 Linux up to a glibc, best first."""
    legacy = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
    tags: list[str] = []
    for minor in range(python_tuple(glibc)[1], 4, -1):
        tags.append(f"manylinux_2_{minor}_x86_64")
        if minor in legacy:
            tags.append(f"{legacy[minor]}_x86_64")
    return [*tags, "linux_x86_64"]


def usable_tags(python: str, glibc: str) -> frozenset[Tag]:
    version, plats = python_tuple(python), platforms(glibc)
    interpreter = "cp{}{}".format(*version)
    return frozenset([*cpython_tags(version, platforms=plats), *compatible_tags(version, interpreter, plats)])


def applies_to(marker: str, pythons: Sequence[str]) -> tuple[str, ...]:
    """The Pythons that a marker selects. A marker that tells patch releases apart cannot be written back: an error."""
    if not marker:
        return tuple(pythons)
    parsed, chosen = Marker(marker), []
    for python in pythons:
        answers = {
            parsed.evaluate(
                {
                    "implementation_name": "cpython",
                    "platform_python_implementation": "CPython",
                    "platform_machine": "x86_64",
                    "platform_system": "Linux",
                    "sys_platform": "linux",
                    "os_name": "posix",
                    "python_version": python,
                    "python_full_version": f"{python}.{patch}",
                    "implementation_version": f"{python}.{patch}",
                    "extra": "",
                }
            )
            for patch in PATCHES
        }
        if len(answers) > 1:
            raise RelockError(f"marker {marker!r} depends on the patch release of Python {python}")
        if answers == {True}:
            chosen.append(python)
    return tuple(chosen)


def marker_for(chosen: Sequence[str], pythons: Sequence[str]) -> str:
    """The shortest marker that selects some of the supported Pythons."""
    if list(chosen) == list(pythons):
        return ""
    flags = [python in chosen for python in pythons]
    first, last = flags.index(True), len(flags) - 1 - flags[::-1].index(True)
    if not all(flags[first : last + 1]):
        return " or ".join(f"python_version == '{python}'" for python in chosen)
    parts = []
    if first > 0:
        parts.append(f"python_version >= '{pythons[first]}'")
    if last < len(pythons) - 1:
        parts.append(f"python_version < '{pythons[last + 1]}'")
    return " and ".join(parts)


def file_name(entry: dict[str, Any]) -> str:
    name: str = entry.get("name") or entry["url"].rsplit("/", 1)[-1]
    return name.replace("%2B", "+")


def read_pylock(text: str, pythons: Sequence[str], glibc: str) -> list[Package]:
    """The packages of a pylock.toml that the supported Pythons need, with the files that they can use."""
    tags = {python: usable_tags(python, glibc) for python in pythons}
    packages = []
    for item in tomllib.loads(text).get("packages", []):
        name, version = canonicalize_name(item["name"]), item["version"]
        chosen = applies_to(item.get("marker", ""), pythons)
        if not chosen:
            continue
        wheels: dict[str, str] = {}
        served, size = set(), 0
        for entry in item.get("wheels", []):
            file_tags = parse_wheel_filename(file_name(entry))[3]
            fits = {python for python in chosen if file_tags & tags[python]}
            if fits:
                wheels[file_name(entry)] = entry["hashes"]["sha256"]
                served |= fits
                if chosen[-1] in fits:
                    size = max(size, entry.get("size", 0))
        sdist = None
        if served != set(chosen):
            if "sdist" not in item:
                missing = ", ".join(sorted(set(chosen) - served))
                raise RelockError(f"{name} {version} has no wheel for Python {missing} and no source distribution")
            sdist = (file_name(item["sdist"]), item["sdist"]["hashes"]["sha256"])
            size = size or item["sdist"].get("size", 0)
        packages.append(Package(name, version, chosen, tuple(sorted(wheels.items())), sdist, size))
    return sorted(packages, key=lambda package: (package.name, package.pythons))


def slice_layers(
    closures: Sequence[tuple[str, Iterable[tuple[str, str]]]], resolution: Sequence[Package]
) -> dict[str, list[Package]]:
    """Gives every package of the resolution to the first layer whose closure has it."""
    known = {package.key: package for package in resolution}
    owner: dict[tuple[str, str], str] = {}
    for layer, closure in closures:
        for key in closure:
            if key not in known:
                raise RelockError(f"layer {layer} needs {key[0]} {key[1]}, which is not in the resolution")
            owner.setdefault(key, layer)
    orphans = sorted(set(known) - set(owner))
    if orphans:
        raise RelockError(f"no layer needs {', '.join(' '.join(key) for key in orphans)}")
    # All versions of a package (one for each group of Pythons) live in one layer.
    order = {layer: index for index, (layer, _keys) in enumerate(closures)}
    first: dict[str, str] = {}
    for (name, _version), layer in owner.items():
        if name not in first or order[layer] < order[first[name]]:
            first[name] = layer
    layers: dict[str, list[Package]] = {layer: [] for layer, _keys in closures}
    for package in resolution:
        layers[first[package.name]].append(package)
    return layers


def apply_variant(packages: Sequence[Package], changed: Sequence[Package]) -> list[Package]:
    """A variant replaces packages of the layer by name; it may not add any."""
    names = {package.name for package in packages}
    added = sorted(package.name for package in changed if package.name not in names)
    if added:
        raise RelockError(f"the variant adds {', '.join(added)}; it may only replace packages of the layer")
    replaced = {package.name for package in changed}
    kept = [package for package in packages if package.name not in replaced]
    return sorted([*kept, *changed], key=lambda package: (package.name, package.pythons))


def files_to_packages(files: dict[str, dict[str, str]], pythons: Sequence[str]) -> list[Package]:
    """Packages whose hashes stand in relock.yml: `name-version: {cp310: sha256, ...}`."""
    packages = []
    for title, hashes in files.items():
        name, version = title.split("-", 1)
        wanted = {"cp" + python.replace(".", "") for python in pythons}
        if set(hashes) != wanted:
            raise RelockError(f"{title}: hashes for {sorted(hashes)} found, for {sorted(wanted)} needed")
        wheels = tuple((f"{name}-{version}-{tag}-{tag}-manylinux_2_28_x86_64.whl", sha) for tag, sha in hashes.items())
        packages.append(Package(canonicalize_name(name), version, tuple(pythons), wheels))
    return packages


def pin(package: Package, pythons: Sequence[str]) -> str:
    """`name==version`, with a marker where it is not for every Python."""
    marker = marker_for(package.pythons, pythons)
    return f"{package.name}=={package.version}" + (f" ; {marker}" if marker else "")


def render(packages: Sequence[Package], pythons: Sequence[str], title: str) -> str:
    """The text of a lock: a header and one logical line for each pin."""
    out = [f"# {title}", "# Made by `make relock`; do not edit.", f"# pythons: {' '.join(pythons)}"]
    sources = [source_label(package, pythons) for package in packages if package.sdist]
    out.append(f"# sources: {', '.join(sources) or 'none'}")
    for package in packages:
        hashes = [sha for _name, sha in package.wheels] + ([package.sdist[1]] if package.sdist else [])
        if not hashes:
            raise RelockError(f"{package.name} {package.version} has no usable file")
        out.append(" \\\n".join([pin(package, pythons), *[f"    --hash=sha256:{sha}" for sha in sorted(set(hashes))]]))
    return "\n".join(out) + "\n"


def source_label(package: Package, pythons: Sequence[str]) -> str:
    """`name`, or `name (3.12)` where only some Pythons have no wheel."""
    if not package.wheels:
        return package.name
    tags = {"cp" + python.replace(".", ""): python for python in package.pythons}
    missing = [python for tag, python in tags.items() if not any(f"-{tag}-" in name for name, _sha in package.wheels)]
    return f"{package.name} ({' '.join(missing)})"


def before(day: str) -> str:
    """uv's --exclude-newer for a day that still counts, independent of the time zone."""
    return f"{datetime.date.fromisoformat(day) + datetime.timedelta(days=1)}T00:00:00Z"


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without what would change a resolution: a machine's own settings do not belong into a lock."""
    wanted = ("UV_CACHE_DIR", "UV_DEFAULT_INDEX", "UV_HTTP_TIMEOUT")
    strange = ("PIP_", "UV_", "VIRTUAL_ENV", "CONDA", "PYTHON")
    kept = {key: value for key, value in environ.items() if key in wanted or not key.startswith(strange)}
    return {"UV_HTTP_TIMEOUT": "180", **kept}


class Uv:
    """Runs uv with the settings of the stack and of nobody else."""

    def __init__(self, uv: str, pythons: Sequence[str], replaced: Sequence[str], metadata: Sequence[dict[str, Any]]):
        self.uv, self.pythons = uv, list(pythons)
        low, high = pythons[0], python_tuple(pythons[-1])
        lines = [
            "[project]",
            'name = "relock"',
            'version = "0"',
            f'requires-python = ">={low},<{high[0]}.{high[1] + 1}"',
            "[tool.uv]",
            f"environments = {json.dumps([ENVIRONMENT])}",
            f"override-dependencies = {json.dumps(list(replaced))}",
        ]
        for item in metadata:
            lines.append("[[tool.uv.dependency-metadata]]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in item.items()]
        self.project = "\n".join(lines) + "\n"
        self.env = clean_environment(os.environ)

    def compile(
        self, requires: Sequence[str], cutoff: str = "", constraints: Sequence[str] = (), extra: Sequence[str] = ()
    ) -> str:
        """The pylock.toml text of a resolution; `extra` are more options of uv's."""
        with tempfile.TemporaryDirectory(prefix="relock-") as folder:
            root = Path(folder)
            (root / "pyproject.toml").write_text(self.project)
            (root / "requirements.in").write_text("\n".join(requires) + "\n")
            (root / "constraints.txt").write_text("\n".join(constraints) + "\n")
            command = [self.uv, "pip", "compile", "requirements.in", "--constraints", "constraints.txt", "--quiet"]
            command += ["--universal", "--python-version", self.pythons[0], "--format", "pylock.toml"]
            command += ["--output-file", "pylock.toml"]
            command += ["--exclude-newer", before(cutoff)] if cutoff else []
            command += extra
            done = subprocess.run(command, cwd=root, env=self.env, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RelockError(f"uv could not resolve {' '.join(requires[:3])} ...:\n{done.stderr.strip()}")
            return (root / "pylock.toml").read_text()


def pinned(stack: dict[str, Any], requires: Sequence[str]) -> list[str]:
    """The requirements with the stack's own versions; one that the stack does not pin exactly stays as it is."""
    return stack_file.pinned(stack, requires)


def overrides(stack: dict[str, Any]) -> list[str]:
    """What the stack replaces on purpose: the requirements of its intended conflicts, at the stack's own versions."""
    return pinned(stack, sorted({conflict["requires"] for conflict in stack["intended_conflicts"]}))


def relock(folder: Path, uv_path: str) -> None:
    stack = stack_file.load(folder.name, [str(folder.parent)])
    inputs = yaml.safe_load((folder / "relock.yml").read_text())
    pythons, glibc, cutoff = inputs["pythons"], inputs["glibc"], str(stack["cutoff"])
    uv = Uv(uv_path, pythons, overrides(stack), inputs.get("metadata", []))

    def read(text: str) -> list[Package]:
        return read_pylock(text, pythons, glibc)

    layers = [(layer["name"], pinned(stack, layer["requires"])) for layer in stack["layers"]]
    resolution = read(uv.compile([line for _name, requires in layers for line in requires], cutoff))
    say(f"{stack['name']}: {len(resolution)} packages")
    constraints = [pin(package, pythons) for package in resolution]
    closures, asked = [], []
    for name, requires in layers:
        asked += requires
        # All metadata is in uv's cache by now: a closure within the resolution asks the index nothing.
        closure = read(uv.compile(asked, cutoff, constraints, ["--offline"]))
        closures.append((name, [package.key for package in closure]))
    sliced = slice_layers(closures, resolution)

    locks: dict[str, tuple[str, list[Package]]] = {}
    varying = {variant["layer"] for variant in inputs.get("variants", [])}
    for name, packages in sliced.items():
        locks[f"{name}.pypi" if name in varying else name] = (f"{stack['name']}, layer {name}", packages)
    for variant in inputs.get("variants", []):
        changed = [
            *read(uv.compile(pinned(stack, variant["pins"]), extra=["--no-deps"])),
            *files_to_packages(variant.get("files", {}), pythons),
        ]
        title = f"{stack['name']}, layer {variant['layer']}, variant {variant['name']}"
        locks[f"{variant['layer']}.{variant['name']}"] = (title, apply_variant(sliced[variant["layer"]], changed))
    tools = Uv(uv_path, pythons, [], [])
    if stack["cuda"] and stack["cuda"].get("requires"):
        pins = read(tools.compile(pinned(stack, stack["cuda"]["requires"]), inputs["cutoffs"]["cuda"]))
        locks["cuda"] = (f"{stack['name']}, CUDA home from wheels", pins)
    if "uv" in stack["tools"]:
        pins = [replace(package, sdist=None) for package in read(tools.compile([f"uv=={stack['tools']['uv']}"]))]
        locks["uv"] = (f"{stack['name']}, the installer", pins)

    target = folder / "locks"
    target.mkdir(exist_ok=True)
    for name, (title, packages) in locks.items():
        (target / f"{name}.txt").write_text(render(packages, pythons, title))
        sources = [source_label(package, pythons) for package in packages if package.sdist]
        size = sum(package.size for package in packages) / 1e6
        say(f"  {name}.txt: {len(packages)} packages, {size:.0f} MB, sources: {', '.join(sources) or 'none'}")
    lines = ["# The whole resolution; the layers' locks are its slices. Made by `make relock`; do not edit."]
    (target / "resolution.txt").write_text("\n".join([*lines, *constraints]) + "\n")
    for stale in sorted(set(target.glob("*.txt")) - {target / f"{name}.txt" for name in [*locks, "resolution"]}):
        say(f"  {stale.name} is no longer made: remove it")


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--uv", default="uv")
    args = parser.parse_args(argv)
    try:
        relock(args.folder, args.uv)
    except (RelockError, stack_file.StackError) as error:
        sys.stderr.write(f"relock: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
