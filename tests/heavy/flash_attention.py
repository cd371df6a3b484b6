# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Build FlashAttention whole with the collection's builder, interrupt it once, resume, import it, and install it a second time.

By hand, never in CI: one GPU architecture is some 190 CPU-minutes. `make test-flash-attention` runs it with nvcc 12.4 out of Debian's
packages against Torch 2.7.1; with --python and --cuda-home it takes what a machine already has. A second call goes on where the first
one was stopped, by whatever. The report is JSON on standard output, progress goes to standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VERSION = "2.8.0.post2"
SHA256 = "b51d7015eb78f7ab2c332ec7c36681d7e97834f010b52eb4db1f118351982f58"
UNITS = 73
LOCK = ROOT / "roles/stack/files/verl0.5-preview-cu128/locks/torch.pypi.txt"

CHECK_GPU = """
import torch
from flash_attn import flash_attn_func
torch.manual_seed(0)
q, k, v = (torch.randn(2, 512, 8, 128, device='cuda', dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
out = flash_attn_func(q, k, v, causal=True)
want = torch.nn.functional.scaled_dot_product_attention(*(x.float().transpose(1, 2) for x in (q, k, v)), is_causal=True).transpose(1, 2)
forward = (out.float() - want).abs().max().item()
grad = torch.randn_like(out)
got = torch.autograd.grad(out, (q, k, v), grad)
ref = torch.autograd.grad(want, (q, k, v), grad.float())
backward = max((a.float() - b.float()).abs().max().item() for a, b in zip(got, ref))
assert forward < 0.02 and backward < 0.1, (forward, backward)
print('%s, forward error %.4f, backward error %.4f' % (torch.cuda.get_device_name(), forward, backward))
"""


def say(text: str) -> None:
    print(time.strftime("%H:%M:%S ") + text, file=sys.stderr, flush=True)


def library():
    """The collection's builder, from this checkout and without ansible."""
    tree = Path(tempfile.mkdtemp(prefix="verl-baremetal-tree."))
    (tree / "ansible_collections/verl").mkdir(parents=True)
    (tree / "ansible_collections/verl/baremetal").symlink_to(ROOT)
    sys.path.insert(0, str(tree))
    from ansible_collections.verl.baremetal.plugins.module_utils.wheels import builder, cache, jobs, key, source, worker

    return builder, cache, jobs, key, source, worker


def make_python(work: Path) -> str:
    """A virtual environment with the stack's own torch layer."""
    python = work / "venv/bin/python"
    if not (work / "venv/.complete").exists():
        say("installing the torch layer (3.5 GB)")
        subprocess.run(["uv", "venv", "-q", "--clear", str(work / "venv")], check=True)
        command = ["uv", "pip", "install", "-q", "--python", str(python), "--no-deps", "--require-hashes", "-r", str(LOCK)]
        subprocess.run(command, check=True)
        subprocess.run(["uv", "pip", "install", "-q", "--python", str(python), "einops==0.8.1"], check=True)
        (work / "venv/.complete").touch()
    return str(python)


def interrupt(folder: Path) -> None:
    """Kill the builder and everything that it started, as a power cut does."""
    pid = json.loads((folder / "worker.json").read_text())["pid"]
    session = os.getsid(pid)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.getsid(int(entry.name)) == session:
                    os.kill(int(entry.name), signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass


def stamps(folder: Path) -> dict[str, int]:
    """The objects that ninja has noted as finished, and when each was written."""
    noted = "".join(path.read_text() for path in (folder / "source/build").rglob(".ninja_log"))
    return {str(path): path.stat().st_mtime_ns for path in (folder / "source/build").rglob("*.o") if path.name in noted}


def check_kept(folder: Path, kept: dict[str, int]) -> None:
    """Stop when an object that was finished before the interruption was compiled again."""
    with contextlib.suppress(FileNotFoundError):  # the folder is emptied after success
        again = [name for name, stamp in stamps(folder).items() if kept.get(name, stamp) != stamp]
        if again:
            raise SystemExit(f"compiled again although it was finished: {', '.join(again)}")


def install(python: str, wheel: str, target: Path) -> float:
    begin = time.time()
    shutil.rmtree(target, ignore_errors=True)
    if shutil.which("uv"):
        subprocess.run(["uv", "pip", "install", "-q", "--python", python, "--no-deps", "--target", str(target), wheel], check=True)
    else:
        subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(target), wheel], check=True)
    return time.time() - begin


def ask(python: str, code: str, target: Path, extra: str = "") -> str:
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, [str(target), extra])))
    done = subprocess.run([python, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    if done.returncode:
        raise SystemExit(f"{code.splitlines()[-1]}: {done.stderr.decode()[-2000:]}")
    return done.stdout.decode().strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache/verl-baremetal/test-flash-attention")
    parser.add_argument("--python", help="an environment with Torch, setuptools, wheel, ninja, packaging, psutil, einops")
    parser.add_argument("--cuda-home")
    parser.add_argument("--architectures", default="9.0")
    parser.add_argument("--sdist", default="", help="the sdist as a file; left out, uv finds it in the configured index")
    parser.add_argument("--gb-per-job", type=float, default=6.0)
    parser.add_argument("--jobs", type=int, default=0)
    parser.add_argument("--interrupt-after", type=int, default=4, help="kill the build once, after so many units; 0: never")
    parser.add_argument("--seconds", type=float, default=0, help="stop (kill) after so long; the next call goes on")
    options = parser.parse_args()
    builder, cache, jobs, key, source, worker = library()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    python = options.python or make_python(work)
    home = options.cuda_home or subprocess.run([str(ROOT / "tests/ci/nvcc.sh")], stdout=subprocess.PIPE, check=True).stdout.decode().strip()
    request = builder.Request(
        name="flash-attn",
        version=VERSION,
        kind="sdist",
        url=options.sdist,
        hashes=[SHA256],
        commit="",
        python=python,
        cuda_home=home,
        cudnn_home="",
        archs=options.architectures.split(","),
        device_code=True,
        env={"FLASH_ATTENTION_FORCE_BUILD": "TRUE"},
        options=[],
        parallel=1,
        units=UNITS,
        gb_per_job=options.gb_per_job,
        reserve_gb=2.0,
        jobs=options.jobs,
        compiler="",
        keep=False,
        client=source.Client(),
    )
    context = builder.examine(request)
    short = key.digest(context.parts)
    folder, store = work / f"flash-attn-{short}", work / "wheels"
    say(f"key {short}, torch {context.torch and context.torch['version']}, nvcc {context.parts['nvcc']}, {options.architectures}")
    found, _damaged = cache.lookup(str(store), context.parts)
    begin, said, record, kept = time.time(), 0.0, folder / "interrupted.json", {}
    interrupted = record.exists()
    if interrupted:
        kept = json.loads(record.read_text())["stamps"]
    while found is None:
        store.mkdir(exist_ok=True)
        worker.start(request, context, str(folder), str(store))
        answer = worker.wait(str(folder), 2.0)
        if time.time() - said > 15:
            said = time.time()
            say(worker.describe(answer["status"]))
        done = answer["status"].get("done", 0)
        check_kept(folder, kept)
        if answer["ended"]:
            if answer["result"] and not answer["result"]["ok"]:
                raise SystemExit(answer["result"]["message"])
            found, _damaged = cache.lookup(str(store), context.parts)
        elif options.interrupt_after and not interrupted and done >= options.interrupt_after:
            interrupt(folder)
            interrupted, kept = True, stamps(folder)
            record.write_text(json.dumps({"units": len(kept), "stamps": kept}))
            say(f"killed the builder and its compilers after {len(kept)} units; going on")
        elif options.seconds and time.time() - begin > options.seconds:
            interrupt(folder)
            raise SystemExit(f"stopped after {options.seconds:.0f} s with {done} of {UNITS} units done; call again to go on")
    entry = found.entry
    built = entry["built"]
    if kept and built["sessions"][-1]["units_before"] < len(kept):
        raise SystemExit(f"{len(kept)} units were finished before the kill, and the last session began with {built['sessions'][-1]['units_before']}")
    say(f"built: {found.path}")

    # A second host: its own cache and environment, the wheel by way of the cache.
    again = time.time()
    second = cache.store(str(work / "second/wheels"), found.path, entry)
    taken = time.time() - again
    seconds = install(python, second.path, work / "second/site")
    loaded = ask(python, "import torch, flash_attn_2_cuda; print(torch.__version__)", work / "second/site")
    on_gpu = ""
    if ask(python, "import torch; print(torch.cuda.is_available())", work / "second/site") == "True":
        on_gpu = ask(python, CHECK_GPU, work / "second/site")
    report = {
        "key": short,
        "wheel": entry["wheel"],
        "wheel_mb": round(entry["size"] / 1e6, 1),
        "architectures": entry["architectures"],
        "torch": context.torch["version"],
        "loaded_with_torch": loaded,
        "nvcc": context.parts["nvcc"],
        "cores": jobs.usable_cores(),
        "build_seconds": built["seconds"],
        "sessions": built["sessions"],
        "units": built["units"],
        "kept_after_the_kill": len(kept),
        "peak_mb": built["peak_mb"],
        "peak_process_mb": built["peak_process_mb"],
        "second_host_seconds": {"cache": round(taken, 2), "install": round(seconds, 2)},
        "ratio": round(built["seconds"] / (taken + seconds)),
        "gpu": on_gpu,
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
