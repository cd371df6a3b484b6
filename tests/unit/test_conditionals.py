# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""`-e name=value` makes a text of every value: a role's bool or number decides nothing before a filter has made it one."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2 import Environment, nodes

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    path
    for pattern in ("roles/*/tasks/*.yml", "roles/*/handlers/*.yml", "roles/*/vars/*.yml", "roles/*/defaults/*.yml",
                    "roles/*/templates/*.j2", "playbooks/**/*.yml", "site.yml")
    for path in ROOT.glob(pattern)
)  # fmt: skip
CONDITIONS = ("when", "that", "until", "failed_when", "changed_when")
#: What makes a value of a known type, and a test that asks for no value.
FILTERS = ("bool", "int", "float", "string")
TESTS = ("defined", "undefined")
#: Variables of playbooks that no role's specification names.
PLAYBOOKS = {"build_with_driver"}
OPERATORS = (nodes.BinExpr, nodes.UnaryExpr)


@lru_cache(maxsize=None)
def typed_variables() -> set[str]:
    found = set(PLAYBOOKS)
    for path in ROOT.glob("roles/*/meta/argument_specs.yml"):
        for spec in yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"].values():
            options = spec.get("options") or {}
            found |= {name for name, option in options.items() if option["type"] in ("bool", "int", "float")}
    return found


def operands(node: nodes.Node) -> Iterator[nodes.Node]:
    """What decides in a node: operands of operators and comparisons, and conditions."""
    if isinstance(node, OPERATORS):
        yield from node.iter_child_nodes()
    elif isinstance(node, nodes.Compare):
        yield node.expr
        yield from (operand.expr for operand in node.ops)
    elif isinstance(node, (nodes.If, nodes.CondExpr, nodes.For)):
        yield from [node.test] if node.test else []
    elif isinstance(node, nodes.Test) and node.name not in TESTS:
        yield node.node


def bare(node: nodes.Node, names: set[str]) -> Iterator[str]:
    """A variable that a node's value is taken from as it is; filters of other kinds leave its type."""
    while isinstance(node, nodes.Filter) and node.name not in FILTERS and node.node is not None:
        node = node.node
    if isinstance(node, nodes.Name) and node.name in names:
        yield node.name


def uses(template: nodes.Template, names: set[str]) -> list[str]:
    """The variables that decide something and were given no type."""
    deciding = [operand for node in template.find_all(nodes.Node) for operand in operands(node)]
    return [name for operand in deciding for name in bare(operand, names)]


def texts(value: Any, key: str = "") -> Iterator[tuple[str, bool]]:
    """Every text of a file, and whether all of it is a condition."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from texts(inner, str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner, key)
    elif isinstance(value, str):
        yield value, key in CONDITIONS


def wrong(path: Path, names: set[str]) -> list[str]:
    text = path.read_text(encoding="utf-8")
    found = []
    for part, condition in [(text, False)] if path.suffix == ".j2" else texts(yaml.safe_load(text)):
        if condition:
            part = "{% if (" + part + ") %}{% endif %}"
        if "{{" in part or "{%" in part:
            found += uses(Environment().parse(part), names)
    return found


def test_there_are_files_and_variables() -> None:
    assert len(FILES) > 60
    assert {"rollout_driver", "rollout_soak", "release_lock_minutes"} <= typed_variables()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_condition_takes_a_text_for_a_truth_or_a_number(path: Path) -> None:
    found = wrong(path, typed_variables())
    assert not found, f"{path.relative_to(ROOT)}: | bool, | int or | float is missing after {', '.join(found)}"


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ("flag", ["flag"]),
        ("not flag", ["flag"]),
        ("flag and other", ["flag"]),
        ("number > 0", ["number"]),
        ("0 < number", ["number"]),
        ("flag | default(true)", ["flag"]),
        ("'a' if flag else 'b'", ["flag"]),
        ("flag is truthy", ["flag"]),
        ("flag | bool and number | int > 0", []),
        ("flag | default(true) | bool", []),
        ("flag is defined", []),
        ("other", []),
        ("lookup('vars', 'x', default=flag)", []),
    ],
)
def test_the_rule_itself(condition: str, found: list[str], tmp_path: Path) -> None:
    path = tmp_path / "tasks.yml"
    path.write_text(yaml.safe_dump([{"when": [condition]}]), encoding="utf-8")
    assert wrong(path, {"flag", "number"}) == found
