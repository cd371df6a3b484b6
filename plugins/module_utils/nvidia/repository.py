# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""One apt repository with its own checked key, in the place of whatever named it before."""

from __future__ import annotations

import http.client
import os
import ssl
import time
import urllib.error
import urllib.request
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence

from ansible_collections.verl.baremetal.plugins.module_utils import uv
from ansible_collections.verl.baremetal.plugins.module_utils.nvidia import apt, openpgp, tables, transaction
from ansible_collections.verl.baremetal.plugins.module_utils.nvidia.transaction import Refused

Fetch = Callable[[str], bytes]


class Repository(NamedTuple):
    """What is wanted. name makes the files' names."""

    name: str
    url: str
    key_url: str
    fingerprints: Sequence[str]
    suite: str = "/"
    components: Sequence[str] = ()
    architecture: str = "amd64"
    priority: int = 600
    replaces: Sequence[str] = ()
    retired_keys: Sequence[str] = ()
    proxy: str = ""
    ca_file: str = ""
    max_age: int = 3600
    lock_timeout: int = 600
    timeout: int = 30


class Change(NamedTuple):
    """A file that changes, for the diff."""

    path: str
    before: str
    after: str


def fetcher(repository: Repository) -> Fetch:
    """Downloads with the repository's proxy, authority and time limit."""

    def fetch(url: str) -> bytes:
        handlers: List[urllib.request.BaseHandler] = []
        if repository.proxy:
            handlers.append(urllib.request.ProxyHandler({"http": repository.proxy, "https": repository.proxy}))
        if repository.ca_file:
            context = ssl.create_default_context(cafile=repository.ca_file)
            handlers.append(urllib.request.HTTPSHandler(context=context))
        try:
            with urllib.request.build_opener(*handlers).open(url, timeout=repository.timeout) as answer:
                return bytes(answer.read(1024 * 1024))
        except (urllib.error.URLError, OSError, ValueError, http.client.HTTPException) as error:
            login = isinstance(error, http.client.InvalidURL)  # its text holds the password
            reason = "the key's address must be one without a login" if login else error
            raise Refused(
                f"the repository's key cannot be fetched from {uv.redact(url)}: {reason}; check the address, the proxy and the CA "
                "file, or name a mirror"
            ) from error

    return fetch


class Source:
    """The repository's files on one host."""

    def __init__(self, repository: Repository, fetch: Optional[Fetch] = None,
                 runner: transaction.Runner = transaction.run, root: str = "/", check: bool = False) -> None:
        self.repository = repository
        self.fetch = fetch or fetcher(repository)
        self.runner = runner
        self.root = root
        self.check = check
        self.changes: List[Change] = []
        self.notes: List[str] = []
        self.fingerprint = ""
        name = repository.name
        self.keyring = f"/etc/apt/keyrings/{name}.asc"
        self.source = f"/etc/apt/sources.list.d/{name}.sources"
        self.preferences = f"/etc/apt/preferences.d/{name}"
        self.settings = f"/etc/apt/apt.conf.d/50{name}"

    def path(self, name: str) -> str:
        """A path below the root."""
        return os.path.join(self.root, name.lstrip("/"))

    def files(self) -> Dict[str, str]:
        """The texts of our files; an empty text means no file."""
        repo = self.repository
        host = apt.host_of(repo.url)
        settings = ""
        if repo.proxy:
            for scheme in ("http", "https"):
                settings += f'Acquire::{scheme}::Proxy::{host} "{repo.proxy}";\n'
        if repo.ca_file:
            settings += f'Acquire::https::{host}::CAInfo "{repo.ca_file}";\n'
        return {
            self.source: apt.render_source(
                repo.url, self.keyring, repo.suite, repo.components, repo.architecture, repo.name
            ),
            self.preferences: apt.render_preferences([(" ".join(tables.REPOSITORY_GLOBS), f'origin "{host}"', repo.priority)]),
            self.settings: settings and "// Managed by Ansible (verl.baremetal)\n" + settings,
        }

    def ensure(self) -> bool:
        """Brings the files to what is wanted and reads the lists; a bad repository leaves all as it was."""
        key = self._key()
        before = {name: self._text(name) for name in [*self.files(), self.keyring]}
        for name, text in self.files().items():
            self._put(name, text)
        if key:
            self._put(self.keyring, key)
        if not self.check and (self.changes or self._stale()):
            try:
                self._update()
            except Refused:
                # A repository that cannot be read would break every later apt on this host.
                for name, text in before.items():
                    self._write(name, text)
                raise
        # Only a repository that works takes the place of others.
        for name, text in self._others().items():
            self._put(name, text)
        return bool(self.changes)

    def absent(self) -> bool:
        """Removes our files."""
        for name in [*self.files(), self.keyring]:
            self._put(name, "")
        return bool(self.changes)

    # The key.

    def _key(self) -> str:
        """The key's text if it has to be written; an empty string if the right one is there."""
        repo = self.repository
        present = self._text(self.keyring)
        if present:
            try:
                self.fingerprint = openpgp.trusted(present.encode(), list(repo.fingerprints))
                return ""
            except openpgp.InvalidKey as error:
                self.notes.append(f"{self.keyring} is replaced: {error}")
        if self.check:
            self.changes.append(Change(self.keyring, present, f"the key of {uv.redact(repo.key_url)}\n"))
            return ""
        data = self.fetch(repo.key_url)
        try:
            self.fingerprint = openpgp.trusted(data, list(repo.fingerprints))
        except openpgp.InvalidKey as error:
            raise Refused(
                f"the key at {uv.redact(repo.key_url)} is not trusted: {error}. Nothing was written. If NVIDIA has published a "
                "new key, compare its fingerprint on NVIDIA's site and set the fingerprint's variable; else somebody "
                "is in the way"
            ) from error
        return openpgp.armor(openpgp.dearmor(data))

    # What named the repository before.

    def _others(self) -> Dict[str, str]:
        """Foreign files that name this repository (apt refuses two keys for one), and retired keys."""
        needles = [*self.repository.replaces, self.repository.url.rstrip("/")]
        found: Dict[str, str] = {}
        folder = "/etc/apt/sources.list.d"
        names = [f"{folder}/{name}" for name in self._list(folder)] + ["/etc/apt/sources.list"]
        for name in names:
            if name == self.source or not name.endswith((".list", ".sources", "sources.list")):
                continue
            text = self._text(name)
            kept = apt.sources_without(text, needles, name.endswith(".sources"))
            if any(needle in text for needle in needles) and kept != text:
                found[name] = kept if kept or name != "/etc/apt/sources.list" else "# emptied by verl.baremetal\n"
        for folder in ("/etc/apt/trusted.gpg.d", "/etc/apt/keyrings", "/usr/share/keyrings"):
            for name in self._list(folder):
                if name.endswith((".gpg", ".asc")) and self._is_retired(f"{folder}/{name}"):
                    found[f"{folder}/{name}"] = ""
        if any("cuda/repos" in needle for needle in self.repository.replaces):
            for name in self._list("/etc/apt/preferences.d"):
                if name.startswith("cuda-repository-pin"):
                    found[f"/etc/apt/preferences.d/{name}"] = ""
        return found

    def _is_retired(self, name: str) -> bool:
        try:
            with open(self.path(name), "rb") as handle:
                keys = openpgp.fingerprints(handle.read(1024 * 1024))
        except (OSError, openpgp.InvalidKey):
            return False
        retired = tuple(key.upper() for key in self.repository.retired_keys)
        return bool(retired) and all(key.hex.endswith(retired) for key in keys if key.primary)

    # The lists.

    def _stale(self) -> bool:
        folder = self.path("/var/lib/apt/lists")
        prefix = self.repository.url.split("://", 1)[-1].strip("/").replace("_", "%5f").replace("/", "_")
        ages = [
            time.time() - os.stat(os.path.join(folder, name)).st_mtime
            for name in self._list("/var/lib/apt/lists")
            if name.startswith(prefix) and name.endswith("_Packages")
        ]
        stamp = self.path("/var/lib/apt/lists/.verl-" + self.repository.name)
        if not ages or not os.path.exists(stamp):
            return True
        return time.time() - os.stat(stamp).st_mtime > self.repository.max_age

    def _update(self) -> None:
        """Reads the lists of this repository only; other broken sources of the host are not our business."""
        argv = [
            "apt-get", "-q", "update",
            "-o", f"Dir::Etc::sourcelist={self.source}",
            "-o", "Dir::Etc::sourceparts=-",
            "-o", "APT::Get::List-Cleanup=0",
            "-o", f"Acquire::http::Timeout={self.repository.timeout}",
            "-o", f"Acquire::https::Timeout={self.repository.timeout}",
            "-o", "Acquire::Retries=2",
            "-o", "APT::Update::Error-Mode=any",
        ]  # fmt: skip
        end = time.monotonic() + self.repository.lock_timeout
        while True:
            done = self.runner(argv)
            if done.rc != 0 and "lock" in done.err.lower() and time.monotonic() < end:
                time.sleep(2)
                continue
            break
        lines = [line for line in (done.err + "\n" + done.out).splitlines() if line.startswith(("E:", "W:", "Err:"))]
        failed = done.rc != 0 or any(line.startswith(("E:", "Err:")) for line in lines)
        if failed:
            holders = "; ".join(f"{command} (pid {pid})" for pid, command in apt.lock_holders(self.root))
            held = f"\nThe lists are locked by {holders}." if holders else ""
            raise Refused(
                f"the repository {uv.redact(self.repository.url)} cannot be read with the key {self.fingerprint}:\n"
                + uv.redact("\n".join(lines or [done.err.strip()[-800:]]))
                + held
                + "\nThe host's apt was left as it was before. Check the address (a mirror must hold the folder of "
                "this system) and the key's fingerprint"
            )
        transaction.write_atomically(self.path("/var/lib/apt/lists/.verl-" + self.repository.name), "")

    # Files.

    def _list(self, folder: str) -> List[str]:
        try:
            return sorted(os.listdir(self.path(folder)))
        except OSError:
            return []

    def _text(self, name: str) -> str:
        try:
            return transaction.open_text(self.path(name))
        except OSError:
            return ""

    def _put(self, name: str, text: str) -> None:
        before = "(a binary keyring)" if name.endswith(".gpg") else self._text(name)
        exists = os.path.exists(self.path(name))
        if before == text and (bool(text) or not exists):
            return
        self.changes.append(Change(name, before, text))
        if not self.check:
            self._write(name, text)

    def _write(self, name: str, text: str) -> None:
        path = self.path(name)
        if text:
            transaction.write_atomically(path, text)
        elif os.path.exists(path):
            os.unlink(path)
