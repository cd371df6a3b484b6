# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Controller side of the module wheel_build: looks through the caches, lets one host build, hands the wheel on."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
import typing as t

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase

from ansible_collections.verl.baremetal.plugins.module_utils import index
from ansible_collections.verl.baremetal.plugins.module_utils.wheels import cache, key, source
from ansible_collections.verl.baremetal.plugins.plugin_utils.wheel_lease import Lease, group

MODULE = "verl.baremetal.wheel_build"
CONTROLLER = "~/.cache/verl-baremetal/wheels"
POLL = 10.0  # seconds that the module waits on the host in one call
SAY = 8.0  # seconds between two lines of progress, below POLL: each call gives one
WAITING = 60.0  # seconds between two lines of a host that waits for another's wheel: there may be a thousand
NOBODY = 90.0  # seconds that a host without a compiler waits for one that has it
RESTARTS = 3
TRIES = 2  # hosts of a run on which a build may fail before the others take it for failed, too


class ActionModule(ActionBase):
    """Has a wheel on the host: from its cache, the controller's, a URL, or built."""

    TRANSFERS_FILES = True

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Look, build where nobody has it, hand on."""
        self.vars = task_vars or {}
        result = super().run(tmp, self.vars)
        self.arguments = {
            name: value
            for name, value in self._task.args.items()
            if name not in ("step", "seconds", "key", "incoming", "entry")
        }
        self.host = str(self.vars.get("inventory_hostname", "host"))
        self.said = 0.0
        self.asked = False
        folder = self.arguments.get("cache_controller", CONTROLLER)
        self.controller = os.path.expanduser(str(folder)) if folder else ""
        self.url = str(self.arguments.get("cache_url") or "")
        build = self._flag("build", True)
        try:
            facts = self._call("inspect")
            parts, damaged = facts["parts"], list(facts["damaged"])
            for problem in damaged:
                self._say(f"{problem}: it is put aside", always=True)
            answer = self._answer(facts)
            if facts["wheel"]:
                if self.controller and not self._task.check_mode:
                    self._bring(facts["wheel"], facts["entry"])
                    self._lease(parts).release()  # that of a build in the background, which is done
                return self._finish(result, answer, facts["wheel"], facts["entry"], "host", False, damaged)
            if self._task.check_mode:
                result.update(answer, changed=True, wheel="", origin="built", damaged=damaged)
                return result
            return self._obtain(result, answer, facts, parts, damaged, build)
        except _Failed as failure:
            result.update(failure.result)
            return result

    # -- the way of a wheel --------------------------------------------------------------------------------------------

    def _obtain(
        self,
        result: dict[str, t.Any],
        answer: dict[str, t.Any],
        facts: dict[str, t.Any],
        parts: dict[str, t.Any],
        damaged: list[str],
        build: bool,
    ) -> dict[str, t.Any]:
        """From the controller or a URL, otherwise built by whoever holds the lease."""
        refusal = facts["refusal"] if build else facts["refusal"] or "building is switched off (build: false)"
        background = self._flag("background", False)
        if not self.controller:
            taken = self._from_url(parts, damaged)
            if taken is not None:
                return self._finish(result, answer, taken["wheel"], taken["entry"], "url", True, damaged)
            if refusal:
                raise _Failed({"failed": True, "msg": self._nobody(refusal)})
            wheel, entry = self._build(self._for_the_play(facts), None, background)
            return self._finish(result, answer, wheel, entry, "built" if wheel else "building", True, damaged)
        lease = self._lease(parts)
        begun, alone = lease.mine(), time.time()
        while True:
            found, problems = self._look(parts)
            damaged += problems
            if found is not None:
                taken = self._give(found[0])
                return self._finish(result, answer, taken["wheel"], taken["entry"], found[1], True, damaged)
            failures = lease.failures()
            if len(failures) >= TRIES:
                raise _Failed({"failed": True, "msg": self._hopeless(failures)})
            holder = lease.acquire() if not refusal else lease.holder()
            if not refusal and holder is None:
                # Another host may have finished between the look and the lease.
                if self._look(parts)[0] is None:
                    break
                lease.release()
                continue
            if background:
                result.update(answer, changed=False, wheel="", origin="building", damaged=damaged)
                return result
            if holder is None and time.time() - alone > NOBODY:
                raise _Failed({"failed": True, "msg": self._nobody(refusal)})
            if holder is not None:
                alone = time.time()
                self._say("waiting for the wheel that {} builds".format(holder.get("holder")), every=WAITING)
            time.sleep(1.0)
        finished = True
        try:
            wheel, entry = self._build(self._for_the_play(facts), lease, background, begun)
            finished = bool(wheel)
            if wheel:
                with lease.beating():
                    self._bring(wheel, entry)
            return self._finish(result, answer, wheel, entry, "built" if wheel else "building", True, damaged)
        except _Failed as failure:
            if not failure.result.get("unreachable"):
                lease.failed(str(failure))
            raise
        finally:
            if finished:
                lease.release()

    def _from_url(self, parts: dict[str, t.Any], damaged: list[str]) -> dict[str, t.Any] | None:
        """From the URL straight to the host, where the controller keeps no cache."""
        if not self.url:
            return None
        with tempfile.TemporaryDirectory() as folder:
            found, problems = cache.from_place(self.url, folder, parts, self._client())
            damaged += problems
            for problem in problems:
                self._say(f"{problem}: it is not used")
            return self._give(found) if found is not None else None

    def _for_the_play(self, facts: dict[str, t.Any]) -> str:
        """Let the wheel that is built here serve the GPUs of every host in the play; returns its key."""
        own = facts["parts"]["architectures"]
        if not own:
            return str(facts["key"])
        wanted = set(own)
        hostvars = self.vars.get("hostvars") or {}
        for host in self.vars.get("ansible_play_hosts_all") or []:
            plan = hostvars[host].get("verl_plan") if host in hostvars else None
            for wheel in (plan or {}).get("wheels", {}).values():
                if key.normalise(str(wheel["dist"])) == facts["parts"]["package"]:
                    wanted.update(key.architectures(wheel["architectures"]))
        if wanted == set(own):
            return str(facts["key"])
        self.arguments["architectures"] = key.architectures(wanted)
        self._say(
            "building for all GPUs of the play: %s" % " ".join("sm_" + name for name in self.arguments["architectures"])
        )
        return str(self._call("inspect")["key"])

    def _look(self, parts: dict[str, t.Any]) -> tuple[tuple[cache.Found, str] | None, list[str]]:
        """The controller's cache, then the URL, which is asked once: whoever waits, or holds the lease, shall not wait for it."""
        found, damaged = cache.lookup(self.controller, parts)
        origin = "controller"
        if found is None and self.url and not self.asked:
            self.asked = True
            found, problems = cache.from_place(self.url, self.controller, parts, self._client())
            damaged += problems
            origin = "url"
        for problem in damaged:
            self._say(f"{problem}: it is not used")
        return ((found, origin) if found is not None else None), damaged

    def _lease(self, parts: dict[str, t.Any]) -> Lease:
        return Lease(self.controller, group(parts), self.host, os.getppid())

    def _client(self) -> source.Client:
        return source.Client(ca_file=os.environ.get("SSL_CERT_FILE", ""), proxy=str(self.arguments.get("proxy") or ""))

    def _build(self, short: str, lease: Lease | None, background: bool, begun: bool = False) -> tuple[str, dict[str, t.Any]]:
        """Build on the host; the wheel and its entry, or an empty path while it goes on in the background.

        begun: this run began it in the background, so that an end that is there already is this run's.
        """
        restarts = 0
        if not (begun and self._call("wait", seconds=0, key=short).get("result")):
            self._call("start")
        while True:
            if background:
                return "", {}
            state = self._call("wait", seconds=POLL, key=short)
            if lease is not None:
                lease.beat()
            if not state["ended"]:
                self._say(state["text"])
                continue
            done = state["result"]
            if done is None:
                restarts += 1
                if restarts > RESTARTS:
                    raise _Failed(
                        {
                            "failed": True,
                            "msg": f"The builder of {self._name()} was killed {restarts} times. If the kernel did it for want of "
                            "memory (dmesg tells), lower wheels_jobs or raise the limit. What is compiled is kept: the next run "
                            f"goes on from there. Log: {state['folder']}/build.log",
                        }
                    )
                self._say("the builder was interrupted; going on with what it left", always=True)
                self._call("start")
                continue
            if not done["ok"]:
                raise _Failed({"failed": True, "msg": done["message"]})
            built = done["entry"]["built"]
            self._say(
                f"built in {built['seconds']:.0f} s, {built['units']} units, peak {built['peak_mb']} MB",
                always=True,
            )
            return done["wheel"], done["entry"]

    def _bring(self, wheel: str, entry: dict[str, t.Any]) -> None:
        """From the host into the controller's cache, where it is not yet; sha256 checked."""
        present = cache.lookup(self.controller, entry["parts"])[0]
        if present is not None and present.entry["key"] == entry["key"]:
            return  # also where its bytes are not this host's, which has built for itself: the others have those
        os.makedirs(self.controller, exist_ok=True)
        target = os.path.join(self.controller, f".{entry['key']}.{os.getpid()}.incoming")
        try:
            self._connection.fetch_file(wheel, target)
            cache.store(self.controller, target, entry, move=True)
        except (AnsibleError, cache.CacheError, OSError) as error:
            raise AnsibleActionFail(f"The wheel {wheel} could not be brought to the controller: {error}") from error
        finally:
            with contextlib.suppress(OSError):
                os.unlink(target)

    def _give(self, found: cache.Found) -> dict[str, t.Any]:
        """From the controller's cache to the host's; sha256 checked there."""
        folder = self._make_tmp_path()
        try:
            remote = self._connection._shell.join_path(folder, found.entry["wheel"])
            self._transfer_file(found.path, remote)
            self._fixup_perms2((folder, remote))
            return self._call("take", incoming=remote, entry=found.entry)
        finally:
            self._remove_tmp_path(folder)

    # -- small things --------------------------------------------------------------------------------------------------

    def _call(self, step: str, **more: t.Any) -> dict[str, t.Any]:
        """Run the module on the host; its result, or the end."""
        answer = self._execute_module(
            module_name=MODULE, module_args=dict(self.arguments, step=step, **more), task_vars=self.vars
        )
        if answer.get("failed") or answer.get("unreachable"):
            raise _Failed(answer)
        return t.cast("dict[str, t.Any]", answer)

    def _flag(self, name: str, default: bool) -> bool:
        value = self.arguments.get(name, default)
        return value if isinstance(value, bool) else str(value).lower() in ("1", "yes", "true", "on", "y", "t")

    def _name(self) -> str:
        return "{} {}".format(self.arguments.get("name"), self.arguments.get("version"))

    def _nobody(self, refusal: str) -> str:
        where = "the host's cache{}{}".format(
            f", the controller's ({self.controller})" if self.controller else "",
            f" and {index.without_password(self.url)}" if self.url else "",
        )
        return (
            f"No wheel of {self._name()} that serves this host is in {where}, and none can be built here: {refusal}. "
            "Build it on a host with a compiler (playbooks/wheels.yml), or let such a host take part in the play."
        )

    def _hopeless(self, failures: dict[str, str]) -> str:
        last = list(failures)[-1]
        return f"Building {self._name()} failed on {' and '.join(failures)}, so this host does not try. On {last}: {failures[last]}"

    def _say(self, text: str, always: bool = False, every: float = SAY) -> None:
        """A line on the terminal, not more often than that."""
        now = time.time()
        if always or now - self.said >= every:
            self.said = now
            self._display.display(f"[{self.host}] {self._name()}: {text}")

    def _answer(self, facts: dict[str, t.Any]) -> dict[str, t.Any]:
        return {"key": facts["key"], "refusal": facts["refusal"]}

    def _finish(
        self,
        result: dict[str, t.Any],
        answer: dict[str, t.Any],
        wheel: str,
        entry: dict[str, t.Any],
        origin: str,
        changed: bool,
        damaged: list[str],
    ) -> dict[str, t.Any]:
        result.update(answer, changed=changed, wheel=wheel, origin=origin, damaged=damaged)
        if wheel:
            result.update(
                key=entry["key"],
                sha256=entry["sha256"],
                entry=entry,
                requirement="{}=={} --hash=sha256:{}".format(self.arguments["name"], entry["version"], entry["sha256"]),
            )
        return result


class _Failed(Exception):
    """The module failed on the host: its result is the task's."""

    def __init__(self, result: dict[str, t.Any]) -> None:
        super().__init__(result.get("msg", ""))
        self.result = result
