# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""What the rollout's task files do with a host in which state, and what they hand to other roles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

TASKS = Path(__file__).resolve().parents[2] / "roles" / "rollout" / "tasks"


def tasks(name: str) -> list[dict[str, Any]]:
    return list(flat(yaml.safe_load((TASKS / name).read_text(encoding="utf-8")), []))


def flat(found: list[dict[str, Any]], outer: list[str]) -> Iterator[dict[str, Any]]:
    """The tasks of a file, of what it imports and of its blocks, each with all of its conditions."""
    for task in found:
        when = task.get("when", [])
        when = outer + (when if isinstance(when, list) else [when])
        if "block" in task:
            yield from flat(task["block"], when)
        elif "ansible.builtin.import_tasks" in task:
            yield from flat(tasks(task["ansible.builtin.import_tasks"]), when)
        else:
            yield dict(task, when=when)


def template(text: str, **variables: Any) -> Any:
    return Templar(loader=DataLoader(), variables=variables).template(trust_as_template(text))


def holds(task: dict[str, Any], **variables: Any) -> bool:
    """Whether a task would run; its conditions are asked in their order, as Ansible does."""
    return all(template("{{ " + text + " }}", **variables) for text in task["when"])


def test_the_driver_sees_the_repositories_of_a_bundle_and_the_daemons_that_may_stay() -> None:
    (task,) = (task for task in tasks("change.yml") if "ansible.builtin.include_role" in task)
    apply = task["ansible.builtin.include_role"]["apply"]
    plan = {"sources": {"environment": {"APT_CONFIG": "/x"}}}
    assert template(apply["environment"], verl_plan=plan) == {"APT_CONFIG": "/x"}
    assert template(apply["environment"]) == {}
    defaults = apply["module_defaults"]["verl.baremetal.driver_plan"]
    assert template(defaults["busy_ignore"], drain_idle_ignore=["nv-hostengine"]) == ["nv-hostengine"]


def names(name: str, **variables: Any) -> list[str]:
    return [task["name"] for task in tasks(name) if holds(task, **variables)]


@pytest.mark.parametrize("name", ["failed.yml", "undrain.yml", "unprepared.yml"])
@pytest.mark.parametrize("touched", [True, False])
def test_a_host_that_another_run_took_over_is_left_alone(name: str, touched: bool) -> None:
    first = tasks(name)[0]
    assert (first["verl.baremetal.rollout_state"]["state"], first["register"]) == ("renew", "__rollout_state")
    theirs = {"phase": "changing", "touched": touched, "drained": True, "previous": "r1"}
    assert names(name, __rollout_state={"ours": False, "rollout": theirs}) == ["Keep the host"]


@pytest.mark.parametrize(
    ("name", "touched", "drained", "does"),
    [
        ("failed.yml", True, True, ["Go back to the previous release", "Note why the host failed"]),
        ("failed.yml", False, True, ["BACK", "Note that the host is in service", "Note why the host failed"]),
        ("unprepared.yml", True, True, ["Note why the host could not be prepared"]),
        ("unprepared.yml", False, True, ["BACK", "Note that the host is in service", "Note why the host could not be prepared"]),
        ("unprepared.yml", False, False, ["Note why the host could not be prepared"]),
        ("undrain.yml", False, True, ["BACK", "Note that the host is in service"]),
        ("undrain.yml", True, True, []),
    ],
)  # fmt: skip
def test_only_an_untouched_host_that_was_drained_goes_back_to_service(
    name: str, touched: bool, drained: bool, does: list[str]
) -> None:
    ours = {"phase": "changing", "touched": touched, "drained": drained, "previous": "r1"}
    told = ["Keep the host", *does]
    assert names(name, __rollout_state={"ours": True, "rollout": ours}) == [
        "Give the untouched host back to service" if word == "BACK" else word for word in told
    ]


@pytest.mark.parametrize(
    ("change", "done"),
    [
        ({}, True),
        ({"live": "r1"}, False),
        ({"touched": True}, False),
        ({"drained": True}, False),
        ({"rollout_driver": "true"}, False),
        ({"rollout_reboot": "always"}, False),
        ({"rollout_again": "true"}, False),
    ],
)
def test_what_is_live_already_is_done_at_once(change: dict[str, Any], done: bool) -> None:
    variables = {"rollout_driver": "false", "rollout_reboot": "required", "rollout_again": "false", **change}
    state = {"live": change.get("live", "r2")}
    state["rollout"] = {"touched": change.get("touched", False), "drained": change.get("drained", False)}
    variables.update(__rollout_state=state, verl_release={"name": "r2"}, __rollout_target="r2")
    assert holds(tasks("prepared.yml")[-1], **variables) is done
    if not {"rollout_driver", "rollout_reboot"} & set(change):
        assert holds(tasks("find_previous.yml")[-1], **variables) is done


@pytest.mark.parametrize(
    ("phase", "release", "named", "undone", "target"),
    [
        ("new", None, "", "", "r0"),
        ("new", None, "", "r1", "r1"),
        ("new", None, "r7", "r1", "r7"),
        ("prepared", "r5", "", "r1", "r5"),
    ],
)
def test_what_names_the_release_to_go_back_to(
    phase: str, release: str | None, named: str, undone: str, target: str
) -> None:
    (choice,) = (task for task in tasks("find_previous.yml") if "ansible.builtin.set_fact" in task)
    state = {"undone": undone, "rollout": {"phase": phase, "release": release}}
    variables = {"__rollout_state": state, "__rollout_releases": {"previous": "r0"}, "rollout_release": named}
    variables["__rollout_started"] = template(choice["vars"]["__rollout_started"], **variables)
    assert template(choice["ansible.builtin.set_fact"]["__rollout_target"], **variables) == target
