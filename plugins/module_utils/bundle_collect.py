# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Makes a bundle: finds what is wanted by hash, fetches what is missing, shares files with other bundles."""

from __future__ import annotations

import concurrent.futures
import contextlib
import glob
import hashlib
import json
import os
import shutil
import tempfile
import threading
from typing import Any, Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from ansible_collections.verl.baremetal.plugins.module_utils import (
    bundle,
    bundle_apt,
    bundle_python,
    index,
    record,
    wheel_tags,
)
from ansible_collections.verl.baremetal.plugins.module_utils._failpoint import failpoint
from ansible_collections.verl.baremetal.plugins.module_utils.bundle import BundleError, File
from ansible_collections.verl.baremetal.plugins.module_utils.progress import Progress
from ansible_collections.verl.baremetal.plugins.module_utils.wheels import source

RESERVE = 64 << 20  # bytes that stay free on the disk


class Wanted(NamedTuple):
    """One package of a lock for one Python."""

    name: str
    version: str
    hashes: Tuple[str, ...]
    python: str
    use: str
    indexes: Tuple[str, ...]  # "" is the client's default
    glibc: Tuple[int, int] = (2, 28)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Wanted:
        """From a module's argument."""
        return cls(
            data["name"],
            data["version"],
            tuple(data["hashes"]),
            data["python"],
            data["use"],
            tuple(data.get("indexes") or [""]),
            tuple(int(part) for part in str(data.get("glibc", "2.28")).split("."))[:2],  # type: ignore[arg-type]
        )


class Added(NamedTuple):
    """A file that is no package of an index: copied or made on this machine."""

    path: str  # in the bundle
    source: str  # where it lies now
    uses: Tuple[str, ...]


class Direct(NamedTuple):
    """A wheel that lies in no index, with its hash."""

    name: str
    url: str
    sha256: str
    use: str


class Source(NamedTuple):
    """The source of a compiled wheel that lies in git."""

    name: str
    url: str
    commit: str
    required: bool  # otherwise a bundle without it is one, and the next run tries again

    @property
    def path(self) -> str:
        """Where it lies in the bundle."""
        return bundle.source_path(self.name, self.commit)


class Content(NamedTuple):
    """All that a bundle shall hold."""

    wanted: Sequence[Wanted] = ()
    added: Sequence[Added] = ()
    systems: Sequence[bundle_apt.Wanted] = ()
    direct: Sequence[Direct] = ()
    sources: Sequence[Source] = ()
    pythons: Sequence[bundle_python.Wanted] = ()


class Counts(NamedTuple):
    """What a run did."""

    fetched: int
    fetched_bytes: int
    shared: int
    removed: int
    warnings: Tuple[str, ...] = ()


def requests_of(content: Content, serves: Mapping[str, Any], stack: Mapping[str, str]) -> Dict[str, str]:
    """One value for all that decides a part's content, for each part."""
    files = sorted([item.path, list(item.uses), record.file_sha256(item.source)] for item in content.added)
    uv = [item for item in content.wanted if item.name == "uv"] if content.pythons else []
    parts = {
        "packages": [*sorted(content.wanted), *sorted(content.direct)],
        "systems": sorted(content.systems),
        "sources": sorted(content.sources),
        "pythons": [*sorted(content.pythons), *sorted(uv)],
        "files": files,
        "about": [dict(serves), dict(stack)],
    }
    return {
        name: hashlib.sha256(json.dumps([bundle.SCHEMA, value], sort_keys=True).encode()).hexdigest()
        for name, value in parts.items()
    }


def complete(folder: str, requests: Mapping[str, str]) -> Optional[bundle.Bundle]:
    """The bundle in the folder when it answers the same requests and no file is missing, touched or superfluous."""
    there = bundle.read_or_none(folder)
    if there is None or there.requests != requests or bundle.touched(folder, there.files):
        return None
    return None if bundle.superfluous(folder, there.files) else there


def kept(folder: str, requests: Mapping[str, str], part: str, top: str) -> Optional[List[File]]:
    """The files of a part that a complete bundle holds already; None when it has to be made."""
    there = bundle.read_or_none(folder)
    if there is None or there.requests.get(part) != requests[part]:
        return None
    files = [item for item in there.files if item.path.startswith(top + "/")]
    return None if bundle.touched(folder, files) else files


def _clients(indexes: Iterable[str], default: Optional[str], ca_file: str, proxy: str) -> Dict[str, index.Client]:
    found = {}
    for url in set(indexes):
        if not url and not default:
            raise BundleError(
                "no package index is configured and the client's default cannot be told: set stack_index_url to one."
            )
        found[url] = index.Client(url or str(default), ca_file, proxy)
    return found


def lookup(
    wanted: Sequence[Wanted], clients: Mapping[str, index.Client], jobs: int, progress: Progress
) -> Dict[str, Tuple[index.File, str, Set[str]]]:
    """sha256 -> (file, the index that has it, its uses). Raises BundleError with all that cannot be found."""
    pages: Dict[Tuple[str, str], List[index.File]] = {}
    errors: Dict[Tuple[str, str], str] = {}

    def ask(question: Tuple[str, str]) -> None:
        try:
            pages[question] = clients[question[0]].files(question[1])
        except index.PackageIndexError as error:
            pages[question], errors[question] = [], str(error)

    found: Dict[str, Tuple[index.File, str, Set[str]]] = {}
    pending = list(wanted)
    missing: List[str] = []
    with concurrent.futures.ThreadPoolExecutor(max(1, jobs)) as pool:
        rank = 0
        while pending:
            questions = sorted({(item.indexes[rank], item.name) for item in pending} - set(pages))
            for number, _unused in enumerate(pool.map(ask, questions), 1):
                progress.step("asking the index for packages", number, len(questions))
            later = []
            for item in pending:
                hashes = {value.rpartition(":")[2] for value in item.hashes}
                offered = {f.name: f for f in pages[item.indexes[rank], item.name] if f.sha256 in hashes}
                name = wheel_tags.choose(offered, wheel_tags.Target(item.python, item.glibc))
                if name is not None:
                    file = offered[name]
                    found.setdefault(file.sha256, (file, item.indexes[rank], set()))[2].add(item.use)
                elif rank + 1 < len(item.indexes):
                    later.append(item)
                else:
                    why = [errors[q] for q in ((url, item.name) for url in item.indexes) if q in errors]
                    missing.append(
                        f"{item.name} {item.version} for Python {item.python}: "
                        + (why[0] if why else "no file with a hash of the lock serves it")
                    )
            pending, rank = later, rank + 1
    if missing:
        raise BundleError(
            f"{len(missing)} of {len(wanted)} packages cannot be had: "
            + "; ".join(missing[:10])
            + (" ..." if len(missing) > 10 else "")
            + ". Set stack_index_url or stack_torch_index_url to an index or mirror that holds them, "
            "and check stack_proxy and stack_ca_file."
        )
    return found


def neighbours(folder: str) -> Dict[str, str]:
    """sha256 -> path, of the files of this bundle and of those beside it."""
    found: Dict[str, str] = {}
    parent = os.path.dirname(os.path.abspath(folder))
    for path in sorted(glob.glob(os.path.join(glob.escape(parent), "*", bundle.INDEX))):
        other = os.path.dirname(path)
        there = bundle.read_or_none(other)
        for item in there.files if there else ():
            full = os.path.join(other, item.path)
            if os.path.isfile(full):
                found.setdefault(item.sha256, full)
    return found


def share(source: str, target: str, sha256: str) -> bool:
    """Take a file by a hard link, or a copy across disks, if it is what it should be."""
    if os.path.abspath(source) == os.path.abspath(target) or record.file_sha256(source) != sha256:
        return False
    temporary = f"{target}.{os.getpid()}.new"
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    os.replace(temporary, target)
    return True


class Meter:
    """Adds up the bytes of parallel downloads."""

    def __init__(self, progress: Progress, what: str, total: int) -> None:
        self.progress, self.what, self.total, self.done = progress, what, total, 0
        self.guard = threading.Lock()

    def add(self, count: int) -> None:
        """Some bytes more."""
        with self.guard:
            self.done += count
            self.progress.step(self.what, self.done >> 20, max(self.total, self.done) >> 20)


def in_parallel(jobs: int, work: Callable[[Any], Any], items: Sequence[Any]) -> List[Any]:
    """Results in order; the first error ends it, after what runs is done and without what waits."""
    with concurrent.futures.ThreadPoolExecutor(max(1, jobs)) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            raise


def check_room(folder: str, need: int) -> None:
    """Fail in words before a disk is filled."""
    free = shutil.disk_usage(folder).free
    if need + RESERVE > free:
        raise BundleError(
            f"the disk is full: {free / 1e9:.1f} GB are free under {folder}, {(need + RESERVE) / 1e9:.1f} GB are needed "
            f"for what is missing. Make room or set another folder, and run again: what was fetched is kept."
        )


def bring(
    folder: str,
    files: Sequence[Tuple[str, index.File, index.Client]],
    known: Mapping[str, str],
    jobs: int,
    progress: Progress,
) -> Counts:
    """Have files, each as (folder in the bundle, file, who has it): what is there stays, what a neighbour has is shared."""
    missing: List[Tuple[str, index.File, index.Client]] = []
    shared = 0
    for number, (place, file, client) in enumerate(files, 1):
        progress.step("looking for files that are there", number, len(files))
        path = os.path.join(folder, place, file.name)
        if os.path.isfile(path) and record.file_sha256(path) == file.sha256:
            continue
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        if file.sha256 in known and share(known[file.sha256], path, file.sha256):
            shared += 1
            continue
        missing.append((place, file, client))

    def rest(place: str, file: index.File) -> int:
        part = os.path.join(folder, place, file.name + ".part")
        return max(0, (file.size or 0) - (os.path.getsize(part) if os.path.exists(part) else 0))

    total = sum(rest(place, file) for place, file, _client in missing)
    check_room(folder, total)
    meter = Meter(progress, f"fetching {len(missing)} files, MB", total)

    def fetch(item: Tuple[str, index.File, index.Client]) -> None:
        item[2].fetch(item[1], os.path.join(folder, item[0]), meter.add)
        failpoint("bundle.fetch")

    # The largest first: the end of the run is not spent waiting for one of them.
    in_parallel(jobs, fetch, sorted(missing, key=lambda item: (-(item[1].size or 0), item[1].name)))
    return Counts(len(missing), meter.done, shared, 0)


def _add_all(folder: str, added: Sequence[Added]) -> Tuple[List[File], int]:
    """Put files of this machine into the bundle."""
    files, copied = [], 0
    for item in added:
        target = os.path.join(folder, item.path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        wanted = record.file_sha256(item.source)
        if not (os.path.isfile(target) and record.file_sha256(target) == wanted):
            temporary = f"{target}.{os.getpid()}.new"
            shutil.copyfile(item.source, temporary)
            os.replace(temporary, target)
            copied += 1
        files.append(File(item.path, os.path.getsize(target), wanted, tuple(sorted(item.uses))))
    return files, copied


def remove_superfluous(folder: str, files: Sequence[File]) -> int:
    """Remove what the bundle does not name, and folders that are empty then."""
    removed = 0
    for problem in bundle.superfluous(folder, files):
        os.unlink(os.path.join(folder, problem.path))
        removed += 1
    for parent, _folders, _names in os.walk(folder, topdown=False):
        if parent != folder:
            with contextlib.suppress(OSError):
                os.rmdir(parent)
    return removed


class Places(NamedTuple):
    """How the indexes and the repositories are reached, and where the site's own key lies."""

    default_index: Optional[str]
    ca_file: str = ""
    proxy: str = ""
    jobs: int = 6
    gnupg: str = ""


def collect(
    folder: str,
    stack: Mapping[str, str],
    serves: Mapping[str, List[str]],
    content: Content,
    places: Places,
    parts: Mapping[str, str],
    progress: Progress,
) -> Tuple[bundle.Bundle, Counts]:
    """Make the bundle, or make it complete; bundle.json is written last."""
    os.makedirs(os.path.join(folder, bundle.WHEELS), exist_ok=True)
    requests = requests_of(content, serves, stack)
    systems = content.systems
    wheels = kept(folder, requests, "packages", bundle.WHEELS)
    system_files = kept(folder, requests, "systems", "apt") if systems else []
    plain = index.Client("", places.ca_file, places.proxy)
    fetch: List[Tuple[str, index.File, index.Client]] = []
    uses: Dict[Tuple[str, str], List[str]] = {}
    if wheels is None:
        fetch, uses = _packages(content.wanted, places, progress)
        for item in content.direct:
            fetch.append((bundle.WHEELS, index.File(item.name, item.url, item.sha256), plain))
            uses[bundle.WHEELS, item.name] = [item.use]
    packages: Dict[str, List[bundle_apt.Package]] = {}
    if system_files is None:
        packages = _resolve(systems, places, progress)
        fetch += [(place, item.file, plain) for place, items in packages.items() for item in items]
    counts = bring(folder, fetch, neighbours(folder), places.jobs, progress)
    listed = [*(wheels or []), *(system_files or [])]
    for place, file, _client in fetch:
        path = f"{place}/{file.name}"
        use = uses.get((place, file.name)) or [system_use(place)]
        listed.append(File(path, os.path.getsize(os.path.join(folder, path)), file.sha256, tuple(use)))
    served = {name: list(values) for name, values in serves.items()}
    if packages:
        listed += _sign(folder, systems, packages, places)
    listed += _interpreters(folder, requests, content.pythons, listed, places, progress)
    sources, warnings = _sources(folder, content.sources, places, progress)
    listed += sources
    if warnings:
        requests["sources"] = ""
    more, copied = _add_all(folder, content.added)
    listed += more
    made = bundle.Bundle(dict(stack), served, tuple(sorted(listed)))
    bundle.write_text(os.path.join(folder, "README.md"), bundle.readme(made, parts))
    listed.append(bundle.file_of(folder, "README.md", ["about/" + bundle.ANY]))
    removed = remove_superfluous(folder, listed)
    made = made._replace(files=tuple(sorted(listed)), requests=requests)
    bundle.write(folder, made)
    return made, counts._replace(removed=removed, shared=counts.shared + copied, warnings=tuple(warnings))


def _interpreters(
    folder: str,
    requests: Mapping[str, str],
    pythons: Sequence[bundle_python.Wanted],
    listed: Sequence[File],
    places: Places,
    progress: Progress,
) -> List[File]:
    """The interpreters that uv brings, fetched by the pinned uv out of the bundle itself."""
    if not pythons:
        return []
    there = kept(folder, requests, "pythons", bundle.PYTHON)
    if there is not None:
        return there
    wheel = next(item.path for item in listed if any(use.startswith("uv/") for use in item.uses))
    held = bundle_python.hold(folder, os.path.join(folder, wheel), pythons, places.ca_file, places.proxy, progress)
    return [bundle.file_of(folder, path, [use]) for path, use in sorted(held.items())]


def _sources(
    folder: str, sources: Sequence[Source], places: Places, progress: Progress
) -> Tuple[List[File], List[str]]:
    """The sources that lie in git, and what is said of those that cannot be had; a commit that is there stays."""
    before = bundle.read_or_none(folder)
    there = {item.path: item for item in before.files} if before else {}
    files, warnings = [], []
    for item in sources:
        if item.path in there and not bundle.touched(folder, [there[item.path]]):
            files.append(there[item.path])
            continue
        progress.step(f"fetching the source of {item.name}")
        target = os.path.join(folder, item.path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        try:
            client = source.Client(ca_file=places.ca_file, proxy=places.proxy)
            source.pack_git(item.url, item.commit, target, client)
            files.append(bundle.file_of(folder, item.path, [bundle.SOURCES + "/" + bundle.ANY]))
        except source.SourceError as error:
            text = f"the source of {item.name} cannot be had: {error}"
            if item.required:
                raise BundleError(f"{text} Set wheels_source_urls to a mirror of it.") from error
            warnings.append(
                f"{text} The bundle does without: hosts get {item.name} only where it holds a compiled wheel for them. "
                f"Set wheels_source_urls to a mirror of it; the next run tries again."
            )
    return files, warnings


def _packages(
    wanted: Sequence[Wanted], places: Places, progress: Progress
) -> Tuple[List[Tuple[str, index.File, index.Client]], Dict[Tuple[str, str], List[str]]]:
    """What to fetch of the indexes, and what for."""
    indexes = {url for item in wanted for url in item.indexes}
    clients = _clients(indexes, places.default_index, places.ca_file, places.proxy)
    found = lookup(wanted, clients, max(places.jobs, 8), progress)
    names: Dict[str, str] = {}
    for sha256, (file, _url, _uses) in found.items():
        if names.setdefault(file.name, sha256) != sha256:
            raise BundleError(f"two indexes hold different files named {file.name}: bundle each torch variant alone.")
    fetch = [(bundle.WHEELS, file, clients[url]) for _sha256, (file, url, _uses) in sorted(found.items())]
    return fetch, {(bundle.WHEELS, file.name): sorted(held) for file, _url, held in found.values()}


def system_use(folder: str) -> str:
    """The use of the packages of one system: apt/debian12/x86_64 gives apt.debian12/any."""
    return "apt." + folder.split("/")[1] + "/" + bundle.ANY


def _resolve(
    systems: Sequence[bundle_apt.Wanted], places: Places, progress: Progress
) -> Dict[str, List[bundle_apt.Package]]:
    """The closure of every system, by its folder."""
    found = {}
    for system in systems:
        work = tempfile.mkdtemp(prefix="verl-apt-")
        try:
            found[system.folder] = bundle_apt.resolve(system, work, places.ca_file, places.proxy, progress)
        finally:
            bundle_apt.forget(work)
    return found


def _sign(
    folder: str,
    systems: Sequence[bundle_apt.Wanted],
    packages: Mapping[str, List[bundle_apt.Package]],
    places: Places,
) -> List[File]:
    """The lists of the systems' packages, signed with the site's own key."""
    signer = bundle_apt.Signer(places.gnupg)
    files = []
    try:
        signer.fingerprint()  # made where there is none
        for place, items in packages.items():
            title = next(system.system for system in systems if system.folder == place)
            written = bundle_apt.write_repository(os.path.join(folder, place), title, items, signer)
            files += [bundle.file_of(folder, f"{place}/{name}", [system_use(place)]) for name in written]
    finally:
        signer.close()
    return files
