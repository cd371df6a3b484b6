# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The host's side of a bundle: reads it from a folder or a URL, brings what this host needs, verifies what came."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import urllib.parse
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ansible_collections.verl.baremetal.plugins.module_utils import bundle, index, record, uv
from ansible_collections.verl.baremetal.plugins.module_utils._failpoint import failpoint
from ansible_collections.verl.baremetal.plugins.module_utils.bundle import BundleError, File
from ansible_collections.verl.baremetal.plugins.module_utils.bundle_collect import Meter, check_room, in_parallel
from ansible_collections.verl.baremetal.plugins.module_utils.progress import Progress

STAMP = ".pulled"  # in the folder of a pull: the uses that were verified
_PULLED = re.compile("[0-9a-f]{%d}" % bundle.SHORT)


class Place(NamedTuple):
    """Where a bundle is: a folder, or a URL."""

    where: str
    ca_file: str = ""
    proxy: str = ""

    @property
    def remote(self) -> bool:
        """Whether it has to be pulled."""
        return "://" in self.where and not self.where.startswith("file://")

    @property
    def folder(self) -> str:
        """The folder of a bundle that is used as it is."""
        path = urllib.parse.unquote(self.where[len("file://") :]) if self.where.startswith("file://") else self.where
        return os.path.expanduser(path).rstrip("/") or "/"

    def client(self) -> index.Client:
        """A client of the web server."""
        return index.Client(self.where, self.ca_file, self.proxy)

    def url(self, path: str) -> str:
        """The URL of one of the bundle's files."""
        return self.where.rstrip("/") + "/" + urllib.parse.quote(path)

    def shown(self, text: str) -> str:
        """A text about it without the login of its URL."""
        password = urllib.parse.urlsplit(self.where).password
        shown = uv.redact(text)
        # Python quotes what follows the first colon as a port that is none.
        return shown.replace(password + "@", "***@") if password else shown


def read(place: Place) -> bundle.Bundle:
    """What the bundle's own bundle.json says.

    Raises:
        BundleError: it is not there, or it is none.
    """
    if not place.remote:
        return bundle.read(place.folder)
    with tempfile.TemporaryDirectory(prefix="bundle-") as folder:
        try:
            path = place.client().fetch(index.File(bundle.INDEX, place.url(bundle.INDEX), ""), folder)
        except index.PackageIndexError as error:
            raise BundleError(
                f"there is no bundle at {place.shown(place.where)}: {place.shown(str(error))}. Start the server "
                f"(playbooks/serve.yml) or correct stack_bundle."
            ) from error
        with open(path, encoding="utf-8", errors="replace") as handle:
            return bundle.parse(handle.read(), place.shown(place.url(bundle.INDEX)))


def folder_of(place: Place, root: str, whole: str) -> str:
    """The folder that the roles take files from."""
    return bundle.pulled_folder(root, whole) if place.remote else place.folder


def _stamp(root: str, whole: str) -> str:
    return os.path.join(bundle.pulled_folder(root, whole), STAMP)


def verified(root: str, whole: str) -> List[str]:
    """The uses whose files were compared by hash on this host before."""
    try:
        with open(_stamp(root, whole), encoding="utf-8") as handle:
            return handle.read().split()
    except OSError:
        return []


def pending(place: Place, root: str, there: bundle.Bundle, uses: Sequence[str]) -> bool:
    """Whether something has to be pulled or compared by hash."""
    if not set(uses) <= set(verified(root, there.digest)):
        return True
    folder = folder_of(place, root, there.digest)
    return bool(bundle.verify(folder, bundle.needed(there.files, uses), hashes=False))


def pull(
    place: Place, root: str, there: bundle.Bundle, uses: Sequence[str], jobs: int, progress: Progress
) -> Tuple[int, int]:
    """Have the needed files, each with the right sha256; files and bytes that were fetched.

    Raises:
        BundleError: a file is missing, damaged or cannot be had.
    """
    wanted = bundle.needed(there.files, uses)
    own = bundle.pulled_folder(root, there.digest)
    os.makedirs(own, exist_ok=True)
    if not os.path.exists(_stamp(root, there.digest)):
        # An interrupted pull is known as one by it, too.
        bundle.write_text(_stamp(root, there.digest), "")
    counts = (0, 0)
    if place.remote:
        counts = _fetch(place, own, root, wanted, jobs, progress)
    else:
        problems = bundle.verify(place.folder, wanted, step=progress.step, jobs=jobs)
        if problems:
            raise BundleError(bundle.describe(problems, place.folder))
    bundle.write_text(_stamp(root, there.digest), "\n".join(sorted({*uses, *verified(root, there.digest)})) + "\n")
    _forget_others(place, root, there.digest)
    return counts


def _fetch(place: Place, own: str, root: str, wanted: Sequence[File], jobs: int, progress: Progress) -> Tuple[int, int]:
    older = _older(root, own)
    missing = []
    for number, item in enumerate(wanted, 1):
        progress.step("looking for files that are there", number, len(wanted))
        path = os.path.join(own, item.path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if os.path.isfile(path):
            if os.path.getsize(path) == item.size and record.file_sha256(path) == item.sha256:
                continue
            os.unlink(path)
        source = older.get((os.path.basename(item.path), item.size))
        if source and record.file_sha256(source) == item.sha256:
            with contextlib.suppress(OSError):
                os.link(source, path)
                continue
        missing.append(item)
    check_room(own, sum(item.size for item in missing))
    meter = Meter(progress, f"pulling {len(missing)} files of the bundle, MB", sum(item.size for item in missing))
    client = place.client()

    def fetch(item: File) -> None:
        name = os.path.basename(item.path)
        folder = os.path.dirname(os.path.join(own, item.path))
        client.fetch(index.File(name, place.url(item.path), item.sha256, item.size), folder, meter.add)
        failpoint("bundle.pull")

    try:
        in_parallel(jobs, fetch, sorted(missing, key=lambda item: -item.size))
    except index.PackageIndexError as error:
        raise BundleError(
            f"a file of the bundle cannot be pulled: {place.shown(str(error))}. If the server is gone, start it and run "
            f"again: it goes on where it was. If the file is damaged, make the bundle whole with playbooks/bundle.yml."
        ) from error
    return len(missing), meter.done


def _older(root: str, own: str) -> Dict[Tuple[str, int], str]:
    """Files of bundles that were pulled before, by name and size."""
    found: Dict[Tuple[str, int], str] = {}
    for parent, _folders, names in os.walk(os.path.join(root, "bundle")):
        if os.path.commonpath([parent, own]) == own:
            continue
        for name in names:
            path = os.path.join(parent, name)
            found[name, os.path.getsize(path)] = path
    return found


def _forget_others(place: Place, root: str, whole: str) -> None:
    """Only the newest pulled bundle stays: what is installed needs none. What was not pulled is somebody else's."""
    keep = os.path.basename(bundle.pulled_folder(root, whole))
    folder = os.path.join(root, "bundle")
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        pulled = _PULLED.fullmatch(name) and not os.path.islink(path) and os.path.isfile(os.path.join(path, STAMP))
        if pulled and name != keep and (place.remote or not _overlap(path, place.folder)):
            shutil.rmtree(path, ignore_errors=True)


def _overlap(one: str, other: str) -> bool:
    """Whether two folders are the same one, or one of them lies in the other."""
    pair = [os.path.realpath(one), os.path.realpath(other)]
    return os.path.commonpath(pair) in pair


def give_built(folder: str, files: Sequence[File], cache: str) -> int:
    """Put the bundle's compiled wheels into the host's wheel cache, where the builder looks first."""
    given = 0
    for item in files:
        if not item.path.startswith(bundle.BUILT + "/"):
            continue
        source, target = os.path.join(folder, item.path), os.path.join(cache, os.path.basename(item.path))
        if os.path.isfile(target) and record.file_sha256(target) == item.sha256:
            continue
        os.makedirs(cache, exist_ok=True)
        temporary = f"{target}.{os.getpid()}.new"
        shutil.copyfile(source, temporary)
        if record.file_sha256(temporary) != item.sha256:
            os.unlink(temporary)
            raise BundleError(bundle.describe(bundle.verify(folder, [item]), folder))
        os.replace(temporary, target)
        given += 1
    return given


def look(place: Place, uses: Optional[Sequence[str]], lines: Sequence[str]) -> Dict[str, Any]:
    """For a plan: the bundle's head, and when uses are given what it lacks for this host."""
    there = read(place)
    answer: Dict[str, Any] = dict(bundle.head(there))
    if uses is not None:
        files = bundle.needed(there.files, uses)
        answer["lacks"] = bundle.lacks(files, lines)
        problems = [] if place.remote else bundle.verify(place.folder, files, hashes=False)
        answer["problems"] = [f"{problem.path} is {problem.kind}: {problem.detail}" for problem in problems]
        answer["needed_bytes"] = sum(item.size for item in files)
    return answer
