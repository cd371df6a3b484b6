# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Run benchmarks and write docs/benchmarks.md: run.py [NAME ...]; all by default.

The folder BENCH_ROOT (default /var/tmp/verl-bench) is made for the installations, needs 35 GB, and is removed at the end.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    root = Path(os.environ.get("BENCH_ROOT", "/var/tmp/verl-bench"))
    programs = {
        "python_stack": ["--root", str(root)],
        "converged": ["--root", str(root / "ours"), "--pip", str(root), "-e", f"venv_cache_dir={root / 'uv-cache'}"],
        "version_check": [str(root / "ours" / "current")],
        "wheel_cache": ["--root", str(root / "ours")],
        "switch": [],
        "images": [],
        "rollouts": [],
        "rollout": [],
        "bundle": [],
    }
    names = sys.argv[1:] or [name for name in programs if (HERE / f"{name}.py").exists()]
    unknown = sorted(set(names) - set(programs))
    if unknown:
        raise SystemExit(f"unknown benchmark {', '.join(unknown)}; there are: {', '.join(programs)}")
    failed = []
    for name in names:
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, str(HERE / f"{name}.py"), *programs[name]], check=False).returncode:
            failed.append(name)
    subprocess.run([sys.executable, str(HERE / "report.py")], check=True)
    if not os.environ.get("BENCH_KEEP"):
        shutil.rmtree(root, ignore_errors=True)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
