# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Installed distributions of a folder (site-packages) and their RECORD files, read without importing anything.

A RECORD lists every file that an installer wrote, with its size and sha256. uv is not crash-safe in place: after a
kill it may call a distribution installed that lacks files, so nothing is made live before its RECORD was verified.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import hashlib
import os
import re
from typing import Callable, Dict, Iterable, List, NamedTuple, Optional, Tuple

MODE_FILES = "files"
MODE_HASHES = "hashes"
_DIST_INFO = re.compile(r"^(?P<name>[^-]+(?:-[^-]+)*?)-(?P<version>[^-]+)\.dist-info$")
_NORMAL = re.compile(r"[-_.]+")
_CHUNK = 1 << 20


class RecordError(ValueError):
    """A RECORD that cannot be read; the text says what was found."""


class Distribution(NamedTuple):
    """One installed distribution: normalised name, version, and its dist-info folder (absolute)."""

    name: str
    version: str
    path: str


class Entry(NamedTuple):
    """One line of a RECORD: the path as written, the sha256 in hex (or "") and the size (or None)."""

    path: str
    sha256: str
    size: Optional[int]


class Problem(NamedTuple):
    """One file that is not as its RECORD says. kind: missing, size, hash, record, duplicate."""

    name: str
    path: str
    kind: str
    detail: str


class Report(NamedTuple):
    """What a verification looked at and what was wrong."""

    distributions: int
    files: int
    bytes: int
    problems: List[Problem]

    @property
    def broken(self) -> List[str]:
        """Names of the distributions with a problem, sorted, each once."""
        return sorted({problem.name for problem in self.problems})


def normalise(name: str) -> str:
    """The name as package indexes compare it (PEP 503)."""
    return _NORMAL.sub("-", name).lower()


def site_packages(venv: str) -> Optional[str]:
    """The site-packages folder of a virtual environment, None when there is none."""
    lib = os.path.join(venv, "lib")
    try:
        names = sorted(os.listdir(lib))
    except OSError:
        return None
    for name in names:
        folder = os.path.join(lib, name, "site-packages")
        if name.startswith("python") and os.path.isdir(folder):
            return folder
    return None


def split_dist_info(folder: str) -> Optional[Tuple[str, str]]:
    """Name (normalised) and version of a dist-info folder's name, None when it is none."""
    match = _DIST_INFO.match(folder)
    if match is None:
        return None
    return normalise(match.group("name")), match.group("version")


def distributions(site: str) -> List[Distribution]:
    """Every distribution of a folder, from the names of its dist-info folders alone (well under a millisecond)."""
    found = []
    try:
        names = os.listdir(site)
    except OSError:
        return []
    for name in names:
        if name.startswith("~"):
            continue
        parts = split_dist_info(name)
        if parts is not None:
            found.append(Distribution(parts[0], parts[1], os.path.join(site, name)))
    return sorted(found)


def installed(site: str) -> Dict[str, str]:
    """name -> version of every distribution of a folder; of a name that is there twice both, joined by a bar."""
    result: Dict[str, str] = {}
    for dist in distributions(site):
        result[dist.name] = result[dist.name] + "|" + dist.version if dist.name in result else dist.version
    return result


def parse_record(text: str) -> List[Entry]:
    """The entries of a RECORD's text; RecordError for text that is none."""
    entries = []
    try:
        for number, row in enumerate(csv.reader(text.splitlines()), 1):
            if not row:
                continue
            if len(row) != 3 or not row[0]:
                raise RecordError(f"line {number} has {len(row)} fields, 3 are needed")
            entries.append(Entry(row[0], _sha256_hex(row[1], number), _size(row[2], number)))
    except csv.Error as error:
        raise RecordError(str(error)) from error
    if not entries:
        raise RecordError("it is empty")
    return entries


def _size(text: str, number: int) -> Optional[int]:
    if not text:
        return None
    if not text.isdigit():
        raise RecordError(f"line {number} has the size {text!r}, a number is needed")
    return int(text)


def _sha256_hex(text: str, number: int) -> str:
    if not text.startswith("sha256="):
        return ""
    encoded = text[len("sha256=") :]
    try:
        raw = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    except ValueError as error:
        raise RecordError(f"line {number} has a hash that is no base64") from error
    if len(raw) != 32:
        raise RecordError(f"line {number} has a sha256 of {len(raw)} bytes, 32 are needed")
    return raw.hex()


def read_record(dist: Distribution) -> List[Entry]:
    """The entries of a distribution's RECORD; RecordError when it is missing or cannot be read."""
    try:
        with open(os.path.join(dist.path, "RECORD"), encoding="utf-8", newline="") as handle:
            return parse_record(handle.read())
    except OSError as error:
        raise RecordError(error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise RecordError("it is no UTF-8 text") from error


def record_sha256(dist: Distribution) -> str:
    """The sha256 of the RECORD file itself, "" when it is missing: one value that stands for every file."""
    try:
        with open(os.path.join(dist.path, "RECORD"), "rb", buffering=0) as handle:
            return hashlib.sha256(handle.read()).hexdigest()
    except OSError:
        return ""


def file_sha256(path: str) -> str:
    """The sha256 of a file, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while True:
            chunk = handle.read(_CHUNK)
            if not chunk:
                return digest.hexdigest()
            digest.update(chunk)


def _skipped(entry: Entry) -> bool:
    """Files without a promise: bytecode (may be made anew at any time), and a dist-info's top_level.txt, which nothing
    reads at run time and which decord 0.6.0's own wheel records with a wrong size."""
    return entry.path.endswith((".pyc", ".dist-info/top_level.txt"))


def verify_distribution(dist: Distribution, mode: str = MODE_FILES) -> Report:
    """Compare one distribution's files with its RECORD: existence and size, with mode hashes their sha256 too."""
    try:
        entries = read_record(dist)
    except RecordError as error:
        return Report(1, 0, 0, [Problem(dist.name, "RECORD", "record", str(error))])
    site = os.path.dirname(dist.path)
    problems: List[Problem] = []
    files = total = 0
    for entry in entries:
        if _skipped(entry):
            continue
        path = entry.path if os.path.isabs(entry.path) else os.path.join(site, entry.path)
        try:
            size = os.stat(path).st_size
        except OSError as error:
            problems.append(Problem(dist.name, entry.path, "missing", error.strerror or str(error)))
            continue
        files += 1
        total += size
        if entry.size is not None and size != entry.size:
            detail = f"{size} bytes found, {entry.size} expected"
            problems.append(Problem(dist.name, entry.path, "size", detail))
        elif mode == MODE_HASHES and entry.sha256:
            try:
                found = file_sha256(path)
            except OSError as error:
                problems.append(Problem(dist.name, entry.path, "missing", error.strerror or str(error)))
                continue
            if found != entry.sha256:
                detail = f"sha256 {found} found, {entry.sha256} expected"
                problems.append(Problem(dist.name, entry.path, "hash", detail))
    if not any(os.path.basename(entry.path) == "METADATA" for entry in entries):
        problems.append(Problem(dist.name, "METADATA", "record", "it is not listed in the RECORD"))
    return Report(1, files, total, problems)


def verify(
    site: str,
    names: Optional[Iterable[str]] = None,
    mode: str = MODE_FILES,
    workers: Optional[int] = None,
    progress: Optional[Callable[[str, int, int], None]] = None,
) -> Report:
    """Verify every distribution of a folder, or those named (a named one that is absent is a problem).

    progress is called as progress(name, done, total) after each distribution, from this thread.
    """
    present = distributions(site)
    problems: List[Problem] = []
    if names is not None:
        wanted = {normalise(name) for name in names}
        absent = wanted - {dist.name for dist in present}
        problems.extend(Problem(name, "", "missing", "the package is not installed") for name in sorted(absent))
        present = [dist for dist in present if dist.name in wanted]
    seen: Dict[str, str] = {}
    for dist in present:
        if dist.name in seen:
            detail = f"versions {seen[dist.name]} and {dist.version} are both recorded"
            problems.append(Problem(dist.name, os.path.basename(dist.path), "duplicate", detail))
        seen[dist.name] = dist.version
    from concurrent.futures import ThreadPoolExecutor  # it and what it imports cost more than most calls need

    count = workers or min(8, os.cpu_count() or 1)
    files = total = 0
    with ThreadPoolExecutor(max_workers=count) as pool:
        reports = pool.map(lambda item: verify_distribution(item, mode), present)
        for done, (dist, report) in enumerate(zip(present, reports), 1):
            files += report.files
            total += report.bytes
            problems.extend(report.problems)
            if progress is not None:
                progress(dist.name, done, len(present))
    return Report(len(present), files, total, _without_shared(site, problems, mode))


def _without_shared(site: str, problems: List[Problem], mode: str) -> List[Problem]:
    """Leave out files that two distributions record and that are as another one of them says.

    Packages do share files (fastapi and fastapi-cli both bring bin/fastapi): the one installed last wrote it.
    """
    suspects = {os.path.normpath(os.path.join(site, p.path)) for p in problems if p.kind in ("size", "hash")}
    if not suspects:
        return problems
    good = set()
    for dist in distributions(site):
        try:
            entries = read_record(dist)
        except RecordError:
            continue
        for entry in entries:
            path = os.path.normpath(os.path.join(site, entry.path))
            if path not in suspects or entry.size is None or not entry.sha256:
                continue
            with contextlib.suppress(OSError):
                if os.stat(path).st_size == entry.size and (mode != MODE_HASHES or file_sha256(path) == entry.sha256):
                    good.add(path)
    return [
        p
        for p in problems
        if p.kind not in ("size", "hash") or os.path.normpath(os.path.join(site, p.path)) not in good
    ]


def remove(dist: Distribution) -> None:
    """Take a (possibly broken) distribution away: the files its RECORD names, inside the environment, and dist-info.

    Files outside the environment's own folder are left alone, whatever a RECORD says. The dist-info folder goes
    last, so that an interruption leaves the distribution visible and broken, never half gone and unseen.
    """
    import shutil  # it imports every compression there is; what only reads does without it

    site = os.path.dirname(dist.path)
    prefix = os.path.realpath(_environment(site))
    try:
        entries = read_record(dist)
    except RecordError:
        entries = []
    folders = set()
    for entry in entries:
        if os.path.isabs(entry.path):
            continue
        path = os.path.normpath(os.path.join(site, entry.path))
        folder = os.path.realpath(os.path.dirname(path))
        if folder != prefix and not folder.startswith(prefix + os.sep):
            continue
        if path.startswith(dist.path + os.sep):
            continue
        with contextlib.suppress(OSError):
            os.unlink(path)
        folders.add(os.path.dirname(path))
    for folder in sorted(folders, key=len, reverse=True):
        _remove_empty(folder, site)
    shutil.rmtree(dist.path, ignore_errors=True)


def _remove_empty(folder: str, site: str) -> None:
    """Remove a folder that holds nothing but bytecode, and its parents, up to site-packages."""
    import shutil

    while folder.startswith(site + os.sep):
        cache = os.path.join(folder, "__pycache__")
        try:
            names = os.listdir(folder)
            if names == ["__pycache__"]:
                shutil.rmtree(cache, ignore_errors=True)
            elif names:
                return
            os.rmdir(folder)
        except OSError:
            return
        folder = os.path.dirname(folder)


def _environment(site: str) -> str:
    """The virtual environment that a site-packages folder belongs to, the folder itself when there is none."""
    venv = os.path.dirname(os.path.dirname(os.path.dirname(site)))
    return venv if os.path.isfile(os.path.join(venv, "pyvenv.cfg")) else site
