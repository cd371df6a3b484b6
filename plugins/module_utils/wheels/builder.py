# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Builds one wheel in a folder that stays: what was compiled before an interruption is not compiled again."""

from __future__ import annotations

import base64
import contextlib
import copy
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import zipfile
from typing import IO, Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence

from .. import index, lock
from ..probes import elf, fatbin
from . import cache, jobs, key, ninja, source, toolchain

_INTERVAL = 1.0
_SAVE = 10.0  # seconds between two notes of how far a session is, for when it is killed
_LOG_TAIL = 400_000

# Runs the package's own build backend inside its source folder, so that its objects stay there.
_BACKEND = r"""
import importlib, json, os, sys
spec = json.loads(sys.argv[1])
sys.argv = ["setup.py"]
os.chdir(spec["source"])
sys.path[:0] = spec["backend_path"]
module, _, attribute = spec["backend"].partition(":")
backend = importlib.import_module(module)
for name in filter(None, attribute.split(".")):
    backend = getattr(backend, name)
settings = {"--build-option": spec["options"]} if module.startswith("setuptools") else {}
print("built", backend.build_wheel(spec["out"], settings))
"""


class BuildError(Exception):
    """The build failed; the text holds the compiler's last lines and the log's path."""


class Request(NamedTuple):
    """All that a build needs to know."""

    name: str
    version: str
    kind: str
    url: str
    hashes: Sequence[str]
    commit: str
    python: str
    cuda_home: str
    cudnn_home: str
    archs: Sequence[str]
    device_code: bool
    env: Dict[str, str]
    options: Sequence[str]
    parallel: int
    units: int
    gb_per_job: float
    reserve_gb: float
    jobs: int
    compiler: str
    keep: bool
    client: source.Client


class Context(NamedTuple):
    """What was found out about the host."""

    python: toolchain.Python
    torch: Optional[Dict[str, Any]]
    kit: Optional[toolchain.Cuda]
    parts: key.Parts
    refusal: Optional[str]


Tell = Callable[[Dict[str, Any]], None]


def examine(request: Request) -> Context:
    """The key of the wheel on this host, and whether it could be built here. A refusal is data, not failure."""
    python = toolchain.ask_python(request.python)
    torch = toolchain.torch_of(python.site)
    kit = toolchain.cuda_of(request.cuda_home)
    refusal = toolchain.refusal(
        kit, request.device_code, torch, python, request.compiler, key.architectures(request.archs)
    )
    version = kit.version if kit else ""
    if request.device_code and not (kit and kit.compiler):
        version = ""  # known only where a compiler is: any compiler's wheel serves this host
    elif not request.device_code:
        version = ".".join(version.split(".")[:2])  # headers alone decide by minor version
    parts = key.parts(
        package=request.name,
        version=request.version,
        source=source.identity(request.kind, request.hashes, request.commit),
        python=f"{python.tag}-{python.soabi}",
        torch=torch,
        nvcc=version,
        archs=request.archs if request.device_code else (),
        flags={"env": dict(request.env), "options": list(request.options)},
        system=toolchain.system(),
        glibc=toolchain.glibc(),
        machine=toolchain.machine(),
    )
    return Context(python, torch, kit, parts, refusal)


def backend_of(folder: str) -> Dict[str, Any]:
    """The build backend that pyproject.toml names; setuptools' where it names none."""
    text = ""
    with contextlib.suppress(OSError), open(os.path.join(folder, "pyproject.toml"), encoding="utf-8") as handle:
        text = handle.read()
    section = re.search(r"^\[build-system\]\s*$(.*?)(?=^\[|\Z)", text, re.M | re.S)
    body = section.group(1) if section else ""
    name = re.search(r"""^build-backend\s*=\s*['"]([^'"]+)['"]""", body, re.M)
    path = re.search(r"^backend-path\s*=\s*\[(.*?)\]", body, re.M | re.S)
    entries = re.findall(r"""['"]([^'"]+)['"]""", path.group(1)) if path else []
    return {
        "backend": name.group(1) if name else "setuptools.build_meta:__legacy__",
        "backend_path": [os.path.normpath(os.path.join(folder, entry)) for entry in entries],
    }


_ERROR = re.compile(
    r"(?:^|\s|:)(?:fatal )?(?:internal )?(?:error|Error)\b\s*[:#]|\berror C?\d+|undefined reference"
    r"|^ptxas (?:fatal|error)|^nvcc (?:fatal|error)"
)


def error_lines(text: str, limit: int = 20) -> List[str]:
    """The lines that tell why: the compiler's last errors, otherwise the last lines."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    hits = [
        number
        for number, line in enumerate(lines)
        if _ERROR.search(line) and not line.startswith(("RuntimeError: Error compiling", "subprocess.Called"))
    ]
    real = [number for number in hits if not re.match(r"^\s*(?:\w+\.)*\w*Error\b", lines[number])] or hits
    if not real:
        return lines[-limit:]
    last = real[-1]
    first = max([0, *[n for n in range(last) if lines[n].startswith("FAILED:")][-1:], last - limit + 4])
    return [line[:400] for line in lines[first : last + 4]][-limit:]


class Build:
    """One build folder: source/, cuda/ and venv/ (links, or a stand-in), path/, home/, tmp/, out/, build.log, build.json."""

    def __init__(self, request: Request, context: Context, folder: str, tell: Tell) -> None:
        self.request = request
        self.context = context
        self.folder = folder
        self.tell = tell
        self.log = os.path.join(folder, "build.log")
        self.record_path = os.path.join(folder, "build.json")
        self.source = os.path.join(folder, "source")
        self.started = time.time()
        self.peak = 0
        self.session: Dict[str, Any] = {}
        self.record: Dict[str, Any] = {"sessions": []}
        with contextlib.suppress(OSError, ValueError), open(self.record_path, encoding="utf-8") as handle:
            self.record = json.load(handle)

    # -- steps ---------------------------------------------------------------------------------------------------------

    def run(self) -> Dict[str, Any]:
        """Fetch, compile, collect; returns the cache entry, whose wheel lies in out/."""
        os.makedirs(self.folder, exist_ok=True)
        if self.context.refusal:
            raise BuildError(f"{self.request.name} cannot be built here: {self.context.refusal}.")
        with self.reserved(self.limit()) as chosen:
            self.fetch()
            session = {
                "started": self.started,
                "jobs": [],
                "units_before": self.count().done,
                "reason": chosen.reason,
                "machine": lock.machine(),
                "kills": jobs.kills(),
            }
            self.record["sessions"].append(session)
            self.session = session
            self.compile(chosen.number, session)
        return self.collect(session)

    def limit(self) -> int:
        """At most so many jobs (0: no limit): half as many where the kernel killed the last session, builder and all, for memory."""
        last = (self.record["sessions"] or [{}])[-1]
        if last.get("ended", True) or last.get("machine") != lock.machine() or jobs.kills() <= last.get("kills", 0):
            return self.request.jobs
        halved: int = max(1, last["jobs"][-1] // 2) if last["jobs"] else 1
        return min(halved, self.request.jobs or halved)

    @contextlib.contextmanager
    def reserved(self, limit: int) -> Iterator[jobs.Jobs]:
        """The jobs for this build, with the memory taken off that other builds on this host will still want.

        Waits where they leave less than one job's, and refuses where even without them there is not enough.
        """
        path = os.path.join(self.folder, jobs.RESERVATION)
        claims = os.path.dirname(os.path.abspath(self.folder))
        while True:
            with jobs.guarded(claims):
                others = jobs.claimed(claims, path)
                try:
                    chosen = jobs.decide(self.request.gb_per_job, self.request.reserve_gb, limit, others)
                    jobs.claim(path, int(chosen.number * self.request.gb_per_job * jobs.GIB))
                    break
                except jobs.NotEnoughMemory:
                    if not others:
                        raise
            self.tell({"what": "waiting for the memory that another build on this host uses"})
            time.sleep(_INTERVAL)
        try:
            yield chosen
        finally:
            with contextlib.suppress(OSError):
                os.unlink(path)

    def fetch(self) -> None:
        """The source into source/; nothing is fetched that is there."""
        self.tell({"what": "fetching the source"})
        request = self.request
        if request.kind == "git":
            source.fetch_git(request.url, request.commit, self.source, request.client)
            return
        archive = source.fetch_sdist(
            request.name,
            request.version,
            request.hashes,
            request.url,
            os.path.join(self.folder, "sdist"),
            request.client,
        )
        source.unpack(archive, self.source)

    def count(self) -> ninja.Count:
        """Units done and all."""
        return ninja.count(self.source, self.request.units)

    def compile(self, count: int, session: Dict[str, Any]) -> None:
        """Run the backend; with half the jobs again whenever the kernel killed a compiler for memory."""
        while True:
            session["jobs"].append(count)
            session["ended"] = False
            self.save(session)
            before = jobs.kills()
            status, output = self.attempt(count)
            session["units_after"] = self.count().done
            session["ended"] = True
            self.save(session)
            if status == 0:
                return
            killed = jobs.kills() > before or jobs.looks_killed(output)
            if not killed:
                raise BuildError(self.failure(status, output))
            if count == 1:
                lines = "\n".join("  " + line for line in error_lines(output))
                raise BuildError(
                    f"The kernel killed the compiler of {self.request.name} for memory, with one job at a time. "
                    f"Free memory or raise the "
                    f"limit ({jobs.available_memory()[0] / jobs.GIB:.1f} GB are available), or build on another host "
                    f"(playbooks/wheels.yml). Its last lines:\n{lines}\nWhat is compiled is kept. Log: {self.log}"
                )
            count = max(1, count // 2)
            self.say(f"a compiler was killed for memory: going on with {count} job{'s' if count > 1 else ''}")

    def attempt(self, count: int) -> tuple[int, str]:
        """One run of the backend; its exit status and the end of its output."""
        request, context = self.request, self.context
        python = toolchain.lasting(context.python, self.folder)
        home = None
        if context.kit is not None and context.kit.compiler:
            home = toolchain.fixed(context.kit.home, os.path.join(self.folder, "cuda"))
        elif context.kit is not None:
            home = toolchain.stand_in(context.kit, self.folder)
        cudnn = toolchain.cudnn_home(request.cudnn_home, python.site, home)
        parallel = max(1, min(request.parallel, count))
        environment = toolchain.environment(
            python,
            home,
            cudnn,
            context.parts["architectures"],
            max(1, count // parallel),
            request.compiler,
            self.folder,
            request.env,
        )
        out = os.path.join(self.folder, "out")
        shutil.rmtree(out, ignore_errors=True)
        os.makedirs(out)
        short = key.digest(context.parts)
        options = ["--build-number=" + key.build_tag(short)]
        options += [
            option.replace("{jobs}", str(count)).replace("{parallel}", str(parallel)) for option in request.options
        ]
        specification = dict(backend_of(self.source), source=self.source, out=out, options=options)
        command = [python.path, "-c", _BACKEND, json.dumps(specification)]
        with open(self.log, "ab") as log:
            now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
            self.say(f"{request.name} {request.version}, key {short}, {count} jobs, {now}", log)
            position = log.tell()
            # Standard input is the lock of the folder: a backend that outlives us keeps it, see worker.py.
            process = subprocess.Popen(command, cwd=self.source, env=environment, stdout=log, stderr=subprocess.STDOUT)
            status = self.watch(process, count)
        with open(self.log, "rb") as log:
            log.seek(max(position, os.path.getsize(self.log) - _LOG_TAIL))
            return status, log.read().decode("utf-8", "replace")

    def watch(self, process: subprocess.Popen[bytes], count: int) -> int:
        """Tell how far the build is until it ends."""
        begun, first, saved = time.time(), self.count().done, time.time()
        try:
            while process.poll() is None:
                with contextlib.suppress(OSError):
                    self.peak = max(self.peak, jobs.resident(process.pid))
                units = self.count()
                elapsed = time.time() - begun
                fresh = units.done - first
                left = elapsed / fresh * (units.total - units.done) if fresh > 0 and units.total else None
                self.tell(
                    {
                        "what": "compiling",
                        "done": units.done,
                        "total": units.total,
                        "elapsed": elapsed,
                        "left": left,
                        "jobs": count,
                    }
                )
                if time.time() - saved > _SAVE:
                    saved = time.time()
                    self.session["units_after"] = units.done
                    self.save(self.session)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_INTERVAL)
        except BaseException:
            process.send_signal(signal.SIGTERM)
            raise
        return process.returncode

    def collect(self, session: Dict[str, Any]) -> Dict[str, Any]:
        """Name the wheel after its key, read its architectures, write down how it came to be."""
        out = os.path.join(self.folder, "out")
        wheels = [name for name in sorted(os.listdir(out)) if name.endswith(".whl")]
        if len(wheels) != 1:
            raise BuildError(
                f"The build of {self.request.name} left {len(wheels)} wheels instead of one. Log: {self.log}"
            )
        name = wheels[0]
        short = key.digest(self.context.parts)
        fields = name[: -len(".whl")].split("-")
        if key.normalise(fields[0]) != key.normalise(self.request.name):
            raise BuildError(f"The build made {name}, not {self.request.name}. Log: {self.log}")
        if not _same_release(fields[1], self.request.version):
            raise BuildError(f"The build made {name}, not version {self.request.version}. Log: {self.log}")
        if key.key_in_name(name) is None:
            renamed = "-".join([*fields[:2], key.build_tag(short), *fields[-3:]]) + ".whl"
            os.rename(os.path.join(out, name), os.path.join(out, renamed))
            name = renamed
        wheel = os.path.join(out, name)
        if self.request.kind == "git":
            add_direct_url(wheel, self.request.url, self.request.commit)
        embedded = embedded_architectures(wheel, self.folder)
        missing = [arch for arch in self.context.parts["architectures"] if arch not in embedded["sass"]]
        if missing:
            found = ", ".join(embedded["sass"]) or "none"
            raise BuildError(
                f"{name} holds no machine code for {', '.join('sm_' + arch for arch in missing)} (found: {found}): "
                f"the package's build did not "
                f"follow the architectures, or nvcc {self.context.parts['nvcc']} does not know them. Log: {self.log}"
            )
        units = self.count()
        session["units_after"] = units.done
        session["ended"] = True
        self.save(session)
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        sessions = self.record["sessions"]
        return {
            "schema": key.SCHEMA,
            "key": short,
            "parts": self.context.parts,
            "wheel": name,
            "version": fields[1],
            "sha256": source.sha256_of(wheel),
            "size": os.path.getsize(wheel),
            "architectures": embedded,
            "built": {
                "host": socket.gethostname(),
                "finished": time.time(),
                "seconds": round(sum(part.get("seconds", 0) for part in sessions), 1),
                "sessions": sessions,
                "units": units.total,
                "peak_mb": round(max(part.get("peak_mb", 0) for part in sessions)),
                "peak_process_mb": usage.ru_maxrss // 1024,
                "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
                "compiler": toolchain.compiler_version(toolchain.host_compiler(self.request.compiler)),
                "python": self.context.python.version,
                "log": self.log,
            },
        }

    # -- words ---------------------------------------------------------------------------------------------------------

    def save(self, session: Dict[str, Any]) -> None:
        """What happened so far, for the next session and for the entry."""
        session["seconds"] = round(time.time() - self.started, 1)
        session["peak_mb"] = round(self.peak / 1024 / 1024)
        cache.write_json(self.record_path, self.record)

    def say(self, text: str, log: Optional[IO[bytes]] = None) -> None:
        """A line into the log, and to whoever watches."""
        line = f"== {text}\n".encode()
        if log is not None:
            log.write(line)
            log.flush()
            return
        with open(self.log, "ab") as handle:
            handle.write(line)
        self.tell({"note": text})

    def failure(self, status: int, output: str) -> str:
        """The failure in words, with the compiler's last lines."""
        lines = "\n".join("  " + line for line in error_lines(output))
        how = f"was ended by signal {-status}" if status < 0 else f"failed with status {status}"
        units = self.count()
        return (
            f"The build of {self.request.name} {self.request.version} {how} after {units.done} of {units.total} units. "
            f"The compiler's last lines:\n{lines}\n"
            f"What is compiled is kept: the next run goes on from there. Log: {self.log}"
        )

    def clean(self) -> None:
        """Once the wheel is in the cache, only the log and the record stay."""
        for name in ("source", "sdist", "out", "tmp", "home", "cuda", "venv", "path"):
            toolchain.remove(os.path.join(self.folder, name))


def _same_release(built: str, wanted: str) -> bool:
    return built.partition("+")[0].replace("_", "-").lower() == wanted.partition("+")[0].replace("_", "-").lower()


def add_direct_url(wheel: str, url: str, commit: str) -> None:
    """Write into a wheel from which commit it was made: Apex, for one, calls every version 0.1."""
    content = json.dumps(
        {"url": index.without_password(url), "vcs_info": {"vcs": "git", "commit_id": commit}}, sort_keys=True
    ).encode()
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    temporary = wheel + ".new"
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as new:
        record = next(name for name in old.namelist() if re.fullmatch(r"[^/]+\.dist-info/RECORD", name))
        name = os.path.dirname(record) + "/direct_url.json"
        for info in old.infolist():
            if info.filename == name:
                continue
            if info.filename == record:
                new.writestr(name, content)
                lines = [line for line in old.read(info).decode().splitlines() if not line.startswith(name + ",")]
                lines.insert(len(lines) - 1, f"{name},sha256={digest},{len(content)}")
                new.writestr(copy.copy(info), "\n".join(lines) + "\n")
                continue
            with old.open(info) as reader, new.open(copy.copy(info), "w", force_zip64=True) as writer:
                shutil.copyfileobj(reader, writer, 1 << 20)
    os.replace(temporary, wheel)


def embedded_architectures(wheel: str, folder: str) -> Dict[str, List[str]]:
    """The GPU architectures in the extensions of a wheel."""
    parts = []
    with zipfile.ZipFile(wheel) as opened, tempfile.TemporaryDirectory(dir=folder) as work:
        for info in opened.infolist():
            if not re.search(r"\.so(?:\.\d+)*$", info.filename):
                continue
            path = os.path.join(work, "extension.so")
            with opened.open(info) as reader, open(path, "wb") as handle:
                shutil.copyfileobj(reader, handle, 1 << 20)
            with contextlib.suppress(elf.ElfError):
                parts.append(fatbin.read(path))
    return fatbin.as_dict(fatbin.merged(parts))
