# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Sealing a release: bytecode, RECORD verification, environment files, and the manifest that says what it is."""

from __future__ import annotations

import ctypes
import glob
import hashlib
import json
import os
import re
import subprocess
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ansible_collections.verl.baremetal.plugins.module_utils import (
    cuda_layout,
    install,
    layer,
    lock,
    pep440,
    precompile,
    record,
    release,
)
from ansible_collections.verl.baremetal.plugins.module_utils._failpoint import failpoint
from ansible_collections.verl.baremetal.plugins.module_utils.progress import Progress
from ansible_collections.verl.baremetal.plugins.module_utils.release import ReleaseError

_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")


class Sealing(NamedTuple):
    """What the plan says about a release."""

    path: str
    id: str
    stack: Mapping[str, Any]
    variants: Mapping[str, Any]
    layers: Mapping[str, Any]
    cuda: Mapping[str, Any]
    skipped: Mapping[str, str]
    definition: Mapping[str, Any]
    environment: Mapping[str, Any]
    integrity: str
    bytecode_cache: str = ""


def seal(job: Sealing, progress: Progress, now: float) -> Dict[str, Any]:
    """Prove and describe a built release; it stays unfinished until it is made live."""
    if not os.path.lexists(os.path.join(job.path, release.BUILDING)):
        raise ReleaseError(f"{job.path} is not being built. Begin a release first.")
    busy = lock.Busy(job.path)
    busy.take(tick=progress.step)
    try:
        return _seal(job, progress, now, busy)
    finally:
        busy.free()


def _seal(job: Sealing, progress: Progress, now: float, busy: lock.Busy) -> Dict[str, Any]:
    precompile.stop(job.path)
    venv = os.path.join(job.path, "venv")
    site = record.site_packages(venv) or ""
    manifest_path = os.path.join(job.path, release.MANIFEST)
    if os.path.lexists(manifest_path):
        os.unlink(manifest_path)
    owners = packages_of(job, venv)
    installed = record.installed(site) if site else {}
    complain(job, owners, installed)
    failpoint("seal.before_bytecode")
    if site:
        compile_bytecode(venv, site, job.bytecode_cache, progress, busy)
    failpoint("seal.bytecode")

    def tick(name: str, done: int, total: int) -> None:
        progress.step(f"verifying {name}", done, total)

    report = record.verify(site, None, job.integrity, progress=tick) if site else record.Report(0, 0, 0, [])
    words = [f"{p.name}: {p.path} {p.detail}" for p in report.problems]
    words += cuda_layout.damage(os.path.join(job.path, "cuda"), job.integrity)
    if words:
        raise ReleaseError(
            f"{job.path}: {len(words)} files are not as their RECORD says: {'; '.join(words[:5])}. Run again: "
            f"broken packages are installed anew. When it happens again, check the disk."
        )
    for leftover in (os.path.join(venv, ".lock"), os.path.join(job.path, "cuda", ".wheels", ".lock")):
        # uv's own lock files, which it makes writable for everyone; nothing is installed here any more.
        if os.path.lexists(leftover):
            os.unlink(leftover)
    cuda = cuda_of(job)
    variables = environment(job, venv, site, bool(cuda.get("home")))
    release.write_file(os.path.join(job.path, "env.sh"), env_sh(variables, bool(cuda.get("home"))))
    release.write_file(
        os.path.join(job.path, "modulefile"), modulefile(job.path, venv, variables, bool(cuda.get("home")))
    )
    manifest = make_manifest(
        job, owners, record.distributions(site) if site else [], cuda, install.python_of(venv), now
    )
    progress.step("writing everything to the disk")
    sync_file_system(job.path)
    failpoint("seal.before_manifest")
    release.write_file(manifest_path, json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    failpoint("seal.after_manifest")
    return {
        "changed": True,
        "sealed": True,
        "manifest": manifest_path,
        "digest": manifest["digest"],
        "packages": len(installed),
        "verified": {"distributions": report.distributions, "files": report.files, "bytes": report.bytes},
    }


def packages_of(job: Sealing, venv: str) -> Dict[str, Tuple[str, str]]:
    """name -> (version, layer) of every package that a verified layer brought in."""
    owners: Dict[str, Tuple[str, str]] = {}
    for name, packages in install.stamps(venv).items():
        for package, version in packages.items():
            if package in owners and owners[package][1] != name:
                both = f"{owners[package][1]} and {name}"
                raise ReleaseError(f"{job.path}: the layers {both} both hold {package}. Layers must not overlap.")
            owners[package] = (version, name)
    return owners


def complain(job: Sealing, owners: Mapping[str, Tuple[str, str]], installed: Mapping[str, str]) -> None:
    """Refuse a release that lacks something of the plan or holds something of nobody."""
    words = []
    for name, wanted in sorted(job.layers.items()):
        for item in layer.parse(wanted.get("requirements") or []):
            if item.marker:
                continue
            found = owners.get(item.name)
            if found is None:
                words.append(f"{item.name} {item.version} of the layer {name} was not installed")
            elif not pep440.same(found[0], item.version):
                words.append(f"{item.name} of the layer {name} is {found[0]}, not {item.version}")
    words += release.compare_packages({name: version for name, (version, _layer) in owners.items()}, installed)
    if words:
        raise ReleaseError(f"{job.path} is not what was planned: {'; '.join(words[:8])}. Run the whole playbook again.")


def compile_bytecode(venv: str, site: str, cache: str, progress: Progress, busy: lock.Busy) -> None:
    """Compile every module once, on all cores, so that no user pays for it and a read-only release has it."""
    process = subprocess.Popen(
        precompile.command(install.interpreter(venv), site, cache),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=tuple(busy.fileno()),
        encoding="utf-8",
        errors="replace",
    )
    said: List[str] = []
    with process:
        for line in process.stdout or ():
            words = line.split()
            if len(words) == 2 and words[0].isdigit() and words[1].isdigit():
                progress.step("compiling bytecode", int(words[0]), int(words[1]))
                if words[0] == "1":
                    failpoint("seal.in_bytecode", [process.pid])
            else:
                said.append(line.rstrip())
    if process.returncode != 0:
        detail = "\n".join(said[-8:])
        full = " The disk is full: make room and run again." if "No space left" in detail else ""
        raise ReleaseError(f"compiling bytecode under {site} failed.{full}\n{detail}")


def cuda_of(job: Sealing) -> Dict[str, Any]:
    """What the manifest says about CUDA: the plan's source and what the CUDA home in the release says of itself."""
    home = os.path.join(job.path, "cuda")
    source = str(job.cuda.get("source") or "none")
    if not os.path.isdir(home):
        if source in ("pypi", "existing"):
            raise ReleaseError(f"{home} is missing, though the plan takes CUDA from {source}. Run the role cuda.")
        return {"source": source, "home": "", "version": "", "nvcc": False}
    version = ""
    try:
        with open(os.path.join(home, "version.json"), encoding="utf-8") as handle:
            version = str(json.load(handle)["cuda"]["version"])
    except (OSError, ValueError, KeyError, TypeError):
        version = ""
    shared = [os.path.join("..", below, "cuda") for below in release.shared_with(job.path)]
    outside = os.path.islink(home) and os.readlink(home) not in shared
    target = os.path.realpath(home) if outside else "cuda"
    nvcc = os.access(os.path.join(home, "bin", "nvcc"), os.X_OK)
    return {"source": source, "home": target, "version": version, "nvcc": nvcc}


def make_manifest(
    job: Sealing,
    owners: Mapping[str, Tuple[str, str]],
    dists: Sequence[record.Distribution],
    cuda: Mapping[str, Any],
    python: str,
    now: float,
) -> Dict[str, Any]:
    """The manifest; two hosts with the same plan and root get the same one, but for the time."""
    hashes = {item.name: list(item.hashes) for wanted in job.layers.values() for item in _parse(wanted)}
    built = {record.normalise(str(n)) for wanted in job.layers.values() for n in wanted.get("build") or []}
    packages = {
        dist.name: {"version": dist.version, "layer": owners[dist.name][1], "record_sha256": record.record_sha256(dist)}
        for dist in dists
    }
    body = "".join(f"{name} {packages[name]['record_sha256']}\n" for name in sorted(packages))
    data: Dict[str, Any] = {
        "schema": release.SCHEMA,
        "id": job.id,
        "name": os.path.basename(job.path),
        "stack": dict(job.stack),
        "created": release.stamp(now),
        "host": dict(host_facts(), python=python),
        "variants": dict(job.variants),
        "cuda": dict(cuda),
        "components": components(job, packages, hashes, built, cuda),
        "packages": packages,
        "skipped": dict(job.skipped),
        "definition": dict(job.definition),
        "files": {name: record.file_sha256(os.path.join(job.path, name)) for name in release.ENVIRONMENT_FILES},
        "files_digest": hashlib.sha256(body.encode("utf-8")).hexdigest(),
    }
    data = json.loads(json.dumps(data))
    data["digest"] = release.manifest_digest(data)
    return data


def _parse(wanted: Mapping[str, Any]) -> List[layer.Requirement]:
    return layer.parse(wanted.get("requirements") or [])


def components(
    job: Sealing,
    packages: Mapping[str, Mapping[str, Any]],
    hashes: Mapping[str, List[str]],
    built: Any,
    cuda: Mapping[str, Any],
) -> List[Dict[str, Any]]:
    """Every component of the stack that is in the release: its version, where it came from, the accepted hashes."""
    found: List[Dict[str, Any]] = []
    for component in job.definition.get("components") or []:
        name, kind = str(component.get("name")), str(component.get("kind", "python"))
        if kind == "cuda" and cuda.get("version"):
            version, source, sums, where = str(cuda["version"]), str(cuda["source"]), [], "cuda"
        elif kind == "cudnn" and "nvidia-cudnn-cu12" in packages:
            package = packages["nvidia-cudnn-cu12"]
            version, source, where = str(package["version"]), "wheel", str(package["layer"])
            sums = hashes.get("nvidia-cudnn-cu12", [])
        else:
            dist = record.normalise(str(component.get("dist") or name))
            if dist not in packages:
                continue
            version, where = str(packages[dist]["version"]), str(packages[dist]["layer"])
            source = "sdist" if dist in built else "wheel" if dist in hashes else "built wheel"
            sums = hashes.get(dist, [])
        found.append({"name": name, "version": version, "source": source, "sha256": sums, "layer": where})
    return found


def host_facts() -> Dict[str, str]:
    """Operating system and C library of this host."""
    values: Dict[str, str] = {}
    try:
        with open("/etc/os-release", encoding="utf-8") as handle:
            for line in handle:
                key, _equals, value = line.strip().partition("=")
                values[key] = value.strip("\"'")
    except OSError:
        values = {}
    try:
        glibc = (os.confstr("CS_GNU_LIBC_VERSION") or "").rpartition(" ")[2]
    except (OSError, ValueError):
        glibc = ""
    return {"os": values.get("ID", ""), "os_version": values.get("VERSION_ID", ""), "glibc": glibc}


def environment(job: Sealing, venv: str, site: str, cuda: bool) -> Dict[str, str]:
    """The variables of a shell that uses the release, in the order in which they are set."""
    places = {"release": job.path, "venv": venv, "cuda_home": os.path.join(job.path, "cuda") if cuda else ""}
    values = {"VERL_RELEASE": job.path, "VIRTUAL_ENV": venv}
    if cuda:
        values["CUDA_HOME"] = places["cuda_home"]
    cudnn = os.path.join(site, "nvidia", "cudnn")
    if site and os.path.isdir(cudnn) and holds_cudnn(places["cuda_home"]):
        # TransformerEngine would take the cuDNN under CUDA_HOME, Torch takes its own: both are led to Torch's. Where
        # CUDA_HOME has none, TransformerEngine finds Torch's by itself, and CUDNN_HOME would make it load a part only.
        values["CUDNN_HOME"] = cudnn
        values["LD_LIBRARY_PATH"] = os.path.join(cudnn, "lib")
    for name, value in sorted(job.environment.items()):
        if not _NAME.match(name) or name in ("PATH", "LD_LIBRARY_PATH"):
            raise ReleaseError(f"the stack's environment sets {name!r}, which is not allowed")
        text = str(value)
        for place, path in places.items():
            text = text.replace("{" + place + "}", path)
        values[name] = text
    return values


def holds_cudnn(home: str) -> bool:
    """Whether a CUDA home has cuDNN's library among its own."""
    folders = [os.path.join(home, name) for name in ("lib64", "lib", os.path.join("targets", "x86_64-linux", "lib"))]
    return bool(home) and any(glob.glob(os.path.join(glob.escape(name), "libcudnn.so*")) for name in folders)


def env_sh(variables: Mapping[str, str], cuda: bool) -> str:
    """A file for POSIX shells."""
    lines = ["# The environment of this release: source it. Made by verl.baremetal with the release; do not edit."]
    lines += [f"export {name}={_quote(value)}" for name, value in variables.items() if name != "LD_LIBRARY_PATH"]
    if "LD_LIBRARY_PATH" in variables:
        first = _quote(variables["LD_LIBRARY_PATH"])
        lines.append(f'export LD_LIBRARY_PATH={first}"${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"')
    first = "$VIRTUAL_ENV/bin" + (":$CUDA_HOME/bin" if cuda else "")
    lines += ["unset PYTHONHOME", f'case ":$PATH:" in *":{first}:"*) ;; *) export PATH="{first}:$PATH" ;; esac']
    return "\n".join(lines) + "\n"


def _quote(value: str) -> str:
    return "'" + value.replace("'", "'\\''") + "'"


def modulefile(path: str, venv: str, variables: Mapping[str, str], cuda: bool) -> str:
    """A file for environment modules (Tcl and Lmod)."""
    name = os.path.basename(path)
    lines = ["#%Module1.0", f"module-whatis {_tcl('verl release ' + name)}", "conflict verl"]
    for key, value in variables.items():
        lines.append(f"{'prepend-path' if key == 'LD_LIBRARY_PATH' else 'setenv'} {key} {_tcl(value)}")
    if cuda:
        lines.append(f"prepend-path PATH {_tcl(os.path.join(path, 'cuda', 'bin'))}")
    lines.append(f"prepend-path PATH {_tcl(os.path.join(venv, 'bin'))}")
    return "\n".join(lines) + "\n"


def _tcl(value: str) -> str:
    return '"' + re.sub(r'([\\"$\[\]])', r"\\\1", value) + '"'


def sync_file_system(path: str) -> None:
    """Force everything of the file system that holds a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        library: Optional[Any] = ctypes.CDLL(None, use_errno=True)
        if library is not None and hasattr(library, "syncfs") and library.syncfs(handle) == 0:
            return
        os.sync()
    finally:
        os.close(handle)
