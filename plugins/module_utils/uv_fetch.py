# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Brings the pinned uv to a host: its wheel, with the hash of the lock, unpacked; from a bundle without any network."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from typing import Dict, List, Optional, Sequence

from ansible_collections.verl.baremetal.plugins.module_utils import layer, record, uv
from ansible_collections.verl.baremetal.plugins.module_utils.progress import Progress


class FetchError(Exception):
    """uv could not be brought; the text says what was tried and what to do."""


def executable(path: str) -> str:
    """Where the program lies in its folder."""
    return os.path.join(path, "bin", "uv")


def version_of(path: str) -> str:
    """The version that an unpacked uv answers with, "" when it does not."""
    try:
        answer = subprocess.run(
            [executable(path), "--version"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    words = answer.stdout.decode("utf-8", "replace").split()
    return words[1] if answer.returncode == 0 and len(words) > 1 else ""


def pinned(lines: Sequence[str]) -> layer.Requirement:
    """The one requirement of uv's lock."""
    found = [item for item in layer.parse(lines) if item.name == "uv"]
    if len(found) != 1:
        raise FetchError(f"the lock of uv must name uv once, it does {len(found)} times")
    return found[0]


def in_folders(places: Sequence[str], wanted: layer.Requirement) -> Optional[str]:
    """A wheel of the wanted version and hash in local folders, None when there is none."""
    hashes = {item.partition(":")[2] for item in wanted.hashes}
    for place in places:
        folder = place[len("file://") :] if place.startswith("file://") else place
        for path in sorted(glob.glob(os.path.join(glob.escape(folder), f"uv-{wanted.version}-*.whl"))):
            if record.file_sha256(path) in hashes:
                return path
    return None


def fetch(path: str, lines: Sequence[str], sources: uv.Sources, progress: Progress) -> None:
    """Put uv into a folder, in one rename."""
    wanted = pinned(lines)
    parent = os.path.dirname(os.path.abspath(path))
    os.makedirs(parent, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".uv-", dir=parent) as folder:
        wheel = in_folders(sources.find_links, wanted)
        if wheel is None:
            if sources.offline:
                places = ", ".join(sources.find_links) or "a bundle"
                raise FetchError(
                    f"no wheel of uv {wanted.version} with the lock's hash lies in {places}, and stack_offline forbids "
                    f"to fetch it. Complete the bundle or allow the network."
                )
            progress.step(f"fetching uv {wanted.version}")
            wheel = _download(folder, wanted, sources)
        new = os.path.join(folder, "new")
        unpack(wheel, new)
        found = version_of(new)
        if found != wanted.version:
            raise FetchError(
                f"the unpacked uv answers with the version {found or 'nothing'}, {wanted.version} is needed"
            )
        if os.path.lexists(path):
            os.replace(path, os.path.join(folder, "old"))
        os.replace(new, path)


def unpack(wheel: str, target: str) -> None:
    """The program out of a wheel: a wheel is a zip file whose scripts lie in <name>.data/scripts."""
    os.makedirs(os.path.join(target, "bin"))
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                parts = name.split("/")
                if len(parts) != 3 or not parts[0].endswith(".data") or parts[1] != "scripts":
                    continue
                if parts[2] in ("uv", "uvx"):
                    place = os.path.join(target, "bin", parts[2])
                    with archive.open(name) as source, open(place, "wb") as handle:
                        shutil.copyfileobj(source, handle)
                    os.chmod(place, 0o755)
    except zipfile.BadZipFile as error:
        raise FetchError(f"{wheel} is no wheel: {error}") from error


def pip_arguments(sources: uv.Sources) -> List[str]:
    """pip's options for where packages come from; its own configuration holds for the rest."""
    arguments: List[str] = []
    if sources.index_url:
        arguments += ["--index-url", sources.index_url]
    for place in sources.find_links:
        arguments += ["--find-links", place]
    if sources.ca_file:
        arguments += ["--cert", sources.ca_file]
    if sources.proxy:
        arguments += ["--proxy", sources.proxy]
    return arguments


def _download(folder: str, wanted: layer.Requirement, sources: uv.Sources) -> str:
    lock = os.path.join(folder, "uv.txt")
    with open(lock, "w", encoding="utf-8") as handle:
        handle.write(wanted.line + "\n")
    target = os.path.join(folder, "wheel")
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    env["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    said = ""
    for pip in _pips(folder, env):
        command = [*pip, "download", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
        command += ["--dest", target, *pip_arguments(sources), "--requirement", lock]
        code, said = _run(command, env)
        if code == 0:
            return sorted(glob.glob(os.path.join(glob.escape(target), "*.whl")))[0]
        if "No module named pip" not in said:
            break
    raise FetchError(_explain(said, wanted))


def _pips(folder: str, env: Dict[str, str]) -> List[List[str]]:
    """The interpreter's pip when it has one, else one in a throw-away environment (python3-venv brings it)."""
    python = sys.executable
    code, _said = _run([python, "-m", "pip", "--version"], env)
    if code == 0:
        return [[python, "-m", "pip"]]
    venv = os.path.join(folder, "pip")
    code, said = _run([python, "-m", "venv", venv], env)
    if code != 0:
        raise FetchError(
            f"neither pip nor venv of {python} works, and one of them is needed to fetch uv. "
            f"Install the package python3-venv, or name a folder with uv's wheel in stack_find_links.\n{said[-800:]}"
        )
    return [[os.path.join(venv, "bin", "python"), "-m", "pip"]]


def _run(command: Sequence[str], env: Dict[str, str]) -> tuple[int, str]:
    answer = subprocess.run(
        list(command), env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    return answer.returncode, answer.stdout.decode("utf-8", "replace").strip()


def _explain(said: str, wanted: layer.Requirement) -> str:
    tail = uv.redact("\n".join(said.splitlines()[-8:]))
    if "DO NOT MATCH THE HASHES" in said:
        return f"wrong hash of uv {wanted.version}: the index's file is not the one of the lock.\n{tail}"
    if "CERTIFICATE_VERIFY_FAILED" in said:
        return f"the index's certificate is not trusted. Set stack_ca_file to your authority's file.\n{tail}"
    if "No space left on device" in said:
        return f"the disk is full: make room and run again.\n{tail}"
    if "No matching distribution" in said and "ERROR: Could not find a version" in said:
        return (
            f"uv {wanted.version} cannot be fetched: the package index cannot be reached or lacks it. Check network "
            f"and proxy, set stack_index_url to a mirror, or name a folder with uv's wheel in stack_find_links.\n{tail}"
        )
    return f"uv {wanted.version} cannot be fetched.\n{tail}"
