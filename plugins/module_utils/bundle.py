# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""What a bundle is: a folder with everything that a host without a network needs, and bundle.json that names each file.

    bundle.json       schema, stack, what it serves, every file with size, sha256 and uses, a digest of the whole
    README.md         the same for people
    wheels/           wheels and source distributions of the stack's locks, uv, CUDA, the controller's tools
    built/            wheels of compiled extensions, each with what it was made of
    sources/          sources of compiled extensions that lie in git, one commit each
    apt/<system>/     packages of the operating system with their closure, a signed repository
    collection/       the collection itself
    images/           archives of images
    python/           interpreters that uv brings, as uv's mirrors have them

A use is ``part/python``, for example ``torch.cu128/3.12``; ``any`` stands for every Python.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import json
import os
from typing import Any, Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from ansible_collections.verl.baremetal.plugins.module_utils import layer, record

SCHEMA = 1
INDEX = "bundle.json"
WHEELS = "wheels"
BUILT = "built"
SOURCES = "sources"
PYTHON = "python"
ANY = "any"
SHORT = 12
Step = Callable[[str, Optional[int], Optional[int]], None]


class BundleError(Exception):
    """A bundle that cannot be used or made; the text says what was found, what is needed and what to do."""


class File(NamedTuple):
    """One file of a bundle."""

    path: str
    size: int
    sha256: str
    uses: Tuple[str, ...]


class Bundle(NamedTuple):
    """What bundle.json says."""

    stack: Dict[str, str]
    serves: Dict[str, List[str]]
    files: Tuple[File, ...]
    requests: Mapping[str, str] = {}  # part -> one value for all that decides its content

    @property
    def digest(self) -> str:
        """One value for the whole content."""
        return digest(self.files)

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(item.size for item in self.files)


class Problem(NamedTuple):
    """A file that is not as bundle.json says."""

    path: str
    kind: str  # missing, damaged, superfluous
    detail: str


def signed(path: str) -> bool:
    """Whether a file is the signature of a list of packages, or names its time or its key."""
    return path.startswith("apt/") and os.path.basename(path) in ("Release", "InRelease", "3bf863cc.pub")


def digest(files: Iterable[File]) -> str:
    """sha256 over the sorted lines ``path sha256``.

    Signatures differ from site to site and from time to time, and follow from the lists that they sign: they are left out.
    """
    lines = sorted(f"{item.path} {item.sha256}\n" for item in files if not signed(item.path))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def dump(bundle: Bundle) -> str:
    """The text of bundle.json."""
    data = {
        "schema": SCHEMA,
        "stack": bundle.stack,
        "serves": bundle.serves,
        "requests": dict(bundle.requests),
        "bytes": bundle.bytes,
        "digest": bundle.digest,
        "files": [
            {"path": item.path, "size": item.size, "sha256": item.sha256, "uses": list(item.uses)}
            for item in sorted(bundle.files)
        ],
    }
    return json.dumps(data, indent=1, sort_keys=True) + "\n"


def parse(text: str, where: str) -> Bundle:
    """Read bundle.json.

    Raises:
        BundleError: it is none, of another schema, or not what its digest says.
    """
    try:
        data = json.loads(text)
        if not isinstance(data, dict) or "schema" not in data:
            raise ValueError("no schema in it")
        if data["schema"] != SCHEMA:
            raise BundleError(
                f"{where} has schema {data['schema']}, this collection reads schema {SCHEMA}: make the bundle with "
                f"playbooks/bundle.yml of this version."
            )
        files = tuple(File(f["path"], int(f["size"]), f["sha256"], tuple(f["uses"])) for f in data["files"])
        bundle = Bundle(dict(data["stack"]), dict(data["serves"]), files, dict(data.get("requests", {})))
        stated = data["digest"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{where} is no bundle.json ({error}): make the bundle with playbooks/bundle.yml.") from error
    for item in files:
        if item.path.startswith("/") or ".." in item.path.split("/"):
            raise BundleError(f"{where} names {item.path!r}, which leads out of the bundle: it is refused.")
    if bundle.digest != stated:
        raise BundleError(
            f"{where} was changed: its files give the digest {bundle.digest[:SHORT]}, not {stated[:SHORT]}."
        )
    return bundle


def read(folder: str) -> Bundle:
    """The bundle in a folder; BundleError when there is none."""
    path = os.path.join(folder, INDEX)
    try:
        with open(path, encoding="utf-8") as handle:
            return parse(handle.read(), path)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BundleError(
            f"there is no bundle at {folder}: {INDEX} cannot be read ({reason}). Make it with playbooks/bundle.yml, "
            f"or set stack_bundle to the folder or URL where it is."
        ) from error


def read_or_none(folder: str) -> Optional[Bundle]:
    """The bundle in a folder, None when there is no readable one."""
    try:
        return read(folder)
    except BundleError:
        return None


def write(folder: str, bundle: Bundle) -> None:
    """Write bundle.json, whole or not at all; it comes last, so a folder that has it is complete."""
    write_text(os.path.join(folder, INDEX), dump(bundle))


def write_text(path: str, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = f"{path}.{os.getpid()}.new"
    try:
        with open(temporary, "w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def needed(files: Iterable[File], uses: Iterable[str]) -> List[File]:
    """The files of some uses; ``part/any`` serves every Python."""
    wanted = set(uses)
    wanted |= {use.split("/")[0] + "/" + ANY for use in wanted}
    return [item for item in files if wanted.intersection(item.uses)]


def file_of(folder: str, path: str, uses: Sequence[str]) -> File:
    """The description of a file that is there."""
    full = os.path.join(folder, path)
    return File(path, os.path.getsize(full), record.file_sha256(full), tuple(sorted(uses)))


def lacks(files: Sequence[File], lines: Sequence[str]) -> List[str]:
    """Packages of requirement lines without any file of their hashes, as ``name version``."""
    there = {item.sha256 for item in files}
    missing = []
    for wanted in layer.parse(lines):
        if not there.intersection(value.partition(":")[2] for value in wanted.hashes):
            missing.append(f"{wanted.name} {wanted.version}")
    return missing


def _look(folder: str, item: File, hashes: bool) -> Optional[Problem]:
    path = os.path.join(folder, item.path)
    try:
        size = os.path.getsize(path)
        if size != item.size:
            return Problem(item.path, "damaged", f"it has {size} bytes, {item.size} are needed")
        if hashes:
            found = record.file_sha256(path)
            if found != item.sha256:
                return Problem(item.path, "damaged", f"its sha256 is {found}, {item.sha256} is needed")
    except FileNotFoundError:
        return Problem(item.path, "missing", "it is not there")
    except OSError as error:
        return Problem(item.path, "damaged", f"it cannot be read: {error.strerror}")
    return None


def verify(
    folder: str, files: Sequence[File], hashes: bool = True, step: Optional[Step] = None, jobs: int = 4
) -> List[Problem]:
    """Compare files with what bundle.json says of them."""
    problems: List[Problem] = []
    total, done = sum(item.size for item in files), 0
    with concurrent.futures.ThreadPoolExecutor(max(1, jobs)) as pool:
        for item, problem in zip(files, pool.map(lambda one: _look(folder, one, hashes), files)):
            done += item.size
            if step:
                step("comparing the bundle's files, MB", done >> 20, total >> 20)
            if problem:
                problems.append(problem)
    return problems


def present(folder: str) -> List[str]:
    """Paths of all files in a bundle's folder, without bundle.json."""
    found = []
    for parent, _folders, names in os.walk(folder):
        for name in names:
            path = os.path.relpath(os.path.join(parent, name), folder)
            if path != INDEX:
                found.append(path)
    return sorted(found)


def touched(folder: str, files: Sequence[File]) -> List[File]:
    """Files that are missing, of another size, or written after bundle.json, which is written last."""
    try:
        written = os.stat(os.path.join(folder, INDEX)).st_mtime_ns
    except OSError:
        return list(files)
    found = []
    for item in files:
        try:
            stat = os.stat(os.path.join(folder, item.path))
        except OSError:
            found.append(item)
            continue
        if stat.st_size != item.size or stat.st_mtime_ns > written:
            found.append(item)
    return found


def superfluous(folder: str, files: Iterable[File]) -> List[Problem]:
    """Files that bundle.json does not know."""
    known: Set[str] = {item.path for item in files}
    return [
        Problem(path, "superfluous", "bundle.json does not name it") for path in present(folder) if path not in known
    ]


def describe(problems: Sequence[Problem], folder: str) -> str:
    """Problems in words, the first ones by name."""
    lines = [f"{problem.path} is {problem.kind}: {problem.detail}" for problem in problems[:20]]
    if len(problems) > 20:
        lines.append(f"and {len(problems) - 20} more")
    return (
        f"the bundle {folder} is not whole: " + "; ".join(lines) + ". Remove what is damaged and run "
        "playbooks/bundle.yml again: it fetches only what is missing."
    )


def head(bundle: Bundle) -> Dict[str, Any]:
    """What a plan needs to know, without the list of files."""
    built = set()
    for item in bundle.files:
        if item.path.startswith(BUILT + "/") and item.path.endswith(".whl"):
            name = record.normalise(os.path.basename(item.path).split("-")[0])
            built |= {name + "/" + use.split("/")[1] for use in item.uses}
    return {
        "stack": bundle.stack,
        "serves": bundle.serves,
        "digest": bundle.digest,
        "bytes": bundle.bytes,
        "built": sorted(built),
        "sources": {source_name(item.path): item.path for item in bundle.files if item.path.startswith(SOURCES + "/")},
    }


def source_path(name: str, commit: str) -> str:
    """Where the source of a compiled wheel lies in a bundle."""
    return f"{SOURCES}/{name}-{commit}.bundle"


def source_name(path: str) -> str:
    """The wheel whose source a file is."""
    return os.path.basename(path).rpartition("-")[0]


def pulled_folder(root: str, whole: str) -> str:
    """Where a host keeps what it pulled of the bundle with this digest."""
    return os.path.join(root, "bundle", whole[:SHORT])


def readme(bundle: Bundle, parts: Mapping[str, str]) -> str:
    """The README of a bundle."""
    size: Dict[str, int] = {}
    count: Dict[str, int] = {}
    for item in bundle.files:
        top = item.path.split("/")[0]
        size[top] = size.get(top, 0) + item.size
        count[top] = count.get(top, 0) + 1
    lines = [
        f"# Bundle of the stack {bundle.stack['name']}",
        "",
        "Everything that a host without a network needs, made by playbooks/bundle.yml of verl.baremetal.",
        "",
        "It serves:",
        "",
    ]
    shown = sorted((name.replace("_", " "), values) for name, values in bundle.serves.items())
    lines += [f"- {name}: {', '.join(values) or 'none'}" for name, values in shown]
    lines += ["", "| folder | files | MB | what |", "|---|---|---|---|"]
    lines += [f"| {top}/ | {count[top]} | {size[top] / 1e6:.1f} | {parts.get(top, '')} |" for top in sorted(size)]
    lines += [
        "",
        "Install from it, with the folder as the hosts see it, or a URL:",
        "`ansible-playbook verl.baremetal.site -e stack_bundle=<folder or URL>`.",
        "Check it: `ansible-playbook verl.baremetal.bundle --tags verify -e bundle_path=<this folder>`.",
        "A controller from it: see docs/bundle.md of the collection.",
        "",
        "`bundle.json` names every file with its size and sha256.",
        "",
    ]
    return "\n".join(lines)
