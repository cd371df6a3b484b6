#!/usr/bin/python
# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Takes a Slurm node out of service and back."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: slurm_node
short_description: Takes a Slurm node out of service and back
description:
  - With O(state=drained) the node is drained with a reason of this collection, and its jobs are waited for.
  - With O(state=resumed) the node goes back to service, but only when the drain's reason is one of this collection.
    What an administrator drained stays drained.
author: the verl.baremetal authors (@verl-baremetal)
version_added: 0.1.0
options:
  name:
    description: The node's name in Slurm.
    type: str
    required: true
  state:
    description: Out of service with no job running, back in service, or only asked.
    type: str
    choices: [drained, resumed, query]
    required: true
  reason:
    description: Words after the fixed beginning C(verl.baremetal) of the drain's reason.
    type: str
    default: rollout
  timeout:
    description: Seconds to wait for running jobs.
    type: int
    default: 86400
  poll:
    description: Seconds between two looks.
    type: int
    default: 10
  patience:
    description: Seconds for which a Slurm controller that does not answer is asked again, also while a node is resumed.
    type: int
    default: 600
  bin_dir:
    description: Folder of C(scontrol) and C(squeue) when they are not on the path.
    type: path
attributes:
  check_mode:
    support: full
    description: Asks Slurm, tells what would be done, changes nothing and does not wait.
  diff_mode:
    support: none
    description: A node's state is no file.
"""

EXAMPLES = r"""
- name: Drain the node and wait for its jobs for two hours
  verl.baremetal.slurm_node:
    name: node017
    state: drained
    timeout: 7200
  delegate_to: slurm-controller

- name: Give the node back
  verl.baremetal.slurm_node:
    name: node017
    state: resumed
  delegate_to: slurm-controller
"""

RETURN = r"""
node:
  description: The node after this task.
  returned: always
  type: dict
  sample:
    state: DRAIN+IDLE
    reason: verl.baremetal rollout
    drained: true
    ours: true
action:
  description: What was done - V(drain), V(resume), V(keep), or V(foreign) for a drain of somebody else's.
  returned: always
  type: str
  sample: drain
waited:
  description: Seconds that running jobs were waited for.
  returned: always
  type: int
  sample: 318
"""

import os
import time
from typing import Any, Callable, Dict, List, Optional

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.verl.baremetal.plugins.module_utils.rollout import slurm


class Slurm:
    """The commands of Slurm."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.name = str(module.params["name"])
        folders = [module.params["bin_dir"]] if module.params["bin_dir"] else None
        self.scontrol = module.get_bin_path("scontrol", required=True, opt_dirs=folders)
        self.squeue = module.get_bin_path("squeue", required=True, opt_dirs=folders)

    def call(self, *command: str, arrived: Optional[Callable[[], bool]] = None) -> str:
        """Run one command and give its output; while the controller does not answer, wait and try again.

        A request whose answer was lost may have arrived: then it is not made twice.
        """
        end = time.monotonic() + self.module.params["patience"]
        while True:
            code, output, error = self.module.run_command(list(command))
            if code == 0:
                return str(output)
            if not slurm.is_silent(error + output) or time.monotonic() >= end:
                break
            time.sleep(max(1, min(self.module.params["poll"], 10)))
            if arrived and arrived():
                return ""
        self.module.fail_json(
            msg=f"{os.path.basename(command[0])} failed for node {self.name}: {(error or output).strip()};"
            " check that this host may administer Slurm and that the name is the one in slurm.conf"
        )
        return ""

    def node(self) -> slurm.NodeState:
        """The node as Slurm sees it now."""
        text = self.call(self.scontrol, "--oneliner", "show", "node", self.name)
        try:
            return slurm.parse_node(text)
        except ValueError as error:
            self.module.fail_json(msg=f"{error}; drain_slurm_node must be a node's name in slurm.conf")
            raise

    def jobs(self) -> List[Dict[str, str]]:
        """Jobs that run on the node."""
        states = "RUNNING,COMPLETING,SUSPENDED,STOPPED,CONFIGURING"
        return slurm.parse_jobs(
            self.call(
                self.squeue, "--noheader", f"--nodelist={self.name}", f"--states={states}", "--format=%i|%u|%M|%j"
            )
        )

    def update(self, *settings: str, arrived: Callable[[], bool]) -> None:
        """Change the node."""
        self.call(self.scontrol, "update", f"NodeName={self.name}", *settings, arrived=arrived)


def wait_for_jobs(node: Slurm, timeout: int, poll: int) -> int:
    """Wait until no job is left on the node; the seconds it took."""
    start = time.monotonic()
    while True:
        jobs = node.jobs()
        waited = int(time.monotonic() - start)
        if not jobs and not node.node().busy:
            return waited
        if waited >= timeout:
            node.module.fail_json(
                msg=f"node {node.name} still runs {slurm.describe_jobs(jobs) or 'a job that is being cleaned up'} after"
                f" {timeout} s; raise drain_timeout, or end the jobs and run the rollout again",
                jobs=jobs[:20],
                waited=waited,
                action="drain",
                node=slurm.as_result(node.node()),
            )
        time.sleep(min(poll, max(1, timeout - waited)))


def drain(module: AnsibleModule, node: Slurm) -> Dict[str, Any]:
    """Take the node out of service."""
    before = node.node()
    step = slurm.drain_step(before)
    if step == "drain" and not module.check_mode:
        reason = f"Reason={slurm.OURS} {module.params['reason']}".strip()
        node.update("State=DRAIN", reason, arrived=lambda: slurm.drain_step(node.node()) == "keep")
    waited = 0 if module.check_mode else wait_for_jobs(node, module.params["timeout"], module.params["poll"])
    return {"changed": step == "drain", "action": step, "waited": waited, "node": slurm.as_result(node.node())}


def resume(module: AnsibleModule, node: Slurm) -> Dict[str, Any]:
    """Give the node back, if this collection took it."""
    step = slurm.resume_step(node.node())
    if step == "resume" and not module.check_mode:
        node.update("State=RESUME", arrived=lambda: slurm.resume_step(node.node()) == "keep")
    return {"changed": step == "resume", "action": step, "waited": 0, "node": slurm.as_result(node.node())}


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["drained", "resumed", "query"], "required": True},
            "reason": {"type": "str", "default": "rollout"},
            "timeout": {"type": "int", "default": 86400},
            "poll": {"type": "int", "default": 10},
            "patience": {"type": "int", "default": 600},
            "bin_dir": {"type": "path"},
        },
        supports_check_mode=True,
    )
    node = Slurm(module)
    if module.params["state"] == "drained":
        module.exit_json(**drain(module, node))
    if module.params["state"] == "resumed":
        module.exit_json(**resume(module, node))
    module.exit_json(changed=False, action="keep", waited=0, node=slurm.as_result(node.node()))


if __name__ == "__main__":
    main()
