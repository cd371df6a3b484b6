# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Running uv: its command line, a clean environment, its progress and its errors in words."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
from typing import Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence

from ansible_collections.verl.baremetal.plugins.module_utils._failpoint import failpoint
from ansible_collections.verl.baremetal.plugins.module_utils.progress import Progress

# What of the caller's environment reaches uv and the builds that it starts: who and where we are, and how this host
# reaches an index. Everything else (PIP_*, PYTHONPATH, CUDA_HOME, LD_LIBRARY_PATH, ...) would make a host's result
# differ from another's.
_KEPT = [
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "TZ",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "SSL_CLIENT_CERT",
    "NETRC",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "UV_INDEX",
    "UV_INDEX_URL",
    "UV_DEFAULT_INDEX",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_INSECURE_HOST",
    "UV_HTTP_TIMEOUT",
    "UV_HTTP_RETRIES",
    "UV_NATIVE_TLS",
    "UV_SYSTEM_CERTS",
    "UV_KEYRING_PROVIDER",
    "UV_CONFIG_FILE",
    "UV_CONCURRENT_DOWNLOADS",
    "UV_CONCURRENT_INSTALLS",
    "UV_PYTHON_INSTALL_MIRROR",
    "UV_PYTHON_INSTALL_DIR",
    "UV_PYTHON_DOWNLOADS_JSON_URL",
    "VERL_BAREMETAL_FAILPOINT",
]
_INDEX_LOGIN = re.compile(r"^UV_INDEX_\w+_(USERNAME|PASSWORD)$")
SYSTEM_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LOGIN = re.compile(r"(?<=://)[^/@\s]+@")
_HASH = re.compile(
    r"Hash mismatch for `(?P<package>[^`]+)`\s+Expected:\s+(?P<needed>(?:sha\d+:[0-9a-f]+\s+)+)"
    r"Computed:\s+(?P<found>(?:sha\d+:[0-9a-f]+\s*)+)"
)
_DOWNLOAD = re.compile(r"^\s*(?P<word>Downloading|Downloaded|Building|Built) (?P<name>[^\s(]+)")
_FULL = ("No space left on device", "os error 28", "File too large", "os error 27", "Disk quota exceeded")
_NETWORK = re.compile(
    r"error sending request|Request failed after|Failed to fetch|dns error|operation timed out|Connect"
)
_CERTIFICATE = re.compile(r"certificate|UnknownIssuer|CertNotValid", re.IGNORECASE)


class UvError(Exception):
    """uv failed; the text says what was found, what is needed and what to do."""


class Sources(NamedTuple):
    """Where packages come from."""

    index_url: str = ""
    extra_index_urls: Sequence[str] = ()
    find_links: Sequence[str] = ()
    ca_file: str = ""
    proxy: str = ""
    offline: bool = False


def redact(text: str) -> str:
    """A text without the logins of the URLs in it."""
    return _LOGIN.sub("***@", text)


def source_arguments(sources: Sources) -> List[str]:
    """The options that say where packages come from; with nothing given uv's own configuration holds."""
    arguments: List[str] = []
    if sources.offline:
        arguments.append("--offline")
        if sources.find_links:
            arguments.append("--no-index")
    if sources.index_url and "--no-index" not in arguments:
        arguments += ["--default-index", sources.index_url]
    if sources.extra_index_urls and "--no-index" not in arguments:
        for url in sources.extra_index_urls:
            arguments += ["--index", url]
        # An extra index holds old copies of packages of the first one; the hashes say which file is the right one.
        arguments += ["--index-strategy", "unsafe-best-match"]
    for place in sources.find_links:
        arguments += ["--find-links", place]
    return arguments


def link_mode(mode: str, root: bool) -> str:
    """auto: root shares files with its private cache by hard links; anybody else could write to the cache: copies."""
    if mode != "auto":
        return mode
    return "hardlink" if root else "copy"


def environment(base: Mapping[str, str], sources: Sources, extra: Optional[Mapping[str, str]] = None) -> Dict[str, str]:
    """The environment of an uv run, made from the caller's by a list of what may pass."""
    env = {name: value for name, value in base.items() if name in _KEPT or _INDEX_LOGIN.match(name)}
    env["PATH"] = _SYSTEM_PATH
    env.setdefault("LANG", "C.UTF-8")
    env.setdefault("UV_HTTP_TIMEOUT", "120")
    env["UV_NO_PROGRESS"] = "1"
    env["UV_PYTHON_DOWNLOADS"] = "never"
    if sources.ca_file:
        env["SSL_CERT_FILE"] = sources.ca_file
        env.pop("SSL_CERT_DIR", None)
    if "SSL_CERT_FILE" not in env and os.path.exists(SYSTEM_CERTIFICATES):
        # Without it uv trusts its own list of authorities only, and a company's own is not in that.
        env["UV_SYSTEM_CERTS"] = "1"
    if sources.proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            env[name] = sources.proxy
    env.update(extra or {})
    return env


def build_environment(venv: str, cuda_home: str, jobs: int, extra: Mapping[str, str]) -> Dict[str, str]:
    """What a build against the environment sees on top: its own tools first, the release's CUDA and no other."""
    path = [os.path.join(venv, "bin")]
    env = {"VIRTUAL_ENV": venv, "MAX_JOBS": str(jobs), "PYTHONNOUSERSITE": "1"}
    if cuda_home:
        path.append(os.path.join(cuda_home, "bin"))
        env["CUDA_HOME"] = env["CUDA_PATH"] = cuda_home
    env["PATH"] = ":".join([*path, _SYSTEM_PATH])
    env.update(extra)
    return env


def install_command(
    uv: str,
    python: str,
    requirements: str,
    sources: Sources,
    mode: str,
    cache: str,
    target: str = "",
) -> List[str]:
    """The command that installs a requirements file: hashed, never resolving, never building."""
    command = [uv, "pip", "install", "--python", python, "--no-deps", "--require-hashes", "--link-mode", mode]
    command += ["--color", "never", "--no-progress"]
    if cache:
        command += ["--cache-dir", cache]
    if target:
        command += ["--target", target]
    command.append("--no-build")
    command += source_arguments(sources)
    return [*command, "--requirements", requirements]


class _Watch:
    """Follows uv's messages: which packages are on their way, how many arrived."""

    def __init__(self, progress: Progress, title: str) -> None:
        self.progress = progress
        self.title = title
        self.pending: List[str] = []
        self.done = 0

    def line(self, text: str) -> None:
        match = _DOWNLOAD.match(text)
        if match is None:
            if text.startswith("Resolved "):
                self.progress.step(f"{self.title}: fetching packages")
            elif text.startswith("Prepared "):
                self.progress.step(f"{self.title}: putting packages in place")
            return
        word, name = match.group("word"), match.group("name")
        if word in ("Downloading", "Building"):
            self.pending.append(name)
        elif name in self.pending:
            self.pending.remove(name)
            self.done += 1
        what = "building" if word.startswith("Buil") else "fetching"
        text = ", ".join(self.pending[:3]) + (" ..." if len(self.pending) > 3 else "")
        self.progress.step(f"{self.title}: {what} {text or 'packages'}", self.done, self.done + len(self.pending))


def run(
    command: Sequence[str],
    env: Mapping[str, str],
    cwd: str,
    progress: Progress,
    title: str,
    pass_fds: Iterable[int] = (),
) -> str:
    """Run uv and follow it; returns what it said, raises UvError with an explanation."""
    watch = _Watch(progress, title)
    progress.step(f"{title}: asking the index")
    lines: List[str] = []
    try:
        process = subprocess.Popen(
            list(command),
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=tuple(pass_fds),
            encoding="utf-8",
            errors="replace",
        )
    except OSError as error:
        raise UvError(
            f"{title}: cannot start {command[0]}: {error.strerror or error}. Run the role venv first."
        ) from error
    with process:
        for line in process.stderr or ():
            lines.append(line.rstrip("\n"))
            watch.line(line)
            if line.startswith("Resolved "):
                failpoint("uv.download", [process.pid])
            elif line.startswith("Prepared "):
                failpoint("uv.unpack", [process.pid])
    code = process.returncode
    text = redact("\n".join(lines))
    if code != 0:
        raise UvError(explain(text, code, title, [cwd]))
    return text


def explain(text: str, code: int, title: str, folders: Sequence[str] = ()) -> str:
    """uv's failure in words; unknown ones are shown as they are, shortened."""
    tail = "\n".join([line for line in text.splitlines() if line.strip()][-15:])
    if code == -signal.SIGXFSZ or any(word in text for word in _FULL):
        return f"{title}: the disk is full{_free(folders)}. Make room and run again: what was finished is kept.\n{tail}"
    match = _HASH.search(text)
    if match is not None:
        needed, found = " or ".join(match.group("needed").split()), " ".join(match.group("found").split())
        return (
            f"{title}: wrong hash of {match.group('package')}: found {found}, needed {needed}. The index's file "
            f"is not the one of the lock: do not install it; check the index or mirror, then run again."
        )
    if code < 0:
        return f"{title}: uv was ended by signal {-code}. Run again: it goes on from what was verified.\n{tail}"
    if _CERTIFICATE.search(text):
        return f"{title}: the index's certificate is not trusted. Set stack_ca_file to your authority's file.\n{tail}"
    if _NETWORK.search(text):
        return (
            f"{title}: the package index cannot be reached. Check the network and the proxy, set stack_index_url to a "
            f"mirror, or use a bundle (stack_find_links, stack_offline).\n{tail}"
        )
    if "network was disabled" in text or "not found in the cache" in text:
        return (
            f"{title}: a package is neither in the bundle nor in the cache, and stack_offline forbids to fetch it. "
            f"Complete the bundle or allow the network.\n{tail}"
        )
    if "not found in the package registry" in text or "there is no version of" in text or "no wheels" in text:
        return f"{title}: the index lacks a pinned package. Set an index or mirror that holds it.\n{tail}"
    return f"{title}: uv failed with exit status {code}.\n{tail}"


def explain_os_error(error: OSError, folder: str) -> str:
    """An error of the file system in words."""
    where = f" at {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"the disk is full{where}{_free([folder])}. Make room and run again: what was finished is kept."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{error.strerror}{where}. Make {folder} writable for this user, or set another stack_root."
    return f"{error.strerror or error}{where}"


def _free(folders: Sequence[str]) -> str:
    for folder in folders:
        try:
            return f" ({shutil.disk_usage(folder).free // 2**20} MB free under {folder})"
        except OSError:
            continue
    return ""
