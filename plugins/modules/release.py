#!/usr/bin/python
# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
---
module: release
short_description: Begin, seal, make live, go back to and prune releases of a stack
description:
  - A release is a folder C(<root>/releases/<id>) that is built beside the live one. C(<root>/current) is a link to
    the live release, and only ever changes in one rename.
  - V(begin) takes the lock of the run and looks for an intact release of the id; a drifted one is left alone and a
    new generation (C(<id>.2), ...) is begun; an unfinished one is cleaned of what a killed run left broken, and
    continued.
  - V(seal) compiles bytecode (of everything but the tests that packages bring along; what was compiled once comes from
    C(cache/bytecode) in the O(root)), verifies every RECORD, writes the environment files and the manifest.
  - V(activate) makes a sealed release live, prunes old ones and gives the lock back.
version_added: 0.1.0
options:
  state:
    description:
      - What to do.
      - V(begin) and V(seal) build, V(activate) switches, V(rollback) goes back, V(prune) removes, V(query) only reads,
        V(end) gives the lock back without a switch.
    type: str
    choices: [begin, seal, activate, rollback, prune, query, end]
    required: true
  root:
    description:
      - The stack_root.
    type: path
    required: true
  id:
    description:
      - Identifier of the release, C(<stack>-<hexadecimal digits>). Needed by V(begin) and V(seal).
    type: str
    default: ""
  path:
    description:
      - Folder of the release, as V(begin) returned it. Needed by V(seal) and V(activate).
    type: str
    default: ""
  to:
    description:
      - For V(rollback), the name of the release to go back to. When empty, the newest earlier one that is intact.
    type: str
    default: ""
  switch:
    description:
      - Whether V(activate) makes the release live, or only declares it complete, so that V(rollback) can switch to it.
    type: bool
    default: true
  keep:
    description:
      - How many complete releases stay. The live and the previous one always do, and any that a process uses.
    type: int
    default: 2
  extends:
    description:
      - For V(begin), the name of a complete release that a new one shares its environment and CUDA home with; V(live) is
        the live one. What the new one adds lands in the shared environment. For the layers of a container image only,
        where the lower release is never used again by itself.
    type: str
    default: ""
  layers:
    description:
      - The plan's layers, name to C(requirements) and C(build).
    type: dict
    default: {}
  stack:
    description:
      - Name and digest of the stack, for the manifest.
    type: dict
    default: {}
  variants:
    description:
      - The plan's variants, for the manifest.
    type: dict
    default: {}
  cuda:
    description:
      - The plan's CUDA source, for the manifest.
    type: dict
    default: {}
  skipped:
    description:
      - Components that are not installed, with the reason, for the manifest.
    type: dict
    default: {}
  definition:
    description:
      - What a check of the release needs to know of the stack, for the manifest.
    type: dict
    default: {}
  environment:
    description:
      - Variables for users of the release. C({release}), C({venv}) and C({cuda_home}) are replaced.
    type: dict
    default: {}
  integrity:
    description:
      - What V(begin) compares of a complete release and V(seal) of a new one, existence and size of every file or its hash too.
    type: str
    choices: [files, hashes]
    default: files
  lock_minutes:
    description:
      - After so many minutes without a sign of life a run's lock may be taken over.
    type: float
    default: 720
  lock_force:
    description:
      - Take the lock over, whoever holds it.
    type: bool
    default: false
extends_documentation_fragment:
  - verl.baremetal.run
attributes:
  check_mode:
    support: full
    description: Says what would be done; takes no lock.
  diff_mode:
    support: full
    description: Shows the live release before and after.
  idempotent:
    support: full
    description: An intact release is left alone.
author: the verl.baremetal authors (@verl-baremetal)
"""

EXAMPLES = r"""
- name: Begin
  verl.baremetal.release:
    state: begin
    root: /opt/verl
    id: verl0.5-preview-cu128-0123456789ab
  register: verl_release

- name: Go back
  verl.baremetal.release:
    state: rollback
    root: /opt/verl
"""

RETURN = r"""
path:
  description: Folder of the release.
  returned: begin, seal
  type: str
  sample: /opt/verl/releases/verl0.5-preview-cu128-0123456789ab
name:
  description: Name of that folder, the id and from the second generation on its number.
  returned: begin
  type: str
  sample: verl0.5-preview-cu128-0123456789ab.2
converged:
  description: True when an intact release is there and nothing has to be built.
  returned: begin
  type: bool
  sample: false
continued:
  description: True when an unfinished release is continued.
  returned: begin
  type: bool
  sample: false
drift:
  description: How the existing release differs from its manifest, in words.
  returned: begin
  type: list
  elements: str
  sample: ["six is 1.16.0, not 1.17.0"]
removed:
  description: Packages that were taken from an unfinished release because they were broken or belonged to no layer.
  returned: begin
  type: list
  elements: str
  sample: []
lock_note:
  description: Words about a lock that was taken over, empty otherwise.
  returned: begin, rollback, prune
  type: str
  sample: ""
live:
  description: Name of the live release, empty when there is none.
  returned: begin, activate, rollback, query
  type: str
  sample: verl0.5-preview-cu128-0123456789ab
previous:
  description: Name of the release that was live before, empty when there is none.
  returned: begin, activate, rollback, query
  type: str
  sample: ""
manifest:
  description: Path of the manifest.
  returned: seal
  type: str
  sample: /opt/verl/releases/verl0.5-preview-cu128-0123456789ab/manifest.json
digest:
  description: Digest of the manifest's content.
  returned: seal
  type: str
  sample: 3f0c5a0e0c4c1f5f0d2b6f6f7f0c9d3f0c5a0e0c4c1f5f0d2b6f6f7f0c9d3f0c
verified:
  description: How many distributions, files and bytes were compared with their RECORD.
  returned: seal
  type: dict
  sample: {distributions: 190, files: 54000, bytes: 7500000000}
pruned:
  description: Releases that were removed.
  returned: activate, prune
  type: list
  elements: str
  sample: []
in_use:
  description: Old releases that stay because processes use them, with the process numbers.
  returned: activate, prune
  type: dict
  sample: {}
refused:
  description: Earlier releases that V(rollback) passed over, with the reason.
  returned: rollback
  type: list
  elements: str
  sample: []
releases:
  description: Every release folder.
  returned: query
  type: list
  elements: dict
  sample: [{name: verl0.5-preview-cu128-0123456789ab, complete: true, created: "2026-01-01T00:00:00Z", digest: 3f0c}]
history:
  description: What was made live when, oldest first.
  returned: query
  type: list
  elements: dict
  sample: [{name: verl0.5-preview-cu128-0123456789ab, time: "2026-01-01T00:00:00Z", user: root, host: controller}]
lock:
  description: Who holds the lock, none when nobody does.
  returned: query
  type: dict
  sample: {run: "controller:1234:5678", user: root, host: controller}
"""

import os
import time
from typing import Any, Dict, Mapping, Optional

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.verl.baremetal.plugins.module_utils import arguments, install, layer, lock, release, seal, uv
from ansible_collections.verl.baremetal.plugins.module_utils.progress import Progress


def hold(params: Mapping[str, Any]) -> Optional[str]:
    """Take the lock for the run."""
    return lock.acquire(
        params["root"],
        arguments.owner(params),
        params["lock_minutes"],
        params["lock_force"],
        params["lock_takeover"],
    )


def run(params: Mapping[str, Any], check: bool) -> Dict[str, Any]:
    """The module's work without AnsibleModule."""
    arguments.share_files()
    state, root = params["state"], params["root"].rstrip("/")
    params = dict(params, root=root)
    if state == "query":
        return dict(release.info(root), changed=False, lock=lock.read(root))
    if state == "end":
        return {"changed": False if check else lock.release(root, arguments.owner(params))}
    if state == "begin":
        return begin(params, check)
    if state == "seal":
        return sealing(params, check)
    if state == "activate":
        return activation(params, check)
    return with_lock(params, check)


def begin(params: Mapping[str, Any], check: bool) -> Dict[str, Any]:
    """Lock and look; what goes wrong leaves the lock as it was before, since no task after this one gives it back."""
    root, owner = params["root"], arguments.owner(params)
    held = lock.holds(root, owner)
    note = None if check else hold(params)
    progress = Progress(params["progress_file"])
    try:
        result = release.begin(
            root, params["id"], params["layers"], progress, check, params["extends"], params["integrity"]
        )
    except BaseException:
        if not check and not held:
            lock.release(root, owner)
        raise
    return dict(result, lock_note=note or "")


def sealing(params: Mapping[str, Any], check: bool) -> Dict[str, Any]:
    """Seal what is being built; what is complete already was sealed before."""
    path = params["path"]
    building = os.path.lexists(os.path.join(path, release.BUILDING))
    if check or (os.path.isdir(path) and not building):
        return {"changed": check and (building or not os.path.isdir(path)), "path": path, "sealed": not check}
    if params["probe"]:
        return {"changed": False, "probe_pending": True}
    arguments.renew(params, path)
    job = seal.Sealing(
        path=path,
        id=params["id"],
        stack=params["stack"],
        variants=params["variants"],
        layers=params["layers"],
        cuda=params["cuda"],
        skipped=params["skipped"],
        definition=params["definition"],
        environment=params["environment"],
        integrity=params["integrity"],
        bytecode_cache=os.path.join(params["root"], "cache", "bytecode"),
    )
    return dict(seal.seal(job, Progress(params["progress_file"]), time.time()), path=path)


def activation(params: Mapping[str, Any], check: bool) -> Dict[str, Any]:
    """Switch, prune, unlock."""
    root, owner = params["root"], arguments.owner(params)
    before = release.live(root)
    if not check:
        hold(params)
    result = release.activate(root, params["path"], owner, time.time(), check, params["switch"])
    pruned: Dict[str, Any] = {"pruned": [], "in_use": {}, "changed": False}
    if params["switch"]:
        pruned = release.prune(root, params["keep"], os.path.basename(params["path"]), check)
    if not check:
        lock.release(root, owner)
    result.update(pruned=pruned["pruned"], in_use=pruned["in_use"], changed=result["changed"] or pruned["changed"])
    result["diff"] = {"before": before + "\n", "after": result["live"] + "\n"}
    return result


def with_lock(params: Mapping[str, Any], check: bool) -> Dict[str, Any]:
    """rollback and prune: short, so that the lock is held for the call only."""
    root, owner = params["root"], arguments.owner(params)
    before = release.live(root)
    note = None if check else hold(params)
    try:
        if params["state"] == "rollback":
            result = release.rollback(root, params["to"], owner, time.time(), check)
            result["diff"] = {"before": before + "\n", "after": result["live"] + "\n"}
        else:
            result = release.prune(root, params["keep"], "", check)
    finally:
        if not check:
            lock.release(root, owner)
    return dict(result, lock_note=note or "")


def argument_spec() -> Dict[str, Any]:
    """What the module takes."""
    spec: Dict[str, Any] = {
        "state": {
            "type": "str",
            "choices": ["begin", "seal", "activate", "rollback", "prune", "query", "end"],
            "required": True,
        },
        "root": {"type": "path", "required": True},
        "id": {"type": "str", "default": ""},
        "path": {"type": "str", "default": ""},
        "to": {"type": "str", "default": ""},
        "extends": {"type": "str", "default": ""},
        "switch": {"type": "bool", "default": True},
        "keep": {"type": "int", "default": 2},
        "integrity": {"type": "str", "choices": ["files", "hashes"], "default": "files"},
        "lock_minutes": {"type": "float", "default": 720},
        "lock_force": {"type": "bool", "default": False},
    }
    for name in ("layers", "stack", "variants", "cuda", "skipped", "definition", "environment"):
        spec[name] = {"type": "dict", "default": {}}
    spec.update(arguments.RUN)
    return spec


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec=argument_spec(),
        supports_check_mode=True,
        required_if=[("state", "begin", ["id"]), ("state", "seal", ["id", "path"]), ("state", "activate", ["path"])],
    )
    try:
        result = run(module.params, module.check_mode)
    except lock.LockHeld as error:
        module.fail_json(msg=str(error), lock_holder=error.holder)
    except (release.ReleaseError, install.InstallError, layer.LayerError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg="release: " + uv.explain_os_error(error, module.params["root"]))
    else:
        module.exit_json(**result)


if __name__ == "__main__":
    main()
