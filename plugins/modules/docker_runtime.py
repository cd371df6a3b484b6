#!/usr/bin/python
# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Tells Docker of NVIDIA's runtime."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: docker_runtime
short_description: Tells Docker of NVIDIA's runtime
description:
  - Adds the runtime V(nvidia) to C(daemon.json) and keeps everything else in it; a file that is not JSON is refused.
  - A running daemon is told to read its configuration again (SIGHUP). It is never restarted, so containers go on.
author: the verl.baremetal authors (@verl-baremetal)
version_added: 0.1.0
options:
  path:
    description: Docker's configuration.
    type: path
    default: /etc/docker/daemon.json
  state:
    description: Whether the runtime is known.
    type: str
    choices: [present, absent]
    default: present
  default_runtime:
    description: Make it the default of every container.
    type: bool
    default: false
  pid_file:
    description: Where the daemon's process id is.
    type: path
    default: /run/docker.pid
attributes:
  check_mode:
    support: full
    description: Says whether the file would change.
  diff_mode:
    support: full
    description: Shows the file.
"""

EXAMPLES = r"""
- name: Know NVIDIA's runtime
  verl.baremetal.docker_runtime:
"""

RETURN = r"""
backup:
  description: The copy of the file before the change.
  returned: when a file was changed
  type: str
  sample: /etc/docker/daemon.json.12345.2026-01-01@12:00:00~
reloaded:
  description: Whether a running daemon was told.
  returned: always
  type: bool
"""

import os
import signal
from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.verl.baremetal.plugins.module_utils.nvidia import docker_config, host, transaction


def reload_daemon(pid_file: str) -> bool:
    """Tells a running daemon to read its configuration again."""
    pid = host.read(pid_file)
    if not pid.isdigit() or host.read("/proc", pid, "comm") != "dockerd":
        return False
    os.kill(int(pid), signal.SIGHUP)
    return True


def main() -> None:
    """Read, merge, write."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "default": "/etc/docker/daemon.json"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "default_runtime": {"type": "bool", "default": False},
            "pid_file": {"type": "path", "default": "/run/docker.pid"},
        },
        supports_check_mode=True,
    )
    path = module.params["path"]
    before = transaction.open_text(path) if os.path.exists(path) else ""
    try:
        if module.params["state"] == "present":
            after = docker_config.merge(before, module.params["default_runtime"])
        else:
            after = docker_config.without(before)
    except ValueError as error:
        module.fail_json(msg=f"{path} was left as it is: {error}")
    answer: Dict[str, Any] = {"changed": before != after, "reloaded": False}
    if module._diff:
        answer["diff"] = {"before_header": path, "after_header": path, "before": before, "after": after}
    if before != after and not module.check_mode:
        mode = 0o644
        if os.path.exists(path):
            answer["backup"] = module.backup_local(path)
            mode = os.stat(path).st_mode & 0o777
        transaction.write_atomically(path, after, mode)
        answer["reloaded"] = reload_daemon(module.params["pid_file"])
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
