# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Says on the controller what an image of the stack is made of: `verl.baremetal.image_plan: {image: base}`."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.verl.baremetal.plugins.plugin_utils import image_plan, role_defaults, stack_file


class ActionModule(ActionBase):
    """Returns the recipe of one image; asks no host."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Read the stack and digest it."""
        task_vars = task_vars or {}
        result = super().run(tmp, task_vars)
        values = role_defaults.values(
            self._templar, task_vars, [*image_plan.VARIABLES, "stack_name", "stack_path", "image_tags"]
        )
        try:
            stack = stack_file.load(values["stack_name"], values["stack_path"])
            recipe = image_plan.describe(stack, str(self._task.args["image"]), values)
            if self._task.args.get("definitions"):
                recipe["definition"] = image_plan.definition(stack, recipe["name"])
                recipe["host_definition"] = image_plan.host_definition(stack)
        except stack_file.StackError as error:
            raise AnsibleActionFail(str(error)) from error
        tags = values["image_tags"]
        recipe["tag"] = tags.get(recipe["name"], recipe["tag"])
        recipe["parent_tag"] = tags.get(recipe["parent"], recipe["parent_tag"])
        result.update(recipe, changed=False)
        return result
