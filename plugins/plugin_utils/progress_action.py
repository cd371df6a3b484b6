# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Action plugins of modules that may take long: a fast question first, then the work and a line about it at times."""

from __future__ import annotations

import os
import secrets
import shlex
import time
import typing as t

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.verl.baremetal.plugins.module_utils import lock, progress

display = Display()

Result = dict[str, t.Any]


class ProgressAction(ActionBase):
    """Runs MODULE; subclasses name it.

    In check mode, and when the module answers the probe with a result, one round trip is all. Otherwise the module
    runs in the background of the host, its progress file is read every few seconds, and at least every LINE_SECONDS a
    line is printed: what, how far, how long.
    """

    MODULE = ""
    LINE_SECONDS = 12.0
    POLL_SECONDS = 1.5
    LIMIT_SECONDS = 6 * 3600

    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> Result:
        """The plugin's entry point."""
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        # This process is a worker of ansible-playbook; the run is its parent.
        arguments["owner"] = lock.owner_of(os.getppid())
        if self._task.async_val:
            result.update(self._call(arguments, task_vars, wrap_async=True))
            return result
        result.update(self._work(arguments, task_vars))
        if result.get("failed") and result.get("lock_holder") and lock.is_dead(result["lock_holder"]):
            arguments["lock_takeover"] = result["lock_holder"]["run"]
            for key in ("failed", "msg", "lock_holder"):
                result.pop(key, None)
            result.update(self._work(arguments, task_vars))
        return result

    def is_long(self, arguments: Result) -> bool:
        """Whether the module may take long with these arguments."""
        return True

    def _work(self, arguments: Result, task_vars: dict[str, t.Any] | None) -> Result:
        if self._task.check_mode or not self.is_long(arguments):
            return self._call(arguments, task_vars)
        answer = self._call(dict(arguments, probe=True), task_vars)
        if answer.get("failed") or not answer.get("probe_pending"):
            return answer
        return self._in_background(arguments, task_vars)

    def _call(self, arguments: Result, task_vars: dict[str, t.Any] | None, wrap_async: bool = False) -> Result:
        return t.cast(
            Result,
            self._execute_module(
                module_name=self.MODULE, module_args=arguments, task_vars=task_vars, wrap_async=wrap_async
            ),
        )

    def _in_background(self, arguments: Result, task_vars: dict[str, t.Any] | None) -> Result:
        folder = self._remote_expand_user(self.get_shell_option("async_dir", default="~/.ansible_async"))
        token = secrets.token_hex(6)
        progress_file = self._connection._shell.join_path(folder, f"verl-{token}.progress")
        self._task.async_val = self.LIMIT_SECONDS
        try:
            started = self._call(dict(arguments, progress_file=progress_file), task_vars, wrap_async=True)
        finally:
            self._task.async_val = 0
        if started.get("failed") or "ansible_job_id" not in started:
            return started
        job = str(started["ansible_job_id"])
        # Its own word for where it is: HOME in the module's environment need not be the user's home.
        results_file = str(started.get("results_file") or self._connection._shell.join_path(folder, job))
        try:
            self._follow(progress_file, results_file)
            return self._collect(job, os.path.dirname(results_file), task_vars)
        finally:
            names = " ".join(shlex.quote(name) for name in (progress_file, results_file))
            self._low_level_execute_command(f"rm -f {names}")

    def _follow(self, progress_file: str, results_file: str) -> None:
        """Read the progress until the module is done or gone."""
        begun = last = time.monotonic()
        said = ""
        gone = 0
        pause = 0.3
        while time.monotonic() - begun < self.LIMIT_SECONDS:
            asked = time.monotonic()
            data, done, alive = self._poll(progress_file, results_file, pause)
            if done:
                return
            time.sleep(max(0.0, pause - (time.monotonic() - asked)))
            pause = min(self.POLL_SECONDS, pause * 1.5)
            gone = 0 if alive else gone + 1
            if gone >= 5:
                return
            now = time.monotonic()
            what = str(data["what"]) if data else "starting"
            subject = what.partition(":")[0]
            # A new subject is told soon, details of the same one now and then.
            if now - last >= self.LINE_SECONDS or (subject != said and now - last >= 4):
                last, said = now, subject
                self._say(progress.describe(data or {"what": what}, now - begun))

    def _say(self, text: str) -> None:
        host = self._task_host()
        display.display(f"  {host}: {text}")

    def _task_host(self) -> str:
        return str(getattr(self._play_context, "remote_addr", None) or "host")

    def _poll(self, progress_file: str, results_file: str, wait: float = 0.0) -> tuple[Result | None, bool, bool]:
        """Progress, whether a result is there, whether the module's process lives (true while it is unknown).

        The host itself waits for the result, so that one which comes between two questions is not left lying.
        """
        first, second = shlex.quote(progress_file), shlex.quote(results_file)
        script = (
            f"n={round(wait * 5)}; while [ $n -gt 0 ]; do head -c 200 {second} 2>/dev/null | grep -qv '\"started\"' && break; "
            f"n=$((n-1)); sleep 0.2; done; cat {first} 2>/dev/null; echo; cat {second} 2>/dev/null | head -c 200; echo; "
            f"p=$(sed -n 's/.*\"pid\": \\([0-9]*\\).*/\\1/p' {first} 2>/dev/null); "
            f'if [ -z "$p" ] || [ -d "/proc/$p" ]; then echo alive; else echo gone; fi'
        )
        answer = self._low_level_execute_command(script)
        lines = [line for line in str(answer.get("stdout", "")).splitlines() if line.strip()]
        data = next((found for found in map(progress.parse, lines) if found), None)
        results = [line for line in lines if line.startswith("{") and progress.parse(line) is None]
        return data, any('"started"' not in line for line in results), "gone" not in lines[-1:]

    def _collect(self, job: str, folder: str, task_vars: dict[str, t.Any] | None) -> Result:
        result = t.cast(
            Result,
            self._execute_module(
                module_name="ansible.legacy.async_status",
                module_args={"jid": job, "mode": "status", "_async_dir": folder},
                task_vars=task_vars,
            ),
        )
        if not result.pop("finished", False):
            return {
                "failed": True,
                "msg": f"{self.MODULE} ended without a result: its process was killed (out of memory?) or the host "
                f"restarted. Run again: it goes on from what was verified.",
            }
        for key in ("ansible_job_id", "started", "results_file", "_ansible_suppress_tmpdir_delete"):
            result.pop(key, None)
        return result
