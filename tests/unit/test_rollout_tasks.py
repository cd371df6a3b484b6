# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""What the rollout's task files hand to roles of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

TASKS = Path(__file__).resolve().parents[2] / "roles" / "rollout" / "tasks"


def tasks(name: str) -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = yaml.safe_load((TASKS / name).read_text(encoding="utf-8"))
    return loaded


def template(text: str, **variables: Any) -> Any:
    return Templar(loader=DataLoader(), variables=variables).template(trust_as_template(text))


def holds(task: dict[str, Any], **variables: Any) -> bool:
    """Whether a task would run; its conditions are asked in their order, as Ansible does."""
    when = task.get("when", [])
    return all(template("{{ " + text + " }}", **variables) for text in (when if isinstance(when, list) else [when]))


def test_the_driver_sees_the_repositories_of_a_bundle_and_the_daemons_that_may_stay() -> None:
    (task,) = (task for task in tasks("change.yml") if "ansible.builtin.include_role" in task)
    apply = task["ansible.builtin.include_role"]["apply"]
    plan = {"sources": {"environment": {"APT_CONFIG": "/x"}}}
    assert template(apply["environment"], verl_plan=plan) == {"APT_CONFIG": "/x"}
    assert template(apply["environment"]) == {}
    defaults = apply["module_defaults"]["verl.baremetal.driver_plan"]
    assert template(defaults["busy_ignore"], drain_idle_ignore=["nv-hostengine"]) == ["nv-hostengine"]


def test_a_host_that_another_run_took_over_is_left_alone() -> None:
    first, *others = tasks("failed.yml")
    assert (first["verl.baremetal.rollout_state"]["state"], first["register"]) == ("renew", "__rollout_state")
    theirs = {"phase": "changing", "touched": True, "previous": "r1"}
    assert not any(holds(task, __rollout_state={"ours": False, "rollout": theirs}) for task in others)
    untouched = dict(theirs, touched=False)
    assert not any(holds(task, __rollout_state={"ours": False, "rollout": untouched}) for task in others)
    assert [holds(task, __rollout_state={"ours": True, "rollout": theirs}) for task in others] == [True, False, True]
