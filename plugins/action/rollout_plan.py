# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Decides on the controller which hosts a rollout prepares and activates, and in which batches."""

from __future__ import annotations

import time
from typing import Any, Dict, List, Optional

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.verl.baremetal.plugins.module_utils.rollout import batches, lines, state
from ansible_collections.verl.baremetal.plugins.plugin_utils import role_defaults, rollout_journal

display = Display()
#: A host pattern that matches nobody: an empty list would mean everybody to Ansible.
NOBODY = ["!all"]


class ActionModule(ActionBase):
    """Runs on the controller alone."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset(
        ("state", "journal", "direction", "release", "hosts", "batches", "max_fail_percentage", "claim_seconds")
    )

    def run(self, tmp: Optional[str] = None, task_vars: Optional[Dict[str, Any]] = None) -> Dict[str, Any]:
        """Dispatch on the state."""
        variables = task_vars or {}
        super().run(tmp, variables)
        args = self._task.args
        journal = rollout_journal.Journal(str(args["journal"]))
        who = rollout_journal.identity(int(args.get("claim_seconds", 3600)))
        try:
            if args["state"] == "start":
                stack = role_defaults.values(self._templar, variables, ["stack_name"])["stack_name"]
                return self._start(journal, who, args, str(stack))
            if args["state"] == "survey":
                return self._survey(journal, who)
            if args["state"] == "batches":
                return self._batches(journal, who, args)
        except (rollout_journal.LockedError, batches.BatchError) as error:
            return {"failed": True, "msg": str(error)}
        except OSError as error:
            return {"failed": True, "msg": f"cannot keep the rollout's journal in {journal.folder}: {error}"}
        return {"failed": True, "msg": f"unknown state {args['state']!r}; known are start, survey, batches"}

    def _start(
        self, journal: rollout_journal.Journal, who: Dict[str, Any], args: Dict[str, Any], stack: str
    ) -> Dict[str, Any]:
        title, key = f"Rollout of {stack}", stack
        if args["direction"] == "rollback":
            key = str(args["release"])
            title = f"Rollback to {key or 'the previous release'}"
        total = len(args["hosts"])
        sizes = batches.batch_sizes(args["batches"], total)
        dead = journal.lock(who)
        known = journal.start(key, str(args["direction"]), who["token"], time.time())
        journal.save_run(title=title)
        display.display(f"{title}: {total} hosts, batches of {_short(sizes)}, journal in {journal.folder}")
        if dead:
            display.display(f"  the run of process {dead.get('pid')} was interrupted; this one goes on with it")
        return {"changed": False, "total": total, "sizes": sizes, "resumed": bool(dead), "started": known["started"]}

    def _survey(self, journal: rollout_journal.Journal, who: Dict[str, Any]) -> Dict[str, Any]:
        hosts = journal.hosts(who["token"])
        refused = sorted(name for name, entry in hosts.items() if entry.get("refused"))
        lost = sorted(name for name, entry in hosts.items() if entry.get("unreachable") is not None)
        done = sorted(name for name, entry in hosts.items() if entry.get("done") and name not in lost)
        out = [*refused, *lost, *done]
        todo = sorted(set(hosts) - set(out))
        told = [f"{len(done)} done before", f"{len(todo)} to do"]
        told += [f"{len(lost)} unreachable ({', '.join(lost[:10])})"] if lost else []
        display.display("  " + ", ".join(told))
        result: Dict[str, Any] = {"changed": False, "todo": todo, "done": done, "lost": lost, "refused": refused}
        if refused:
            journal.unlock(who)
            first = hosts[refused[0]]["refused"]
            result["refusal"] = f"{len(refused)} hosts cannot be claimed; {refused[0]}: {first}"
        result["claimed"] = todo if refused and todo else NOBODY
        result["hosts"] = todo if todo and not refused else NOBODY
        if self._task.check_mode:
            display.display("  check mode: nothing is prepared or activated")
            result["hosts"] = NOBODY
        return result

    def _batches(self, journal: rollout_journal.Journal, who: Dict[str, Any], args: Dict[str, Any]) -> Dict[str, Any]:
        hosts = journal.hosts(who["token"])
        documents = {name: dict(entry.get("rollout") or {}) for name, entry in hosts.items()}
        done = [name for name, entry in hosts.items() if lines.status(entry) == "done"]
        failed = [name for name, entry in hosts.items() if lines.status(entry) == "failed"]
        ready = [name for name in hosts if documents[name].get("phase") == "prepared" and name not in done]
        ready = [name for name in ready if hosts[name].get("unreachable") is None]
        stop = None
        if batches.over_budget(len(failed), len(failed) + len(ready), float(args["max_fail_percentage"])):
            stop = (
                f"{len(failed)} of {len(failed) + len(ready)} hosts could not be prepared, more than"
                f" {args['max_fail_percentage']} % (rollout_max_fail_percentage); nothing live was touched"
            )
        # The rank of a host comes from what an earlier run left there, which `prepared` has not wiped out.
        ordered = state.order(sorted(ready), {name: _rank(hosts[name]) for name in ready})
        # A host on which all was right already has passed no gate, and stands for no canary.
        passed = len([name for name in done if "draining" in (documents[name].get("times") or {})])
        total = len(ordered) + passed
        sizes = batches.remaining_sizes(args["batches"], total, passed) if ordered else []
        first = batches.first_number(args["batches"], total, passed) if ordered else 0
        numbers = _numbers(ordered, sizes, first)
        if stop:
            ordered, sizes = [], []
            display.display(f"  stopped: {stop}")
        journal.save_run(numbers=numbers, stopped=stop)
        if ordered:
            display.display(f"  {len(ordered)} hosts are prepared; batches of {_short(sizes)}, from number {first}")
        return {
            "changed": False,
            "hosts": ordered or NOBODY,
            "serial": sizes or [1],
            "numbers": numbers,
            "stop": stop,
            "leftover": sorted(set(ready) - set(ordered)) or NOBODY,
        }


def _rank(entry: Dict[str, Any]) -> Dict[str, Any]:
    document = dict(entry.get("rollout") or {})
    left = {name: document.get(name) for name in ("touched", "drained")}
    return dict(left, phase="failed" if document.get("failure") else "")


def _numbers(ordered: List[str], sizes: List[int], first: int) -> Dict[str, int]:
    numbers: Dict[str, int] = {}
    names = iter(ordered)
    for offset, size in enumerate(sizes):
        for _unused in range(size):
            numbers[next(names)] = first + offset
    return numbers


def _short(sizes: List[int]) -> str:
    """Sizes in one line: 1, 10, 4 x 25."""
    told: List[str] = []
    index = 0
    while index < len(sizes):
        same = index
        while same < len(sizes) and sizes[same] == sizes[index]:
            same += 1
        told.append(f"{same - index} x {sizes[index]}" if same - index > 2 else ", ".join(map(str, sizes[index:same])))
        index = same
    return ", ".join(told) or "none"
