# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Packages of an operating system for a bundle: their whole closure, in a repository signed with the site's own key.

apt itself resolves, in a folder of its own where nothing is installed: so the closure holds every package down to the C
library, whatever this machine or the hosts have. apt reads the repositories of any Debian or Ubuntu.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ansible_collections.verl.baremetal.plugins.module_utils import bundle, uv
from ansible_collections.verl.baremetal.plugins.module_utils.bundle import BundleError
from ansible_collections.verl.baremetal.plugins.module_utils.index import File
from ansible_collections.verl.baremetal.plugins.module_utils.nvidia import apt, openpgp, tables
from ansible_collections.verl.baremetal.plugins.module_utils.progress import Progress

KEY = tables.KEY_FILE  # under this name NVIDIA's repositories have theirs too, and the role driver looks for it
LABEL = "verl.baremetal bundle"
_URI = re.compile(r"^'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+)")


class Wanted(NamedTuple):
    """What of one system a bundle holds; groups of packages that are never installed together are resolved apart."""

    system: str
    folder: str
    sources: str
    groups: Tuple[Tuple[str, ...], ...]
    nvidia: Mapping[str, Any]
    branch: int = 0
    version: str = ""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Wanted:
        """From a module's argument."""
        return cls(
            data["system"],
            data["folder"],
            data.get("sources", ""),
            tuple(tuple(group) for group in data["groups"]),
            dict(data.get("nvidia") or {}),
            int(data.get("branch", 0)),
            str(data.get("version", "")),
        )


class Package(NamedTuple):
    """One package of a closure: what to fetch, and its paragraph of a Packages file."""

    file: File
    paragraph: str


def parse_uris(text: str) -> List[str]:
    """The addresses in the output of ``apt-get --print-uris``."""
    return [match.group("uri") for match in map(_URI.match, text.splitlines()) if match]


def fields_of(paragraph: str) -> Dict[str, str]:
    """The one-line fields of a paragraph."""
    found = {}
    for line in paragraph.splitlines():
        name, colon, value = line.partition(":")
        if colon and not line.startswith((" ", "\t")):
            found[name] = value.strip()
    return found


def relocate(paragraph: str, name: str) -> str:
    """A paragraph for a repository in which every file lies beside the list."""
    lines = []
    for line in paragraph.strip().splitlines():
        if line.split(":")[0] not in ("Filename", "Phased-Update-Percentage", "Task", "Bugs"):
            lines.append(line)
            if line.startswith("Size:"):
                lines.insert(len(lines) - 1, "Filename: ./" + name)
    return "\n".join(lines) + "\n"


class Resolver:
    """apt in a folder of its own."""

    def __init__(self, wanted: Wanted, work: str, ca_file: str, proxy: str) -> None:
        self.wanted, self.work, self.ca_file, self.proxy = wanted, work, ca_file, proxy
        for folder in ("state/lists/partial", "cache/archives/partial", "sources.d", "preferences.d", "keys"):
            os.makedirs(os.path.join(work, folder), exist_ok=True)
        self._write("status", "")
        # One-line entries and paragraphs go to files of their own.
        paragraphs = [text for text in wanted.sources.split("\n\n") if "Types:" in text]
        self._write(
            "sources.d/system.list", "\n".join(ln for ln in wanted.sources.split("\n") if ln.startswith("deb ")) + "\n"
        )
        self._write("sources.d/system.sources", "\n\n".join(paragraphs) + "\n")
        lines = [
            f'Dir::State "{work}/state";',
            f'Dir::State::status "{work}/status";',
            f'Dir::Cache "{work}/cache";',
            f'Dir::Etc::sourcelist "{work}/none";',
            f'Dir::Etc::sourceparts "{work}/sources.d";',
            f'Dir::Etc::preferences "{work}/none";',
            f'Dir::Etc::preferencesparts "{work}/preferences.d";',
            'APT::Architecture "amd64";',
            'APT::Architectures { "amd64"; };',
            'APT::Install-Recommends "false";',
            'APT::Sandbox::User "root";',
            'APT::Get::List-Cleanup "false";',
            'Acquire::Languages "none";',
            'Acquire::Retries "2";',
        ]
        if ca_file:
            lines.append(f'Acquire::https::CAInfo "{ca_file}";')
        if proxy:
            lines += [f'Acquire::http::Proxy "{proxy}";', f'Acquire::https::Proxy "{proxy}";']
        self._write("apt.conf", "#clear APT::Architectures;\n" + "\n".join(lines) + "\n")

    def _write(self, name: str, text: str) -> None:
        bundle.write_text(os.path.join(self.work, name), text)

    def _run(self, *words: str) -> str:
        env = dict(
            os.environ, APT_CONFIG=os.path.join(self.work, "apt.conf"), LC_ALL="C", DEBIAN_FRONTEND="noninteractive"
        )
        try:
            done = subprocess.run(list(words), env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        except OSError as error:
            raise BundleError(
                f"{words[0]} cannot be run: {error.strerror}. The packages of {self.wanted.system} can be collected on a "
                "controller with apt only (Debian or Ubuntu)."
            ) from error
        text = done.stdout.decode("utf-8", "replace")
        said = [ln for ln in (done.stderr.decode("utf-8", "replace") + "\n" + text).splitlines() if ln.startswith("E:")]
        if done.returncode != 0 or (words[1:2] == ("update",) and said):
            unmet = [ln.strip() for ln in text.splitlines() if "Depends:" in ln][:10]
            raise BundleError(
                f"{self.wanted.system}: {' '.join(words[:12])} failed: "
                + "; ".join([*unmet, *said] or ["it does not say why"])
                + ". Check bundle_apt_sources and driver_repository_url: they must hold these packages."
            )
        return text

    def _nvidia(self) -> None:
        """NVIDIA's repository, or a mirror of it, with its checked key; and the pin of the driver's branch."""
        nvidia = self.wanted.nvidia
        if not nvidia:
            return
        key_url = nvidia["key_url"] or nvidia["url"].rstrip("/") + "/" + tables.KEY_FILE
        try:
            with urllib.request.urlopen(key_url, timeout=60) as answer:
                data = answer.read(1 << 20)
            openpgp.trusted(data, list(nvidia["fingerprints"]))
        except openpgp.InvalidKey as error:
            raise BundleError(f"the key at {uv.redact(key_url)} is not trusted: {error}") from error
        except (OSError, ValueError) as error:
            raise BundleError(f"the key of NVIDIA's repository, {uv.redact(key_url)}, cannot be had: {error}") from error
        self._write("keys/nvidia.asc", openpgp.armor(openpgp.dearmor(data)))
        self._write(
            "sources.d/nvidia.sources",
            apt.render_source(nvidia["url"], f"{self.work}/keys/nvidia.asc", "/", [], "amd64", "nvidia"),
        )
        pin = f'origin "{apt.host_of(nvidia["url"])}"'
        self._write("preferences.d/nvidia", apt.render_preferences([(" ".join(tables.REPOSITORY_GLOBS), pin, 600)]))
        if self.wanted.branch:
            self.pin_driver(f"{self.wanted.version}-*" if self.wanted.version else f"{self.wanted.branch}.*")

    def pin_driver(self, pattern: str) -> None:
        """All of the driver at versions of one pattern."""
        self._write(
            "preferences.d/00driver",
            apt.render_preferences([(" ".join(tables.DRIVER_GLOBS), "version " + pattern, 1001)]),
        )

    def update(self) -> None:
        """Read the lists of the sources."""
        self._nvidia()
        self._run("apt-get", "update", "-qq")

    def known(self, names: Iterable[str]) -> List[str]:
        """Those packages that the sources have."""
        there = set(self._run("apt-cache", "pkgnames").split())
        return [name for name in names if name.split("=")[0] in there]

    def candidate(self, name: str) -> str:
        """The version of a package that would be installed."""
        entry = apt.parse_policy(self._run("apt-cache", "policy", name)).get(name)
        return entry.candidate if entry else ""

    def closure(self, names: Sequence[str]) -> Dict[str, str]:
        """Package -> version of all that an empty system needs for these packages."""
        steps = apt.parse_simulation(self._run("apt-get", "install", "-qq", "--simulate", *names))
        return {step.name.split(":")[0]: step.new for step in steps if step.kind == "Inst"}

    def packages(self, versions: Iterable[Tuple[str, str]]) -> List[Package]:
        """What to fetch for packages, with their paragraphs."""
        specs = [f"{name}={version}" for name, version in sorted(versions)]
        places: Dict[str, str] = {}
        for start in range(0, len(specs), 100):
            part = specs[start : start + 100]
            for uri in parse_uris(self._run("apt-get", "download", "-qq", "--print-uris", *part)):
                places[urllib.parse.unquote(uri.rsplit("/", 1)[-1])] = uri
        found = []
        for start in range(0, len(specs), 100):
            shown = self._run("apt-cache", "show", *specs[start : start + 100])
            for paragraph in shown.split("\n\n"):
                fields = fields_of(paragraph)
                if "Filename" not in fields:
                    continue
                name = os.path.basename(fields["Filename"])
                if name not in places or "SHA256" not in fields:
                    continue
                found.append(
                    Package(File(name, places[name], fields["SHA256"], int(fields["Size"])), relocate(paragraph, name))
                )
        lost = {spec.split("=")[0] for spec in specs} - {fields_of(item.paragraph)["Package"] for item in found}
        if lost:
            raise BundleError(
                f"{self.wanted.system}: the sources name no file with a sha256 for {', '.join(sorted(lost))}."
            )
        return list({item.file.name: item for item in found}.values())


def resolve(wanted: Wanted, work: str, ca_file: str, proxy: str, progress: Progress) -> List[Package]:
    """The closure of everything that is wanted of one system."""
    resolver = Resolver(wanted, work, ca_file, proxy)
    progress.step(f"{wanted.system}: reading the lists of packages")
    resolver.update()
    versions: Dict[Tuple[str, str], None] = {}
    for number, group in enumerate(wanted.groups, 1):
        progress.step(f"{wanted.system}: resolving packages", number, len(wanted.groups))
        # A trailing question mark: only where the system has it (a Python of another release, for example).
        names = [name for name in group if not name.endswith("?")]
        names += resolver.known(name[:-1] for name in group if name.endswith("?"))
        if not names:
            continue
        chosen = resolver.closure(names)
        versions.update(dict.fromkeys(chosen.items()))
        driver = sorted(
            {tables.upstream(v) for n, v in chosen.items() if n.startswith(("nvidia-kernel", "nvidia-dkms"))}
        )
        if driver:
            # The fabric manager must have exactly the driver's version: the newest of its branch may be newer.
            resolver.pin_driver(f"{driver[-1]}-*")
            manager = resolver.known([tables.fabric_manager_package(wanted.branch)])
            if manager:
                versions.update(dict.fromkeys(resolver.closure([*manager, *names]).items()))
    return resolver.packages(versions)


# -- the repository -----------------------------------------------------------------------------------------------------


def packages_text(packages: Iterable[Package]) -> str:
    """The Packages file."""
    return "\n".join(item.paragraph for item in sorted(packages, key=lambda item: item.file.name))


def release_text(files: Mapping[str, bytes], date: str, system: str) -> str:
    """The Release file."""
    lines = [f"Origin: {LABEL}", f"Label: {LABEL}", f"Description: {system}", f"Date: {date}", "Architectures: amd64"]
    lines.append("SHA256:")
    lines += [f" {hashlib.sha256(data).hexdigest()} {len(data)} {name}" for name, data in sorted(files.items())]
    return "\n".join(lines) + "\n"


def _without_date(text: str) -> str:
    return re.sub(r"^Date:.*\n", "", text, flags=re.M)


class Signer:
    """The site's own key, made where there is none."""

    def __init__(self, home: str) -> None:
        self.home = home

    def _gpg(self, *words: str, data: Optional[bytes] = None) -> bytes:
        command = ["gpg", "--homedir", self.home, "--batch", "--yes", "--no-tty", "--pinentry-mode", "loopback"]
        try:
            done = subprocess.run([*command, "--passphrase", "", *words], input=data, capture_output=True, check=False)
        except OSError as error:
            raise BundleError(f"gpg cannot be run: {error.strerror}. Install gnupg on the controller.") from error
        if done.returncode != 0:
            said = done.stderr.decode("utf-8", "replace").strip()[-600:]
            raise BundleError(f"gpg {' '.join(words[:2])} failed: {said}. The site's key lies in {self.home}.")
        return done.stdout

    def fingerprint(self) -> str:
        """The key's fingerprint; the key is made at the first call."""
        os.makedirs(self.home, mode=0o700, exist_ok=True)
        for attempt in range(2):
            for line in self._gpg("--list-secret-keys", "--with-colons").decode("ascii", "replace").splitlines():
                if line.startswith("fpr:"):
                    return line.split(":")[9]
            if attempt == 0:
                self._gpg("--quick-gen-key", f"{LABEL} (this site)", "rsa3072", "sign", "never")
        raise BundleError(f"gpg made no key in {self.home}.")

    def public(self) -> str:
        """The public key, armoured."""
        return self._gpg("--armor", "--export").decode("ascii")

    def sign(self, text: str) -> str:
        """A text with its signature around it."""
        return self._gpg("--clearsign", "--digest-algo", "SHA512", data=text.encode()).decode("utf-8")

    def close(self) -> None:
        """End the agent that gpg started."""
        with contextlib.suppress(OSError):
            subprocess.run(["gpgconf", "--homedir", self.home, "--kill", "gpg-agent"], capture_output=True, check=False)


def write_repository(folder: str, system: str, packages: Sequence[Package], signer: Signer) -> List[str]:
    """The lists, the signature and the key beside the packages; unchanged lists keep their date and signature."""
    os.makedirs(folder, exist_ok=True)
    text = packages_text(packages).encode()
    files = {"Packages": text, "Packages.gz": gzip.compress(text, 9, mtime=0)}
    for name, data in files.items():
        with open(os.path.join(folder, name), "wb") as handle:
            handle.write(data)
    public = signer.public()
    release = release_text(files, time.strftime("%a, %d %b %Y %H:%M:%S UTC", time.gmtime()), system)
    before, key = "", ""
    with contextlib.suppress(OSError):
        with open(os.path.join(folder, "Release"), encoding="utf-8") as handle:
            before = handle.read()
        with open(os.path.join(folder, KEY), encoding="utf-8") as handle:
            key = handle.read()
    signed = os.path.join(folder, "InRelease")
    if _without_date(before) != _without_date(release) or key != public or not os.path.exists(signed):
        bundle.write_text(os.path.join(folder, "Release"), release)
        bundle.write_text(signed, signer.sign(release))
        bundle.write_text(os.path.join(folder, KEY), public)
    return [*files, "Release", "InRelease", KEY]


def host_sources(root: str = "/etc/apt") -> str:
    """This machine's own sources, for a bundle of the same system."""
    lines, blocks = [], []
    for path in [os.path.join(root, "sources.list"), *_listed(os.path.join(root, "sources.list.d"))]:
        with contextlib.suppress(OSError):
            with open(path, encoding="utf-8", errors="replace") as handle:
                text = handle.read()
            if path.endswith(".sources"):
                blocks += [block.strip() for block in text.split("\n\n") if "URIs:" in block]
            elif path.endswith(".list"):
                lines += [line for line in text.splitlines() if line.startswith("deb ")]
    return "\n\n".join(["\n".join(lines), *blocks]) + "\n"


def _listed(folder: str) -> List[str]:
    try:
        # Ours name the repository of a bundle, or NVIDIA's, which is added with its checked key.
        return [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if not name.startswith("verl-")]
    except OSError:
        return []


def forget(work: str) -> None:
    """Remove the resolver's folder."""
    shutil.rmtree(work, ignore_errors=True)
