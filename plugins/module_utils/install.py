# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Brings one layer into an environment (a virtual environment, or a plain target folder) and proves it whole."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

from ansible_collections.verl.baremetal.plugins.module_utils import (
    layer,
    lock,
    pep440,
    precompile,
    record,
    source_build,
    uv,
)
from ansible_collections.verl.baremetal.plugins.module_utils._failpoint import failpoint
from ansible_collections.verl.baremetal.plugins.module_utils.progress import Progress
from ansible_collections.verl.baremetal.plugins.module_utils.uv import Sources
from ansible_collections.verl.baremetal.plugins.module_utils.wheels import toolchain

BUILDING = ".building"
MANIFEST = "manifest.json"
_VERSION_LINE = re.compile(r"^version(?:_info)?\s*=\s*(\d+\.\d+\.\d+)", re.MULTILINE)


class InstallError(Exception):
    """A layer could not be brought in; the text says what was found, what is needed and what to do."""


class Job(NamedTuple):
    """What to install where, and how."""

    name: str
    path: str
    requirements: Sequence[str]
    python: str = ""
    python_managed: bool = False
    python_mirror: str = ""
    build: Sequence[str] = ()
    build_environment: Mapping[str, str] = {}
    uv: str = "uv"
    sources: Sources = Sources()
    link_mode: str = "auto"
    cache: str = ""
    integrity: str = record.MODE_FILES
    target: bool = False


class State(NamedTuple):
    """What an environment holds of a layer."""

    site: str
    wanted: Dict[str, layer.Requirement]
    installed: Dict[str, str]
    difference: layer.Difference
    digest: str
    verified: bool

    @property
    def versions(self) -> Dict[str, str]:
        """name -> version of the layer as it should be."""
        return {name: item.version for name, item in sorted(self.wanted.items())}

    @property
    def converged(self) -> bool:
        """True when the layer was verified as it is now, or consists of nothing."""
        return (self.verified or bool(self.site and not self.wanted)) and not self.difference


def python_of(venv: str) -> str:
    """The full Python version of a virtual environment as its pyvenv.cfg says, "" when there is none."""
    try:
        with open(os.path.join(venv, "pyvenv.cfg"), encoding="utf-8") as handle:
            match = _VERSION_LINE.search(handle.read())
    except (OSError, UnicodeDecodeError):
        return ""
    return match.group(1) if match else ""


def interpreter(venv: str) -> str:
    """The path of a virtual environment's interpreter."""
    return os.path.join(venv, "bin", "python")


def usable(venv: str) -> bool:
    """True when a virtual environment has its description, its site-packages and an interpreter that can be started."""
    return bool(python_of(venv)) and os.access(interpreter(venv), os.X_OK) and record.site_packages(venv) is not None


def version_of(python: str) -> str:
    """The full version of an interpreter, "" when it cannot be asked."""
    code = "import platform; print(platform.python_version())"
    try:
        answer = subprocess.run(
            [python, "-I", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.decode("ascii", "replace").strip() if answer.returncode == 0 else ""


def _python_version(job: Job) -> str:
    """The version that the markers are evaluated for."""
    if not job.target and usable(job.path):
        return python_of(job.path)
    if job.python_managed:
        return job.python if job.python.count(".") == 2 else job.python + ".0"
    if not job.target or any(";" in line for line in job.requirements):
        return version_of(job.python)
    return ".".join(str(part) for part in sys.version_info[:3])


def inspect(job: Job) -> State:
    """Compare the environment with the layer, in milliseconds: names of dist-info folders and the layer's stamp."""
    requirements = layer.parse(job.requirements)
    version = _python_version(job)
    if not version and any(item.marker for item in requirements):
        raise InstallError(
            f"layer {job.name}: {job.python or 'no interpreter'} does not answer with its version. "
            f"Set venv_python to a working Python."
        )
    wanted = layer.select(requirements, layer.environment(version or "3.12.0"))
    site = job.path if job.target else record.site_packages(job.path) or ""
    if not job.target and not usable(job.path):
        site = ""
    installed = record.installed(site) if site else {}
    stamp = layer.read_stamp(job.path, job.name)
    versions = {name: item.version for name, item in wanted.items()}
    digest = layer.digest(wanted.values(), job.build)
    formerly = stamp["packages"] if stamp else {}
    return State(
        site,
        wanted,
        installed,
        layer.difference(versions, installed, formerly),
        digest,
        bool(stamp and stamp["digest"] == digest),
    )


def sealed(path: str) -> bool:
    """True for an environment inside a verified release: it is never changed."""
    release = os.path.dirname(os.path.abspath(path))
    return os.path.exists(os.path.join(release, MANIFEST)) and not os.path.exists(os.path.join(release, BUILDING))


def broken(state: State, mode: str, progress: Optional[Progress] = None, title: str = "") -> record.Report:
    """Verify the RECORDs of what is there of a layer."""
    present = [name for name in state.wanted if name in state.installed]

    def tick(name: str, done: int, total: int) -> None:
        if progress is not None:
            progress.step(f"{title}: verifying {name}", done, total)

    return record.verify(state.site, present, mode, progress=tick) if state.site else record.Report(0, 0, 0, [])


def apply(job: Job, progress: Progress) -> Dict[str, Any]:
    """Install what is missing, verify, repair once; the stamp is written last."""
    title = f"layer {job.name}"
    state = inspect(job)
    if sealed(job.path):
        change = state.difference
        names = ", ".join(sorted([*change.added, *change.changed, *change.removed])) or "its stamp"
        raise InstallError(
            f"{title}: {os.path.dirname(job.path)} is a verified release and is never changed; it differs in {names}. "
            f"Run the whole playbook: it builds a new release beside it."
        )
    parent = os.path.dirname(os.path.abspath(job.path))
    os.makedirs(parent, exist_ok=True)
    busy = lock.Busy(parent)
    busy.take(tick=lambda text: progress.step(f"{title}: {text}"))
    try:
        return _apply(job, progress, title, busy)
    except (source_build.BuildError, toolchain.ToolchainError) as error:
        raise InstallError(str(error)) from error
    except OSError as error:
        raise InstallError(f"{title}: {uv.explain_os_error(error, parent)}") from error
    finally:
        busy.free()


def _apply(job: Job, progress: Progress, title: str, busy: lock.Busy) -> Dict[str, Any]:
    if not job.target:
        _ensure_venv(job, progress, title, busy)
    else:
        os.makedirs(job.path, exist_ok=True)
    state = inspect(job)
    before = dict(state.installed)
    layer.drop_stamp(job.path, job.name)
    report = broken(state, job.integrity, progress, title)
    stale = {*report.broken, *state.difference.changed, *state.difference.removed}
    _remove(job, state.site, stale)
    missing = [name for name in state.wanted if name in stale or name not in state.installed]
    repaired = [name for name in report.broken if name in state.wanted and name not in state.difference.changed]
    _install(job, state, missing, progress, title, busy, fresh=repaired)
    failpoint("layer.after_install")
    report = broken(inspect(job), job.integrity, progress, title)
    if report.problems:
        again = [name for name in state.wanted if name in set(report.broken)]
        repaired += again
        _remove(job, state.site, again)
        _install(job, state, again, progress, title, busy, fresh=again)
        report = broken(inspect(job), job.integrity, progress, title)
    final = inspect(job)
    if report.problems or final.difference:
        raise InstallError(_incomplete(title, report, final))
    layer.write_stamp(job.path, job.name, final.digest, final.versions)
    parent = os.path.dirname(os.path.abspath(job.path))
    if not job.target and os.path.lexists(os.path.join(parent, BUILDING)):
        precompile.start(parent, interpreter(job.path), final.site, final.versions)
    failpoint("layer.done")
    return result(final, before, repaired, report)


def result(state: State, before: Mapping[str, str], repaired: Sequence[str], report: record.Report) -> Dict[str, Any]:
    """What the module returns of a layer."""
    names = {*state.wanted, *state.difference.removed}
    after = state.versions
    return {
        "packages": after,
        "packages_added": {name: after[name] for name in after if name not in before},
        "packages_removed": {name: before[name] for name in sorted(names) if name in before and name not in after},
        "packages_changed": {
            name: {"from": before[name], "to": after[name]}
            for name in after
            if name in before and not pep440.same(before[name], after[name])
        },
        "repaired": sorted(set(repaired)),
        "verified": {"distributions": report.distributions, "files": report.files, "bytes": report.bytes},
    }


def _incomplete(title: str, report: record.Report, state: State) -> str:
    words = [f"{p.name}: {p.path} {p.detail}".replace("  ", " ") for p in report.problems[:5]]
    words += [f"{name} {version} is missing" for name, version in sorted(state.difference.added.items())[:5]]
    words += [f"{name} is {one}, not {two}" for name, (one, two) in sorted(state.difference.changed.items())[:5]]
    return (
        f"{title}: after an installation and one repair these packages are still not as their RECORD says: "
        f"{'; '.join(words)}. Check the disk and the file system, then run again."
    )


def _remove(job: Job, site: str, names: Any) -> None:
    gone = set(names)
    if gone:
        precompile.stop(os.path.dirname(os.path.abspath(job.path)))
    for dist in record.distributions(site):
        if dist.name in gone:
            record.remove(dist)


def _ensure_venv(job: Job, progress: Progress, title: str, busy: lock.Busy) -> None:
    """Make the virtual environment when it is missing, unusable or of another Python."""
    if usable(job.path):
        wanted = "" if job.python_managed or not job.python else version_of(job.python)
        if not wanted or wanted == python_of(job.path):
            return
    if not job.python:
        raise InstallError(
            f"{title}: there is no environment at {job.path} and no python to make one with. Set python."
        )
    if os.path.lexists(job.path):
        precompile.stop(os.path.dirname(os.path.abspath(job.path)))
        shutil.rmtree(job.path)
    progress.step(f"{title}: making the virtual environment")
    base = [job.uv, "--color", "never"] + (["--cache-dir", job.cache] if job.cache else [])
    env = uv.environment(os.environ, job.sources)
    parent = os.path.dirname(job.path)
    if job.python_managed:
        managed = {"UV_PYTHON_DOWNLOADS": "manual", "UV_PYTHON_INSTALL_DIR": _managed_folder(job.path)}
        env.update(managed)
        words = ["--no-bin"]  # nothing outside the installation
        words += ["--mirror", job.python_mirror] if job.python_mirror else []
        words += ["--offline"] if job.sources.offline else []
        uv.run(
            [*base, "python", "install", *words, job.python],
            env,
            parent,
            progress,
            f"Python {job.python}",
            busy.fileno(),
        )
    arguments = ["venv", "--no-project", "--python"]
    if job.python_managed:
        # By its full version: for a minor one the environment follows whatever patch release uv brings later.
        arguments += [_newest(_managed_folder(job.path), job.python), "--managed-python"]
    else:
        arguments.append(job.python)
    # Made under its final name: scripts and pyvenv.cfg hold the path. Half a venv is seen as unusable and made anew.
    uv.run([*base, *arguments, job.path], env, parent, progress, title, busy.fileno())
    if not usable(job.path):
        raise InstallError(f"{title}: uv made no usable environment at {job.path} from {job.python}")


def _managed_folder(venv: str) -> str:
    root = lock.root_of(venv)
    return os.path.join(root, "tools", "python") if root else os.path.join(os.path.dirname(venv), "python")


def _newest(folder: str, python: str) -> str:
    """The newest version that uv brought into a folder for a minor or a full one."""
    found = [re.match(r"cpython-(\d+)\.(\d+)\.(\d+)-", name) for name in os.listdir(folder)]
    versions = [tuple(int(part) for part in match.groups()) for match in found if match]
    fitting = [v for v in versions if f"{'.'.join(map(str, v))}.".startswith(python + ".")]
    return ".".join(str(part) for part in max(fitting)) if fitting else python


def _install(
    job: Job,
    state: State,
    names: Sequence[str],
    progress: Progress,
    title: str,
    busy: lock.Busy,
    fresh: Sequence[str] = (),
) -> None:
    """Wheels in one uv run, then what must be built against them, each in a run of its own."""
    if not names:
        return
    build = {record.normalise(name) for name in job.build}
    env = uv.environment(os.environ, job.sources)
    mode = uv.link_mode(job.link_mode, os.geteuid() == 0)
    if job.cache:
        os.makedirs(job.cache, mode=0o700, exist_ok=True)
    if fresh and (not job.sources.offline or job.sources.find_links):
        # What came out of the cache broken may be broken in the cache. Where that is the only place, it is all there is.
        command = [
            job.uv,
            "cache",
            "clean",
            "--color",
            "never",
            *(["--cache-dir", job.cache] if job.cache else []),
            *fresh,
        ]
        uv.run(command, env, os.path.dirname(job.path), progress, f"{title}: clearing the cache", busy.fileno())
    wheels = [name for name in names if name not in build]
    _run(job, [state.wanted[name].line for name in wheels], env, mode, progress, title, busy, job.sources)
    failpoint("layer.after_wheels")
    built = [name for name in names if name in build]
    if not built:
        return
    home = os.path.join(os.path.dirname(os.path.abspath(job.path)), "cuda")
    cuda_home = home if os.path.isdir(home) else ""
    build_env = uv.build_environment(job.path, cuda_home, os.cpu_count() or 1, job.build_environment)
    with tempfile.TemporaryDirectory(prefix="verl-built-") as scratch:
        for name in built:
            label = f"{title}: building {name}"
            progress.step(label)
            line = state.wanted[name].line
            folder = os.path.join(job.cache or scratch, "built", source_build.key(state.site, name, line, build_env))
            wheel, digest = ("", "") if name in fresh else source_build.kept(folder)
            if not wheel:
                wheel, digest = source_build.build(
                    interpreter(job.path),
                    line,
                    folder,
                    cuda_home,
                    uv.environment(os.environ, job.sources, build_env),
                    job.sources,
                    functools.partial(progress.step, label),
                    f"{title}: {name}",
                    busy.fileno(),
                )
            hashed = f"{name}=={state.wanted[name].version} --hash=sha256:{digest}"
            here = uv.Sources(find_links=[os.path.dirname(wheel)], offline=True)
            _run(job, [hashed], uv.environment(os.environ, here), mode, progress, f"{title}: {name}", busy, here)


def _run(
    job: Job,
    lines: Sequence[str],
    env: Mapping[str, str],
    mode: str,
    progress: Progress,
    title: str,
    busy: lock.Busy,
    sources: Sources,
) -> None:
    if not lines:
        return
    python = (job.python or sys.executable) if job.target else interpreter(job.path)
    with tempfile.TemporaryDirectory(prefix="verl-layer-") as folder:
        path = os.path.join(folder, "requirements.txt")
        with open(path, "w", encoding="utf-8") as handle:
            handle.write("".join(line + "\n" for line in lines))
        target = job.path if job.target else ""
        command = uv.install_command(job.uv, python, path, sources, mode, job.cache, target)
        uv.run(command, env, os.path.dirname(os.path.abspath(job.path)), progress, title, busy.fileno())


def remove_all(job: Job) -> List[str]:
    """Take a layer's packages away; returns their names."""
    if sealed(job.path):
        raise InstallError(f"layer {job.name}: {os.path.dirname(job.path)} is a verified release and is never changed")
    state = inspect(job)
    stamp = layer.read_stamp(job.path, job.name)
    names = {*state.wanted, *(stamp["packages"] if stamp else {})} & set(state.installed)
    layer.drop_stamp(job.path, job.name)
    _remove(job, state.site, names)
    return sorted(names)


def stamps(venv: str) -> Dict[str, Dict[str, str]]:
    """Every verified layer of an environment: name -> packages."""
    folder = os.path.join(venv, layer.STAMPS)
    found: Dict[str, Dict[str, str]] = {}
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return {}
    for name in names:
        if name.endswith(".json"):
            stamp = layer.read_stamp(venv, name[: -len(".json")])
            if stamp is not None:
                found[name[: -len(".json")]] = stamp["packages"]
    return found
