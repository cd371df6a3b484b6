#!/usr/bin/python
# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
---
module: release_parity
short_description: Compare the release on a host with the one in an image
description:
  - Compares manifest with manifest, and with O(mode=files) every file of the release by its path and sha256. Bytecode and
    times do not count, and the name of the release's own folder in scripts does not.
  - The image's side is a list that M(verl.baremetal.image_transfer) with C(state=listed) reads out of an archive, so
    that no container of the image is started. The list stays on the controller; the host's list is made here.
version_added: 0.1.0
options:
  listing:
    description:
      - The image's list, a file on the controller.
    type: path
    required: true
  root:
    description:
      - The stack_root. Empty takes V(/opt/verl) for root and V(~/verl) for anyone else.
    type: str
    default: ""
  release:
    description:
      - Folder of the release. Empty takes the live one.
    type: str
    default: ""
  mode:
    description:
      - How closely is compared.
    type: str
    choices: [manifest, files]
    default: files
  policy:
    description:
      - What a difference does.
    type: str
    choices: [fail, warn]
    default: fail
extends_documentation_fragment:
  - verl.baremetal.run
attributes:
  check_mode:
    support: full
    description: Only reads.
  diff_mode:
    support: none
    description: Differences are returned.
  idempotent:
    support: full
    description: Only reads.
author: the verl.baremetal authors (@verl-baremetal)
"""

EXAMPLES = r"""
- name: Read the image
  verl.baremetal.image_transfer:
    state: listed
    path: /srv/images/small-app.tar.zst
    listing: /tmp/app.list.gz
  delegate_to: localhost

- name: Compare
  verl.baremetal.release_parity:
    listing: /tmp/app.list.gz
"""

RETURN = r"""
same:
  description: Whether host and image hold the same.
  returned: always
  type: bool
  sample: false
differences:
  description: What differs, at most 200.
  returned: always
  type: list
  elements: dict
  sample: [{path: venv/lib/python3.12/site-packages/six.py, words: "sha256 0c4c1f5f0d2b on the host, 6f6f7f0c9d3f in the image"}]
count:
  description: How many differences there are.
  returned: always
  type: int
  sample: 1
files:
  description: How many files were compared.
  returned: always
  type: int
  sample: 812
shared:
  description:
    - Files of which only the presence was compared, because two packages record them (as a script of one name); which
      of the two an installer writes last is chance. M(verl.baremetal.version_check) tells whether each is as one of them says.
  returned: always
  type: list
  elements: str
  sample: [venv/bin/fastapi]
"""

import os
from typing import Any, Dict, Mapping, Optional

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.verl.baremetal.plugins.module_utils import arguments, host, release
from ansible_collections.verl.baremetal.plugins.module_utils.images import listing
from ansible_collections.verl.baremetal.plugins.module_utils.progress import Progress


def run(params: Mapping[str, Any]) -> Dict[str, Any]:
    """The host's side of the comparison."""
    root = host.stack_root(params["root"])
    path = params["release"] or os.path.realpath(release.current_path(root))
    manifest = release.read_manifest(path)
    if params["probe"]:
        return {"changed": False, "probe_pending": True}
    progress = Progress(params["progress_file"])

    def tick(what: str, done: Optional[int], total: Optional[int]) -> None:
        progress.step(what, done, total)

    owners = listing.Owners()
    files = listing.of_release(path, root, tick, owners) if params["mode"] == "files" else {}
    packed = listing.pack({"manifest": manifest, "files": files, "shared": owners.shared()})
    return {"changed": False, "release": path, "packed": packed}


def main() -> None:
    """Entry point."""
    spec: Dict[str, Any] = {
        "listing": {"type": "path", "required": True},
        "root": {"type": "str", "default": ""},
        "release": {"type": "str", "default": ""},
        "mode": {"type": "str", "choices": ["manifest", "files"], "default": "files"},
        "policy": {"type": "str", "choices": ["fail", "warn"], "default": "fail"},
    }
    spec.update(arguments.RUN)
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    try:
        result = run(module.params)
    except release.ReleaseError as error:
        module.fail_json(msg=f"there is no release to compare: {error}")
    except OSError as error:
        module.fail_json(msg=f"release_parity: {error}")
    else:
        module.exit_json(**result)


if __name__ == "__main__":
    main()
