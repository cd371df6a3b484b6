# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Real builds of a tiny package whose own build backend stands for a compiler (a fixture), and the words around them."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils import lock
from ansible_collections.verl.baremetal.plugins.module_utils.wheels import builder, cache, jobs, key, source, toolchain, worker

# The fixture compiles three "units" by touching objects and logging them as ninja does. What it is to do wrong is in its environment.
BACKEND = '''
import os, signal, sys, zipfile

HERE = os.getcwd()
TEMP = os.path.join(HERE, "build", "temp")

def build_wheel(out, settings=None, metadata=None):
    os.makedirs(TEMP, exist_ok=True)
    objects = [os.path.join(TEMP, name + ".o") for name in "abc"]
    with open(os.path.join(TEMP, "build.ninja"), "w") as handle:
        handle.writelines("build %s: compile x.cpp\\n" % name for name in objects)
    log = os.path.join(TEMP, ".ninja_log")
    done = open(log).read() if os.path.exists(log) else ""
    for name in objects:
        if name in done:
            continue
        if os.environ.get("FAIL") == "error" and name.endswith("b.o"):
            print("FAILED: b.o")
            print("x.cpp:7:3: error: 'missing' was not declared in this scope")
            sys.exit(1)
        if os.environ.get("FAIL") == "memory" and name.endswith("b.o") and os.environ["MAX_JOBS"] != "1":
            print("c++: fatal error: Killed signal terminated program cc1plus")
            sys.exit(1)
        if os.environ.get("FAIL") == "always" and name.endswith("b.o"):
            print("Killed")
            sys.exit(1)
        if os.environ.get("FAIL") == "die" and name.endswith("b.o"):
            os.kill(os.getpid(), signal.SIGKILL)
        open(name, "w").write(os.environ["MAX_JOBS"])
        with open(log, "a") as handle:
            handle.write("1\\t2\\t3\\t%s\\tff\\n" % name)
    name = "demo-%s-py3-none-any.whl" % os.environ.get("MADE", "1.0")
    with zipfile.ZipFile(os.path.join(out, name), "w") as wheel:
        wheel.writestr("demo.py", "")
        wheel.writestr("demo-1.0.dist-info/METADATA", "Name: demo\\n")
        wheel.writestr("demo-1.0.dist-info/RECORD", "demo.py,,\\ndemo-1.0.dist-info/RECORD,,\\n")
    return name
'''
PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A request and a context that need nothing of this machine but its Python."""
    monkeypatch.setattr(jobs, "available_memory", lambda root="/": (64 * jobs.GIB, "a fixture"))
    monkeypatch.setattr(jobs, "usable_cores", lambda root="/": 4)
    monkeypatch.setattr(jobs, "kills", lambda root="/": 0)
    archive = tmp_path / "demo-1.0.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, text in (("pyproject.toml", PYPROJECT), ("backend.py", BACKEND)):
            info = tarfile.TarInfo("demo-1.0/" + name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    python = toolchain.ask_python(sys.executable)

    def made(refusal=None, **changes):
        values = dict(
            name="demo",
            version="1.0",
            kind="sdist",
            url=str(archive),
            hashes=[source.sha256_of(str(archive))],
            commit="",
            python=sys.executable,
            cuda_home="",
            cudnn_home="",
            archs=[],
            device_code=False,
            env={},
            options=[],
            parallel=1,
            units=3,
            gb_per_job=1.0,
            reserve_gb=1.0,
            jobs=0,
            compiler="",
            keep=False,
            client=source.Client(),
        )
        values.update(changes)
        request = builder.Request(**values)
        parts = key.parts("demo", "1.0", {"kind": "sdist"}, "cp3", None, "", [], {}, "debian-12", "2.36", "x86_64")
        return request, builder.Context(python, None, None, parts, refusal)

    return made


def build(make, folder, **changes):
    said = []
    request, context = make(**changes)
    return builder.Build(request, context, str(folder), said.append), said


def stamps(folder):
    temp = folder / "source/build/temp"
    return {path.name: (path.stat().st_mtime_ns, path.read_text()) for path in temp.glob("*.o")}


def test_a_wheel_is_built_and_named_after_its_key(make, tmp_path):
    run, said = build(make, tmp_path / "b")
    entry = run.run()
    short = key.digest(run.context.parts)
    assert entry["wheel"] == f"demo-1.0-0k{short}-py3-none-any.whl"
    path = tmp_path / "b/out" / entry["wheel"]
    assert entry["sha256"] == source.sha256_of(str(path)) and cache.usable(entry)
    assert entry["built"]["units"] == 3 and entry["built"]["sessions"][0]["jobs"] == [4]
    assert entry["built"]["log"] == str(tmp_path / "b/build.log")
    assert {"what": "fetching the source"} in said


def test_an_interrupted_build_goes_on_where_it_was(make, tmp_path):
    first, _said = build(make, tmp_path / "b", env={"FAIL": "error"})
    with pytest.raises(builder.BuildError):
        first.run()
    before = stamps(tmp_path / "b")
    assert sorted(before) == ["a.o"]
    second, _said = build(make, tmp_path / "b")
    entry = second.run()
    after = stamps(tmp_path / "b")
    assert after["a.o"] == before["a.o"] and sorted(after) == ["a.o", "b.o", "c.o"]
    assert [(s["units_before"], s["units_after"]) for s in entry["built"]["sessions"]] == [(0, 1), (1, 3)]


def test_a_failure_shows_the_compilers_lines_and_the_log(make, tmp_path):
    run, _said = build(make, tmp_path / "b", env={"FAIL": "error"})
    with pytest.raises(builder.BuildError) as failed:
        run.run()
    text = str(failed.value)
    assert "x.cpp:7:3: error: 'missing' was not declared" in text
    assert "after 1 of 3 units" in text and str(tmp_path / "b/build.log") in text


def test_a_kill_for_memory_halves_the_jobs_and_keeps_what_is_done(make, tmp_path):
    run, said = build(make, tmp_path / "b", env={"FAIL": "memory"})
    entry = run.run()
    assert entry["built"]["sessions"][0]["jobs"] == [4, 2, 1]
    assert stamps(tmp_path / "b")["a.o"][1] == "4", "the first unit was made with four jobs and was not made again"
    assert stamps(tmp_path / "b")["b.o"][1] == "1"
    assert {"note": "a compiler was killed for memory: going on with 2 jobs"} in said


def test_one_job_that_is_killed_for_memory_is_the_end_in_words(make, tmp_path):
    run, _said = build(make, tmp_path / "b", env={"FAIL": "always"})
    with pytest.raises(builder.BuildError, match="with one job at a time"):
        run.run()


def test_a_backend_that_was_killed_while_the_kernel_ran_out_of_memory_goes_on(make, tmp_path, monkeypatch):
    counts = iter(range(100))
    monkeypatch.setattr(jobs, "kills", lambda root="/": next(counts))
    run, _said = build(make, tmp_path / "b", env={"FAIL": "die"}, jobs=2)
    with pytest.raises(builder.BuildError, match="with one job at a time"):
        run.run()
    assert run.record["sessions"][0]["jobs"] == [2, 1]


def test_a_builder_that_was_killed_for_memory_goes_on_with_half_the_jobs(make, tmp_path, monkeypatch):
    first, _said = build(make, tmp_path / "b", env={"FAIL": "error"})
    with pytest.raises(builder.BuildError):
        first.run()
    noted = json.loads((tmp_path / "b/build.json").read_text())
    noted["sessions"][-1].update(ended=False)  # as a control group leaves it that is killed as a whole
    (tmp_path / "b/build.json").write_text(json.dumps(noted))
    assert build(make, tmp_path / "b")[0].limit() == 0, "killed, but not by the kernel"
    monkeypatch.setattr(jobs, "kills", lambda root="/": 1)
    entry = build(make, tmp_path / "b")[0].run()
    assert [session["jobs"] for session in entry["built"]["sessions"]] == [[4], [2]]


@pytest.fixture
def neighbour(tmp_path):
    """A build beside ours, which has claimed memory that it does not use yet (a fixture: a process that sleeps)."""
    process = subprocess.Popen(["sleep", "60"])
    (tmp_path / "builds/neighbour").mkdir(parents=True)

    def claims(gb):
        noted = dict(lock.owner_of(process.pid), bytes=gb * jobs.GIB)
        (tmp_path / "builds/neighbour" / jobs.RESERVATION).write_text(json.dumps(noted))
        return process

    yield claims
    process.kill()
    process.wait()


def test_builds_beside_each_other_share_the_memory(make, tmp_path, neighbour):
    run, _said = build(make, tmp_path / "builds/own", gb_per_job=10.0)
    (tmp_path / "builds/own").mkdir()
    process = neighbour(40)
    with run.reserved(0) as chosen:
        assert chosen.number == 2 and "kept for other builds" in chosen.reason
        assert (tmp_path / "builds/own" / jobs.RESERVATION).exists()
    assert not (tmp_path / "builds/own" / jobs.RESERVATION).exists()
    process.kill()
    process.wait()
    with run.reserved(0) as chosen:
        assert chosen.number == 4, "the dead claim nothing"


def test_a_build_waits_for_the_memory_of_another(make, tmp_path, neighbour, monkeypatch):
    run, said = build(make, tmp_path / "builds/own", gb_per_job=10.0)
    process = neighbour(60)

    def end(_seconds):
        process.kill()
        process.wait()

    monkeypatch.setattr(builder.time, "sleep", end)
    assert run.run()["built"]["units"] == 3
    assert {"what": "waiting for the memory that another build on this host uses"} in said


def test_too_little_memory_is_refused_before_anything_is_fetched(make, tmp_path):
    run, _said = build(make, tmp_path / "b", gb_per_job=100.0)
    with pytest.raises(jobs.NotEnoughMemory):
        run.run()
    assert not (tmp_path / "b/sdist").exists()


def test_a_host_that_cannot_build_says_why(make, tmp_path):
    run, _said = build(make, tmp_path / "b", refusal="there is no C++ compiler (g++); install g++")
    with pytest.raises(builder.BuildError, match="there is no C"):
        run.run()


def test_a_wheel_of_another_version_is_refused(make, tmp_path):
    run, _said = build(make, tmp_path / "b", env={"MADE": "2.0"})
    with pytest.raises(builder.BuildError, match=r"not version 1\.0"):
        run.run()


def test_a_local_version_is_the_same_version(make, tmp_path):
    run, _said = build(make, tmp_path / "b", env={"MADE": "1.0+cu128"})
    assert run.run()["version"] == "1.0+cu128"


def test_a_wheel_without_the_asked_architectures_is_refused(make, tmp_path):
    run, _said = build(make, tmp_path / "b")
    run.context = run.context._replace(parts=dict(run.context.parts, architectures=["90"]))
    with pytest.raises(builder.BuildError, match="no machine code for sm_90"):
        run.run()


def test_a_wheel_of_a_commit_says_which(tmp_path):
    wheel = tmp_path / "apex-0.1-0k-cp312-cp312-linux_x86_64.whl"
    with zipfile.ZipFile(wheel, "w") as made:
        made.writestr("apex/__init__.py", "x = 1\n")
        made.writestr("apex-0.1.dist-info/METADATA", "Name: apex\n")
        made.writestr("apex-0.1.dist-info/RECORD", "apex/__init__.py,sha256=x,6\napex-0.1.dist-info/RECORD,,\n")
    builder.add_direct_url(str(wheel), "https://user:secret@host.example/apex", "d8" * 20)
    builder.add_direct_url(str(wheel), "https://user:secret@host.example/apex", "d8" * 20)
    with zipfile.ZipFile(wheel) as made:
        assert made.testzip() is None
        told = json.loads(made.read("apex-0.1.dist-info/direct_url.json"))
        record = made.read("apex-0.1.dist-info/RECORD").decode().splitlines()
        assert made.read("apex/__init__.py") == b"x = 1\n"
    assert told == {"url": "https://host.example/apex", "vcs_info": {"vcs": "git", "commit_id": "d8" * 20}}
    assert len([line for line in record if "direct_url.json,sha256=" in line]) == 1 and record[-1].endswith("RECORD,,")


def test_a_commit_is_built_and_its_wheel_says_so(make, tmp_path):
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "pyproject.toml").write_text(PYPROJECT)
    (repository / "backend.py").write_text(BACKEND)
    environment = dict(os.environ, GIT_CONFIG_GLOBAL="/dev/null", GIT_CONFIG_SYSTEM="/dev/null")

    def git(*arguments):
        command = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *arguments]
        return subprocess.run(command, cwd=repository, env=environment, capture_output=True, check=True).stdout.decode().strip()

    git("init", "-q", "-b", "main")
    git("add", ".")
    git("commit", "-qm", "first")
    commit = git("rev-parse", "HEAD")
    (repository / "backend.py").write_text("raise SystemExit('a later commit')")
    git("commit", "-qam", "second")

    run, _said = build(make, tmp_path / "b", kind="git", url=str(repository), commit=commit, hashes=[])
    entry = run.run()
    with zipfile.ZipFile(tmp_path / "b/out" / entry["wheel"]) as made:
        told = json.loads(made.read("demo-1.0.dist-info/direct_url.json"))
    assert told["vcs_info"] == {"vcs": "git", "commit_id": commit}
    assert entry["sha256"] == source.sha256_of(str(tmp_path / "b/out" / entry["wheel"]))


@pytest.mark.parametrize(
    ("text", "backend", "path"),
    [
        (None, "setuptools.build_meta:__legacy__", []),
        ("[tool.ruff]\nline-length = 1\n", "setuptools.build_meta:__legacy__", []),
        ('[build-system]\nrequires = ["x"]\nbuild-backend = "setuptools.build_meta"\n', "setuptools.build_meta", []),
        ('[build-system]\nbuild-backend = \'own\'\nbackend-path = [\n "tools", ".",\n]\n[tool.x]\nbuild-backend = "no"\n', "own", ["tools", "."]),
    ],
)
def test_the_build_backend_is_read_without_a_parser(tmp_path, text, backend, path):
    if text is not None:
        (tmp_path / "pyproject.toml").write_text(text)
    found = builder.backend_of(str(tmp_path))
    assert found["backend"] == backend
    assert found["backend_path"] == [os.path.normpath(str(tmp_path / entry)) for entry in path]


LONG = "\n".join(f"[{n}/73] c++ unit {n}" for n in range(60))


@pytest.mark.parametrize(
    ("text", "shown", "hidden"),
    [
        (LONG + "\nFAILED: a.o\nc++ -c a.cpp\na.cpp:1:1: error: no such thing\nninja: build stopped\nRuntimeError: Error compiling objects", "a.cpp:1:1: error", "unit 3"),
        (LONG + "\nptxas fatal   : Unresolved extern function 'x'\nninja: build stopped", "ptxas fatal", "unit 3"),
        (LONG + "\nnvcc fatal   : Unsupported gpu architecture 'compute_120'\n", "compute_120", "unit 3"),
        (LONG + "\nModuleNotFoundError: No module named 'packaging'", "No module named 'packaging'", "unit 3"),
        (LONG, "unit 59", "unit 3"),
    ],
    ids=["compiler", "ptxas", "nvcc", "python", "nothing"],
)
def test_the_last_errors_are_shown(text, shown, hidden):
    lines = builder.error_lines(text)
    assert any(shown in line for line in lines)
    assert not any(line.endswith(hidden) for line in lines)
    assert len(lines) <= 20


def wait_for_end(folder, seconds=60.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = worker.wait(str(folder), 0.2)
        if answer["ended"] and answer["result"] is not None:
            return answer["result"]
    raise AssertionError("the builder did not end")


def test_a_detached_builder_puts_the_wheel_into_the_cache_and_cleans_up(make, tmp_path):
    request, context = make()
    folder = tmp_path / "b"
    assert worker.start(request, context, str(folder), str(tmp_path / "cache")) is True
    result = wait_for_end(folder)
    assert result["ok"], result
    assert cache.lookup(str(tmp_path / "cache"), context.parts)[0].path == result["wheel"]
    assert not (folder / "source").exists() and (folder / "build.log").exists()


def test_compilers_that_outlived_their_builder_are_ended(make, tmp_path):
    request, context = make()
    orphan = subprocess.Popen(["sleep", "60"], env={"TMPDIR": str(tmp_path / "b/tmp")})
    stranger = subprocess.Popen(["sleep", "60"], env={"TMPDIR": str(tmp_path / "b/tmp2")})
    try:
        worker.start(request, context, str(tmp_path / "b"), str(tmp_path / "cache"))
        assert orphan.wait(30) == -signal.SIGKILL
        assert wait_for_end(tmp_path / "b")["ok"] and stranger.poll() is None
    finally:
        for process in (orphan, stranger):
            process.kill()
            process.wait()


def test_a_detached_builder_tells_its_failure(make, tmp_path):
    request, context = make(env={"FAIL": "error"})
    worker.start(request, context, str(tmp_path / "b"), str(tmp_path / "cache"))
    result = wait_for_end(tmp_path / "b")
    assert result["ok"] is False and "'missing' was not declared" in result["message"]


def test_nobody_starts_where_somebody_works(make, tmp_path):
    folder = tmp_path / "b"
    folder.mkdir()
    descriptor = worker._try_lock(str(folder))
    request, context = make()
    assert worker.start(request, context, str(folder), str(tmp_path / "cache")) is False
    assert worker.wait(str(folder), 0)["ended"] is False
    os.close(descriptor)
    assert worker.wait(str(folder), 0) == {"ended": True, "result": None, "status": {}}


def test_a_wheel_that_is_in_the_cache_is_not_built_again(make, tmp_path):
    request, context = make()
    for name in ("b", "c"):
        worker.start(request, context, str(tmp_path / name), str(tmp_path / "cache"))
        assert wait_for_end(tmp_path / name)["ok"]
    assert not (tmp_path / "c/build.log").exists()


@pytest.mark.parametrize(
    ("status", "line"),
    [
        ({}, "starting"),
        ({"what": "fetching the source"}, "fetching the source"),
        (
            {"what": "compiling", "done": 12, "total": 73, "jobs": 2, "elapsed": 185.0, "left": 840.0},
            "compiling: 12 of 73 units, 2 at a time, 3 min 05 s, about 14 min 00 s left",
        ),
        ({"what": "compiling", "done": 0, "total": 0, "elapsed": 1.0, "note": "going on with 1 job"}, "compiling, 1 s (going on with 1 job)"),
    ],
)
def test_progress_is_one_line(status, line):
    assert worker.describe(status) == line
