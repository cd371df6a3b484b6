# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Releases: folders that are built beside the live one, sealed with a manifest, made live in one rename, and pruned.

<root>/releases/<id>[.N] is being built while it holds the file .building. Sealing verifies every RECORD and writes the
manifest; only the activation, after the gate, takes .building away. From then on a release is never changed: when it is
found drifted, a new generation (.2, .3, ...) is built beside it. <root>/current is a link and is switched by a rename.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set

from ansible_collections.verl.baremetal.plugins.module_utils import (
    cuda_layout,
    install,
    layer,
    pep440,
    precompile,
    record,
)
from ansible_collections.verl.baremetal.plugins.module_utils._failpoint import failpoint
from ansible_collections.verl.baremetal.plugins.module_utils.install import BUILDING, MANIFEST
from ansible_collections.verl.baremetal.plugins.module_utils.progress import Progress

SCHEMA = 1
HISTORY_LENGTH = 100
ENVIRONMENT_FILES = ("env.sh", "modulefile")
LIVE = "live"  # stands for the live release where one is named
SHARED = ("venv", "cuda")  # what a release may have in common with the one that it was built on
_NOT_DIGESTED = ("created", "digest")
_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*-[0-9a-f]{6,64}$")


class ReleaseError(Exception):
    """A release cannot be begun, sealed or made live; the text says what was found and what to do."""


class Generation(NamedTuple):
    """One release folder of an id."""

    number: int
    name: str
    path: str

    @property
    def complete(self) -> bool:
        """True after the gate was passed."""
        return os.path.isfile(os.path.join(self.path, MANIFEST)) and not os.path.lexists(
            os.path.join(self.path, BUILDING)
        )

    @property
    def building(self) -> bool:
        """True for a folder that was begun and not completed; one that lost its manifest later is damaged instead."""
        return os.path.lexists(os.path.join(self.path, BUILDING)) or not os.listdir(self.path)


# ---------------------------------------------------------------------------------------------------- reading


def releases_folder(root: str) -> str:
    """Where the releases of a stack_root lie."""
    return os.path.join(root, "releases")


def current_path(root: str) -> str:
    """The link to the live release."""
    return os.path.join(root, "current")


def live(root: str) -> str:
    """The name of the live release, "" when there is none."""
    try:
        return os.path.basename(os.readlink(current_path(root)))
    except OSError:
        return ""


def generations(root: str, release_id: str) -> List[Generation]:
    """The folders of one id, oldest first."""
    found = []
    for name in _names(root):
        if name == release_id:
            found.append(Generation(1, name, os.path.join(releases_folder(root), name)))
            continue
        stem, _dot, number = name.rpartition(".")
        if stem == release_id and number.isdigit() and int(number) > 1:
            found.append(Generation(int(number), name, os.path.join(releases_folder(root), name)))
    return sorted(found)


def _names(root: str) -> List[str]:
    try:
        names = os.listdir(releases_folder(root))
    except OSError:
        return []
    return sorted(n for n in names if not n.startswith(".") and os.path.isdir(os.path.join(releases_folder(root), n)))


def read_manifest(path: str) -> Dict[str, Any]:
    """The manifest of a release folder; ReleaseError when it is missing, unreadable or not as it was written."""
    name = os.path.join(path, MANIFEST)
    try:
        with open(name, encoding="utf-8") as handle:
            data = json.load(handle)
    except OSError as error:
        raise ReleaseError(f"{name}: {error.strerror or error}") from error
    except ValueError as error:
        raise ReleaseError(f"{name} is no JSON ({error})") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise ReleaseError(f"{name} has the schema {found!r}, {SCHEMA} is needed")
    if data.get("digest") != manifest_digest(data):
        raise ReleaseError(f"{name} was changed after it was written: its digest does not match its content")
    return data


def manifest_digest(data: Mapping[str, Any]) -> str:
    """The digest of a manifest's content: everything but the time of making."""
    content = {key: value for key, value in data.items() if key not in _NOT_DIGESTED}
    return hashlib.sha256(_canonical(content).encode("utf-8")).hexdigest()


def _canonical(data: Any) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def quick_check(path: str) -> List[str]:
    """How a complete release differs from its manifest, in words, in milliseconds: no file's content is read."""
    try:
        manifest = read_manifest(path)
    except ReleaseError as error:
        return [str(error)]
    drift = []
    venv = os.path.join(path, "venv")
    packages = manifest.get("packages")
    if not isinstance(packages, dict):
        return [f"{os.path.join(path, MANIFEST)} lists no packages"]
    if packages or os.path.exists(venv):
        if not install.usable(venv):
            drift.append(f"{venv} is not a usable environment (its Python may be gone)")
        site = record.site_packages(venv) or ""
        drift += compare_packages({n: str(p["version"]) for n, p in packages.items()}, record.installed(site))
    for name in ENVIRONMENT_FILES:
        try:
            same = record.file_sha256(os.path.join(path, name)) == manifest.get("files", {}).get(name)
        except OSError:
            drift.append(f"{os.path.join(path, name)} is missing")
            continue
        if not same:
            drift.append(f"{os.path.join(path, name)} was changed")
    if manifest.get("cuda", {}).get("home") and not os.path.isdir(os.path.join(path, "cuda")):
        drift.append(f"{os.path.join(path, 'cuda')} is missing")
    return drift


def changed_files(path: str, integrity: str) -> List[str]:
    """How the packages' files differ from their RECORDs, in words; about half a CPU second for 45,000 files without hashes."""
    site = record.site_packages(os.path.join(path, "venv"))
    problems = record.verify(site, None, integrity).problems[:10] if site else []
    words = [f"{p.name}: {p.path} {p.detail}".replace("  ", " ") for p in problems]
    return words or cuda_layout.damage(os.path.join(path, "cuda"), integrity)


def compare_packages(expected: Mapping[str, str], found: Mapping[str, str]) -> List[str]:
    """Differences of two sets of packages, in words."""
    words = [f"{name} {expected[name]} is gone" for name in sorted(set(expected) - set(found))]
    words += [f"{name} {found[name]} is there and does not belong" for name in sorted(set(found) - set(expected))]
    words += [
        f"{name} is {found[name]}, not {expected[name]}"
        for name in sorted(set(found) & set(expected))
        if not pep440.same(found[name], expected[name])
    ]
    return words


# ---------------------------------------------------------------------------------------------------- history


def history_path(root: str) -> str:
    """The file that remembers what was live when."""
    return os.path.join(root, "state", "release.json")


def read_history(root: str) -> List[Dict[str, Any]]:
    """What was made live, oldest first; a file that cannot be read is an empty history."""
    try:
        with open(history_path(root), encoding="utf-8") as handle:
            data = json.load(handle)
        return [entry for entry in data["history"] if isinstance(entry, dict) and isinstance(entry.get("name"), str)]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def previous(root: str) -> str:
    """The release that was live before the live one and still exists, "" when there is none."""
    now = live(root)
    for entry in reversed(read_history(root)):
        name = entry["name"]
        if name != now and Generation(1, name, os.path.join(releases_folder(root), name)).complete:
            return str(name)
    return ""


def _remember(root: str, name: str, who: Mapping[str, Any], now: float) -> None:
    history = read_history(root)
    if history and history[-1]["name"] == name:
        return
    history.append({"name": name, "time": stamp(now), "user": who.get("user", ""), "host": who.get("host", "")})
    write_file(
        history_path(root), json.dumps({"schema": SCHEMA, "history": history[-HISTORY_LENGTH:]}, indent=1) + "\n"
    )


def stamp(now: float) -> str:
    """A moment as ISO 8601 in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))


# ---------------------------------------------------------------------------------------------------- writing


def write_file(path: str, text: str, mode: int = 0o644) -> bool:
    """Write a file in one rename and force it to the disk; False when it was so already."""
    try:
        with open(path, encoding="utf-8") as handle:
            if handle.read() == text:
                return False
    except (OSError, UnicodeDecodeError):
        pass
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{os.getpid()}.new"
    with open(temporary, "w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fchmod(handle.fileno(), mode)
        os.fsync(handle.fileno())
    os.replace(temporary, path)
    sync_folder(os.path.dirname(path))
    return True


def sync_folder(path: str) -> None:
    """Force a folder's entries to the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ---------------------------------------------------------------------------------------------------- begin


def begin(
    root: str,
    release_id: str,
    layers: Mapping[str, Any],
    progress: Progress,
    check: bool,
    extends: str = "",
    integrity: str = record.MODE_FILES,
) -> Dict[str, Any]:
    """Find the release of an id that is intact, or the folder in which to build it; see the module release."""
    if not _ID.match(release_id):
        raise ReleaseError(f"the release id {release_id!r} is not of the form <stack>-<hexadecimal digits>")
    below = _lower(root, extends, release_id)
    drift: List[str] = []
    newest: Optional[Generation] = None
    unfinished: Optional[Generation] = None
    last = 0
    for generation in generations(root, release_id):
        last = generation.number
        if generation.building:
            unfinished = generation
        else:
            newest, unfinished = generation, None
    if newest is not None:
        drift = quick_check(newest.path) or changed_files(newest.path, integrity)
        if not drift:
            return _begun(root, release_id, newest, converged=True)
    if unfinished is not None:
        if not check:
            precompile.stop(unfinished.path)
            write_file(os.path.join(unfinished.path, BUILDING), json.dumps({"id": release_id}) + "\n")
        removed = [] if check else clean(unfinished.path, layers, progress)
        return _begun(root, release_id, unfinished, continued=True, drift=drift, removed=removed, changed=bool(removed))
    name = release_id if last == 0 else f"{release_id}.{last + 1}"
    made = Generation(last + 1, name, os.path.join(releases_folder(root), name))
    if not check:
        os.makedirs(made.path, exist_ok=True)
        write_file(os.path.join(made.path, BUILDING), json.dumps({"id": release_id}) + "\n")
        if below:
            _stand_on(made.path, below)
    return _begun(root, release_id, made, drift=drift, changed=True)


def _lower(root: str, extends: str, release_id: str) -> str:
    """The folder of the complete release that a new one is built on, "" for none."""
    if not extends:
        return ""
    name = live(root) if extends == LIVE else extends
    path = os.path.join(releases_folder(root), name)
    if not name or not Generation(1, name, path).complete:
        raise ReleaseError(f"there is no complete release {name or extends!r} under {root} to build {release_id} on")
    drift = quick_check(path)
    if drift:
        raise ReleaseError(f"{path} cannot be built on: {'; '.join(drift[:5])}")
    return path


def _stand_on(path: str, below: str) -> None:
    """Give a new release the environment and the CUDA home of another: what is added lands beside what is there."""
    for name in SHARED:
        if os.path.isdir(os.path.join(below, name)) and not os.path.lexists(os.path.join(path, name)):
            os.symlink(os.path.join("..", os.path.basename(below), name), os.path.join(path, name))


def shared_with(path: str) -> List[str]:
    """Names of the releases whose environment or CUDA home a release uses."""
    found = set()
    for name in SHARED:
        link = os.path.join(path, name)
        if os.path.islink(link):
            parts = os.readlink(link).split("/")
            if len(parts) == 3 and parts[0] == "..":
                found.add(parts[1])
    return sorted(found)


def _begun(root: str, release_id: str, generation: Generation, **values: Any) -> Dict[str, Any]:
    result: Dict[str, Any] = {
        "id": release_id,
        "name": generation.name,
        "path": generation.path,
        "converged": False,
        "continued": False,
        "drift": [],
        "removed": [],
        "live": live(root),
        "previous": previous(root),
        "changed": False,
    }
    result.update(values)
    return result


def clean(path: str, layers: Mapping[str, Any], progress: Progress) -> List[str]:
    """Take from an unfinished release what a killed run left broken and what belongs to no layer."""
    def tick(name: str, done: int, total: int) -> None:
        progress.step(f"verifying what an earlier run left: {name}", done, total)

    def drop(folder: str, names: Set[str]) -> List[str]:
        for dist in record.distributions(folder):
            if dist.name in names:
                record.remove(dist)
        return sorted(names)

    wheels = cuda_layout.wheels(os.path.join(path, "cuda"))
    cuda = drop(wheels, set(record.verify(wheels, progress=tick).broken)) if wheels else []
    venv = os.path.join(path, "venv")
    site = record.site_packages(venv)
    if site is None:
        return cuda
    gone: Set[str] = set(record.verify(site, progress=tick).broken)
    known: Set[str] = {name for packages in install.stamps(venv).values() for name in packages}
    for wanted in layers.values():
        known |= {item.name for item in layer.parse(wanted.get("requirements") or [])}
    if layers:
        gone |= {dist.name for dist in record.distributions(site) if dist.name not in known}
    return cuda + drop(site, gone)


# ---------------------------------------------------------------------------------------------------- rollback, prune


def activate(
    root: str, path: str, who: Mapping[str, Any], now: float, check: bool = False, make_live: bool = True
) -> Dict[str, Any]:
    """Declare a sealed release complete and make it the live one: in one rename, after everything else."""
    name = os.path.basename(path)
    if os.path.abspath(os.path.dirname(path)) != os.path.abspath(releases_folder(root)):
        raise ReleaseError(f"{path} is no folder of {releases_folder(root)}")
    marker = os.path.join(path, BUILDING)
    before = live(root)
    if check:
        switched = make_live and before != name
        return {
            "changed": switched or os.path.lexists(marker),
            "live": name if switched else before,
            "previous": before if switched else previous(root),
        }
    if os.path.lexists(current_path(root)) and not os.path.islink(current_path(root)):
        raise ReleaseError(f"{current_path(root)} is no symbolic link. Move what is there elsewhere and run again.")
    if os.path.lexists(marker) or before != name:
        drift = quick_check(path)
        if drift:
            raise ReleaseError(
                f"{path} cannot be made live: {'; '.join(drift[:5])}. Run the whole playbook: it builds a new release."
            )
    changed = False
    if os.path.lexists(marker):
        for leftover in (".busy", os.path.join("cuda", ".busy"), BUILDING):
            if os.path.lexists(os.path.join(path, leftover)):
                os.unlink(os.path.join(path, leftover))
        sync_folder(path)
        changed = True
    if not make_live:
        return {"changed": changed, "live": before, "previous": previous(root)}
    failpoint("activate.before_switch")
    if before != name:
        switch(root, name)
        changed = True
    failpoint("activate.after_switch")
    _remember(root, name, who, now)
    return {"changed": changed, "live": name, "previous": previous(root)}


def switch(root: str, name: str) -> None:
    """Point current to a release in one rename; there is no moment without it."""
    for leftover in os.listdir(root):
        if leftover.startswith(".current."):
            os.unlink(os.path.join(root, leftover))
    temporary = os.path.join(root, f".current.{os.getpid()}")
    os.symlink(os.path.join("releases", name), temporary)
    os.replace(temporary, current_path(root))
    sync_folder(root)


def rollback(root: str, target: str, who: Mapping[str, Any], now: float, check: bool = False) -> Dict[str, Any]:
    """Go back to a named release, or to the newest earlier one that is intact."""
    before = live(root)
    refused: List[str] = []
    for name in [target] if target else _earlier(root, before):
        path = os.path.join(releases_folder(root), name)
        if not Generation(1, name, path).complete:
            refused.append(f"{name}: there is no complete release of that name")
            continue
        drift = quick_check(path)
        if drift:
            refused.append(f"{name}: {'; '.join(drift[:3])}")
            continue
        if not check and name != before:
            switch(root, name)
            _remember(root, name, who, now)
        return {"changed": name != before, "live": name, "previous": before, "refused": refused}
    known = ", ".join(n for n in _names(root) if n != before) or "none"
    why = "; ".join(refused) or "nothing was live before it"
    raise ReleaseError(
        f"there is no release to go back to from {before or 'nothing'} ({why}). Releases there: {known}."
    )


def _earlier(root: str, before: str) -> List[str]:
    names: List[str] = []
    for entry in reversed(read_history(root)):
        if entry["name"] != before and entry["name"] not in names:
            names.append(entry["name"])
    return [name for name in names if os.path.isdir(os.path.join(releases_folder(root), name))]


def candidates(root: str, keep: int, building: str = "") -> List[str]:
    """What may be pruned: not the live, previous or newest `keep` complete releases, nor the one being built."""
    protected = {live(root), previous(root), building}
    order = [entry["name"] for entry in read_history(root)]
    names = _names(root)
    complete = [n for n in names if Generation(1, n, os.path.join(releases_folder(root), n)).complete]
    # Newest first by the moment they last became live; one that never was comes last.
    complete.sort(key=lambda n: (_last_index(order, n), n), reverse=True)
    kept = [n for n in complete if n in protected]
    for name in complete:
        if len(kept) < max(1, keep) and name not in kept:
            kept.append(name)
    kept += [below for name in [*kept, *protected] for below in shared_with(os.path.join(releases_folder(root), name))]
    return [n for n in names if n not in kept and n not in protected]


def _last_index(order: Sequence[str], name: str) -> int:
    return max((index for index, item in enumerate(order) if item == name), default=-1)


def in_use(paths: Iterable[str], proc: str = "/proc") -> Dict[str, List[int]]:
    """Which folders a running process uses: its program, working folder, mapped files, environment or arguments."""
    wanted = {path: os.path.realpath(path) for path in paths}
    used: Dict[str, List[int]] = {}
    if not wanted:
        return used
    for pid in os.listdir(proc):
        if not pid.isdigit() or int(pid) == os.getpid():
            continue
        text = "\n".join(_process_texts(os.path.join(proc, pid)))
        for path, real in wanted.items():
            if real + "/" in text or text.endswith(real) or real + "\n" in text or real + "\0" in text:
                used.setdefault(path, []).append(int(pid))
    return used


def _process_texts(folder: str) -> List[str]:
    texts = []
    for name in ("exe", "cwd", "root"):
        try:
            texts.append(os.readlink(os.path.join(folder, name)))
        except OSError:
            continue
    for name in ("maps", "environ", "cmdline"):
        try:
            with open(os.path.join(folder, name), "rb") as handle:
                texts.append(handle.read().decode("utf-8", "surrogateescape"))
        except OSError:
            continue
    return texts


def prune(root: str, keep: int, building: str = "", check: bool = False) -> Dict[str, Any]:
    """Remove old releases and what an interrupted removal left; one that a process uses stays."""
    folder = releases_folder(root)
    names = candidates(root, keep, building)
    used = in_use([os.path.join(folder, name) for name in names])
    kept = {os.path.basename(path): pids for path, pids in used.items()}
    gone = [name for name in names if name not in kept]
    if not check:
        for name in gone:
            os.replace(os.path.join(folder, name), os.path.join(folder, ".trash-" + name))
            failpoint("prune")
        if os.path.isdir(folder):
            for name in os.listdir(folder):
                if name.startswith(".trash-"):
                    shutil.rmtree(os.path.join(folder, name), ignore_errors=True)
    return {"pruned": gone, "in_use": kept, "changed": bool(gone)}


def info(root: str) -> Dict[str, Any]:
    """What is there, for people and tests."""
    releases: List[Dict[str, Any]] = []
    for name in _names(root):
        path = os.path.join(releases_folder(root), name)
        entry: Dict[str, Any] = {
            "name": name,
            "complete": Generation(1, name, path).complete,
            "created": "",
            "digest": "",
        }
        try:
            manifest = read_manifest(path)
            entry.update(created=manifest.get("created", ""), digest=manifest["digest"])
        except ReleaseError as error:
            entry["problem"] = str(error)
        releases.append(entry)
    return {"live": live(root), "previous": previous(root), "releases": releases, "history": read_history(root)}
