# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The module gpu_smoke around the program."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils import gpu_smoke as program
from ansible_collections.verl.baremetal.plugins.modules import gpu_smoke

PARAMS = {
    "release": None,
    "python": None,
    "root": None,
    "gpu": "auto",
    "checks": [],
    "required": [],
    "timeout": 60,
    "timeouts": {},
    "min_free_memory": 0.5,
    "seed": 7,
    "cuda_home": None,
    "environment": {},
    "policy": "fail",
}


def params(**changes):
    return {**PARAMS, **changes}


@pytest.mark.parametrize(
    ("changes", "has", "has_not"),
    [
        ({}, ["--device auto", "--require-gpu", "--seed 7", "--min-free 0.5"], ["--checks", "--require ", "--timeout"]),
        ({"gpu": "required"}, ["--device auto", "--require-gpu", "--require torch"], ["--checks"]),
        ({"gpu": "required", "checks": ["nccl"]}, ["--require torch", "--checks nccl,torch"], []),
        ({"gpu": "cpu"}, ["--device cpu"], ["--require-gpu"]),
        ({"checks": ["conv", "nccl"]}, ["--checks conv,nccl"], []),
        ({"required": ["nccl"]}, ["--require nccl"], []),
        ({"timeouts": {"nccl": 30, "conv": "5"}}, ["--timeout conv=5 --timeout nccl=30"], []),
    ],
)
def test_options_become_a_command_line_that_the_program_takes(changes, has, has_not):
    words = gpu_smoke.arguments(params(**changes))
    line = " ".join(words) + " "
    for part in has:
        assert part in line
    for part in has_not:
        assert part not in line
    assert program.parser().parse_args(words).json


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"checks": ["conv", "bogus"]}, "unknown check bogus in checks"),
        ({"required": ["bogus"]}, "unknown check bogus in required"),
        ({"timeouts": {"nccl": "soon"}}, "timeouts: "),
        ({"timeouts": {"bogus": 3}}, "timeouts: "),
        ({"min_free_memory": 1.5}, "min_free_memory has to be from 0 to 1"),
    ],
)
def test_wrong_options_are_said(changes, words):
    problem = gpu_smoke.problem_with(params(**changes))
    assert problem.startswith(words) if words else problem == ""


@pytest.mark.parametrize(
    ("changes", "uid", "python"),
    [
        ({}, 0, "/opt/verl/current/venv/bin/python"),
        ({}, 1000, "/home/user/verl/current/venv/bin/python"),
        ({"root": "/srv/verl"}, 0, "/srv/verl/current/venv/bin/python"),
        ({"release": "/opt/verl/releases/x"}, 0, "/opt/verl/releases/x/venv/bin/python"),
        ({"python": "/usr/bin/python3"}, 0, "/usr/bin/python3"),
    ],
)
def test_the_live_release_is_tested_unless_another_is_named(changes, uid, python):
    assert gpu_smoke.interpreter(params(**changes), uid, "/home/user") == python


def test_the_environment_puts_the_venv_and_the_toolkit_first(tmp_path):
    python = str(tmp_path / "venv" / "bin" / "python")
    base = {"PATH": "/usr/bin", "PYTHONPATH": "/somewhere", "LANG": "C"}
    plain = gpu_smoke.environment(base, params(), python)
    assert plain == {"PATH": f"{tmp_path}/venv/bin:/usr/bin", "LANG": "C"}
    (tmp_path / "cuda" / "bin").mkdir(parents=True)
    own = gpu_smoke.environment(base, params(), python)
    assert own["CUDA_HOME"] == f"{tmp_path}/cuda"
    assert own["PATH"] == f"{tmp_path}/venv/bin:{tmp_path}/cuda/bin:/usr/bin"
    named = gpu_smoke.environment(
        base, params(cuda_home="/usr/local/cuda", environment={"NCCL_NVLS_ENABLE": 0}), python
    )
    assert named["CUDA_HOME"] == "/usr/local/cuda"
    assert named["NCCL_NVLS_ENABLE"] == "0"


def test_the_programs_text_travels():
    text = gpu_smoke.program_source()
    assert text.startswith("# Copyright")
    compile(text, "gpu_smoke.py", "exec")


def test_a_report_is_read():
    report = {"checks": [], "summary": {}, "passed": True, "seconds": 1.0}
    assert gpu_smoke.read_report(0, json.dumps(report), "", 60) == report


@pytest.mark.parametrize(
    ("code", "out", "err", "words"),
    [
        (None, "", "torch ...\nnccl ...\n", "killed after 60 s, while it ran nccl ..."),
        (1, "", "Traceback\nImportError: no", "the program ended with 1 and gave no report: ImportError: no"),
        (0, "[]", "", "the program ended with 0 and gave no report"),
        (-11, "", "", "the program was ended by SIGSEGV and gave no report"),
    ],
)
def test_no_report_is_a_failure_with_a_reason(code, out, err, words):
    report = gpu_smoke.read_report(code, out, err, 60)
    assert not report["passed"]
    assert words in report["checks"][0]["found"]
    assert words in gpu_smoke.failure_message(report)
    assert report["checks"][0]["remedy"]


def test_a_program_is_run():
    code, out, err = gpu_smoke.run_program(
        [sys.executable, "-c", "import sys; print('yes'); sys.stderr.write('no'); sys.exit(4)"], os.environ, 60
    )
    assert (code, out, err) == (4, "yes\n", "no")


def is_alive(stat):
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_program_is_killed_at_its_limit_with_its_children(tmp_path):
    pid_file = tmp_path / "pid"
    code = (
        "import subprocess, sys, time; "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
        f"open({str(pid_file)!r}, 'w').write(str(child.pid)); time.sleep(600)"
    )
    status, _out, _err = gpu_smoke.run_program([sys.executable, "-c", code], os.environ, 3)
    assert status is None
    stat = Path("/proc", pid_file.read_text(), "stat")
    end = time.monotonic() + 10  # a killed process is there until the kernel has taken its memory back
    while is_alive(stat) and time.monotonic() < end:
        time.sleep(0.02)
    assert not is_alive(stat)


def test_nothing_to_run_passes_in_words():
    report = gpu_smoke.nothing_to_run("there is no GPU")
    assert report["passed"]
    assert "skipped" in program.render(report)
    assert "there is no GPU" in program.render(report)
