# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""dpkg's and apt's files and output: parsers and renderers, pure."""

from __future__ import annotations

import os
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

LOCKS = ("var/lib/dpkg/lock-frontend", "var/lib/dpkg/lock", "var/lib/apt/lists/lock")


class Installed(NamedTuple):
    """A package's entry in dpkg's status file."""

    version: str
    want: str
    state: str

    @property
    def present(self) -> bool:
        """Whether its files are there and configured."""
        return self.state == "installed"

    @property
    def held(self) -> bool:
        """Whether it is on hold."""
        return self.want == "hold"


class Policy(NamedTuple):
    """What apt knows of a package: versions from the best pin down."""

    installed: str
    candidate: str
    versions: List[str]


class Step(NamedTuple):
    """One step of a simulated transaction. kind is Inst, Remv or Conf."""

    kind: str
    name: str
    old: str
    new: str


def parse_status(text: str) -> Dict[str, Installed]:
    """dpkg's status file by name. Of a foreign architecture's package the native one wins."""
    packages: Dict[str, Installed] = {}
    for block in text.split("\n\n"):
        name = version = status = ""
        for line in block.split("\n"):
            if line.startswith("Package: "):
                name = line[9:].strip()
            elif line.startswith("Status: "):
                status = line[8:].strip()
            elif line.startswith("Version: "):
                version = line[9:].strip()
        words = status.split()
        if not name or len(words) != 3:
            continue
        entry = Installed(version, words[0], words[2])
        if name not in packages or entry.present:
            packages[name] = entry
    return packages


def unfinished(packages: Dict[str, Installed]) -> List[str]:
    """Packages that a broken-off dpkg left half done."""
    fine = ("installed", "config-files", "not-installed")
    return sorted(name for name, entry in packages.items() if entry.state not in fine)


def parse_policy(text: str) -> Dict[str, Policy]:
    """The output of `apt-cache policy NAME...` in the C locale."""
    found: Dict[str, Policy] = {}
    name = installed = candidate = ""
    versions: List[str] = []

    def keep() -> None:
        if name:
            found[name] = Policy(installed, candidate, versions)

    for line in text.splitlines():
        if line and not line.startswith(" ") and line.endswith(":"):
            keep()
            name, installed, candidate, versions = line[:-1], "", "", []
        elif line.startswith("  Installed: "):
            installed = _none(line[13:])
        elif line.startswith("  Candidate: "):
            candidate = _none(line[13:])
        elif line.startswith((" *** ", "     ")) and len(line) > 5 and line[5] != " ":
            versions.append(line[5:].split()[0])
    keep()
    return found


def _none(value: str) -> str:
    return "" if value.strip() == "(none)" else value.strip()


def parse_simulation(text: str) -> List[Step]:
    """The output of `apt-get --simulate`."""
    steps = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] not in ("Inst", "Remv", "Conf", "Purg"):
            continue
        old = new = ""
        for word in words[2:4]:
            if word.startswith("[") and not old:
                old = word.strip("[]")
            elif word.startswith("("):
                new = word.lstrip("(")
        steps.append(Step("Remv" if words[0] == "Purg" else words[0], words[1], old, new))
    return steps


def lock_holders(root: str = "/", proc: Optional[str] = None) -> List[Tuple[int, str]]:
    """Processes that hold one of apt's or dpkg's locks, as (pid, command)."""
    inodes = set()
    for name in LOCKS:
        try:
            inodes.add(os.stat(os.path.join(root, name)).st_ino)
        except OSError:
            continue
    folder = proc or os.path.join(root, "proc")
    found: Dict[int, str] = {}
    try:
        with open(os.path.join(folder, "locks"), encoding="ascii", errors="replace") as handle:
            lines = handle.read().splitlines()
    except OSError:
        lines = []
    for line in lines:
        words = line.split()
        # 1: POSIX ADVISORY WRITE 1234 fe:01:5678 0 EOF ; a waiting one has an arrow behind the number.
        if len(words) < 6 or words[1] == "->" or not words[4].lstrip("-").isdigit():
            continue
        inode = words[5].rsplit(":", 1)[-1]
        if inode.isdigit() and int(inode) in inodes and int(words[4]) > 0:
            found[int(words[4])] = command_of(int(words[4]), folder)
    return sorted(found.items())


def command_of(pid: int, proc: str = "/proc") -> str:
    """The command line of a process, shortened for a message."""
    try:
        with open(os.path.join(proc, str(pid), "cmdline"), "rb") as handle:
            words = [word.decode("utf-8", "replace") for word in handle.read().split(b"\0") if word]
    except OSError:
        words = []
    return " ".join(words)[:120] or "a process that has ended"


def render_source(url: str, keyring: str, suite: str, components: Sequence[str], arch: str, name: str) -> str:
    """A deb822 source that trusts one keyring only."""
    lines = [
        "# Managed by Ansible (verl.baremetal)",
        "X-Repolib-Name: " + name,
        "Types: deb",
        "URIs: " + url,
        "Suites: " + suite,
    ]
    if components:
        lines.append("Components: " + " ".join(components))
    lines += ["Architectures: " + arch, "Signed-By: " + keyring]
    return "\n".join(lines) + "\n"


def render_preferences(entries: Iterable[Tuple[str, str, int]]) -> str:
    """apt preferences from (packages, pin, priority)."""
    blocks = [f"Package: {packages}\nPin: {pin}\nPin-Priority: {priority}\n" for packages, pin, priority in entries]
    return "# Managed by Ansible (verl.baremetal)\n\n" + "\n".join(blocks)


def host_of(url: str) -> str:
    """The host name in an address, for apt's `origin`."""
    return url.split("://", 1)[-1].split("/", 1)[0].rsplit("@", 1)[-1].split(":", 1)[0]


def sources_without(text: str, needles: Sequence[str], deb822: bool) -> str:
    """A sources file without the entries that name one of the needles. Comments alone count as nothing left."""
    if deb822:
        blocks = [block for block in text.split("\n\n") if not any(needle in block for needle in needles)]
        kept = "\n\n".join(blocks)
    else:
        lines = text.splitlines(True)
        kept = "".join(ln for ln in lines if ln.lstrip().startswith("#") or not any(n in ln for n in needles))
    active = [line for line in kept.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return kept if active else ""
