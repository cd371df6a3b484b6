#!/usr/bin/python
# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
---
module: image_commit
short_description: Commit a container in which a release was built as an image
description:
  - Talks to Docker through its socket; neither the SDK nor the docker program is needed.
  - V(query) says whether an image is there that was made of the same inputs. V(committed) removes what the build left in
    the container, reads the release's manifest and environment in it, and commits it with these as environment, entry
    point and labels.
version_added: 0.1.0
options:
  state:
    description:
      - What to do.
    type: str
    choices: [query, committed]
    required: true
  tag:
    description:
      - The image's name, C(repository:tag).
    type: str
    required: true
  source:
    description:
      - For V(query), the image that the container starts from.
    type: str
    default: ""
  input:
    description:
      - For V(query), the digest of the image's recipe as the action image_plan gives it; for V(committed), the digest
        that V(query) returned.
    type: str
    required: true
  container:
    description:
      - The running container, for V(committed).
    type: str
    default: ""
  root:
    description:
      - The stack_root in the container.
    type: path
    default: /opt/verl
  environment:
    description:
      - Environment variables of the image beside those of the release.
    type: dict
    default: {}
  labels:
    description:
      - Labels of the image.
    type: dict
    default: {}
  socket:
    description:
      - Docker's socket. Empty takes that of E(DOCKER_HOST), else V(/var/run/docker.sock).
    type: str
    default: ""
extends_documentation_fragment:
  - verl.baremetal.run
attributes:
  check_mode:
    support: full
    description: Nothing is cleaned or committed.
  diff_mode:
    support: none
    description: An image has no text.
  idempotent:
    support: partial
    description: V(committed) always commits; V(query) says whether that is needed.
author: the verl.baremetal authors (@verl-baremetal)
"""

EXAMPLES = r"""
- name: Ask for the image
  verl.baremetal.image_commit:
    state: query
    tag: verlai/verl:base-small
    source: ubuntu:24.04
    input: 0c4c1f5f0d2b6f6f7f0c9d3f0c5a0e0c4c1f5f0d2b6f6f7f0c9d3f0c3f0c5a0e
  register: image

- name: Commit it
  verl.baremetal.image_commit:
    state: committed
    tag: verlai/verl:base-small
    container: verl-image-base
    input: "{{ image.input }}"
  when: not image.converged
"""

RETURN = r"""
docker_version:
  description: Version of the Docker daemon.
  returned: query
  type: str
  sample: 20.10.24
source_id:
  description: Identifier of the image to start from, empty when it is not there.
  returned: query
  type: str
  sample: sha256:6e27bc2dd37c2cfe3633d571886489472c38cb1673d85ab6355246d50acf90c1
input:
  description: Digest of the recipe and the image to start from, empty when that is not there.
  returned: query
  type: str
  sample: 0c4c1f5f0d2b6f6f7f0c9d3f0c5a0e0c4c1f5f0d2b6f6f7f0c9d3f0c3f0c5a0e
converged:
  description: True when the image was made of the same inputs.
  returned: query
  type: bool
  sample: false
image_id:
  description: Identifier of the image, empty when it is not there.
  returned: always
  type: str
  sample: sha256:6e27bc2dd37c2cfe3633d571886489472c38cb1673d85ab6355246d50acf90c1
labels:
  description: Its labels.
  returned: always
  type: dict
  sample: {verl.baremetal.release: small-0123456789ab}
size:
  description: Its size in bytes, with all layers.
  returned: always
  type: int
  sample: 298000000
layers:
  description: Its layers, the lowest first, with size in bytes and origin.
  returned: always
  type: list
  elements: dict
  sample: [{size: 202000000, made_by: "Imported from -"}]
manifest:
  description: The manifest of the release in the image.
  returned: committed
  type: dict
  sample: {id: small-0123456789ab}
environment:
  description: The image's environment variables.
  returned: committed
  type: dict
  sample: {VIRTUAL_ENV: /opt/verl/releases/small-0123456789ab/venv}
"""

from typing import Any, Dict, Mapping, Optional

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.verl.baremetal.plugins.module_utils import arguments
from ansible_collections.verl.baremetal.plugins.module_utils.images import commit, engine
from ansible_collections.verl.baremetal.plugins.module_utils.progress import Progress


def run(params: Mapping[str, Any], check: bool) -> Dict[str, Any]:
    """The module's work without AnsibleModule."""
    daemon = engine.from_environment(params["socket"])
    if params["state"] == "query":
        return dict(commit.query(daemon, params["source"], params["tag"], params["input"]), changed=False)
    if check:
        return {"changed": True, "image_id": "", "labels": {}, "size": 0, "layers": []}
    if params["probe"]:
        return {"changed": False, "probe_pending": True}
    progress = Progress(params["progress_file"])

    def tick(what: str, done: Optional[int], total: Optional[int]) -> None:
        progress.step(what, done, total)

    job = commit.Job(
        container=params["container"],
        tag=params["tag"],
        root=params["root"].rstrip("/"),
        input=params["input"],
        environment={str(k): str(v) for k, v in params["environment"].items()},
        labels={str(k): str(v) for k, v in params["labels"].items()},
    )
    return dict(commit.commit(daemon, job, tick), changed=True)


def main() -> None:
    """Entry point."""
    spec: Dict[str, Any] = {
        "state": {"type": "str", "choices": ["query", "committed"], "required": True},
        "tag": {"type": "str", "required": True},
        "source": {"type": "str", "default": ""},
        "input": {"type": "str", "required": True},
        "container": {"type": "str", "default": ""},
        "root": {"type": "path", "default": "/opt/verl"},
        "environment": {"type": "dict", "default": {}},
        "labels": {"type": "dict", "default": {}},
        "socket": {"type": "str", "default": ""},
    }
    spec.update(arguments.RUN)
    module = AnsibleModule(
        argument_spec=spec,
        supports_check_mode=True,
        required_if=[("state", "query", ["source"]), ("state", "committed", ["container"])],
    )
    try:
        result = run(module.params, module.check_mode)
    except engine.EngineError as error:
        module.fail_json(msg=str(error))
    else:
        module.exit_json(**result)


if __name__ == "__main__":
    main()
