#!/usr/bin/python
# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
---
module: image_check
short_description: Compare what an image holds with the versions and rules of a stack
description:
  - Copies the rules of M(verl.baremetal.version_check) into a container of the image and runs them there with the image's
    own Python, on Docker's socket alone. The container has no network and is removed afterwards; the image stays as it is.
  - An image with a release of this collection is compared with the release's own pins, any other with O(stack).
  - Checked are CUDA, cuDNN, NCCL and the Python packages. Driver, GPUs and the system are the host's, and
    M(verl.baremetal.version_check) says there what containers with GPUs need.
version_added: 0.1.0
options:
  tag:
    description:
      - The image's name.
    type: str
    required: true
  stack:
    description:
      - The definition to compare an image without a release with, as the action C(image_plan) returns it.
    type: dict
    default: {}
  python:
    description:
      - Folder of the Python environment in the image. Empty takes that of the first C(python3) on its C(PATH).
    type: str
    default: ""
  root:
    description:
      - The stack_root in the image, where a release is looked for.
    type: str
    default: /opt/verl
  variants:
    description:
      - The variant of each layer, for an image without a release. Without one the stack's first.
    type: dict
    default: {}
  skipped:
    description:
      - Components that an image without a release lacks on purpose, and why.
    type: dict
    default: {}
  policy:
    description: What a failed check does.
    type: str
    choices:
      fail: The task fails, and its message names each failed check and what to do.
      warn: The task gives a warning with that message.
    default: fail
  socket:
    description:
      - Docker's socket. Empty takes that of E(DOCKER_HOST), else V(/var/run/docker.sock).
    type: str
    default: ""
attributes:
  check_mode:
    support: full
    description: The check changes nothing.
  diff_mode:
    support: none
    description: Nothing is changed.
author: the verl.baremetal authors (@verl-baremetal)
"""

EXAMPLES = r"""
- name: Say what a ready-made image should hold
  verl.baremetal.image_plan:
    image: app
  register: plan

- name: Compare it
  verl.baremetal.image_check:
    tag: registry.example/verl:app
    stack: "{{ plan.definition }}"
    policy: warn
"""

RETURN = r"""
checks:
  description: Every check with its verdict, as in M(verl.baremetal.version_check).
  returned: always
  type: list
  elements: dict
  sample: [{name: torch, title: Torch, status: ok, expected: 2.7.1+cu128, found: 2.7.1+cu128, source: "", remedy: ""}]
deviations:
  description: The failed checks in words.
  returned: always
  type: list
  elements: str
  sample: ["toolz: found 0.12.1, needed 1.0.0"]
summary:
  description: Number of checks by status; every status is a key.
  returned: always
  type: dict
  sample: {ok: 31, mismatch: 0, missing: 0, skipped: 4, denied: 0, conflict: 0, warning: 1}
passed:
  description: Whether no check failed.
  returned: always
  type: bool
  sample: true
table:
  description: The report as text of 80 columns.
  returned: always
  type: str
fingerprint:
  description: Digest of versions and verdicts.
  returned: always
  type: str
  sample: 5f2b1a7c0c7d4c0f8f0e5c6f2b1a7c0c7d4c0f8f0e5c6f2b1a7c0c7d4c0f8f0e
python:
  description: The Python environment that was looked at.
  returned: always
  type: str
  sample: /usr
release:
  description: The release in the image, empty where there is none.
  returned: always
  type: str
  sample: /opt/verl/releases/small-0123456789ab
"""

from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.verl.baremetal.plugins.module_utils.checks import model, table
from ansible_collections.verl.baremetal.plugins.module_utils.images import engine, inside


def main() -> None:
    """Entry point."""
    spec: Dict[str, Any] = {
        "tag": {"type": "str", "required": True},
        "stack": {"type": "dict", "default": {}},
        "python": {"type": "str", "default": ""},
        "root": {"type": "str", "default": "/opt/verl"},
        "variants": {"type": "dict", "default": {}},
        "skipped": {"type": "dict", "default": {}},
        "policy": {"type": "str", "choices": ["fail", "warn"], "default": "fail"},
        "socket": {"type": "str", "default": ""},
    }
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    params = module.params
    asked = {name: params[name] for name in ("stack", "python", "root", "variants", "skipped")}
    try:
        found = inside.check(engine.from_environment(params["socket"]), params["tag"], asked)
    except engine.EngineError as error:
        module.fail_json(msg=str(error))
    checks = [model.Check(**one) for one in found["checks"]]
    passed = model.passed(checks)
    result: Dict[str, Any] = dict(
        found,
        changed=False,
        summary=model.summary(checks),
        passed=passed,
        table=table.render(found["checks"]),
        deviations=[
            f"{one.title}: found {one.found or 'nothing'}, needed {one.expected}" for one in checks if one.failed
        ],
    )
    if not passed:
        words = f"{params['tag']}: {model.message(checks)}"
        if params["policy"] == "fail":
            module.fail_json(msg=words, **result)
        module.warn(words)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
