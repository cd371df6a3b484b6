# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Builds a wheel from a locked source distribution, with the environment's own pip and without isolation.

uv leaves out a step that some build back ends rely on (FlashInfer's makes a folder when it is asked for metadata), so
pip, which is part of the stack, builds; uv then installs the result by its hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from typing import Callable, List, Mapping, Sequence, Tuple

from ansible_collections.verl.baremetal.plugins.module_utils import record, uv
from ansible_collections.verl.baremetal.plugins.module_utils.wheels import toolchain

# Decides nothing about the result: not part of what a built wheel is kept under.
_INDIFFERENT = ("MAX_JOBS", "HOME", "TMPDIR")


class BuildError(Exception):
    """A source distribution could not be built; the text says what was found and what to do."""


def pip_arguments(sources: uv.Sources, env: Mapping[str, str]) -> List[str]:
    """The options that tell pip where packages come from; the same places as uv's."""
    arguments: List[str] = []
    index = sources.index_url or env.get("UV_DEFAULT_INDEX") or env.get("UV_INDEX_URL") or ""
    if sources.offline:
        arguments.append("--no-index")
    elif index:
        arguments += ["--index-url", index]
    for place in sources.find_links:
        arguments += ["--find-links", place]
    certificates = sources.ca_file or env.get("SSL_CERT_FILE") or ""
    if not certificates and os.path.exists(uv.SYSTEM_CERTIFICATES):
        certificates = uv.SYSTEM_CERTIFICATES
    if certificates:
        arguments += ["--cert", certificates]
    if sources.proxy:
        arguments += ["--proxy", sources.proxy]
    return arguments


def key(site: str, name: str, line: str, env: Mapping[str, str]) -> str:
    """What a built wheel depends on: its source, everything that is installed beside it, and the build's environment."""
    seen = {dist: version for dist, version in record.installed(site).items() if dist != name}
    body = json.dumps([line, seen, sorted((n, v) for n, v in env.items() if n not in _INDIFFERENT)], sort_keys=True)
    return hashlib.sha256(body.encode("utf-8")).hexdigest()[:16]


def kept(folder: str) -> Tuple[str, str]:
    """The wheel that an earlier build left in ``folder`` and its sha256, empty strings where there is none that is whole."""
    try:
        with open(os.path.join(folder, "wheel.json"), encoding="utf-8") as handle:
            noted = json.load(handle)
        path = os.path.join(folder, noted["name"])
        if record.file_sha256(path) == noted["sha256"]:
            return path, noted["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return "", ""


def build(
    python: str,
    line: str,
    folder: str,
    cuda_home: str,
    env: Mapping[str, str],
    sources: uv.Sources,
    tick: Callable[[], None],
    title: str,
    pass_fds: Sequence[int] = (),
) -> Tuple[str, str]:
    """Build the wheel of one requirement line into ``folder`` and return its path and sha256.

    Args:
        cuda_home: the release's CUDA home; without an nvcc of its own it gets a stand-in that only tells the version.
        tick: called about every five seconds.

    Raises:
        BuildError: pip or the package's build failed; the text ends with its last lines.
    """
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    with tempfile.TemporaryDirectory(prefix="verl-build-") as work:
        environment = dict(env, TMPDIR=work)
        kit = toolchain.cuda_of(cuda_home) if cuda_home else None
        if kit is not None and not kit.compiler:
            home = toolchain.stand_in(kit, work)
            environment.update(CUDA_HOME=home, CUDA_PATH=home)
        venv_bin = os.path.dirname(python)
        home_bin = [os.path.join(environment["CUDA_HOME"], "bin")] if "CUDA_HOME" in environment else []
        environment["PATH"] = os.pathsep.join([venv_bin, *home_bin, *toolchain.system_path(None, work)])
        requirements = os.path.join(work, "requirements.txt")
        with open(requirements, "w", encoding="utf-8") as handle:
            handle.write(line + "\n")
        command = [
            python,
            "-m",
            "pip",
            "--isolated",
            "--disable-pip-version-check",
            "wheel",
            "--use-pep517",
            "--no-deps",
        ]
        command += ["--no-cache-dir", "--no-build-isolation", "--require-hashes", "--progress-bar", "off"]
        command += ["--wheel-dir", folder, *pip_arguments(sources, env), "--requirement", requirements]
        log = os.path.join(work, "log")
        with open(log, "wb") as handle:
            process = subprocess.Popen(
                command,
                env=environment,
                cwd=work,
                stdin=subprocess.DEVNULL,
                stdout=handle,
                stderr=handle,
                pass_fds=tuple(pass_fds),
            )
            while True:
                try:
                    code = process.wait(timeout=5)
                    break
                except subprocess.TimeoutExpired:
                    tick()
        with open(log, encoding="utf-8", errors="replace") as handle:
            text = uv.redact(handle.read())
    wheels = [n for n in os.listdir(folder) if n.endswith(".whl")]
    if code != 0 or len(wheels) != 1:
        tail = "\n".join([part for part in text.splitlines() if part.strip()][-15:])
        if "THESE PACKAGES DO NOT MATCH THE HASHES" in text:
            raise BuildError(
                f"{title}: wrong hash of the source distribution. The index's file is not the one of the lock: "
                f"do not install it; check the index or mirror, then run again.\n{tail}"
            )
        if "No module named pip" in text:
            raise BuildError(
                f"{title}: the environment has no pip to build with. Let the stack's torch layer ask for pip."
            )
        raise BuildError(f"{title}: building from source failed with exit status {code}.\n{tail}")
    path = os.path.join(folder, wheels[0])
    digest = record.file_sha256(path)
    with open(os.path.join(folder, "wheel.json"), "w", encoding="utf-8") as handle:
        json.dump({"name": wheels[0], "sha256": digest}, handle)
    return path, digest
