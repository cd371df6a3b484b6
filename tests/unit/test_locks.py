# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The committed locks of every stack of the collection hold together: what tools/relock.py promises."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ansible_collections.verl.baremetal.plugins.plugin_utils import stack_file

NAMES = sorted(path.parent.name for path in Path(stack_file.SHIPPED).glob("*/relock.yml"))
HASH = re.compile(r"sha256:[0-9a-f]{64}")


@lru_cache(maxsize=None)
def inputs(name: str) -> dict:
    return yaml.safe_load((Path(stack_file.SHIPPED) / name / "relock.yml").read_text(encoding="utf-8"))


@lru_cache(maxsize=None)
def texts(name: str) -> dict[str, str]:
    folder = Path(stack_file.SHIPPED) / name / "locks"
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.txt"))}


def listed(text: str) -> list[dict]:
    """The lines of resolution.txt: pins without hashes, which no host reads and the collection's parser therefore refuses."""
    lines = [line.partition(";") for line in text.splitlines() if line and not line.startswith("#")]
    pairs = [(pin.strip().split("=="), marker.strip() or None) for pin, _semicolon, marker in lines]
    return [{"name": name, "version": version, "marker": marker, "hashes": []} for (name, version), marker in pairs]


def entries(name: str, lock: str) -> list[dict]:
    return listed(texts(name)[lock]) if lock == "resolution" else stack_file.parse_lock(texts(name)[lock])


def pins(name: str, lock: str) -> set[tuple[str, str, str | None]]:
    return {(entry["name"], entry["version"], entry["marker"]) for entry in entries(name, lock)}


def layer_locks(name: str, variant: str = "pypi") -> list[str]:
    stack = stack_file.load(name)
    return [f"{layer['name']}.{variant}" if layer["name"] in stack["variants"] else layer["name"] for layer in stack["layers"]]


def test_there_is_a_stack_with_locks():
    assert "verl0.5-preview-cu128" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_lock_that_the_stack_needs_is_there_and_no_other(name):
    stack = stack_file.load(name)
    wanted = {"resolution"} | {"uv"} & set(stack["tools"])
    wanted |= {"cuda"} if stack["cuda"] else set()
    for layer in stack["layers"]:
        variants = stack["variants"].get(layer["name"])
        wanted |= {f"{layer['name']}.{variant}" for variant in variants} if variants else {layer["name"]}
    assert set(texts(name)) == wanted


@pytest.mark.parametrize("name", NAMES)
def test_layers_are_disjoint(name):
    owner: dict[str, str] = {}
    for lock in layer_locks(name):
        for package in {entry["name"] for entry in entries(name, lock)}:
            assert package not in owner, f"{package} is in {owner[package]} and in {lock}"
            owner[package] = lock
    assert len(owner) > len(stack_file.load(name)["layers"])


@pytest.mark.parametrize("name", NAMES)
def test_layers_together_are_the_resolution(name):
    together = set().union(*(pins(name, lock) for lock in layer_locks(name)))
    assert together == pins(name, "resolution")


@pytest.mark.parametrize("name", NAMES)
def test_a_variant_differs_only_in_the_packages_that_it_names(name):
    for variant in inputs(name)["variants"]:
        named = {canonicalize_name(Requirement(pin).name) for pin in variant["pins"]}
        named |= {canonicalize_name(title.split("-")[0]) for title in variant["files"]}
        plain = {entry["name"]: entry for entry in entries(name, f"{variant['layer']}.pypi")}
        other = {entry["name"]: entry for entry in entries(name, f"{variant['layer']}.{variant['name']}")}
        assert set(plain) == set(other)
        changed = {package for package in plain if plain[package] != other[package]}
        assert changed and changed <= named


@pytest.mark.parametrize("name", NAMES)
def test_a_variant_holds_its_own_build_with_the_recorded_hashes(name):
    stack = stack_file.load(name)
    for variant in inputs(name)["variants"]:
        local = stack["variants"][variant["layer"]][variant["name"]]["local"]
        other = {entry["name"]: entry for entry in entries(name, f"{variant['layer']}.{variant['name']}")}
        for title, hashes in variant["files"].items():
            package, version = title.split("-")
            assert other[package]["version"] == version == f"{stack_file.pins(stack)[package]}+{local}"
            assert other[package]["hashes"] == sorted(f"sha256:{sha}" for sha in hashes.values())


@pytest.mark.parametrize("name", NAMES)
def test_every_pin_of_the_stack_is_in_its_locks(name):
    stack = stack_file.load(name)
    locked = {package: version for lock in layer_locks(name) for package, version, _marker in pins(name, lock)}
    for component in stack["components"]:
        if component["kind"] == "python":
            assert locked[canonicalize_name(component["dist"])] == component["version"], component["name"]
            lock = component["layer"] + (".pypi" if component["layer"] in stack["variants"] else "")
            assert canonicalize_name(component["dist"]) in {package for package, _version, _marker in pins(name, lock)}
    cuda = {package: version for package, version, _marker in pins(name, "cuda")}
    assert cuda["cuda-toolkit"] == stack["cuda"]["toolkit"]
    assert cuda["nvidia-cuda-nvcc-cu12"] == stack["cuda"]["nvcc"]
    assert cuda["nvidia-cudnn-cu12"] == stack["cuda"]["cudnn"] == locked["nvidia-cudnn-cu12"]
    assert pins(name, "uv") == {("uv", stack["tools"]["uv"], None)}


@pytest.mark.parametrize("name", NAMES)
def test_every_requirement_of_a_layer_is_met_by_that_layer_or_an_earlier_one(name):
    stack, locked = stack_file.load(name), {}
    for layer, lock in zip(stack["layers"], layer_locks(name)):
        locked.update({package: version for package, version, _marker in pins(name, lock)})
        for requirement in map(Requirement, stack_file.pinned(stack, layer["requires"])):
            assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), str(requirement)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_denied_is_locked(name):
    denied = {entry["name"] for entry in stack_file.load(name)["denied"]}
    for lock in texts(name):
        assert not denied & {package for package, _version, _marker in pins(name, lock)}


@pytest.mark.parametrize(("name", "lock"), [(name, lock) for name in NAMES for lock in texts(name)])
class TestForm:
    def test_every_line_pins_and_is_hashed(self, name, lock):
        for entry in entries(name, lock):
            assert entry["name"] == canonicalize_name(entry["name"]) and entry["version"]
            if lock != "resolution":
                assert entry["hashes"] and all(HASH.fullmatch(digest) for digest in entry["hashes"]), entry["name"]
                assert entry["hashes"] == sorted(set(entry["hashes"]))

    def test_lines_are_sorted_and_unconditional_names_stand_once(self, name, lock):
        order = [entry["name"] for entry in entries(name, lock)]
        assert order == sorted(order)
        for python in inputs(name)["pythons"]:
            environment = stack_file.marker_environment(python)
            chosen = [e["name"] for e in entries(name, lock) if not e["marker"] or Marker(e["marker"]).evaluate(environment)]
            assert len(chosen) == len(set(chosen)), f"a name twice for Python {python}"

    def test_no_place_is_named(self, name, lock):
        text = texts(name)[lock]
        assert "://" not in text and "@" not in text and "--index" not in text and "--find-links" not in text

    def test_the_header_names_its_sources(self, name, lock):
        if lock == "resolution":
            return
        header = [line for line in texts(name)[lock].splitlines() if line.startswith("#")]
        assert f"# pythons: {' '.join(inputs(name)['pythons'])}" in header
        assert header[-1].startswith("# sources: ")
        packages = {package for package, _version, _marker in pins(name, lock)}
        named = [re.sub(r" \(.*", "", source) for source in header[-1].removeprefix("# sources: ").split(", ")]
        assert set(named) <= packages | {"none"}
