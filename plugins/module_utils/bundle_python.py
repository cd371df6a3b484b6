# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Interpreters that uv brings, for a bundle: the archives that the pinned uv would fetch, fetched and checked by that uv.

They lie as uv's mirrors have them, ``python/<release>/<archive>``, so that uv takes a bundle's folder for a mirror. Its sha256 of
each archive is built into uv: it compares when the bundle is made, and again on every host.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import urllib.parse
import urllib.request
from typing import Any, Dict, Mapping, NamedTuple, Sequence

from ansible_collections.verl.baremetal.plugins.module_utils import uv, uv_fetch
from ansible_collections.verl.baremetal.plugins.module_utils.bundle import PYTHON, BundleError
from ansible_collections.verl.baremetal.plugins.module_utils.progress import Progress


class Wanted(NamedTuple):
    """One interpreter: a minor version, and the mirror of the archives that uv fetches, empty for uv's own place."""

    python: str
    mirror: str = ""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Wanted:
        """From a module's argument."""
        return cls(data["python"], data.get("mirror", ""))

    @property
    def use(self) -> str:
        """What hosts ask for."""
        return f"{PYTHON}/{self.python}"


def mirror_of(folder: str) -> str:
    """The folder of a bundle as the mirror that uv is told of."""
    return "file://" + urllib.request.pathname2url(os.path.join(folder, PYTHON))


def place_of(url: str) -> str:
    """Where an archive lies in the bundle."""
    release, name = urllib.parse.unquote(urllib.parse.urlsplit(url).path).split("/")[-2:]
    return f"{PYTHON}/{release}/{name}"


def listed(program: str, python: str, env: Mapping[str, str]) -> str:
    """The address of the archive that this uv fetches for a Python on x86_64 with glibc."""
    request = f"cpython-{python}-linux-x86_64-gnu"
    command = [program, "python", "list", "--no-config", "--only-downloads", "--output-format", "json", request]
    try:
        done = subprocess.run(command, env=dict(env), stdin=subprocess.DEVNULL, capture_output=True, check=False)
        found = json.loads(done.stdout) if done.returncode == 0 else []
    except (OSError, ValueError) as error:
        raise BundleError(f"uv cannot be asked for Python {python}: {error}") from error
    if not found:
        said = done.stderr.decode("utf-8", "replace").strip()[-300:]
        raise BundleError(f"the pinned uv knows no Python {python} for Linux on x86_64. {said}".strip())
    return str(found[0]["url"])


def hold(
    folder: str, wheel: str, wanted: Sequence[Wanted], ca_file: str, proxy: str, progress: Progress
) -> Dict[str, str]:
    """Have the archives in the bundle; path -> use.

    Args:
        wheel: the pinned uv's, which lies in the bundle already.

    Raises:
        BundleError: an archive cannot be had, or is not what uv knows.
    """
    held = {}
    with tempfile.TemporaryDirectory(prefix=".python-", dir=folder) as work:
        uv_fetch.unpack(wheel, os.path.join(work, "uv"))
        program, archives = uv_fetch.executable(os.path.join(work, "uv")), os.path.join(work, "archives")
        more = {"UV_PYTHON_DOWNLOADS": "manual", "UV_PYTHON_CACHE_DIR": archives}
        more["UV_PYTHON_INSTALL_DIR"] = os.path.join(work, "installed")
        env = uv.environment(os.environ, uv.Sources(ca_file=ca_file, proxy=proxy), more)
        for item in wanted:
            path = place_of(listed(program, item.python, env))
            mirror = ["--mirror", item.mirror] if item.mirror else []
            before = set(os.listdir(archives)) if os.path.isdir(archives) else set()
            command = [program, "python", "install", "--no-config", "--no-bin", *mirror, item.python]
            try:
                uv.run(command, env, work, progress, f"Python {item.python}")
            except uv.UvError as error:
                raise BundleError(
                    f"an archive that uv brings cannot be had: {error} Set venv_python_mirror to a mirror that holds "
                    f"{path.partition('/')[2]}, or venv_python_managed: false."
                ) from error
            fresh = [name for name in os.listdir(archives) if name not in before and name.endswith(".gz")]
            if len(fresh) != 1:
                raise BundleError(f"uv kept {len(fresh)} archives of Python {item.python}, one was expected.")
            target = os.path.join(folder, path)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.replace(os.path.join(archives, fresh[0]), target)
            held[path] = item.use
    return held
