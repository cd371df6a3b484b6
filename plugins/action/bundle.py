# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Controller side of the module bundle: lists what a bundle holds, and tells people how far a long step is."""

from __future__ import annotations

import os
import sys
import typing as t

from ansible.errors import AnsibleActionFail

from ansible_collections.verl.baremetal.plugins.plugin_utils import (
    bundle_content,
    collection_archive,
    role_defaults,
    stack_file,
)
from ansible_collections.verl.baremetal.plugins.plugin_utils.progress_action import ProgressAction

CACHE = "~/.cache/verl-baremetal/collection"
VARIABLES = [
    "bundle_pythons",
    "bundle_torch_variants",
    "bundle_cuda_sources",
    "bundle_systems",
    "bundle_controller",
    "bundle_apt_sources",
    "bundle_kernels",
    "bundle_images",
    "wheels_cache_controller",
    "wheels_source_urls",
    "flash_attention_method",
    "flash_attention_prebuilt_url",
    "flash_attention_prebuilt_sha256",
    "megatron_apex",
    "driver_branch",
    "driver_version",
    "driver_kernel_modules",
    "driver_compute_only",
    "driver_repository_url",
    "driver_repository_key_url",
    "driver_repository_fingerprints",
    "stack_name",
    "stack_path",
    "stack_index_url",
    "stack_torch_index_url",
    "venv_torch_variant",
    "venv_python_managed",
    "venv_python_mirror",
]


class ActionModule(ProgressAction):
    """The action of verl.baremetal.bundle."""

    MODULE = "verl.baremetal.bundle"

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Fill in the list for state present; the rest is the module's."""
        if self._task.args.get("state", "present") == "present":
            self._task.args.update(self._content(task_vars or {}))
        return super().run(tmp, task_vars)

    def _content(self, task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        values = role_defaults.values(self._templar, task_vars, VARIABLES)
        values.update(self._task.args.get("options") or {})
        try:
            stack = stack_file.load(values["stack_name"], values["stack_path"])
            served = bundle_content.serves(stack, values, "{}.{}".format(*sys.version_info))
            wanted = bundle_content.wanted(stack, served, values)
            archive = collection_archive.have(os.path.expanduser(CACHE))
            added = bundle_content.added(stack, served, values, archive)
            systems = bundle_content.systems(stack, served, values, bundle_content.host_system())
            direct = bundle_content.direct(stack, values)
        except (stack_file.StackError, bundle_content.ContentError, OSError) as error:
            raise AnsibleActionFail(f"bundle: {error}") from error
        return {
            "stack": {"name": stack["name"], "digest": stack["digest"]},
            "serves": served,
            "wanted": wanted,
            "systems": systems,
            "added": added,
            "direct": direct,
            "sources": bundle_content.sources(stack, values),
            "pythons": bundle_content.pythons(served, values),
        }
