# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Where the roles take packages from: derived once from the variables and the plan, passed on as ``verl_plan.sources``."""

from __future__ import annotations

import typing as t

from ansible.module_utils.parsing.convert_bool import boolean

from ansible_collections.verl.baremetal.plugins.module_utils import bundle, bundle_pull, bundle_python
from ansible_collections.verl.baremetal.plugins.plugin_utils import bundle_content

VARIABLES = [
    "stack_index_url",
    "stack_torch_index_url",
    "stack_find_links",
    "stack_ca_file",
    "stack_proxy",
    "stack_offline",
    "stack_bundle",
    "venv_python_mirror",
]


def torch_indexes(values: t.Mapping[str, t.Any], index_urls: t.Sequence[str]) -> list[str]:
    """PyTorch's own index or its mirror, where the plan needs one."""
    return [values["stack_torch_index_url"]] if values["stack_torch_index_url"] and index_urls else list(index_urls)


def derive(
    values: t.Mapping[str, t.Any],
    decided: t.Mapping[str, t.Any],
    stack: t.Mapping[str, t.Any],
    facts: t.Mapping[str, t.Any],
) -> dict[str, t.Any]:
    """The options of every module that fetches packages; from a bundle everything, and nothing from anywhere else."""
    found: dict[str, t.Any] = {
        "index_url": values["stack_index_url"],
        "extra_index_urls": torch_indexes(values, decided["index_urls"]),
        "find_links": list(values["stack_find_links"]),
        "ca_file": values["stack_ca_file"],
        "proxy": values["stack_proxy"],
        "offline": boolean(values["stack_offline"]),
        "bundle": "",
        "uses": [],
        "apt": "",
        "environment": {},
        "python_mirror": values["venv_python_mirror"],
        "wheel_sources": {},
    }
    head = facts.get("bundle") if values["stack_bundle"] else None
    if not head or head.get("error"):
        return found
    system = "{id} {version}".format(**facts["os"])
    folder = bundle_pull.folder_of(bundle_pull.Place(values["stack_bundle"]), decided["root"], head["digest"])
    found.update(index_url="", extra_index_urls=[], proxy="", offline=True, bundle=folder)
    found["find_links"] = [folder + "/" + bundle.WHEELS]
    found["python_mirror"] = bundle_python.mirror_of(folder)
    found["wheel_sources"] = {name: f"{folder}/{path}" for name, path in head.get("sources", {}).items()}
    found["uses"] = bundle_content.uses(stack, decided, system, bool(decided["new"]))
    if system in head["serves"].get("systems", []) and facts["root"] and facts["apt"]:
        found["apt"] = folder + "/apt/" + bundle_content.system_folder(system) + "/x86_64"
        # Whatever installs packages sees the bundle's repository and no other.
        found["environment"] = {"APT_CONFIG": decided["root"] + "/bundle/apt.conf"}
    return found


def lacking(head: t.Mapping[str, t.Any], where: str) -> list[dict[str, str]]:
    """Failures for what a bundle lacks for one host."""
    failures = []
    again = "run playbooks/bundle.yml again: it fetches only what is missing"
    for key, needed in (
        ("lacks", "a file for each package of the plan"),
        ("problems", "every file that this host needs"),
    ):
        words = list(head.get(key) or [])
        if words:
            said = "; ".join(words[:10]) + (f" and {len(words) - 10} more" if len(words) > 10 else "")
            lacks = f"the bundle {where} lacks {said}" if key == "lacks" else f"in the bundle {where}: {said}"
            failures.append({"name": "stack_bundle", "found": lacks, "needed": needed, "remedy": again})
    return failures
