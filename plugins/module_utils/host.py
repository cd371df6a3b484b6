# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""What a host is and has, as far as the plan of an installation depends on it. Nothing is changed; absence is data."""

from __future__ import annotations

import glob
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import typing as t

from .probes import libraries

PYTHON_QUESTION = """
import json, os, sys, sysconfig
include = sysconfig.get_paths()["include"]
print(json.dumps({"version": "%d.%d.%d" % sys.version_info[:3], "implementation": sys.implementation.name,
                  "headers": os.path.isfile(os.path.join(include, "Python.h")),
                  "path": sys.executable if sys.prefix == sys.base_prefix else getattr(sys, "_base_executable", sys.executable)}))
"""

INDEX_QUESTION = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"


def stack_root(given: str = "") -> str:
    """The folder of the installation: the one that is named, else /opt/verl for root and ~/verl for anyone else."""
    return os.path.abspath(os.path.expanduser(given or ("/opt/verl" if os.geteuid() == 0 else "~/verl")))


def os_release(root: str = "/") -> t.Dict[str, str]:
    """``id``, ``version`` and ``pretty`` of /etc/os-release; empty strings where it does not exist."""
    values: t.Dict[str, str] = {}
    for path in ("etc/os-release", "usr/lib/os-release"):
        try:
            with open(os.path.join(root, path), encoding="utf-8", errors="replace") as stream:
                text = stream.read()
        except OSError:
            continue
        for line in text.splitlines():
            match = re.match(r"([A-Z_]+)=(.*)", line.strip())
            if match:
                values[match.group(1)] = match.group(2).strip().strip("\"'")
        break
    return {
        "id": values.get("ID", ""),
        "version": values.get("VERSION_ID", ""),
        "pretty": values.get("PRETTY_NAME", ""),
    }


def memory_bytes(root: str = "/") -> t.Optional[int]:
    """Physical memory, or the cgroup's limit where that is lower; None where neither can be read."""
    limits: t.List[int] = []
    try:
        with open(os.path.join(root, "proc/meminfo"), encoding="ascii", errors="replace") as stream:
            match = re.search(r"^MemTotal:\s+(\d+) kB", stream.read(), re.M)
            if match:
                limits.append(int(match.group(1)) * 1024)
    except OSError:
        pass
    for path in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(os.path.join(root, path), encoding="ascii") as stream:
                limits.append(int(stream.read()))
        except (OSError, ValueError):
            continue
    return min(limits) if limits else None


def existing_parent(path: str) -> str:
    """The nearest folder on the way up that exists."""
    path = os.path.abspath(path)
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def writable(path: str) -> bool:
    """Whether this user can create ``path``, or write into it where it exists."""
    return os.access(existing_parent(path), os.W_OK | os.X_OK)


def free_bytes(path: str) -> int:
    """Bytes that this user may still write under ``path``."""
    stat = os.statvfs(existing_parent(path))
    return stat.f_bavail * stat.f_frsize


def pythons(wanted: t.Sequence[str], extra: t.Sequence[str] = ()) -> t.List[t.Dict[str, t.Any]]:
    """The interpreters that run: ``{path, version, implementation, headers}``; for a virtual environment the one below it.

    One of ``extra`` has the path as it was asked for, too: ``asked``.

    Args:
        wanted: minor versions, for example ``3.12``; looked for as ``python3.12`` in /usr/bin, /usr/local/bin and on PATH, then ``python3``.
        extra: further paths.
    """
    candidates: t.List[str] = []
    for name in ["python" + v for v in wanted] + ["python3"]:
        candidates += [os.path.join(folder, name) for folder in ("/usr/bin", "/usr/local/bin")]
        on_path = shutil.which(name)
        if on_path:
            candidates.append(on_path)
    found: t.List[t.Dict[str, t.Any]] = []
    seen: t.Set[str] = set()
    for asked, path in [(p, os.path.expanduser(p)) for p in extra] + [("", p) for p in candidates]:
        real = os.path.realpath(path)
        if real in seen or not os.access(path, os.X_OK):
            continue
        seen.add(real)
        try:
            out = subprocess.run(
                [path, "-I", "-c", PYTHON_QUESTION],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=20,
                check=True,
            ).stdout
            answer = json.loads(out.decode())
        except (OSError, subprocess.SubprocessError, ValueError):
            continue
        if answer["path"] not in [f["path"] for f in found]:
            found.append(dict(answer, asked=asked) if asked else answer)
    return found


def own_python() -> t.Dict[str, t.Any]:
    """The interpreter that runs the modules: ``{path, version, pip}``; pip is true, too, where it can make an environment with one."""
    there = {name: importlib.util.find_spec(name) is not None for name in ("pip", "venv", "ensurepip")}
    return {
        "path": sys.executable,
        "version": "%d.%d" % sys.version_info[:2],
        "pip": there["pip"] or (there["venv"] and there["ensurepip"]),
    }


def toolkits(root: str = "/", extra: t.Sequence[str] = ()) -> t.List[t.Dict[str, t.Any]]:
    """CUDA toolkits in /usr/local and at ``extra``: ``{home, version, nvcc}``; version is None where none can be read."""
    homes = list(extra) + sorted(glob.glob(os.path.join(root, "usr/local/cuda-*")))
    found = []
    for home in homes:
        if not os.path.isdir(home):
            continue
        version = None
        try:
            with open(os.path.join(home, "version.json"), encoding="utf-8") as stream:
                version = json.load(stream)["cuda"]["version"]
        except (OSError, ValueError, KeyError, TypeError):
            try:
                with open(os.path.join(home, "include", "cuda.h"), encoding="utf-8", errors="replace") as stream:
                    match = re.search(r"#define\s+CUDA_VERSION\s+(\d+)", stream.read())
                if match:
                    number = int(match.group(1))
                    version = "%d.%d" % (number // 1000, number % 1000 // 10)
            except OSError:
                pass
        found.append({"home": home, "version": version, "nvcc": os.access(os.path.join(home, "bin", "nvcc"), os.X_OK)})
    return found


def releases(stack_root: str) -> t.List[str]:
    """Names of the releases that the module release would keep: of each id the newest complete one, where it is undamaged.

    What takes half a second of CPU, the look at every file, is done for the live release alone.
    """
    from . import release  # slow to import

    found = []
    live = release.live(stack_root)
    folder = release.releases_folder(stack_root)
    for release_id in sorted({re.sub(r"\.\d+$", "", name) for name in _listed(folder)}):
        complete = [g for g in release.generations(stack_root, release_id) if g.complete]
        if not complete or release.quick_check(complete[-1].path):
            continue
        if complete[-1].name != live or not release.changed_files(complete[-1].path, "files"):
            found.append(complete[-1].name)
    return found


def _listed(folder: str) -> t.List[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _pip(python: str, arguments: t.Sequence[str]) -> str:
    """What a Python with its pip answers, or with the one that ensurepip would give it; empty where there is none."""
    here = os.path.join(os.path.dirname(os.path.realpath(python)), "..", "lib", "python3*", "ensurepip", "_bundled")
    bundled = glob.glob("/usr/share/python-wheels/pip-*.whl") + glob.glob(os.path.join(here, "pip-*.whl"))
    for path in [""] + bundled:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        if path:
            environment["PYTHONPATH"] = path
        try:
            return subprocess.run(
                [python, *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=30,
                check=True,
                env=environment,
            ).stdout.decode("utf-8", "replace")
        except (OSError, subprocess.SubprocessError):
            continue
    return ""


def index_of_pip(python: str) -> t.Optional[str]:
    """The package index that pip asks: that of PIP_INDEX_URL or pip.conf, else its own; None where there is no pip to ask."""
    lines = re.findall(r"(?m)^(\S+)\.index-url=(['\"])(.*)\2$", _pip(python, ["-m", "pip", "config", "list"]))
    listed: t.Dict[str, str] = {section: url for section, _quote, url in lines}
    for section in (":env:", "download", "global"):
        if listed.get(section):
            return listed[section]
    return _pip(python, ["-c", INDEX_QUESTION]).strip() or None


def index_of_uv(python: str) -> t.Optional[str]:
    """The package index that uv asks: that of its variables, else pip's own; None where a file of its configuration names one."""
    configured = os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("UV_INDEX_URL")
    if configured:
        return configured
    given = os.environ.get("UV_CONFIG_FILE")
    for path in [given] if given else [os.path.expanduser("~/.config/uv/uv.toml"), "/etc/uv/uv.toml"]:
        try:
            with open(path, encoding="utf-8", errors="replace") as stream:
                if re.search(r"^[^#\n]*\bindex\b", stream.read(), re.MULTILINE):
                    return None
        except OSError:
            continue
    return _pip(python, ["-c", INDEX_QUESTION]).strip() or None


def default_index(python: str) -> t.Optional[str]:
    """The one index for who is neither pip nor uv: what uv's variables name, else pip's."""
    return os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("UV_INDEX_URL") or index_of_pip(python)


def default_indexes(stack_root: str, find_links: t.Sequence[str]) -> t.List[str]:
    """The indexes that a run asks where none is named: uv's, and pip's where uv is still to be fetched."""
    places = [os.path.join(glob.escape(stack_root), "tools", "uv-*", "bin", "uv")]
    places += [os.path.join(glob.escape(os.path.expanduser(folder)), "uv-*.whl") for folder in find_links]
    there = any(glob.glob(place) for place in places)
    found = [index_of_uv(sys.executable), None if there else index_of_pip(sys.executable)]
    return sorted({url for url in found if url})


def reach(
    url: str, ca_file: t.Optional[str] = None, proxy: t.Optional[str] = None, timeout: float = 10.0
) -> t.Optional[str]:
    """None when ``url`` answers (any HTTP status counts but 5xx); otherwise the reason in words."""
    # Imported here: they are slow to import, and most modules ask this file for a folder's name.
    import http.client
    import urllib.error

    from . import index

    try:
        opener = index.opener(ca_file, proxy)
    except OSError as error:
        return "the CA file %s cannot be read: %s" % (ca_file, error.strerror or error)
    reason = ""
    for attempt in range(2):
        try:
            with opener.open(index.request(url, method="HEAD"), timeout=timeout):
                return None
        except urllib.error.HTTPError as error:
            if error.code < 500:
                return None
            reason = "it answers %s" % error.code
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = str(getattr(error, "reason", error))
        if attempt == 0:
            time.sleep(1)
    return reason


def wheels(stack_root: str) -> t.List[t.Dict[str, t.Any]]:
    """What the host's own cache of compiled wheels says that it holds; the files themselves are proved when one is taken."""
    found = []
    for path in sorted(glob.glob(os.path.join(glob.escape(stack_root), "wheels", "*.whl.json"))):
        try:
            with open(path, encoding="utf-8") as stream:
                entry = json.load(stream)
            found.append({name: entry[name] for name in ("wheel", "key", "sha256", "parts")})
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def facts(
    stack_root: str,
    wanted_pythons: t.Sequence[str],
    python_paths: t.Sequence[str] = (),
    cuda_homes: t.Sequence[str] = (),
    wanted_libraries: t.Sequence[str] = (),
    root: str = "/",
) -> t.Dict[str, t.Any]:
    """Everything that the plan needs to know of a host, small enough for a thousand of them."""
    libc = platform.libc_ver()
    compiler = shutil.which("g++") or shutil.which("c++")
    return {
        "os": os_release(root),
        "architecture": platform.machine(),
        "glibc": libc[1] if libc[0] == "glibc" else "",
        "root": os.geteuid() == 0,
        "home": os.path.expanduser("~"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": memory_bytes(root),
        "stack_root": stack_root,
        "writable": writable(stack_root),
        "free_bytes": free_bytes(stack_root),
        "own_python": own_python(),
        "pythons": pythons(wanted_pythons, python_paths),
        "compiler": compiler,
        "git": bool(shutil.which("git")),
        "apt": bool(shutil.which("apt-get")),
        "toolkits": toolkits(root, cuda_homes),
        "releases": releases(stack_root),
        "wheels": wheels(stack_root),
        "libraries": [name for name in wanted_libraries if libraries.found(name, root)],
    }
