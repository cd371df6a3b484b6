# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""One run at a time may change a host: the lock in <root>/state/lock, and the flock of a module that is at work.

The lock belongs to a run (an ansible-playbook process on a controller), because a run is many short module calls.
It names its owner, and every module call of the run renews its heartbeat. It may be taken over when its owner is
known to be dead, when it was silent for too long, or by force. It also names the managed host that took it, since
several hosts of one run may see the same stack_root. The flock belongs to a module process and to the
children that inherited it: it keeps a new run away from a folder in which an orphan of a killed run still works.
"""

from __future__ import annotations

import errno
import fcntl
import getpass
import json
import os
import socket
import time
from typing import Any, Dict, List, Optional, Tuple

Owner = Dict[str, Any]
FORMAT = 1


class LockHeld(Exception):
    """Somebody else holds the lock; holder is what the lock file says, the text is for people."""

    def __init__(self, message: str, holder: Optional[Owner] = None) -> None:
        super().__init__(message)
        self.holder = holder or {}


def process_start(pid: int) -> Optional[int]:
    """The start time of a process in clock ticks since boot, None when there is no such process or it is hidden."""
    found = _stat(pid)
    return None if found is None or found[0] in ("Z", "X") else found[1]


def _stat(pid: int) -> Optional[Tuple[str, int]]:
    """State and start time of a process, None when they cannot be read."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as handle:
            text = handle.read()
    except OSError:
        return None
    # The second field is the command in parentheses and may hold anything: count from its end.
    fields = text.rpartition(")")[2].split()
    return (fields[0], int(fields[19])) if len(fields) >= 20 else None


def is_gone(pid: int, start: Optional[int]) -> bool:
    """True when the process with this number and start time no longer runs.

    A process that cannot be looked at runs: where /proc hides those of other users (hidepid), it looks like none at all.
    """
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        pass
    found = _stat(pid)
    return found is not None and (found[0] in ("Z", "X") or start not in (None, found[1]))


def machine() -> str:
    """What identifies the running kernel and the process namespace: only there a process number means something."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as handle:
            boot = handle.read().strip()
        return boot + "/" + os.readlink("/proc/self/ns/pid")
    except OSError:
        return socket.gethostname()


def owner_of(pid: int) -> Owner:
    """The owner that a process of this machine is."""
    start = process_start(pid)
    host = socket.gethostname()
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return {
        "run": f"{host}:{pid}:{start}",
        "host": host,
        "machine": machine(),
        "pid": pid,
        "start": start,
        "user": user,
    }


def is_dead(owner: Owner) -> bool:
    """True only when this machine is the owner's and its process is gone."""
    if owner.get("machine") != machine():
        # The same host after a reboot is another machine, but then its processes are gone, too.
        return owner.get("host") == socket.gethostname() and _booted_since(owner)
    pid = owner.get("pid")
    return isinstance(pid, int) and is_gone(pid, owner.get("start"))


def _booted_since(owner: Owner) -> bool:
    """True when the kernel started after the lock was taken (and the owner is of the outermost namespace as we are)."""
    theirs, ours = str(owner.get("machine")).split("/"), machine().split("/")
    if len(theirs) != 2 or len(ours) != 2 or theirs[1] != ours[1] or theirs[0] == ours[0]:
        return False
    try:
        with open("/proc/stat", encoding="ascii") as handle:
            boot = next(int(line.split()[1]) for line in handle if line.startswith("btime "))
    except (OSError, StopIteration, ValueError):
        return False
    return boot > float(owner.get("heartbeat") or 0)


def place() -> str:
    """What the managed host is told apart by from the others of a run: its name, which a reboot leaves as it is."""
    return socket.gethostname()


def shared(root: str, holder: Owner) -> Optional[str]:
    """Words when it is another host that took something for this run, None when it is this one or nobody knows."""
    other = holder.get("place")
    if not other or other == place():
        return None
    return (
        f"{root} is shared with {other}, which this run provisions too: provision a shared root from one host "
        f"(verl_hosts, --limit), or give each host its own stack_root."
    )


def _folder(root: str) -> str:
    return os.path.join(root, "state")


def path_of(root: str) -> str:
    """Where the lock of a stack_root lies."""
    return os.path.join(_folder(root), "lock")


def read(root: str) -> Optional[Owner]:
    """Who holds the lock, None when nobody does; a lock that cannot be read counts as held by nobody known."""
    try:
        with open(path_of(root), encoding="utf-8") as handle:
            text = handle.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        return {"run": "", "host": "?", "user": "?", "unreadable": str(error)}
    try:
        data = json.loads(text)
    except ValueError:
        return {"run": "", "host": "?", "user": "?", "unreadable": "it is no JSON"}
    if not isinstance(data, dict) or not isinstance(data.get("run"), str):
        return {"run": "", "host": "?", "user": "?", "unreadable": "it names no run"}
    return data


def describe(holder: Owner, now: float) -> str:
    """Who holds the lock, since when, and when it was last heard of, in words."""
    if holder.get("unreadable"):
        return f"a lock file that cannot be read ({holder['unreadable']})"
    since = _stamp(holder.get("since"))
    silent = int(max(0, now - float(holder.get("heartbeat") or now)))
    return (
        f"the run of {holder.get('user')} on {holder.get('host')} (process {holder.get('pid')}) "
        f"since {since}, last heard of {silent} s ago"
    )


def _stamp(value: Any) -> str:
    if not isinstance(value, (int, float)):
        return "an unknown time"
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(value))


class _Guard:
    """A short exclusive section around reading and writing the lock: freed by the kernel when its process dies."""

    def __init__(self, root: str) -> None:
        os.makedirs(_folder(root), exist_ok=True)
        self._handle = os.open(path_of(root) + ".guard", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def __enter__(self) -> None:
        fcntl.flock(self._handle, fcntl.LOCK_EX)

    def __exit__(self, *unused: Any) -> None:
        os.close(self._handle)


def acquire(
    root: str,
    owner: Owner,
    stale_minutes: float = 60,
    force: bool = False,
    takeover: str = "",
    now: Optional[float] = None,
) -> Optional[str]:
    """Take the lock for a run or renew the run's heartbeat; returns words on a takeover, raises LockHeld.

    takeover names a run that the controller found dead on its own machine.
    """
    moment = time.time() if now is None else now
    with _Guard(root):
        holder = read(root)
        reason = None
        mine = _ours(root, holder, owner)
        if holder is not None and not mine:
            reason = _reason_to_take(holder, stale_minutes, force, takeover, moment)
            if reason is None:
                raise LockHeld(
                    f"{root} is locked by {describe(holder, moment)}. One run at a time may change it: wait for that "
                    f"run, or, when you know that it is gone, set release_lock_force=true.",
                    holder,
                )
        since = holder["since"] if holder and mine and "since" in holder else moment
        _write(root, dict(owner, format=FORMAT, place=place(), since=since, heartbeat=moment))
        return reason


def renew(root: str, owner: Owner, now: Optional[float] = None) -> None:
    """Renew the heartbeat of a run that holds the lock; nothing when nobody does, LockHeld when another run does."""
    if not os.path.exists(path_of(root)):
        return
    moment = time.time() if now is None else now
    with _Guard(root):
        holder = read(root)
        if holder is None:
            return
        if _ours(root, holder, owner):
            _write(root, dict(holder, heartbeat=moment))
        elif not is_dead(holder):
            raise LockHeld(f"{root} is locked by {describe(holder, moment)}. Wait for that run.", holder)


def _ours(root: str, holder: Optional[Owner], owner: Owner) -> bool:
    """Whether this run holds the lock; LockHeld when it does so on another host, whatever else would be a reason."""
    if holder is None or holder["run"] != owner["run"]:
        return False
    why = shared(root, holder)
    if why is not None:
        raise LockHeld(why, holder)
    return True


def _reason_to_take(holder: Owner, stale: float, force: bool, takeover: str, now: float) -> Optional[str]:
    who = describe(holder, now)
    if force:
        return f"taken over by force from {who}"
    if takeover and takeover == holder["run"]:
        return f"taken over from {who}: its process is gone"
    if holder.get("unreadable"):
        return f"taken over from {who}"
    if is_dead(holder):
        return f"taken over from {who}: its process is gone"
    heartbeat = holder.get("heartbeat")
    if not isinstance(heartbeat, (int, float)) or now - heartbeat > stale * 60:
        return f"taken over from {who}: silent for more than {stale:g} minutes"
    return None


def _write(root: str, data: Owner) -> None:
    temporary = f"{path_of(root)}.{os.getpid()}.new"
    with open(temporary, "w", encoding="utf-8") as handle:
        handle.write(json.dumps(data, sort_keys=True) + "\n")
    os.replace(temporary, path_of(root))


def holds(root: str, owner: Owner) -> bool:
    """True when this run holds the lock, on this host."""
    holder = read(root)
    return holder is not None and holder["run"] == owner["run"] and shared(root, holder) is None


def release(root: str, owner: Owner) -> bool:
    """Give the lock back when this run holds it, on this host."""
    if not os.path.exists(path_of(root)):
        return False
    with _Guard(root):
        if not holds(root, owner):
            return False
        os.unlink(path_of(root))
        return True


def root_of(path: str) -> Optional[str]:
    """The stack_root of a path below <root>/releases/<id>, None for any other path."""
    parts = os.path.abspath(path).split(os.sep)
    for index in range(len(parts) - 2, 0, -1):
        if parts[index] == "releases":
            return os.sep.join(parts[:index]) or os.sep
    return None


class Busy:
    """The flock on a folder in which a module works; children may inherit it through fileno()."""

    def __init__(self, folder: str) -> None:
        self.path = os.path.join(folder, ".busy")
        self._handle: Optional[int] = None

    def take(self, wait: float = 600, tick: Any = None) -> None:
        """Wait for the flock; tick(text) is called each second of waiting; LockHeld after wait seconds."""
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        end = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    os.close(handle)
                    raise
            who = os.pread(handle, 20, 0).decode("ascii", "replace").strip() or "unknown"
            if time.monotonic() >= end:
                os.close(handle)
                raise LockHeld(
                    f"a process of an earlier run (module process {who} or a child of it) still works in "
                    f"{os.path.dirname(self.path)} after {wait:g} s of waiting: wait for it or end it, then run again."
                )
            if tick is not None:
                tick(f"waiting for a process of an earlier run ({who}) to end")
            time.sleep(min(1.0, max(0.01, end - time.monotonic())))
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode("ascii"), 0)
        self._handle = handle

    def fileno(self) -> List[int]:
        """File descriptors to hand to children (subprocess pass_fds)."""
        return [self._handle] if self._handle is not None else []

    def free(self) -> None:
        """Let go; a child that inherited the lock keeps it until it ends."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
