# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""A cache of wheels: a folder in which beside each wheel lies what it was made of, and its sha256.

    flash_attn-2.8.0.post2-0k1a2b3c4d5e6f-cp312-cp312-linux_x86_64.whl
    flash_attn-2.8.0.post2-0k1a2b3c4d5e6f-cp312-cp312-linux_x86_64.whl.json
    index.json      all entries, for readers that cannot list the folder (HTTP)

The same form on a host, on the controller and on a server. A wheel is believed only when its sha256 is right.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

from .. import index
from . import key, source

INDEX = "index.json"
Entry = Dict[str, Any]


class CacheError(Exception):
    """A wheel that is not what its entry says; the text says what to do."""


class Found(NamedTuple):
    path: str
    entry: Entry


def usable(entry: Any) -> bool:
    """Whether this is an entry that we can read."""
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("parts"), dict)
        and entry["parts"].get("schema") == key.SCHEMA
        and isinstance(entry.get("wheel"), str)
        and os.path.basename(entry["wheel"]) == entry["wheel"]
        and entry["wheel"].endswith(".whl")
        and isinstance(entry.get("sha256"), str)
        and entry.get("key") == key.digest(entry["parts"])
        and key.key_in_name(entry["wheel"]) == entry["key"]
    )


def entries(folder: str) -> Iterator[Entry]:
    """Every readable entry of a folder."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return
    for name in names:
        if name.endswith(".whl.json"):
            try:
                with open(os.path.join(folder, name), encoding="utf-8") as handle:
                    entry = json.load(handle)
            except (OSError, ValueError):
                continue
            if usable(entry) and entry["wheel"] + ".json" == name:
                yield entry


def ranked(offered: List[Entry], wanted: key.Parts) -> List[Entry]:
    """The entries that serve, the exact one first, then the ones with the fewest architectures."""
    exact = key.digest(wanted)
    serving = [entry for entry in offered if key.serves(entry["parts"], wanted)]
    return sorted(
        serving, key=lambda entry: (entry["key"] != exact, len(entry["parts"]["architectures"]), entry["key"])
    )


def verify(path: str, entry: Entry) -> Optional[str]:
    """Why this wheel is not to be believed, None when it is right."""
    try:
        size = os.path.getsize(path)
        if isinstance(entry.get("size"), int) and size != entry["size"]:
            return f"{path} has {size} bytes, not {entry['size']}"
        found = source.sha256_of(path)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    return None if found == entry["sha256"] else f"{path} has sha256 {found}, not {entry['sha256']}"


def lookup(folder: str, wanted: key.Parts) -> Tuple[Optional[Found], List[str]]:
    """The wheel that serves, and words on every entry that would but is damaged; those are put aside."""
    damaged: List[str] = []
    for entry in ranked(list(entries(folder)), wanted):
        path = os.path.join(folder, entry["wheel"])
        problem = verify(path, entry)
        if problem is None:
            return Found(path, entry), damaged
        damaged.append(problem)
        put_aside(folder, entry)
    return None, damaged


def put_aside(folder: str, entry: Entry) -> None:
    """A damaged entry is kept for a look, under a name that nothing reads."""
    for name in (entry["wheel"], entry["wheel"] + ".json"):
        path = os.path.join(folder, name)
        with contextlib.suppress(OSError):
            os.replace(path, path + ".damaged")


def write_json(path: str, data: Any) -> None:
    """Whole or not at all."""
    temporary = f"{path}.{os.getpid()}.new"
    with open(temporary, "w", encoding="utf-8") as handle:
        json.dump(data, handle, indent=1, sort_keys=True)
        handle.write("\n")
        handle.flush()
        os.fsync(handle.fileno())
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)


def store(folder: str, wheel: str, entry: Entry, move: bool = False) -> Found:
    """Take a wheel into the cache, if it is what its entry says."""
    if not usable(entry):
        raise CacheError(
            "The entry of the wheel is broken or of another version of the collection: build the wheel again."
        )
    problem = verify(wheel, entry)
    if problem:
        raise CacheError(f"{problem}: the wheel was changed or damaged on its way and is refused.")
    os.makedirs(folder, exist_ok=True)
    target = os.path.join(folder, entry["wheel"])
    if os.path.abspath(wheel) != os.path.abspath(target):
        temporary = f"{target}.{os.getpid()}.new"
        if move:
            with contextlib.suppress(OSError):
                os.replace(wheel, temporary)
        if not os.path.exists(temporary):
            shutil.copyfile(wheel, temporary)
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    write_json(target + ".json", entry)
    refresh(folder)
    return Found(target, entry)


def refresh(folder: str) -> None:
    """Write the index of the folder anew."""
    with open(os.path.join(folder, INDEX + ".lock"), "a", encoding="utf-8") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        write_json(os.path.join(folder, INDEX), {"schema": key.SCHEMA, "entries": list(entries(folder))})


def from_place(place: str, folder: str, wanted: key.Parts, client: source.Client) -> Tuple[Optional[Found], List[str]]:
    """A wheel from a shared folder or a URL into the cache folder; None where there is none."""
    path = local(place)
    if path is not None:
        damaged: List[str] = []
        for entry in ranked(list(entries(path)), wanted):
            try:
                return store(folder, os.path.join(path, entry["wheel"]), entry), damaged
            except (CacheError, OSError) as error:
                damaged.append(str(error))
        return None, damaged
    base = place.rstrip("/") + "/"
    os.makedirs(folder, exist_ok=True)
    target = os.path.join(folder, f".incoming.{os.getpid()}")
    try:
        listed, damaged = listing(place, target, client)
        for entry in ranked(listed, wanted):
            try:
                source.download(base + entry["wheel"], target, client)
                return store(folder, target, entry), damaged
            except (source.SourceError, CacheError) as error:
                damaged.append(str(error))
    finally:
        with contextlib.suppress(OSError):
            os.unlink(target)
    return None, damaged


def listing(place: str, target: str, client: source.Client) -> Tuple[List[Entry], List[str]]:
    """The entries that the index of a URL names, read by way of the file ``target``; or why it cannot be read."""
    base = place.rstrip("/") + "/"
    try:
        source.download(base + INDEX, target, client)
        with open(target, encoding="utf-8") as handle:
            offered = json.load(handle)
    except (source.SourceError, OSError, ValueError) as error:
        return [], [f"{index.without_password(base)}{INDEX} cannot be read: {error}"]
    named = offered.get("entries") if isinstance(offered, dict) else None
    return [entry for entry in named or [] if usable(entry)], []


def local(place: str) -> Optional[str]:
    """The folder that a place names, None for a URL."""
    if "://" in place and not place.startswith("file://"):
        return None
    return os.path.expanduser(place[len("file://") :] if place.startswith("file://") else place)
