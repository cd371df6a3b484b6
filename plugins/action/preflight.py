# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Controller side of the module preflight: asks the host once, decides, and asks for the indexes only when something is to be installed."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase

from ansible_collections.verl.baremetal.plugins.module_utils import index, uv
from ansible_collections.verl.baremetal.plugins.plugin_utils import (
    bundle_content,
    plan,
    role_defaults,
    sources,
    stack_file,
    wheel_offers,
)

MODULE = "verl.baremetal.preflight"


def index_failures(reached: t.Mapping[str, t.Any]) -> list[dict[str, str]]:
    """Failures for indexes that do not answer, and one where the host's answer about them is none."""
    found = ["%s cannot be reached: %s" % pair for pair in reached.get("unreachable_indexes", {}).items()]
    if reached.get("failed"):
        found.append("the host could not ask for it: " + uv.redact(str(reached.get("msg") or "it does not say why")))
    remedy = "set stack_index_url or stack_torch_index_url (a mirror), stack_proxy, stack_ca_file, or stack_bundle"
    needed = "an index that answers, or a bundle"
    return [{"name": "package index", "found": words, "needed": needed, "remedy": remedy} for words in found]


class ActionModule(ActionBase):
    """Returns the plan of a host, or fails with every precondition that is not met."""

    TRANSFERS_FILES = False

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Ask, decide, report."""
        task_vars = task_vars or {}
        result = super().run(tmp, task_vars)
        args = dict(self._task.args)
        given = args.get("options") or {}
        values = role_defaults.values(
            self._templar,
            task_vars,
            [
                *plan.Options.names(),
                "stack_name",
                "stack_path",
                "release_policy",
                *sources.VARIABLES,
                *wheel_offers.VARIABLES,
            ],
        )
        values.update(given)
        try:
            stack = stack_file.load(values["stack_name"], values["stack_path"])
            options = plan.Options.from_values(values)
            question = {
                "stack_root": args.get("stack_root") or options.stack_root,
                "pythons": stack["python"]["preferred"],
                "python_paths": [options.venv_python] if options.venv_python.startswith(("/", "~")) else [],
                "libraries": sorted(stack_file.libraries(stack["layers"])),
                "cuda_homes": [options.cuda_home] if options.cuda_home else [],
                "find_links": [] if options.stack_bundle else values["stack_find_links"],
                "ca_file": values["stack_ca_file"],
                "proxy": values["stack_proxy"],
                "bundle": options.stack_bundle,
            }
            answer = self._execute_module(module_name=MODULE, module_args=question, task_vars=task_vars)
            if answer.get("failed") or "facts" not in answer:
                result.update(answer)
                return result
            offers = wheel_offers.Offers(values)
            planner = plan.Planner(stack, answer["facts"], options, offers.parts)
            if not boolean(args.get("with_driver", True)) and values["release_policy"] == "fail":
                planner.check_driver()
            decided = planner.plan()
            decided["warnings"] += offers.problems
        except stack_file.StackError as error:
            raise AnsibleActionFail(str(error)) from error
        decided["sources"] = sources.derive(values, decided, stack, answer["facts"])
        if decided["new"] and decided["sources"]["bundle"] and not decided["failures"]:
            question.update(
                bundle_uses=decided["sources"]["uses"],
                bundle_requirements=bundle_content.requirement_lines(decided, values),
            )
            looked = self._execute_module(module_name=MODULE, module_args=question, task_vars=task_vars)
            if looked.get("failed"):
                result.update(looked)
                return result
            decided["failures"] += sources.lacking(
                looked["facts"]["bundle"], index.without_password(options.stack_bundle)
            )
        if decided["new"] and not options.stack_bundle and not values["stack_offline"]:
            question["index_urls"] = [values["stack_index_url"], *decided["sources"]["extra_index_urls"]]
            reached = self._execute_module(module_name=MODULE, module_args=question, task_vars=task_vars)
            decided["failures"] += index_failures(reached)
        facts = answer["facts"]
        if decided["failures"]:
            result.update(
                failed=True, changed=False, failures=decided["failures"], msg=plan.describe(decided["failures"])
            )
        else:
            result.update(
                decided,
                facts={k: facts[k] for k in ("os", "glibc", "root", "cores", "memory_bytes", "gpus")},
                changed=False,
            )
        return result
