#!/usr/bin/python
# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Keeps what a host remembers of a rollout."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: rollout_state
short_description: Keeps what a host remembers of a rollout
description:
  - A rollout writes on each host what was done there, so that a rollout which was interrupted anywhere goes on by
    running the same command again, also from another controller.
  - The same file says which rollout works on the host, so that two rollouts cannot change it at once.
  - The action plugin of the same name fills in O(key), O(who) and O(now) on the controller, and takes three options
    more - C(journal), the folder in which it notes what each host answered, C(checks), the answer of
    M(verl.baremetal.version_check) to be noted there, and C(claim_seconds), how long a claim lasts.
author: the verl.baremetal authors (@verl-baremetal)
version_added: 0.1.0
options:
  root:
    description:
      - Folder of the installation. The state is kept in C(state/rollout.json) there; C(current) is what is live.
      - Empty takes V(/opt/verl) for root and V(~/verl) for anyone else.
    type: path
    default: ""
  state:
    description:
      - V(claim) takes the host for a rollout and tells whether that rollout is done here already.
      - V(record) enters O(phase).
      - V(renew) keeps the claim and notes O(fields); where the claim is lost it changes nothing and RV(ours) is false.
      - V(release) gives the claim back.
      - V(query) only reads.
    type: str
    choices: [claim, record, renew, release, query]
    default: query
  key:
    description: What the rollout wants, as one word; two runs with the same key are the same rollout.
    type: str
    default: ""
  direction:
    description: Whether the rollout brings a new release or takes the host back to its previous one.
    type: str
    choices: [activate, rollback]
    default: activate
  who:
    description: The controller's process that does this.
    type: dict
    default: {}
    suboptions:
      controller:
        description: Name of the controller.
        type: str
        default: ""
      pid:
        description: Process of the rollout there.
        type: int
        default: 0
      token:
        description: Word that only this run knows.
        type: str
        default: ""
      length:
        description: Seconds that a claim lasts after the last sign of life.
        type: int
        default: 3600
  now:
    description: The controller's clock, in seconds since 1970.
    type: float
    default: 0
  force:
    description: Take the host even though another rollout still claims it.
    type: bool
    default: false
  again:
    description: Do a finished rollout again.
    type: bool
    default: false
  phase:
    description: The phase to enter with O(state=record).
    type: str
    choices: [preparing, prepared, draining, changing, checking, returning, done, failed]
  fields:
    description: What else to note - release, previous, batch, failure, touched, drained.
    type: dict
    default: {}
attributes:
  check_mode:
    support: full
    description: Says what would be written, and writes nothing.
  diff_mode:
    support: none
    description: The state is no configuration.
"""

EXAMPLES = r"""
- name: Read what the last rollout did here
  verl.baremetal.rollout_state:
    root: /opt/verl
  register: last_rollout

- name: Enter the phase in which the host is drained
  verl.baremetal.rollout_state:
    root: /opt/verl
    state: record
    phase: draining
    fields:
      release: verl0.5-preview-cu128-0123456789ab
"""

RETURN = r"""
done:
  description: Whether this rollout has finished here and its release is live.
  returned: always
  type: bool
  sample: false
live:
  description: Name of the live release, or null.
  returned: always
  type: str
  sample: verl0.5-preview-cu128-0123456789ab
ours:
  description: Whether the run of O(who) holds the host.
  returned: always
  type: bool
  sample: true
undone:
  description:
    - Name of the release on which the host is when its last rollout is undone - the live one where that rollout changed
      nothing. Empty when what is live came from no rollout.
  returned: always
  type: str
  sample: verl0.5-preview-cu128-0123456789ab
root:
  description: Folder of the installation.
  returned: always
  type: str
  sample: /opt/verl
rollout:
  description: The state, as the file holds it.
  returned: always
  type: dict
  sample:
    phase: draining
    batch: 2
    release: verl0.5-preview-cu128-0123456789ab
damaged:
  description: Where a damaged state file was put, or null.
  returned: always
  type: str
  sample: null
"""

import fcntl
import os
import tempfile
from typing import Any, Dict, Optional, Tuple

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.verl.baremetal.plugins.module_utils import host, lock
from ansible_collections.verl.baremetal.plugins.module_utils.rollout import state as logic


def live_release(current: str) -> Optional[str]:
    """Name of the release that the link points to, when it is there."""
    if not os.path.islink(current) or not os.path.isdir(current):
        return None
    return os.path.basename(os.path.realpath(current))


def read(path: str) -> Tuple[Dict[str, Any], bool]:
    """The state, and whether the file was damaged."""
    try:
        with open(path, encoding="utf-8") as stream:
            return logic.parse(stream.read()), False
    except FileNotFoundError:
        return logic.empty(), False
    except ValueError:
        return logic.empty(), True


def write(path: str, document: Dict[str, Any]) -> None:
    """Replace the file in one step, after its content has reached the disk."""
    folder = os.path.dirname(path)
    handle, temporary = tempfile.mkstemp(prefix=".rollout.", dir=folder)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(logic.dump(document))
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def apply(params: Dict[str, Any], document: Dict[str, Any], live: Optional[str]) -> Tuple[Dict[str, Any], bool]:
    """The state that follows, and whether the rollout is done here."""
    token = params["who"]["token"]
    done = logic.is_done(document, params["key"], params["direction"], live) and not params["again"]
    if params["state"] == "claim":
        if done:
            return document, True
        claim = document["claim"] or {}
        why = lock.shared(host.stack_root(params["root"]), claim) if claim.get("token") == token else None
        if why:
            raise logic.StateError(why)
        who = dict(params["who"], place=lock.place(), until=params["now"] + params["who"]["length"])
        return logic.claim(document, params["key"], params["direction"], who, params["now"], params["force"]), False
    if params["state"] == "record":
        fields = logic.with_previous(document, params["phase"], live, params["fields"])
        fields = logic.with_activation(document, params["phase"], live, fields)
        after = logic.record(document, params["phase"], token, params["now"], fields)
        return after, logic.is_done(after, after["key"], after["direction"], live)
    if params["state"] == "renew":
        return logic.renew(document, token, params["now"], params["fields"]), done
    if params["state"] == "release":
        return logic.let_go(document, token), done
    return document, done


def run(module: AnsibleModule) -> Dict[str, Any]:
    """Read, decide and write under a lock of the file system."""
    root = host.stack_root(module.params["root"])
    path = os.path.join(root, "state", "rollout.json")
    live = live_release(os.path.join(root, "current"))
    aside: Optional[str] = None
    if module.params["state"] == "query" or module.check_mode:
        before, broken = read(path)
        after, done = decide(module, before, live)
        return answer(module, before, after, done, live, path if broken else None, root)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".lock", "a", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before, broken = read(path)
        if broken:
            aside = path + ".damaged"
            os.replace(path, aside)
        after, done = decide(module, before, live)
        if after != before:
            write(path, after)
    return answer(module, before, after, done, live, aside, root)


def decide(module: AnsibleModule, document: Dict[str, Any], live: Optional[str]) -> Tuple[Dict[str, Any], bool]:
    """Like apply, with a refusal that names who holds the host."""
    try:
        return apply(module.params, document, live)
    except logic.StateError as error:
        module.fail_json(msg=str(error), holder=document["claim"], live=live, rollout=document)
        raise


def answer(
    module: AnsibleModule,
    before: Dict[str, Any],
    after: Dict[str, Any],
    done: bool,
    live: Optional[str],
    damaged: Optional[str],
    root: str,
) -> Dict[str, Any]:
    """The module's result."""
    return {
        "changed": after != before,
        "done": done,
        "live": live,
        "ours": logic.is_held(after, module.params["who"]["token"]),
        "undone": logic.undone(after, live),
        "rollout": after,
        "damaged": damaged,
        "root": root,
    }


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": ""},
            "state": {"type": "str", "choices": ["claim", "record", "renew", "release", "query"], "default": "query"},
            "key": {"type": "str", "default": "", "no_log": False},
            "direction": {"type": "str", "choices": ["activate", "rollback"], "default": "activate"},
            "who": {
                "type": "dict",
                "default": {},
                "apply_defaults": True,
                "options": {
                    "controller": {"type": "str", "default": ""},
                    "pid": {"type": "int", "default": 0},
                    "token": {"type": "str", "default": "", "no_log": False},
                    "length": {"type": "int", "default": 3600},
                },
            },
            "now": {"type": "float", "default": 0},
            "force": {"type": "bool", "default": False},
            "again": {"type": "bool", "default": False},
            "phase": {
                "type": "str",
                "choices": [
                    "preparing",
                    "prepared",
                    "draining",
                    "changing",
                    "checking",
                    "returning",
                    "done",
                    "failed",
                ],
            },
            "fields": {"type": "dict", "default": {}},
        },
        required_if=[("state", "record", ["phase"])],
        supports_check_mode=True,
    )
    try:
        result = run(module)
    except logic.StateError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        root = host.stack_root(module.params["root"])
        module.fail_json(msg=f"cannot keep the rollout's state in {root}/state: {error.strerror or error}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
