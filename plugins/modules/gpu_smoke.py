#!/usr/bin/python
# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_smoke
short_description: Compute small things with every package of a stack and compare them with references
description:
  - Runs the GPU smoke test with the Python of a release, in a process of its own with a time limit.
  - Each check has its own result, figure, reason and time limit. A check whose package is absent is skipped in words.
    A crash or a hang of one check costs that check only.
  - Inputs are random with a seed, memory for results is filled with NaN first, and a result that holds a NaN never
    passes.
  - Never changes a setting of a GPU, nor anything on the host.
author: the verl.baremetal authors (@verl-baremetal)
version_added: 0.1.0
options:
  release:
    description:
      - Folder of a release, the one with C(venv/) in it. Without it and O(python), the live release below O(root).
    type: path
  python:
    description: Python interpreter of the environment to test, in place of a release's.
    type: path
  root:
    description:
      - Folder of the installation, in which C(current) is the live release.
      - Without it, V(/opt/verl) for root and V(~/verl) for anyone else.
    type: path
  gpu:
    description:
      - V(auto) runs the test where a GPU with a loaded driver is found and says in words why not elsewhere. Where one
        is found, a torch that cannot use it fails the test.
      - V(required) fails without a GPU that torch can use, and without torch.
      - V(cpu) leaves the GPUs alone and computes on the CPU what can be computed there.
    type: str
    choices: [auto, required, cpu]
    default: auto
  checks:
    description:
      - Names of the checks to run, of V(torch), V(gpus), V(matmul), V(conv), V(sdpa), V(flash_attention),
        V(transformer_engine), V(flashinfer), V(sgl_kernel), V(megatron), V(apex), V(nccl).
      - An empty list runs all of them.
    type: list
    elements: str
    default: []
  required:
    description: Checks that may not be skipped. One that is skipped counts as missing and fails the test.
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds that the whole test may take before it is killed.
    type: int
    default: 1800
  timeouts:
    description: Seconds that single checks may take, by their names, where the built-in limits do not fit.
    type: dict
    default: {}
  min_free_memory:
    description: Part of each GPU's memory that has to be free, from 0 to 1. Less is a warning.
    type: float
    default: 0.5
  seed:
    description: Seed of the random inputs.
    type: int
    default: 20250701
  cuda_home:
    description:
      - CUDA toolkit for packages that compile at their first use (FlashInfer). Its C(bin) comes first on the PATH.
      - Without it, the folder C(cuda) of the release, where there is one.
    type: path
  environment:
    description: Environment variables of the test, for example E(NCCL_NVLS_ENABLE).
    type: dict
    default: {}
  policy:
    description:
      - V(fail) makes the task fail when a check fails.
      - V(warn) warns instead and returns RV(passed=false).
    type: str
    choices: [fail, warn]
    default: fail
attributes:
  check_mode:
    description: Runs in check mode as it does otherwise, since it changes nothing.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
  idempotent:
    description: Never reports a change.
    support: full
"""

EXAMPLES = r"""
- name: Test the live release where there is a GPU
  verl.baremetal.gpu_smoke:
    release: /opt/verl/current

- name: Insist on a GPU, on FlashAttention and on NCCL
  verl.baremetal.gpu_smoke:
    release: /opt/verl/current
    gpu: required
    required: [flash_attention, nccl]
    timeouts:
      nccl: 600

- name: Compute on the CPU what can be computed there
  verl.baremetal.gpu_smoke:
    python: /opt/verl/current/venv/bin/python
    gpu: cpu
    policy: warn
"""

RETURN = r"""
checks:
  description: One entry for each result, in the shape of M(verl.baremetal.version_check)'s.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Name of the check, with its part after a dot where it has several.
      type: str
      returned: always
    status:
      description: V(ok), V(mismatch), V(missing), V(skipped) or V(warning).
      type: str
      returned: always
    expected:
      description: What a right result is.
      type: str
      returned: always
    found:
      description: What was found, with the figure, or the reason.
      type: str
      returned: always
    source:
      description: What was asked.
      type: str
      returned: always
    remedy:
      description: What to do about it.
      type: str
      returned: always
    figures:
      description: The measured numbers.
      type: dict
      returned: always
    seconds:
      description: How long it took.
      type: float
      returned: always
  sample:
    - name: matmul.bf16
      status: ok
      expected: error at most 1e-02 against float64
      found: error 2.9e-03, 781 TFLOP/s
      source: torch.mm
      remedy: ""
      figures: {}
      seconds: 1.4
summary:
  description: Number of results by status.
  returned: always
  type: dict
  sample: {"ok": 12, "mismatch": 0, "missing": 0, "skipped": 3, "warning": 0}
passed:
  description: Whether no check failed.
  returned: always
  type: bool
  sample: true
text:
  description: The results as lines of text.
  returned: always
  type: str
  sample: "ok        matmul.bf16            error 2.9e-03, 781 TFLOP/s"
seconds:
  description: How long the whole test took.
  returned: always
  type: float
  sample: 31.5
"""

import json
import os
import subprocess
from typing import Any, Dict, List, Mapping, Optional, Tuple

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.verl.baremetal.plugins.module_utils import gpu_smoke


def program_source() -> str:
    """The smoke test's own text, from wherever this module was unpacked."""
    loader: Any = gpu_smoke.__loader__
    return str(loader.get_source(gpu_smoke.__name__))


def arguments(params: Mapping[str, Any]) -> List[str]:
    """The program's command line for the module's options."""
    words = ["--json", "--seed", str(params["seed"]), "--min-free", str(params["min_free_memory"])]
    words += ["--device", "cpu" if params["gpu"] == "cpu" else "auto"]
    if params["gpu"] != "cpu":
        words.append("--require-gpu")  # with auto the driver shows a GPU: a torch that cannot use it is a failure
    named = {"--checks": list(params["checks"]), "--require": list(params["required"])}
    if params["gpu"] == "required":  # without torch every check would be skipped, and nothing would fail
        named["--require"].append("torch")
        if named["--checks"]:
            named["--checks"].append("torch")
    for option, names in named.items():
        if names:
            words += [option, ",".join(names)]
    for name in sorted(params["timeouts"]):
        words += ["--timeout", f"{name}={params['timeouts'][name]}"]
    return words


def problem_with(params: Mapping[str, Any]) -> str:
    """What is wrong with the options, in words; '' when nothing is."""
    for option in ("checks", "required"):
        unknown = sorted(set(params[option]) - set(gpu_smoke.CHECKS))
        if unknown:
            return "unknown check {} in {}; there are: {}".format(
                ", ".join(unknown), option, ", ".join(gpu_smoke.CHECKS)
            )
    try:
        gpu_smoke.parse_timeouts([f"{name}={value}" for name, value in params["timeouts"].items()])
    except ValueError as error:
        return f"timeouts: {error}"
    if not 0.0 <= params["min_free_memory"] <= 1.0:
        return "min_free_memory has to be from 0 to 1"
    return ""


def interpreter(params: Mapping[str, Any], uid: int, home: str) -> str:
    """The Python to test with: the one that is named, or that of the release that is named, or the live one's."""
    if params["python"]:
        return str(params["python"])
    root = params["root"] or ("/opt/verl" if uid == 0 else os.path.join(home, "verl"))
    return os.path.join(params["release"] or os.path.join(root, "current"), "venv", "bin", "python")


def environment(base: Mapping[str, str], params: Mapping[str, Any], python: str) -> Dict[str, str]:
    """The test's environment: the venv's programs first, then the CUDA toolkit's."""
    result = dict(base)
    path = [os.path.dirname(python)]
    cuda_home = params["cuda_home"]
    own = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(python))), "cuda")
    if not cuda_home and os.path.isdir(os.path.join(own, "bin")):
        cuda_home = own
    if cuda_home:
        result["CUDA_HOME"] = cuda_home
        path.append(os.path.join(cuda_home, "bin"))
    result["PATH"] = ":".join([*path, result.get("PATH") or "/usr/bin:/bin"])
    for variable in ("PYTHONPATH", "PYTHONHOME"):
        result.pop(variable, None)
    result.update({str(key): str(value) for key, value in params["environment"].items()})
    return result


def run_program(command: List[str], env: Mapping[str, str], timeout: float) -> Tuple[Optional[int], str, str]:
    """(exit status or None after a timeout, standard output, standard error) of a program in its own group."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(env),
        start_new_session=True,
        universal_newlines=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
        return process.returncode, out, err
    except subprocess.TimeoutExpired:
        # Its workers lead groups of their own and end with it.
        gpu_smoke.kill_group(process)
        out, err = process.communicate()
        return None, out, err


def read_report(code: Optional[int], out: str, err: str, timeout: int) -> Dict[str, Any]:
    """The program's report, or one result that says why there is none."""
    if code is not None:
        try:
            report = json.loads(out)
            if isinstance(report, dict) and isinstance(report.get("checks"), list):
                return report
        except ValueError:
            pass
    if code is None:
        found, remedy = f"killed after {timeout} s", "raise the timeout, or run fewer checks"
        line = gpu_smoke.last_line(err)
        found += f", while it ran {line}" if line else ""
    else:
        found = f"the program {gpu_smoke.describe_end(code)} and gave no report: {gpu_smoke.last_line(err)}"
        remedy = "run it by hand with the same Python"
    checks = [gpu_smoke.make_result("gpu_smoke", "mismatch", "a report", found, "gpu_smoke.py", remedy)]
    verdict = gpu_smoke.summarise(checks)
    return {"checks": checks, "summary": verdict["counts"], "passed": False, "seconds": 0.0}


def nothing_to_run(why: str) -> Dict[str, Any]:
    """The report of a test that was not run."""
    checks = [gpu_smoke.skipped("gpu_smoke", why)]
    verdict = gpu_smoke.summarise(checks)
    return {"checks": checks, "summary": verdict["counts"], "passed": True, "seconds": 0.0}


def failure_message(report: Mapping[str, Any]) -> str:
    """What failed, in one line for each."""
    lines = [
        "{}: {} (expected: {}){}".format(
            check["name"], check["found"], check["expected"], "; " + check["remedy"] if check["remedy"] else ""
        )
        for check in report["checks"]
        if check["status"] in gpu_smoke.FAILING
    ]
    return "The GPU smoke test failed. " + " | ".join(lines)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "release": {"type": "path"},
            "python": {"type": "path"},
            "root": {"type": "path"},
            "gpu": {"type": "str", "choices": ["auto", "required", "cpu"], "default": "auto"},
            "checks": {"type": "list", "elements": "str", "default": []},
            "required": {"type": "list", "elements": "str", "default": []},
            "timeout": {"type": "int", "default": 1800},
            "timeouts": {"type": "dict", "default": {}},
            "min_free_memory": {"type": "float", "default": 0.5},
            "seed": {"type": "int", "default": 20250701},
            "cuda_home": {"type": "path"},
            "environment": {"type": "dict", "default": {}},
            "policy": {"type": "str", "choices": ["fail", "warn"], "default": "fail"},
        },
        mutually_exclusive=[["release", "python"]],
        supports_check_mode=True,
    )
    params = module.params
    problem = problem_with(params)
    if problem:
        module.fail_json(msg=problem)
    python = interpreter(params, os.geteuid(), os.path.expanduser("~"))
    if params["gpu"] == "auto" and not gpu_smoke.visible_gpu_nodes():
        report = nothing_to_run(
            "no NVIDIA GPU with a loaded driver is here: no /dev/nvidia0 and no /proc/driver/nvidia"
        )
    elif not os.access(python, os.X_OK):
        if not module.check_mode:
            module.fail_json(msg=f"There is no Python at {python}. Install the release first, or name another one.")
        report = nothing_to_run(f"{python} is not there yet")
    else:
        script = os.path.join(module.tmpdir, "gpu_smoke.py")
        with open(script, "w", encoding="utf-8") as stream:
            stream.write(program_source())
        command = [python, script, "--progress", *arguments(params)]
        code, out, err = run_program(command, environment(os.environ, params, python), params["timeout"])
        report = read_report(code, out, err, params["timeout"])
    result: Dict[str, Any] = {key: report[key] for key in ("checks", "summary", "passed", "seconds")}
    result["text"] = gpu_smoke.render(report)
    result["changed"] = False
    if not result["passed"]:
        if params["policy"] == "fail":
            module.fail_json(msg=failure_message(report), **result)
        module.warn(failure_message(report))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
