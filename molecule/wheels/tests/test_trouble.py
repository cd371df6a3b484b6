# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Kills, want of memory, damage and company: each with a key of its own, in plays that the tests start."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

testinfra_hosts = ["ansible://vb-wheels-builder"]
EPHEMERAL = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])
PLAYBOOK = Path(__file__).resolve().parents[1] / "converge.yml"
HOST = "vb-wheels-builder"


def start(env, controller="trouble", **variables):
    values = {"wheel_hosts": HOST, "wheel_env": env, "wheel_cache_controller": str(EPHEMERAL / controller), **variables}
    command = ["ansible-playbook", "-i", os.environ["MOLECULE_INVENTORY_FILE"], str(PLAYBOOK), "-e", json.dumps(values)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)


def finish(process):
    output = process.communicate(timeout=900)[0].decode()
    return process.returncode, re.sub(r"\x1b\[[0-9;]*m", "", output)


def docker(*words):
    return subprocess.run(["docker", *words], stdout=subprocess.PIPE, check=True).stdout.decode()


def play(env, **more):
    return finish(start(env, **more))


def made(host, env):
    """The entries of the host's cache whose key has these variables."""
    listed = host.run("cat /opt/verl/wheels/index.json").stdout
    found = [e for e in json.loads(listed or '{"entries": []}')["entries"] if e["parts"]["flags"]["env"] == env]
    return found


def objects(host, folder):
    """Finished objects of a build folder with the time they were written."""
    out = host.run(f"cd {folder}/source/build/temp* && for o in $(cut -f4 .ninja_log | grep '[.]o$'); do stat -c '%n %y' $o; done").stdout
    return dict(line.split(" ", 1) for line in out.splitlines())


def wait_for(what, seconds=240):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = what()
        if value:
            return value
        time.sleep(0.5)
    raise AssertionError("waited in vain")


def test_a_build_that_was_killed_goes_on_where_it_was(host):
    env = {"VERL_TEST_SLOW": "1"}
    known = set(host.run("ls /opt/verl/build").stdout.split())
    running = start(env, wheel_keep=True, wheel_jobs=1)

    def fresh():
        new = set(host.run("ls /opt/verl/build").stdout.split()) - known
        return f"/opt/verl/build/{new.pop()}" if new else None

    folder = wait_for(fresh)
    wait_for(lambda: len(objects(host, folder)) >= 2)
    # First the run on the controller, then, as a power cut would, the builder with all its compilers.
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    worker = json.loads(host.file(f"{folder}/worker.json").content_string)
    killed = host.run(f"pkill -KILL -s $(ps -o sid= -p {worker['pid']})")
    assert killed.rc == 0, killed.stderr
    before = objects(host, folder)
    assert 2 <= len(before) < 5

    status, output = play(env, wheel_keep=True, wheel_jobs=1)
    assert status == 0, output
    after = objects(host, folder)
    assert len(after) == 5
    assert {name: after[name] for name in before} == before, "an object that was finished was compiled again"
    entry = made(host, env)[0]
    sessions = entry["built"]["sessions"]
    assert [s["units_before"] for s in sessions] == [0, len(before)]


def test_want_of_memory_halves_the_jobs(host):
    env = {"VERL_TEST_ALLOCATE_MB": "900"}  # of the 1500 MB that the container has
    status, output = play(env)
    assert status == 0, output
    jobs = made(host, env)[0]["built"]["sessions"][0]["jobs"]
    assert jobs[0] >= 2 and jobs[-1] == 1
    assert all(after == before // 2 for before, after in zip(jobs, jobs[1:]))


def test_less_memory_than_one_job_needs_is_refused_in_words(host):
    status, output = play({"VERL_TEST_NUMBER": "1"}, wheel_gb_per_job=50)
    words = " ".join(output.split())
    assert status != 0
    assert "One compile job needs 50 GB" in words and "the control group's limit" in words


def test_a_failure_shows_the_compilers_error_and_the_log(host):
    status, output = play({"VERL_TEST_BREAK": "1"})
    words = " ".join(output.split())
    assert status != 0
    assert "this unit is broken on purpose" in words
    log = re.search(r"/opt/verl/build/[\w.-]+/build\.log", words)
    assert log, words
    assert host.file(log.group()).exists


def test_a_tampered_wheel_is_refused_and_built_anew(host):
    content = "tampered"
    env = {"VERL_TEST_NUMBER": "2"}
    assert play(env)[0] == 0
    entry = made(host, env)[0]
    path = f"/opt/verl/wheels/{entry['wheel']}"
    for cached in (EPHEMERAL / "trouble").glob(f"*{entry['key']}*.whl"):
        cached.write_text(content)
    assert host.run(f"echo {content} >> {path}").rc == 0
    status, output = play(env)
    assert status == 0, output
    assert "put aside" in " ".join(output.split())
    again = made(host, env)[0]
    assert again["built"]["finished"] > entry["built"]["finished"]
    assert host.run(f"sha256sum {path}").stdout.split()[0] == again["sha256"]
    assert host.file(path + ".damaged").exists


def test_two_builders_of_one_key_do_not_collide(host):
    env = {"VERL_TEST_NUMBER": "3"}
    # Two controllers that know nothing of each other meet on the host.
    both = [start(env, controller=name) for name in ("one", "other")]
    ends = [finish(process) for process in both]
    assert [status for status, _output in ends] == [0, 0], ends
    entry = made(host, env)[0]
    assert len(entry["built"]["sessions"]) == 1, "the second one compiled, too"
    hashes = set()
    for name in ("one", "other"):
        index = json.loads((EPHEMERAL / name / "index.json").read_text())
        hashes.update(e["sha256"] for e in index["entries"])
    assert hashes == {entry["sha256"]}


def test_a_build_in_the_background_needs_no_network_and_is_collected_later(host):
    env = {"VERL_TEST_NUMBER": "4", "VERL_TEST_SLOW": "3"}
    networks = docker("inspect", "-f", "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}", HOST).split()
    for network in networks:
        docker("network", "disconnect", network, HOST)
    try:
        assert host.run("ls /sys/class/net").stdout.split() == ["lo"]
        status, output = play(env, wheel_background=True)
        assert status == 0, output
        assert made(host, env) == [], "the task has waited for the end"
        status, output = play(env)
        assert status == 0, output
    finally:
        for network in networks:
            docker("network", "connect", network, HOST)
    assert len(made(host, env)[0]["built"]["sessions"]) == 1


def test_the_foreign_nvcc_was_never_called(host):
    assert not host.file("/tmp/foreign-nvcc-was-called").exists
