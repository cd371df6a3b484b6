# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Closes a batch or a run on the controller: counts failures, writes the report, says whether to go on."""

from __future__ import annotations

import time
from typing import Any, Dict, Optional

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.verl.baremetal.plugins.module_utils.report import model
from ansible_collections.verl.baremetal.plugins.module_utils.rollout import batches, lines
from ansible_collections.verl.baremetal.plugins.plugin_utils import rollout_journal
from ansible_collections.verl.baremetal.plugins.plugin_utils.report import page

display = Display()


class ActionModule(ActionBase):
    """Runs on the controller alone."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset(
        ("state", "journal", "max_fail_percentage", "claim_seconds", "hosts", "checks", "folder", "title")
    )

    def run(self, tmp: Optional[str] = None, task_vars: Optional[Dict[str, Any]] = None) -> Dict[str, Any]:
        """Dispatch on the state."""
        variables = task_vars or {}
        super().run(tmp, variables)
        args = self._task.args
        try:
            if args["state"] == "verify":
                return self._verify(args, variables)
            journal = rollout_journal.Journal(str(args["journal"]))
            who = rollout_journal.identity(int(args.get("claim_seconds", 3600)))
            host = str(variables.get("inventory_hostname", ""))
            if args["state"] == "open":
                return self._open(journal, host)
            if args["state"] == "close":
                return self._close(journal, host, float(args["max_fail_percentage"]))
            if args["state"] == "rest":
                return self._rest(journal, who)
            if args["state"] == "end":
                return self._end(journal, who)
        except OSError as error:
            return {"failed": True, "msg": f"cannot write the report: {error}"}
        except KeyError as error:
            return {
                "failed": True,
                "msg": f"the rollout's journal in {args.get('journal')} lacks {error}: something removed it while the"
                " rollout ran; what was done is noted on the hosts, so run the rollout again",
            }
        return {"failed": True, "msg": f"unknown state {args['state']!r}; known are open, close, rest, end, verify"}

    def _open(self, journal: rollout_journal.Journal, host: str) -> Dict[str, Any]:
        run = journal.run()
        number = run["numbers"].get(host, 0)
        members = [name for name, value in run["numbers"].items() if value == number]
        known = dict(run["batches"])
        known[str(number)] = {"number": number, "hosts": members, "started": time.time(), "ended": None}
        journal.save_run(batches=known)
        last = max(run["numbers"].values(), default=number)
        display.display(f"Batch {number} of {last}: {', '.join(members[:12])}{' ...' if len(members) > 12 else ''}")
        first = number == min(run["numbers"].values(), default=number)
        return {"changed": False, "number": number, "hosts": members, "first": first, "last": number == last}

    def _close(self, journal: rollout_journal.Journal, host: str, allowed: float) -> Dict[str, Any]:
        run = journal.run()
        number = run["numbers"].get(host, 0)
        members = [name for name, value in run["numbers"].items() if value == number]
        entries = {name: journal.host(name) for name in members}
        bad = sorted(name for name, entry in entries.items() if lines.status(entry) != "done")
        known = dict(run["batches"])
        known[str(number)] = dict(known.get(str(number), {"number": number, "hosts": members}), ended=time.time())
        stop = None
        if batches.over_budget(len(bad), len(members), allowed):
            stop = (
                f"{len(bad)} of {len(members)} hosts of batch {number} failed ({', '.join(bad[:10])}), more than"
                f" {allowed:g} % (rollout_max_fail_percentage)"
            )
        journal.save_run(batches=known, stopped=stop)
        self._write(journal)
        last = number == max(run["numbers"].values(), default=number)
        if stop and not last:
            display.display(f"  stopped before the next batch: {stop}", color="red")
        return {"changed": False, "number": number, "failed_hosts": bad, "stop": bool(stop), "last": last}

    def _rest(self, journal: rollout_journal.Journal, who: Dict[str, Any]) -> Dict[str, Any]:
        rest = {name: entry for name, entry in journal.hosts(who["token"]).items() if lines.status(entry) == "waiting"}
        left = {name: entry.get("rollout") or {} for name, entry in rest.items()}
        idle = [name for name, state in left.items() if state.get("drained") and not state.get("touched")]
        return {"changed": False, "hosts": list(rest) or ["!all"], "drained": idle or ["!all"]}

    def _end(self, journal: rollout_journal.Journal, who: Dict[str, Any]) -> Dict[str, Any]:
        run = journal.save_run(ended=time.time())
        hosts = journal.hosts(who["token"])
        where = self._write(journal)
        block = lines.summary(str(run.get("title", "Rollout")), hosts, where, run.get("stopped"))
        for line in block:
            display.display(line)
        journal.unlock(who)
        found = lines.counts(hosts)
        result: Dict[str, Any] = {"changed": False, "counts": found, "page": where, "stopped": run.get("stopped")}
        if found["failed"] or found["interrupted"] or found["waiting"] or run.get("stopped"):
            result["failed"] = True
            result["msg"] = block[0] + "; see the lines above" + (f" and {where}" if where else "")
        return result

    def _write(self, journal: rollout_journal.Journal) -> str:
        report = model.rollout(journal.run(), journal.hosts(), time.time())
        rollout_journal.write_json(journal.path("report.json"), report)
        rollout_journal.write_text(journal.path("report.html"), page.render(report))
        return journal.path("report.html")

    def _verify(self, args: Dict[str, Any], variables: Dict[str, Any]) -> Dict[str, Any]:
        answers = {}
        for host in args["hosts"]:
            found = variables["hostvars"][host].get(str(args["checks"]))
            answers[host] = found if isinstance(found, dict) else {"unreachable": True, "msg": "no answer"}
        report = model.verify(answers, time.time(), str(args.get("title", "Verify")))
        journal = rollout_journal.Journal(str(args["folder"]))
        rollout_journal.write_json(journal.path("report.json"), report)
        rollout_journal.write_text(journal.path("report.html"), page.render(report))
        for line in model.verify_lines(report):
            display.display(line)
        display.display(f"Report: {journal.path('report.html')}")
        return {"changed": False, "counts": report["counts"], "page": journal.path("report.html")}
