# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""One transaction of apt for a pinned set of packages: repaired, waited for, simulated, done, held and asserted."""

from __future__ import annotations

import fnmatch
import os
import subprocess
import time
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ansible_collections.verl.baremetal.plugins.module_utils.nvidia import apt, tables

# apt takes the first record that fits a version, in the order of the files' names: ours comes before NVIDIA's.
PREFERENCES = "etc/apt/preferences.d/00verl-nvidia-driver"
PINNING_PRIORITY = 1001
ENVIRONMENT = {
    "LC_ALL": "C",
    "LANGUAGE": "C",
    "DEBIAN_FRONTEND": "noninteractive",
    # needrestart would restart services (docker, slurmd, ray) in the middle of somebody's job.
    "NEEDRESTART_SUSPEND": "1",
    "UCF_FORCE_CONFFOLD": "1",
}
OPTIONS = (
    "-o", "Dpkg::Options::=--force-confdef",
    "-o", "Dpkg::Options::=--force-confold",
)  # fmt: skip


class Refused(Exception):
    """The transaction is not done; the message says what was found, what is needed and what to do."""


class Ran(NamedTuple):
    """A finished program."""

    rc: int
    out: str
    err: str


Runner = Callable[[Sequence[str]], Ran]


def run(argv: Sequence[str]) -> Ran:
    """Runs a program in apt's quiet environment."""
    done = subprocess.run(
        list(argv),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=dict(os.environ, **ENVIRONMENT),
        check=False,
    )
    return Ran(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"))


class Wanted(NamedTuple):
    """What must be there afterwards."""

    packages: Sequence[str] = ()
    optional: Sequence[str] = ()
    headers: Sequence[str] = ()
    branch: int = 0
    version: str = ""
    pinning: str = ""
    exact: Sequence[str] = ()
    hold: bool = False
    denied: Sequence[str] = ()
    lock_timeout: int = 600


class Outcome(NamedTuple):
    """What was done."""

    changed: bool
    version: str
    packages: Dict[str, str]
    removed: List[str]
    repaired: List[str]
    waited: int
    notes: List[str]
    before: Dict[str, str]


def split(spec: str) -> Tuple[str, str]:
    """name=version as a pair; the version may be empty."""
    name, _found, version = spec.partition("=")
    return name, version


class Transaction:
    """A transaction on one host. The runner and the clock are given, so that it is tested without apt."""

    def __init__(self, wanted: Wanted, runner: Runner = run, root: str = "/", check: bool = False,
                 sleep: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.monotonic) -> None:
        self.wanted = wanted
        self.runner = runner
        self.root = root
        self.check = check
        self.sleep = sleep
        self.clock = clock
        self.waited = 0
        self.notes: List[str] = []
        self.repaired: List[str] = []
        self.removed: List[str] = []

    # What is there.

    def status(self) -> Dict[str, apt.Installed]:
        """dpkg's packages."""
        path = os.path.join(self.root, "var/lib/dpkg/status")
        try:
            with open(path, encoding="utf-8", errors="replace") as handle:
                return apt.parse_status(handle.read())
        except OSError as error:
            raise Refused(f"{path} cannot be read ({error}); only hosts with dpkg are supported") from error

    def policy(self, names: Sequence[str]) -> Dict[str, apt.Policy]:
        """apt's view of packages; unknown ones are left out."""
        if not names:
            return {}
        return apt.parse_policy(self.runner(["apt-cache", "policy", *list(dict.fromkeys(names))]).out)

    @staticmethod
    def installed(status: Dict[str, apt.Installed]) -> Dict[str, str]:
        """Versions by name of what is installed and configured."""
        return {name: entry.version for name, entry in status.items() if entry.present}

    def driver_set(self, status: Dict[str, apt.Installed]) -> Dict[str, str]:
        """The installed packages that carry a driver's version."""
        found = self.installed(status)
        return {
            name: version
            for name, version in found.items()
            if tables.is_driver_package(name) and not name.startswith("nvidia-driver-pinning-")
            and 300 <= tables.branch_of(version) < 10000
        }

    def managed(self) -> bool:
        """Whether the driver was pinned by us before."""
        return os.path.exists(os.path.join(self.root, PREFERENCES))

    def complete(self, status: Dict[str, apt.Installed]) -> bool:
        """Whether the installed driver is of one version, pinned to it and finished."""
        have = self.driver_set(status)
        version = tables.upstream(kernel_module_package(have))
        path = os.path.join(self.root, PREFERENCES)
        pinned = os.path.exists(path) and open_text(path) == preferences_text(version_pin(version))
        return pinned and not apt.unfinished(status) and all(tables.upstream(v) == version for v in have.values())

    # The lock.

    def wait_for_lock(self) -> None:
        """Waits until nobody holds dpkg's lock; says who does when the time is over."""
        start = self.clock()
        while True:
            holders = [entry for entry in apt.lock_holders(self.root) if entry[0] != os.getpid()]
            self.waited = int(self.clock() - start)
            if not holders:
                return
            if self.waited >= self.wanted.lock_timeout:
                who = "; ".join(f"{command} (pid {pid})" for pid, command in holders)
                raise Refused(
                    f"the package lock is held by {who}; waited {self.waited} s for it: let it end or stop it, then "
                    "run again, or raise the lock timeout"
                )
            self.sleep(min(2.0, max(0.2, self.wanted.lock_timeout - self.waited)))

    def apt_get(self, *words: str) -> Ran:
        """apt-get with our options; fails with apt's own error lines."""
        remaining = max(1, self.wanted.lock_timeout - self.waited)
        argv = ["apt-get", "-y", "-q", "-o", f"DPkg::Lock::Timeout={remaining}", *list(OPTIONS), *list(words)]
        done = self.runner(argv)
        if done.rc != 0:
            raise Refused(self._explain(words, done))
        return done

    def _explain(self, words: Sequence[str], done: Ran) -> str:
        lines = [line for line in (done.err + "\n" + done.out).splitlines() if line.startswith(("E:", "W:"))]
        holders = apt.lock_holders(self.root)
        if "lock" in " ".join(lines).lower() and holders:
            who = "; ".join(f"{command} (pid {pid})" for pid, command in holders)
            lines.append(f"the package lock is held by {who}")
        tail = "\n".join(lines or (done.err or done.out).strip().splitlines()[-12:])
        unmet = [line.strip() for line in done.out.splitlines() if "Depends:" in line or "Conflicts:" in line]
        extra = "\n".join(unmet[:10])
        return f"apt-get {' '.join(words)} failed ({done.rc}):\n{extra + chr(10) if extra else ''}{tail}"

    def repair(self, status: Dict[str, apt.Installed]) -> Dict[str, apt.Installed]:
        """Finishes what an interrupted dpkg left half done."""
        broken = apt.unfinished(status)
        updates = os.path.join(self.root, "var/lib/dpkg/updates")
        journal = os.path.isdir(updates) and any(name.isdigit() for name in os.listdir(updates))
        if not broken and not journal:
            return status
        done = self.runner(["dpkg", "--configure", "-a", "--force-confdef", "--force-confold"])
        if done.rc != 0 or apt.unfinished(self.status()):
            fixed = self.runner(["apt-get", "-y", "-q", "-f", *list(OPTIONS), "install"])
            left = apt.unfinished(self.status())
            if fixed.rc != 0 or left:
                raise Refused(
                    f"dpkg was interrupted before and cannot be finished: {', '.join(left or broken)}; "
                    f"`dpkg --configure -a` says:\n{(done.err or done.out).strip()[-1500:]}\nrepair it by hand, then "
                    "run again"
                )
        self.repaired = broken or ["dpkg's journal"]
        return self.status()

    # Preferences.

    def _write_preferences(self, pin: str) -> None:
        path = os.path.join(self.root, PREFERENCES)
        text = preferences_text(pin)
        if not os.path.exists(path) or open_text(path) != text:
            write_atomically(path, text)

    def forget(self) -> bool:
        """Removes the pin of the driver's set."""
        path = os.path.join(self.root, PREFERENCES)
        if not os.path.exists(path):
            return False
        if not self.check:
            os.unlink(path)
        return True

    # Present.

    def is_done(self, status: Dict[str, apt.Installed]) -> bool:
        """Whether everything that is wanted is there already. Asks apt nothing."""
        there = self.installed(status)
        if apt.unfinished(status):
            return False
        for spec in list(self.wanted.packages) + list(self.wanted.headers):
            name, version = split(spec)
            if name not in there or (version and there[name] != version):
                return False
            if self.wanted.hold and not status[name].held:
                return False
        if not self.wanted.branch:
            return True
        have = self.driver_set(status)
        main = have.get(self.wanted.packages[0], "") if self.wanted.packages else ""
        version = tables.upstream(main)
        right = version == self.wanted.version if self.wanted.version else bool(main) and (
            tables.branch_of(version) == self.wanted.branch
        )
        if not right or any(tables.upstream(have.get(name, "")) != version for name in self.wanted.exact):
            return False
        if any(tables.upstream(other) != version for other in have.values()):
            return False
        path = os.path.join(self.root, PREFERENCES)
        return os.path.exists(path) and open_text(path) == preferences_text(version_pin(version))

    def ensure(self) -> Outcome:
        """Brings the set to what is wanted."""
        status = self.status()
        before = self.installed(status)
        if self.is_done(status):
            return self._outcome(False, status, before)
        if self.check:
            self.notes.append("would install " + " ".join(list(self.wanted.packages) + list(self.wanted.exact)))
            return self._outcome(True, status, before)
        self.wait_for_lock()
        status = self.repair(status)
        path = os.path.join(self.root, PREFERENCES)
        pinned = open_text(path) if os.path.exists(path) else ""
        try:
            self._install(status)
        except Refused:
            # A set that could not be changed stays pinned to what it is.
            if self.wanted.branch and self.driver_set(self.status()) == self.driver_set(status):
                self._restore(path, pinned)
            raise
        status = self.status()
        self._assert_candidates(status)
        self._note_alternative()
        after = self.installed(status)
        self.removed = sorted(name for name in before if name not in after)
        return self._outcome(True, status, before)

    @staticmethod
    def _restore(path: str, text: str) -> None:
        if text:
            write_atomically(path, text)
        elif os.path.exists(path):
            os.unlink(path)

    def _install(self, status: Dict[str, apt.Installed]) -> None:
        wanted = self._resolve_driver(status) if self.wanted.branch else self._resolve_plain()
        drop = [name for name in wanted if name.endswith("-")]
        wanted = [name for name in wanted if not name.endswith("-")]
        touched = [split(spec)[0] for spec in wanted] + [name[:-1] for name in drop]
        unhold = [name for name in touched if name in status and status[name].held]
        argv = ["install", "--no-install-recommends", "--allow-downgrades", *wanted, *drop]
        self._mark("unhold", unhold)
        try:
            self._refuse_surprises(self.apt_get("--simulate", *argv).out)
            self.apt_get(*argv)
            if self.wanted.branch:
                self._purge_leftovers()
        finally:
            names = unhold + [split(spec)[0] for spec in self.wanted.packages if self.wanted.hold]
            there = self.installed(self.status())
            self._mark("hold", [name for name in dict.fromkeys(names) if name in there])

    def _note_alternative(self) -> None:
        """A /usr/local/cuda that points nowhere breaks other people's builds; it is said, not changed."""
        link = os.path.join(self.root, "usr/local/cuda")
        if os.path.islink(link) and not os.path.exists(link):
            self.notes.append(
                "/usr/local/cuda points to a toolkit that is gone; choose one with: update-alternatives --config cuda"
            )

    def _outcome(self, changed: bool, status: Dict[str, apt.Installed], before: Dict[str, str]) -> Outcome:
        have = self.driver_set(status)
        names = [split(spec)[0] for spec in list(self.wanted.packages) + list(self.wanted.exact)]
        there = self.installed(status)
        packages = dict(have) if self.wanted.branch else {}
        packages.update({name: there[name] for name in names if name in there})
        main = have.get(names[0], "") if names else ""
        changes = {name: version for name, version in before.items() if name in packages or name in self.removed}
        return Outcome(changed, tables.upstream(main), packages, self.removed, self.repaired, self.waited, self.notes,
                       changes)

    def _mark(self, what: str, names: Sequence[str]) -> None:
        if names:
            done = self.runner(["apt-mark", what, *list(names)])
            if done.rc != 0:
                raise Refused(f"apt-mark {what} {' '.join(names)} failed: {done.err.strip()}")

    def _resolve_plain(self) -> List[str]:
        specs = list(self.wanted.packages) + list(self.wanted.headers)
        policy = self.policy([split(spec)[0] for spec in specs])
        for spec in specs:
            name, version = split(spec)
            entry = policy.get(name)
            if entry is None or not entry.versions or (version and version not in entry.versions):
                have = ", ".join(entry.versions[:8]) if entry and entry.versions else "no version at all"
                raise Refused(
                    f"the package {spec} is in no repository of this host, which has {have} of {name}: check the "
                    "repository's address and that the mirror is complete"
                )
        return specs

    def _resolve_driver(self, status: Dict[str, apt.Installed]) -> List[str]:
        """Every package of the driver with the version it must have; installs the pinning package on the way."""
        wanted = self.wanted
        # Our own pin of an earlier version would hide the new one; the branch's pin takes its place until it is known.
        self._write_preferences(version_pin(wanted.version) if wanted.version else f"version {wanted.branch}.*")
        names = list(wanted.packages) + list(wanted.optional) + list(wanted.exact)
        policy = self.policy(names + ([wanted.pinning] if wanted.pinning else []))
        missing = [name for name in wanted.packages if not self._of_branch(policy.get(name))]
        if missing:
            raise Refused(self._no_branch(missing))
        if wanted.pinning and policy.get(wanted.pinning) and policy[wanted.pinning].versions:
            if wanted.pinning not in self.installed(status):
                # Another branch's gives way to it.
                self._mark("unhold", [n for n in status if n.startswith("nvidia-driver-pinning-") and status[n].held])
                self.apt_get("install", "--no-install-recommends", "--allow-downgrades", wanted.pinning)
        elif wanted.pinning:
            self.notes.append(
                f"the repository has no package {wanted.pinning}; the set is pinned by /{PREFERENCES} alone"
            )
        version = wanted.version or tables.upstream(self._of_branch(policy[wanted.packages[0]])[0])
        self._write_preferences(version_pin(version))
        have = self.driver_set(self.status())
        policy = self.policy(names + list(have) + list(wanted.headers))
        specs = []
        for name in list(wanted.packages) + list(wanted.exact):
            match = self._version_of(policy.get(name), version)
            if not match:
                raise Refused(self._not_offered(name, version, policy.get(name)))
            specs.append(f"{name}={match}")
        for name in wanted.optional:
            match = self._version_of(policy.get(name), version)
            if match:
                specs.append(f"{name}={match}")
        named = {split(spec)[0] for spec in specs}
        for name, old in sorted(have.items()):
            # The other kind of kernel modules goes, of whatever version it is.
            other = name.startswith(KERNEL_MODULES) and any(item.startswith(KERNEL_MODULES) for item in named)
            if name in named or (tables.upstream(old) == version and not other):
                continue
            match = self._version_of(policy.get(name), version)
            specs.append(f"{name}={match}" if match and not other else f"{name}-")
        for name in wanted.headers:
            if not (policy.get(name) and policy[name].versions):
                raise Refused(
                    f"the driver's modules are built for each kernel, and the headers' package {name} is in no "
                    "repository of this host: install a current kernel with its headers and reboot into it, or give "
                    "the host a repository that still has this package"
                )
            specs.append(name)
        return specs

    def _of_branch(self, entry: Optional[apt.Policy]) -> List[str]:
        """Versions of a package that belong to the wanted branch or version, newest first."""
        if entry is None:
            return []
        wanted = self.wanted
        fitting = [
            version for version in entry.versions
            if (tables.upstream(version) == wanted.version if wanted.version
                else tables.branch_of(version) == wanted.branch)
        ]
        return sorted(fitting, key=tables.version_key, reverse=True)

    @staticmethod
    def _version_of(entry: Optional[apt.Policy], version: str) -> str:
        """The package's version of a driver's version, or an empty string."""
        for item in entry.versions if entry else []:
            if tables.upstream(item) == version:
                return item
        return ""

    def _no_branch(self, missing: Sequence[str]) -> str:
        out = self.runner(["apt-cache", "pkgnames", "nvidia-driver-pinning-"]).out
        tails = [line.rsplit("-", 1)[-1] for line in out.split()]
        branches = sorted({tail for tail in tails if tail.isdigit()}, key=int)
        offered = sorted({tail for tail in tails if "." in tail}, key=tables.version_key)
        what = self.wanted.version or f"branch {self.wanted.branch}"
        return (
            f"the repository has no {what} of the driver (missing: {', '.join(missing)}); it has the branches "
            f"{', '.join(branches) or 'none'}" + (f" and the versions {', '.join(offered)}" if offered else "")
            + ": set driver_branch or driver_version to one of them, or let the mirror take this branch up"
        )

    def _not_offered(self, name: str, version: str, entry: Optional[apt.Policy]) -> str:
        have = ", ".join(entry.versions[:8]) if entry and entry.versions else "no version at all"
        return (
            f"the package {name} must have exactly the driver's version {version}, and the repository has {have}: "
            "choose a driver version that both have (driver_version), or complete the mirror"
        )

    def _refuse_surprises(self, simulated: str) -> None:
        """Looks at what apt would do before it does it."""
        steps = apt.parse_simulation(simulated)
        asked = {split(spec)[0] for spec in list(self.wanted.packages) + list(self.wanted.headers)}
        traps = [
            step.name for step in steps
            if step.kind == "Inst" and step.name not in asked
            and (
                tables.is_trap(step.name)
                or (not self.wanted.branch and tables.is_driver_package(step.name))
                or any(fnmatch.fnmatch(step.name, glob) for glob in self.wanted.denied)
            )
        ]
        if traps:
            raise Refused(
                f"this transaction would bring in {', '.join(traps)}, which drags a driver or another toolkit in; "
                "nothing was installed. Look for a held or foreign package that asks for it (apt-get --simulate)"
            )
        strangers = [
            step.name for step in steps
            if step.kind == "Remv" and not tables.is_driver_package(step.name)
            and step.name not in asked and not step.name.startswith(("nvidia-", "libnvidia-", "linux-modules-nvidia-"))
        ]
        if strangers:
            raise Refused(
                f"this transaction would remove {', '.join(strangers[:10])}, which is not of the driver; nothing was "
                "changed. Remove or upgrade them by hand first"
            )

    def _purge_leftovers(self) -> None:
        """Packages of another version that nothing needs any more."""
        status = self.status()
        have = self.driver_set(status)
        version = tables.upstream(have.get(self.wanted.packages[0], ""))
        stale = sorted(name for name, other in have.items() if tables.upstream(other) != version)
        if stale:
            self.apt_get("purge", *stale)

    def _assert_candidates(self, status: Dict[str, apt.Installed]) -> None:
        """Asks apt for its candidates: a pinned set must not be about to move."""
        there = self.installed(status)
        if self.wanted.branch:
            names = sorted(self.driver_set(status))
            policy = self.policy(names)
            moving = [
                f"{name} from {there[name]} to {policy[name].candidate}"
                for name in names
                if name in policy and policy[name].candidate and policy[name].candidate != there[name]
            ]
            if moving:
                raise Refused(
                    f"the driver is installed, but apt would move {'; '.join(moving)}: another file in "
                    "/etc/apt/preferences.d has a higher priority, remove it"
                )
        for spec in self.wanted.packages:
            name, version = split(spec)
            if version and there.get(name) != version:
                raise Refused(f"{spec} was asked for, and {there.get(name) or 'nothing'} is installed afterwards")

    # Absent.

    def remove(self, patterns: Sequence[str]) -> Outcome:
        """Purges every installed package of the driver, with its pin."""
        status = self.status()
        before = self.installed(status)
        names = sorted(
            name for name, entry in status.items()
            if entry.state != "not-installed" and tables.is_driver_package(name)
            and (not patterns or any(fnmatch.fnmatch(name, pattern) for pattern in patterns))
        )
        changed = bool(names) or os.path.exists(os.path.join(self.root, PREFERENCES))
        if self.check or not changed:
            if names:
                self.notes.append("would remove " + " ".join(names))
            return self._outcome(changed, status, before)
        self.wait_for_lock()
        status = self.repair(status)
        self.forget()
        held = [name for name in names if name in status and status[name].held]
        self._mark("unhold", held)
        if names:
            self.apt_get("purge", *names)
        after = self.installed(self.status())
        self.removed = sorted(name for name in before if name not in after)
        return self._outcome(True, self.status(), before)

    # Afterwards.

    def needrestart(self) -> List[str]:
        """Services that needrestart would have restarted; none where it is not installed."""
        if not os.path.exists(os.path.join(self.root, "usr/sbin/needrestart")):
            return []
        out = self.runner(["needrestart", "-b", "-r", "l", "-l"]).out
        return [line.partition(":")[2].strip() for line in out.splitlines() if line.startswith("NEEDRESTART-SVC:")]


KERNEL_MODULES = ("nvidia-kernel-open-dkms", "nvidia-kernel-dkms", "nvidia-open-kernel-dkms", "nvidia-dkms")


def kernel_module_package(there: Dict[str, str]) -> str:
    """The version of the package that brings the kernel module, or an empty string."""
    return there.get(_kernel_module_name(there), "")


def kernel_module_kind(there: Dict[str, str]) -> str:
    """The kind of the kernel module's package, open or proprietary, or an empty string."""
    name = _kernel_module_name(there)
    return name and ("open" if "open" in name else "proprietary")


def _kernel_module_name(there: Dict[str, str]) -> str:
    return next((name for name in sorted(there) if name.startswith(KERNEL_MODULES)), "")


def version_pin(version: str) -> str:
    """apt's pin of one driver version, whatever the package's revision."""
    return f"version {version}-*"


def preferences_text(pin: str) -> str:
    """The preferences that keep the driver's set where it is."""
    globs = " ".join(glob for glob in tables.DRIVER_GLOBS)
    return apt.render_preferences([(globs, pin, PINNING_PRIORITY)])


def open_text(path: str) -> str:
    """A file's text."""
    with open(path, encoding="utf-8", errors="replace") as handle:
        return handle.read()


def write_atomically(path: str, text: str, mode: int = 0o644) -> None:
    """Writes a file beside its place and renames it."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.verl-{os.getpid()}"
    with open(temporary, "w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    os.chmod(temporary, mode)
    os.replace(temporary, path)
