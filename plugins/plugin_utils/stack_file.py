# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Reads a stack file and its locks on the controller.

A stack is a folder ``<name>/`` with ``stack.yml`` and ``locks/<lock>.txt``. :func:`load` returns the file with what follows from it
filled in (a component's version is stated once), and :func:`requirements` the lines of one lock for one Python.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import typing as t

from ansible_collections.verl.baremetal.plugins.module_utils import layer as lock_lines
from ansible_collections.verl.baremetal.plugins.module_utils.record import normalise

try:
    import yaml
except ImportError:  # ansible-core brings it; the sanity tests import without
    yaml = None  # type: ignore[assignment]

HERE = os.path.dirname(os.path.abspath(__file__))
SHIPPED = os.path.normpath(os.path.join(HERE, "..", "..", "roles", "stack", "files"))
SCHEMA = 1
REQUIRED = ("schema", "name", "platform", "python", "layers", "components", "tools")
# What the roles install, and what they have a compile for; anything else would be planned and never installed.
LAYERS = ("torch", "flash_attention", "flashinfer", "sglang", "apex", "megatron")
WHEELS = ("flash_attention", "transformer_engine", "apex")
# A component's keys, by its kind.
KINDS = {
    "driver": (),
    "cuda": (),
    "cudnn": (),
    "python": ("dist", "version"),
    "commit": ("dist", "version", "commit"),
}

_cache: dict[tuple[str, float], dict[str, t.Any]] = {}


class StackError(Exception):
    """A stack that is unknown, unreadable or wrong; the text says what was found and what to do."""


def folders(search_path: t.Sequence[str]) -> list[str]:
    """The folders in which stacks are looked for: the user's first, then the collection's own.

    A text, as ``-e stack_path=a,b`` gives one, is a list with commas.
    """
    if isinstance(search_path, str):
        search_path = [part.strip() for part in search_path.split(",") if part.strip()]
    return [os.path.expanduser(p) for p in search_path] + [SHIPPED]


def known(search_path: t.Sequence[str] = ()) -> list[str]:
    """Names of all stacks that can be found, sorted."""
    names: t.Set[str] = set()
    for folder in folders(search_path):
        if os.path.isdir(folder):
            names.update(n for n in os.listdir(folder) if os.path.isfile(os.path.join(folder, n, "stack.yml")))
    return sorted(names)


def find(name: str, search_path: t.Sequence[str] = ()) -> str:
    """The folder of the stack ``name``; raises StackError with the known names."""
    for folder in folders(search_path):
        if os.path.isfile(os.path.join(folder, name, "stack.yml")):
            return os.path.join(folder, name)
    raise StackError(
        "stack_name: there is no stack named %r. Known are: %s. Set stack_name to one of them, or stack_path to the folder that holds yours."
        % (name, ", ".join(known(search_path)) or "none")
    )


def load(name: str, search_path: t.Sequence[str] = ()) -> dict[str, t.Any]:
    """The stack ``name`` as a dict, with ``folder`` and ``digest`` (of the stack file and all its locks) added.

    Raises:
        StackError: unknown name, broken YAML, another schema, a key that is missing, a reference to a component that does not
            exist, a layer or a wheel that no role installs.
    """
    folder = find(name, search_path)
    path = os.path.join(folder, "stack.yml")
    key = (path, os.stat(path).st_mtime)
    if key not in _cache:
        _cache[key] = _read(folder, path, name)
    return _cache[key]


def _read(folder: str, path: str, name: str) -> dict[str, t.Any]:
    with open(path, encoding="utf-8") as stream:
        text = stream.read()
    try:
        stack = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise StackError("%s is not YAML: %s" % (path, error)) from error
    if not isinstance(stack, dict):
        raise StackError("%s holds no mapping" % path)
    missing = [k for k in REQUIRED if k not in stack]
    if missing:
        raise StackError("%s lacks %s" % (path, ", ".join(missing)))
    if stack["schema"] != SCHEMA:
        raise StackError("%s has schema %s; this collection reads schema %s" % (path, stack["schema"], SCHEMA))
    if stack["name"] != name:
        raise StackError("%s calls itself %r: the folder and the name must be the same" % (path, stack["name"]))
    _check(stack, path)
    _complete(stack, path)
    stack["folder"] = folder
    stack["digest"] = digest(folder)
    return stack


def _need(value: t.Any, keys: t.Iterable[str], where: str) -> None:
    """Raise StackError for a key that is read elsewhere and not there."""
    if not isinstance(value, dict):
        raise StackError("%s is no mapping" % where)
    missing = [key for key in keys if value.get(key) is None]
    if missing:
        raise StackError("%s lacks %s" % (where, ", ".join(missing)))


def _check(stack: dict[str, t.Any], path: str) -> None:
    """What a stack of one's own may get wrong, before it is a KeyError or a host has been changed."""
    _need(stack["platform"], ("architecture", "glibc", "systems"), path + ": platform")
    for system in stack["platform"]["systems"]:
        _need(system, ("id", "version"), path + ": platform.systems: an entry")
    _need(stack["python"], ("preferred",), path + ": python")
    _need(stack["tools"], ("uv",), path + ": tools")
    for key in ("layers", "components"):
        if not isinstance(stack[key], list):
            raise StackError("%s: %s is no list" % (path, key))
    for layer in stack["layers"]:
        _need(layer, ("name",), path + ": layers: an entry")
        if layer["name"] not in LAYERS:
            raise StackError(
                "%s: no role installs a layer named %r. Known are %s: put its packages into one of them."
                % (path, layer["name"], ", ".join(LAYERS))
            )
    if "torch" not in [layer["name"] for layer in stack["layers"]]:
        raise StackError("%s: layers lacks the layer torch, which makes the environment" % path)
    if stack.get("cuda") is not None:
        _need(stack["cuda"], ("version", "toolkit", "cudnn", "disk_gb"), path + ": cuda")
    for component in stack["components"]:
        title = component.get("name") if isinstance(component, dict) else None
        where = "%s: components: %s" % (path, title or "an entry")
        _need(component, ("name", "kind"), where)
        if component["kind"] not in KINDS:
            raise StackError("%s has the kind %r; known are %s" % (where, component["kind"], ", ".join(KINDS)))
        _need(component, KINDS[component["kind"]], where)
        if component["kind"] in ("cuda", "cudnn") and stack.get("cuda") is None:
            raise StackError("%s is of a stack with CUDA, and cuda is null or missing: remove one of them" % where)
        if component["kind"] == "driver":
            rules = stack.get("rules") or {}
            _need(
                rules.get("driver") or {}, ("native",), "%s: rules.driver, which %s takes," % (path, component["name"])
            )
    for name, wheel in (stack.get("wheels") or {}).items():
        _need(wheel, ("component", "source"), "%s: wheels.%s" % (path, name))
        _need(wheel["source"], ("kind",), "%s: wheels.%s.source" % (path, name))
    for name, image in (stack.get("images") or {}).items():
        _need(image, ("tag", "layers", "wheels", "os_packages", "environment"), "%s: images.%s" % (path, name))


def _complete(stack: dict[str, t.Any], path: str) -> None:
    """Fill in what the file states once and uses elsewhere."""
    for key, empty in (("cuda", None), ("variants", {}), ("wheels", {}), ("denied", []), ("intended_conflicts", []), ("bad_pairs", []),
                       ("rules", {}), ("environment", {}), ("images", {})):  # fmt: skip
        stack.setdefault(key, empty)
    cuda = stack["cuda"] or {}
    components = {c["name"]: c for c in stack["components"]}
    for component in stack["components"]:
        if component["kind"] == "cuda":
            component["version"] = cuda["version"]
        elif component["kind"] == "cudnn":
            component["version"] = cuda["cudnn"]
        elif component["kind"] == "driver":
            component["minimum"] = stack["rules"]["driver"]["native"]
    for wheel_name, wheel in stack["wheels"].items():
        component = components.get(wheel["component"])
        if component is None:
            raise StackError(
                "%s: wheels.%s names the component %r, which is not there" % (path, wheel_name, wheel["component"])
            )
        where = "%s: wheels.%s" % (path, wheel_name)
        if wheel_name not in WHEELS:
            raise StackError("%s: no role compiles it; known are %s" % (where, ", ".join(WHEELS)))
        _need(wheel, ("device_code", "gb_per_job"), where)
        keys = ("dist", "version", "layer", *(("commit",) if wheel["source"]["kind"] == "git" else ()))
        _need(component, keys, "%s: components: %s" % (path, component["name"]))
        wheel.update(name=wheel_name, dist=component["dist"], version=component["version"], layer=component["layer"])
        if wheel["source"]["kind"] == "git":
            wheel["source"]["commit"] = component["commit"]


def libraries(layers: t.Iterable[t.Mapping[str, t.Any]]) -> dict[str, str]:
    """Libraries of the system that packages of these layers load, each with the system's package that has it."""
    return {name: package for layer in layers for name, package in layer.get("libraries", {}).items()}


def pins(stack: t.Mapping[str, t.Any]) -> dict[str, str]:
    """Distribution name to exact version, for everything that the stack file itself pins."""
    found = {normalise(c["dist"]): c["version"] for c in stack["components"] if c["kind"] == "python"}
    if stack["cuda"]:
        found["cuda-toolkit"] = stack["cuda"]["toolkit"]
        found["nvidia-cudnn-cu12"] = stack["cuda"]["cudnn"]
    return found


def pinned(stack: t.Mapping[str, t.Any], requires: t.Sequence[str]) -> list[str]:
    """The requirements with the stack's own pins put in: ``torch`` becomes ``torch==2.7.1``."""
    versions = pins(stack)
    lines = []
    for line in requires:
        match = re.fullmatch(r"([A-Za-z0-9._-]+)(\[[^\]]*\])?", line.strip())
        version = versions.get(normalise(match.group(1))) if match else None
        lines.append("%s==%s" % (line.strip(), version) if version else line.strip())
    return lines


def digest(folder: str) -> str:
    """sha256 over the stack file and its locks, names and contents."""
    total = hashlib.sha256()
    names = ["stack.yml"]
    locks = os.path.join(folder, "locks")
    if os.path.isdir(locks):
        names += ["locks/" + n for n in sorted(os.listdir(locks)) if n.endswith(".txt")]
    for name in names:
        with open(os.path.join(folder, name), "rb") as stream:
            total.update(("%s %s\n" % (name, hashlib.sha256(stream.read()).hexdigest())).encode())
    return total.hexdigest()


def lock_path(stack: t.Mapping[str, t.Any], layer: str, variant: str | None = None) -> str:
    """The lock of a layer, in its variant where the layer has variants."""
    name = "%s.%s" % (layer, variant) if layer in stack["variants"] and variant else layer
    path = os.path.join(stack["folder"], "locks", name + ".txt")
    if not os.path.isfile(path):
        raise StackError("the stack %s has no lock %s; `make relock` makes it" % (stack["name"], path))
    return path


def parse_lock(text: str) -> list[dict[str, t.Any]]:
    """The entries of a lock: name, version, marker (or None), hashes (``sha256:...``).

    Raises:
        StackError: a line is not pinned and hashed.
    """
    try:
        entries = lock_lines.parse(text.splitlines())
    except lock_lines.LayerError as error:
        raise StackError("a lock cannot be read: %s" % error) from error
    return [
        {"name": e.name, "version": e.version, "marker": e.marker or None, "hashes": list(e.hashes)} for e in entries
    ]


def sdists(text: str, python: str) -> list[str]:
    """Names that a lock's header lists as having no wheel for this Python (``# sources: a, b (3.12)``)."""
    found: list[str] = []
    for line in text.splitlines():
        match = re.match(r"#\s*sources:\s*(.*)", line)
        for entry in match.group(1).split(",") if match else []:
            parts = re.fullmatch(r"\s*([A-Za-z0-9._-]+)\s*(?:\(([^)]*)\))?\s*", entry)
            if parts and (not parts.group(2) or ".".join(python.split(".")[:2]) in parts.group(2).split()):
                found.append(normalise(parts.group(1)))
    return found


def marker_environment(python: str) -> dict[str, str]:
    """The environment of a CPython ``3.x[.y]`` on x86_64 Linux, for markers."""
    return lock_lines.environment(python if python.count(".") == 2 else python + ".0")


def requirements(stack: t.Mapping[str, t.Any], layer: str, python: str, variant: str | None = None) -> dict[str, t.Any]:
    """One layer for one Python: ``{lines, build, packages}``.

    ``lines`` are requirement lines with hashes and without markers, ``build`` the names that have to be built from source,
    ``packages`` maps each name to ``{version, hashes}``.
    """
    with open(lock_path(stack, layer, variant), encoding="utf-8") as stream:
        text = stream.read()
    environment = marker_environment(python)
    packages = {}
    for entry in parse_lock(text):
        if not entry["marker"] or lock_lines.evaluate(entry["marker"], environment):
            packages[entry["name"]] = {"version": entry["version"], "hashes": entry["hashes"]}
    lines = [
        "%s==%s %s" % (name, p["version"], " ".join("--hash=" + h for h in p["hashes"]))
        for name, p in sorted(packages.items())
    ]
    return {"lines": lines, "build": [n for n in sdists(text, python) if n in packages], "packages": packages}


def canonical_digest(value: t.Any) -> str:
    """sha256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
