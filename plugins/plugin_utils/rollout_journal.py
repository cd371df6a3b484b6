# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The controller's side of a rollout: who this run is, its lock, and a journal of small files, one a host.

The truth about a host lies on the host. The journal is for the plan and the report: reading a thousand small files
costs the controller milliseconds, asking Ansible for a thousand hosts' variables costs seconds.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import tempfile
from typing import Any, Dict, List, Optional
from urllib.parse import quote, unquote

from ansible_collections.verl.baremetal.plugins.module_utils import lock


class LockedError(Exception):
    """Another rollout of the same name is running on this controller."""


def run_pid() -> int:
    """The process of ansible-playbook: an action plugin runs in a child of it."""
    return os.getppid()


def identity(length: int, pid: Optional[int] = None) -> Dict[str, Any]:
    """Who this run is, in the words of a claim."""
    number = run_pid() if pid is None else pid
    name = socket.gethostname()
    token = f"{name}:{number}:{lock.process_start(number) or ''}"
    return {"controller": name, "pid": number, "token": token, "length": length}


def is_dead(claim: Dict[str, Any]) -> bool:
    """True when a claim was made by a process of this controller that no longer runs."""
    parts = str(claim.get("token", "")).rsplit(":", 2)
    if len(parts) != 3 or parts[0] != socket.gethostname() or not parts[1].isdigit():
        return False
    return lock.is_gone(int(parts[1]), int(parts[2]) if parts[2].isdigit() else None)


def write_json(path: str, content: Any) -> None:
    """Replace a file in one step."""
    write_text(path, json.dumps(content, sort_keys=True, default=str) + "\n")


def write_text(path: str, text: str) -> None:
    """Replace a file in one step."""
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".new.", dir=folder)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def read_json(path: str) -> Any:
    """A file's content, or None when it is not there or damaged."""
    try:
        with open(path, encoding="utf-8") as stream:
            return json.load(stream)
    except (OSError, ValueError):
        return None


class Journal:
    """The folder of one rollout on the controller."""

    def __init__(self, folder: str) -> None:
        self.folder = os.path.abspath(os.path.expanduser(folder))

    def path(self, *parts: str) -> str:
        """A file of the journal."""
        return os.path.join(self.folder, *parts)

    def lock(self, who: Dict[str, Any]) -> Optional[Dict[str, Any]]:
        """Take the rollout for this run; returns the dead run that held it before, if any."""
        os.makedirs(self.folder, exist_ok=True)
        with open(self.path("lock.guard"), "a", encoding="utf-8") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            other = read_json(self.path("lock"))
            if isinstance(other, dict) and other.get("token") != who["token"]:
                if not is_dead(other):
                    raise LockedError(
                        f"another rollout is running: process {other.get('pid')} on {other.get('controller')}"
                        f" (lock {self.path('lock')}); wait for it, or give this one another rollout_name if it is"
                        " for another cluster"
                    )
            else:
                other = None
            write_json(self.path("lock"), who)
            return other

    def unlock(self, who: Dict[str, Any]) -> None:
        """Give the rollout back."""
        found = read_json(self.path("lock"))
        if isinstance(found, dict) and found.get("token") == who["token"]:
            os.unlink(self.path("lock"))

    def run(self) -> Dict[str, Any]:
        """What is known of the rollout as a whole."""
        found = read_json(self.path("run.json"))
        return found if isinstance(found, dict) else {}

    def save_run(self, **changes: Any) -> Dict[str, Any]:
        """Change what is known of the rollout as a whole."""
        content = dict(self.run(), **changes)
        write_json(self.path("run.json"), content)
        return content

    def start(self, key: str, direction: str, token: str, now: float) -> Dict[str, Any]:
        """Begin a run: a new rollout starts a new journal, the same one goes on with the old."""
        found = self.run()
        if (found.get("key"), found.get("direction")) != (key, direction):
            for name in self.names():
                os.unlink(self.path("hosts", _file(name)))
            found = {"key": key, "direction": direction, "started": now, "batches": {}}
        found.update(token=token, resumed=now, numbers={}, ended=None, stopped=None)
        write_json(self.path("run.json"), found)
        return found

    def names(self) -> List[str]:
        """Hosts that the journal knows."""
        try:
            found = os.listdir(self.path("hosts"))
        except OSError:
            return []
        return sorted(unquote(name[: -len(".json")]) for name in found if name.endswith(".json") and name[0] != ".")

    def host(self, name: str) -> Dict[str, Any]:
        """What is known of a host."""
        found = read_json(self.path("hosts", _file(name)))
        return found if isinstance(found, dict) else {}

    def note(self, name: str, **changes: Any) -> Dict[str, Any]:
        """Change what is known of a host."""
        content = dict(self.host(name), **changes)
        write_json(self.path("hosts", _file(name)), content)
        return content

    def hosts(self, token: Optional[str] = None) -> Dict[str, Dict[str, Any]]:
        """All hosts, or those of one run."""
        found = {name: self.host(name) for name in self.names()}
        return {name: entry for name, entry in found.items() if token is None or entry.get("token") == token}


def _file(name: str) -> str:
    return quote(name, safe="") + ".json"
