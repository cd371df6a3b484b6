# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Controller's side of rollout_state: who this run is, what it wants, and the journal of the report."""

from __future__ import annotations

import hashlib
import json
import os
import time
from typing import Any, Dict, Optional

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.verl.baremetal.plugins.module_utils.rollout import lines
from ansible_collections.verl.baremetal.plugins.plugin_utils import role_defaults, rollout_journal, stack_file

display = Display()

#: Variables that decide what a host gets. A change of one of them is another rollout.
PREFIXES = ("stack", "venv_", "cuda_", "driver_", "flash_attention_", "sglang_", "megatron_", "release_")


def key_of(wanted: str, variables: Dict[str, Any], driver: bool = False, reboot: str = "never") -> str:
    """One word for what a host is to get: the stack's files and every variable that decides about it.

    A driver's change and a reboot are more than a finished rollout without them has done.
    """
    chosen = {name: variables[name] for name in sorted(variables) if name.startswith(PREFIXES)}
    more = [driver, reboot] if driver or reboot == "always" else []
    text = json.dumps([wanted, chosen, *more], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stack_digest(folder: str) -> str:
    """Digest of a stack's files as they are, unread: a host must cost the controller little."""
    digest = hashlib.sha256()
    for path in sorted(os.path.join(place, name) for place, _folders, names in os.walk(folder) for name in names):
        digest.update(os.path.relpath(path, folder).encode() + b"\0")
        with open(path, "rb") as stream:
            digest.update(stream.read())
    return digest.hexdigest()


def _lost(entry: Dict[str, Any], result: Dict[str, Any], now: float) -> Dict[str, Any]:
    """What this run says of a host that it lost: its own last words, for the host's file is another run's now."""
    known = dict(entry.get("rollout") or {})
    other = result["rollout"]["claim"]
    told = f"{other['controller']} (process {other['pid']}) took it over" if other else "its claim was given back"
    failure = {"task": "Keep the host", "reason": f"{told}; this rollout left it as it is"}
    return dict(known, phase="failed", drained=False, failure=failure, times=dict(known.get("times") or {}, failed=now))


class ActionModule(ActionBase):
    """Runs the module of the same name and notes the answer."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: Optional[str] = None, task_vars: Optional[Dict[str, Any]] = None) -> Dict[str, Any]:
        """Fill in what only the controller knows, run, note."""
        variables = task_vars or {}
        super().run(tmp, variables)
        args = dict(self._task.args)
        journal_folder = args.pop("journal", "")
        checks = args.pop("checks", None)
        args["now"] = time.time()
        args["who"] = rollout_journal.identity(int(args.pop("claim_seconds", 3600)))
        journal = rollout_journal.Journal(str(journal_folder)) if journal_folder else None
        host = str(variables.get("inventory_hostname", ""))
        if "root" not in args:
            args["root"] = role_defaults.values(self._templar, variables, ["stack_root"])["stack_root"]
        if args.get("state") == "claim" and not args.get("key"):
            try:
                names = ["stack_name", "stack_path", "rollout_driver", "rollout_reboot"]
                name, path, driver, reboot = role_defaults.values(self._templar, variables, names).values()
                args["key"] = key_of(stack_digest(stack_file.find(name, path)), variables, driver, reboot)
            except stack_file.StackError as error:
                return {"failed": True, "msg": str(error)}
        try:
            result = self._call(args, variables)
        except AnsibleConnectionFailure as error:
            if journal:
                journal.note(host, token=args["who"]["token"], unreachable=str(error)[:500], lost=args["now"])
            raise
        if journal and not self._play_context_check_mode():
            self._note(journal, host, args, result, checks)
        return result

    def _play_context_check_mode(self) -> bool:
        return bool(self._task.check_mode)

    def _call(self, args: Dict[str, Any], variables: Dict[str, Any]) -> Dict[str, Any]:
        result = self._execute_module("verl.baremetal.rollout_state", module_args=args, task_vars=variables)
        other = result.get("holder")
        if args.get("state") == "claim" and result.get("failed") and other and rollout_journal.is_dead(other):
            args["force"] = True
            result = self._execute_module("verl.baremetal.rollout_state", module_args=args, task_vars=variables)
        if args.get("state") == "claim" and result.get("failed") and result.get("holder"):
            # Told to the plan, which refuses the whole rollout in one message.
            result["failed"] = False
            result["refused"] = result.get("msg")
        return dict(result)

    def _note(
        self, journal: rollout_journal.Journal, host: str, args: Dict[str, Any], result: Dict[str, Any], checks: Any
    ) -> None:
        token = args["who"]["token"]
        if result.get("unreachable"):
            journal.note(host, token=token, unreachable=str(result.get("msg", ""))[:500], lost=args["now"])
            return
        if result.get("failed"):
            return
        noted: Dict[str, Any] = {
            "token": token,
            "unreachable": None,
            "refused": result.get("refused"),
            "done": bool(result.get("done")),
            "live": result.get("live"),
            "rollout": {name: value for name, value in result["rollout"].items() if name != "claim"},
        }
        if args.get("state") == "claim":
            noted["was_done"] = noted["done"]
        if checks is not None:
            noted["checks"] = checks
        lost = args.get("state") == "renew" and not result["ours"]
        if lost:
            noted.update(done=False, rollout=_lost(journal.host(host), result, args["now"]))
        entry = journal.note(host, **noted)
        if lost or (args.get("state") == "record" and args.get("phase") in ("done", "failed")):
            display.display(lines.host_line(host, entry), color=lines.color(entry))
