# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Each role's argument specification says what its defaults do: same names, same values, every default in words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if (path / "meta").is_dir() or (path / "tasks").is_dir())
TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "path": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "list": (list,),
    "dict": (dict,),
    "raw": (str, int, float, bool, list, dict, type(None)),
}


def load(path: Path) -> dict[str, Any]:
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.exists() else {}


def options_of(role: str) -> dict[str, Any]:
    """The options of all entry points together: each entry point reads the same defaults."""
    specs = load(ROOT / "roles" / role / "meta" / "argument_specs.yml").get("argument_specs", {})
    found: dict[str, Any] = {}
    for spec in specs.values():
        found.update(spec.get("options") or {})
    return found


def defaults_of(role: str) -> dict[str, Any]:
    return load(ROOT / "roles" / role / "defaults" / "main.yml")


def is_template(value: Any) -> bool:
    return isinstance(value, str) and "{{" in value


def test_there_are_roles() -> None:
    assert "stack" in ROLES


@pytest.mark.parametrize("role", ROLES)
def test_a_role_has_a_specification(role: str) -> None:
    specs = load(ROOT / "roles" / role / "meta" / "argument_specs.yml").get("argument_specs", {})
    assert "main" in specs, f"roles/{role}/meta/argument_specs.yml lacks the entry point main"
    for name, spec in specs.items():
        assert spec.get("short_description"), f"{role}: {name} lacks short_description"


@pytest.mark.parametrize("role", ROLES)
def test_defaults_and_specification_have_the_same_names(role: str) -> None:
    required = {name for name, option in options_of(role).items() if option.get("required")}
    optional = {name for name, option in options_of(role).items() if "default" not in option and not option.get("required")}
    assert set(defaults_of(role)) - required - optional == set(options_of(role)) - required - optional


@pytest.mark.parametrize("role", ROLES)
def test_defaults_equal_the_specification(role: str) -> None:
    options = options_of(role)
    for name, value in defaults_of(role).items():
        option = options.get(name, {})
        if is_template(value):
            # A computed default has no fixed value to state: its words must tell how it comes about.
            assert "default" not in option or option["default"] == value, f"{role}: {name} is computed but its spec says a value"
        elif option.get("required"):
            pytest.fail(f"{role}: {name} is required and yet has a default")
        else:
            assert "default" in option, f"{role}: {name} lacks its default in the specification"
            assert option["default"] == value, f"{role}: {name} differs from its specification"


@pytest.mark.parametrize("role", ROLES)
def test_options_have_types_words_and_their_roles_prefix(role: str) -> None:
    for name, option in options_of(role).items():
        assert name.startswith(f"{role}_"), f"{role}: {name} does not begin with the role's name"
        assert option.get("description"), f"{role}: {name} has no description"
        assert option.get("type") in TYPES, f"{role}: {name} has no type"
        default = option.get("default")
        if default is not None and not is_template(default):
            assert isinstance(default, TYPES[option["type"]]), f"{role}: the default of {name} is no {option['type']}"
        if option.get("choices") and default is not None:
            values = default if isinstance(default, list) else [default]
            assert set(values) <= set(option["choices"]), f"{role}: the default of {name} is none of its choices"


@pytest.mark.parametrize("role", ROLES)
def test_each_default_has_a_comment(role: str) -> None:
    path = ROOT / "roles" / role / "defaults" / "main.yml"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for number, line in enumerate(lines):
        if re.match(r"[a-z_]+:", line):
            assert lines[number - 1].startswith("#"), f"{role}: {line.split(':')[0]} has no comment above it"
