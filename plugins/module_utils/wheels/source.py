# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Brings the source of a package into a folder: an sdist checked by its sha256, or a git commit by its id."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import http.client
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from .. import index
from . import key

_BLOCK = 1 << 20
_ATTEMPTS = 3
_TIMEOUT = 60
_ENDINGS = (".tar.gz", ".zip", ".tar.bz2", ".tar.xz", ".tgz")


class SourceError(Exception):
    """The source cannot be had or is not what was asked for; the text says what to do."""


class Client(NamedTuple):
    """How packages are reached."""

    uv: str = "uv"
    index_url: str = ""
    extra_index_urls: Sequence[str] = ()
    find_links: Sequence[str] = ()
    ca_file: str = ""
    proxy: str = ""
    offline: bool = False


def _refuse_network(address: str, client: Client) -> None:
    """Raise for an address that would be asked for although there is no network."""
    if client.offline and "://" in address and not address.startswith("file://"):
        raise SourceError(
            f"{index.without_password(address)} is neither here nor in the bundle, and stack_offline forbids to fetch it. "
            "Make the bundle where that place can be reached, or name a copy on the host in wheels_source_urls."
        )


def sha256_of(path: str) -> str:
    """The sha256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        for block in iter(lambda: handle.read(_BLOCK), b""):
            digest.update(block)
    return digest.hexdigest()


def download(url: str, target: str, client: Client) -> None:
    """A URL or a path into a file, written beside it first."""
    temporary = f"{target}.{os.getpid()}.part"
    _refuse_network(url, client)
    if "://" not in url:
        url = "file://" + urllib.request.pathname2url(os.path.abspath(os.path.expanduser(url)))
    last: Optional[Exception] = None
    for attempt in range(_ATTEMPTS):
        try:
            opener, asked = index.opener(client.ca_file, client.proxy), index.request(url, client.index_url)
            with opener.open(asked, timeout=_TIMEOUT) as answer, open(temporary, "wb") as handle:
                shutil.copyfileobj(answer, handle, _BLOCK)
            os.replace(temporary, target)
            return
        except urllib.error.HTTPError as error:
            last = error
            if error.code < 500 and error.code != 429:
                break
        except (OSError, http.client.HTTPException, ValueError) as error:
            last = error
            if url.startswith("file:") or isinstance(error, index.WRONG_URL):
                break
        time.sleep(2**attempt)
    with contextlib.suppress(OSError):
        os.unlink(temporary)
    raise SourceError(
        f"{index.without_password(url)} could not be fetched: {last}. "
        "Check stack_proxy and stack_ca_file, or put the file into a folder of stack_find_links."
    )


def sdist_names(name: str, version: str) -> List[str]:
    """File names under which an sdist may lie in a folder."""
    forms = [key.normalise(name).replace("-", "_"), key.normalise(name), name]
    return [form + "-" + version + ending for form in dict.fromkeys(forms) for ending in _ENDINGS]


def in_folders(name: str, version: str, folders: Sequence[str]) -> Optional[str]:
    """The sdist in the first local folder that has it."""
    for folder in folders:
        path = folder[len("file://") :] if folder.startswith("file://") else folder
        for filename in sdist_names(name, version):
            candidate = os.path.join(os.path.expanduser(path), filename)
            if os.path.isfile(candidate):
                return candidate
    return None


def parse_pylock(text: str) -> Optional[Tuple[str, str]]:
    """Address and sha256 of the first sdist in uv's lock of one package."""
    line = re.search(r"^sdist = \{(.*)\}\s*$", text, re.M)
    if line is None:
        return None
    where = re.search(r'\b(?:url|path) = "([^"]+)"', line.group(1))
    sha256 = re.search(r'sha256 = "([0-9a-f]{64})"', line.group(1))
    return (where.group(1), sha256.group(1) if sha256 else "") if where else None


def resolve(name: str, version: str, client: Client, folder: str) -> str:
    """The address of an sdist in the index that uv is configured for, without building anything for its metadata."""
    work = tempfile.mkdtemp(prefix="resolve.", dir=folder)
    try:
        with open(os.path.join(work, "uv.toml"), "w", encoding="utf-8") as handle:
            handle.write(
                "dependency-metadata = [{ "
                f'name = "{key.normalise(name)}", version = "{version}", requires-dist = []'
                " }]\n"
            )
        with open(os.path.join(work, "wanted.in"), "w", encoding="utf-8") as handle:
            handle.write(f"{name}=={version}\n")
        command = [client.uv, "pip", "compile", "-q", "--no-deps", "--no-binary", ":all:", "--no-header"]
        command += ["--format", "pylock.toml", "--output-file", "pylock.toml"]
        if client.index_url:
            command += ["--default-index", client.index_url]
        for url in client.extra_index_urls:
            command += ["--index", url]
        for link in client.find_links:
            command += ["--find-links", link]
        if client.offline:
            command += ["--offline"]
        environment = dict(os.environ)
        if client.ca_file:
            environment["SSL_CERT_FILE"] = client.ca_file
        if client.proxy:
            environment.update(HTTP_PROXY=client.proxy, HTTPS_PROXY=client.proxy, ALL_PROXY=client.proxy)
        try:
            done = subprocess.run(
                [*command, "wanted.in"],
                cwd=work,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=300,
                check=False,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise SourceError(f"{client.uv} could not be asked for the sdist of {name} {version}: {error}") from error
        found = None
        if done.returncode == 0:
            with open(os.path.join(work, "pylock.toml"), encoding="utf-8") as handle:
                found = parse_pylock(handle.read())
        if found is None:
            said = done.stdout.decode("utf-8", "replace").strip()[-600:]
            raise SourceError(
                f"No sdist of {name} {version} in the index or in stack_find_links. uv said: {said or 'nothing'}"
            )
        address = found[0]
        return address if "://" in address else os.path.join(work, address)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def fetch_sdist(name: str, version: str, hashes: Sequence[str], url: str, folder: str, client: Client) -> str:
    """The sdist in the folder, with one of the hashes (sha256, 64 hex digits); fetched only when it is not there."""
    wanted = {value.rpartition(":")[2].lower() for value in hashes}
    if not wanted:
        raise SourceError(f"No sha256 is given for the sdist of {name} {version}: add it to the stack's lock.")
    os.makedirs(folder, exist_ok=True)
    for filename in sorted(os.listdir(folder)):
        path = os.path.join(folder, filename)
        if filename.endswith(_ENDINGS) and sha256_of(path) in wanted:
            return path
    local = None if url else in_folders(name, version, client.find_links)
    address = url or local or resolve(name, version, client, folder)
    filename = os.path.basename(
        urllib.parse.unquote(urllib.parse.urlsplit(address).path if "://" in address else address)
    )
    if not filename.endswith(_ENDINGS):
        raise SourceError(
            f"{index.without_password(address)} is no sdist: it should end in one of {', '.join(_ENDINGS)}."
        )
    target = os.path.join(folder, filename)
    download(address, target, client)
    found = sha256_of(target)
    if found not in wanted:
        os.unlink(target)
        raise SourceError(
            f"{index.without_password(address)} has sha256 {found}, not {' or '.join(sorted(wanted))}: "
            "it is not the file of the lock and was thrown away."
        )
    return target


def _inside(name: str) -> Optional[str]:
    """A member's path without the archive's top folder; None for the folder itself. Raises on a path that leads out."""
    path = name.replace("\\", "/")
    fields = [field for field in path.split("/") if field not in ("", ".")]
    if path.startswith("/") or ".." in fields:
        raise SourceError(f"The archive holds {name!r}, which leads out of its folder: it is refused.")
    return "/".join(fields[1:]) or None


def unpack(archive: str, folder: str) -> int:
    """Unpack an sdist without its top folder; files that are there already stay as they are. Returns the files written.

    A build may delete parts of its own source: what is missing comes back, with the archive's times, so that ninja
    does not take objects for outdated.
    """
    os.makedirs(folder, exist_ok=True)
    written = 0
    if archive.endswith(".zip"):
        with zipfile.ZipFile(archive) as opened:
            for info in opened.infolist():
                inside = _inside(info.filename)
                if inside is None or info.is_dir():
                    continue
                target = os.path.join(folder, inside)
                if os.path.lexists(target):
                    continue
                os.makedirs(os.path.dirname(target), exist_ok=True)
                with opened.open(info) as reader, open(target + ".part", "wb") as handle:
                    shutil.copyfileobj(reader, handle, _BLOCK)
                moment = time.mktime((*info.date_time, 0, 0, -1))
                os.utime(target + ".part", (moment, moment))
                os.replace(target + ".part", target)
                written += 1
        return written
    with tarfile.open(archive) as tar:
        for member in tar:
            inside = _inside(member.name)
            if inside is None or member.isdir():
                continue
            target = os.path.join(folder, inside)
            if os.path.lexists(target):
                continue
            os.makedirs(os.path.dirname(target), exist_ok=True)
            if member.issym() or member.islnk():
                _link(tar, member, folder, inside, target)
            elif member.isfile():
                stream = tar.extractfile(member)
                if stream is None:
                    continue
                with stream, open(target + ".part", "wb") as handle:
                    shutil.copyfileobj(stream, handle, _BLOCK)
                os.chmod(target + ".part", 0o755 if member.mode & 0o100 else 0o644)
                os.utime(target + ".part", (member.mtime, member.mtime))
                os.replace(target + ".part", target)
            else:
                raise SourceError(
                    f"The archive holds {member.name!r}, which is neither file, folder nor link: it is refused."
                )
            written += 1
    return written


def _link(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: str, inside: str, target: str) -> None:
    if member.islnk():
        linked = _inside(member.linkname)
        source = os.path.join(folder, linked or "")
        if linked is None or not os.path.isfile(source):
            raise SourceError(f"The archive's hard link {member.name!r} leads nowhere: it is refused.")
        shutil.copy2(source, target)
        return
    resolved = os.path.normpath(os.path.join(os.path.dirname(inside), member.linkname))
    if member.linkname.startswith("/") or resolved.startswith(".."):
        raise SourceError(f"The archive's link {member.name!r} leads out of its folder: it is refused.")
    os.symlink(member.linkname, target)


def _git(arguments: Sequence[str], folder: str, client: Client, timeout: float = 1800) -> Tuple[int, str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_DIR") and k != "GIT_WORK_TREE"}
    environment["GIT_TERMINAL_PROMPT"] = "0"
    if client.ca_file:
        environment["GIT_SSL_CAINFO"] = client.ca_file
    command = ["git", "-c", "advice.detachedHead=false", "-c", "core.autocrlf=false", "-c", "safe.directory=*"]
    if client.proxy:
        command += ["-c", "http.proxy=" + client.proxy]
    try:
        done = subprocess.run(
            command + list(arguments),
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise SourceError(f"git could not be run: {error}. Install git.") from error
    return done.returncode, done.stdout.decode("utf-8", "replace").strip()


def fetch_git(url: str, commit: str, folder: str, client: Client) -> None:
    """The work tree of one commit in the folder. Git's own hashes prove that it is that commit."""
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise SourceError(
            f"{commit!r} is no commit: a whole commit id of 40 digits is needed, never a branch or a tag."
        )
    os.makedirs(folder, exist_ok=True)
    # The folder is ours: a lock in it is one that a killed git left, and what is no repository is a killed init's.
    repository = os.path.join(folder, ".git")
    for left in glob.glob(os.path.join(glob.escape(repository), "**", "*.lock"), recursive=True):
        os.unlink(left)
    if _git(["rev-parse", "--resolve-git-dir", repository], folder, client)[0] != 0:
        shutil.rmtree(repository, ignore_errors=True)
        _git(["init", "-q"], folder, client)
    there, _unused = _git(["cat-file", "-e", commit + "^{tree}"], folder, client)
    if there != 0:
        shown = index.without_password(url) if "://" in url else url
        if not url:
            raise SourceError(f"No URL is given for commit {commit}.")
        _refuse_network(url, client)
        if os.path.isfile(url[len("file://") :] if url.startswith("file://") else url):
            # A bundle of one commit lacks what came before it: git shall not ask for that.
            _cut_history(folder, commit)
        status, said = _git(["fetch", "-q", "--depth", "1", "--no-tags", url, commit], folder, client)
        if status != 0:
            # Servers and bundles that hand out no single commits: everything, then look whether it is there.
            status, said = _git(["fetch", "-q", "--no-tags", url, "+refs/*:refs/fetched/*"], folder, client)
        there, _unused = _git(["cat-file", "-e", commit + "^{tree}"], folder, client)
        if there != 0:
            raise SourceError(
                f"Commit {commit} could not be fetched from {shown}: "
                f"{said[-400:] or 'it is not there'}. Set the URL to a mirror or a bundle that holds it."
            )
    status, said = _git(["checkout", "-q", "--force", commit], folder, client)
    if status != 0:
        raise SourceError(f"Commit {commit} could not be checked out in {folder}: {said[-400:]}")
    status, head = _git(["rev-parse", "HEAD"], folder, client)
    if status != 0 or head != commit:
        raise SourceError(f"{folder} holds commit {head}, not {commit}.")


def _cut_history(folder: str, commit: str) -> None:
    """Let a repository take one commit for the first of all."""
    with open(os.path.join(folder, ".git", "shallow"), "w", encoding="ascii") as handle:
        handle.write(commit + "\n")


def pack_git(url: str, commit: str, target: str, client: Client) -> None:
    """One commit of a repository, without its history, as a git bundle: the same bytes whoever handed it out."""
    with tempfile.TemporaryDirectory(prefix=".git-", dir=os.path.dirname(target)) as folder:
        fetch_git(url, commit, folder, client)
        _cut_history(folder, commit)
        packed = os.path.join(folder, ".git", "packed")
        for words in (
            ["update-ref", "refs/heads/pinned", commit],
            # What was fetched beside the commit is not packed, and its deltas are computed anew.
            ["-c", "pack.threads=1", "repack", "-a", "-d", "-f", "-q"],
            ["-c", "pack.threads=1", "bundle", "create", "-q", packed, "refs/heads/pinned"],
        ):
            status, said = _git(words, folder, client)
            if status != 0:
                raise SourceError(f"Commit {commit} could not be packed: git {' '.join(words)} said: {said[-400:]}")
        os.replace(packed, target)


def identity(kind: str, hashes: Sequence[str], commit: str) -> Dict[str, str]:
    """The source's part of a key."""
    if kind == "git":
        return {"kind": "git", "commit": commit}
    return {"kind": "sdist", "sha256": " ".join(sorted(value.rpartition(":")[2].lower() for value in hashes))}
