#!/usr/bin/env python3
# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Measures a bundle: size, time to make it cold, to find it complete, to verify it, and to install from it and from the index.

    make venv tree && .venv/bin/python tests/benchmarks/bundle.py [--stack small] [--folder /var/tmp/bench] [--install]

The real stack needs 25 GB in the folder and fetches 6 GB twice with --install; the small one (tests/stacks/small) a minute.
Writes one JSON line to standard output. What was measured is removed afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def play(playbook: str, *words: str, **values: object) -> float:
    """Run a playbook; seconds that it took."""
    env = dict(os.environ, ANSIBLE_COLLECTIONS_PATH=str(ROOT / ".tree"), ANSIBLE_CONFIG=str(ROOT / "ansible.cfg"))
    command = [str(ROOT / ".venv/bin/ansible-playbook"), "-i", str(ROOT / "inventories/local"), str(ROOT / playbook)]
    begun = time.monotonic()
    done = subprocess.run([*command, *words, "-e", json.dumps(values)], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout[-4000:] + done.stderr[-2000:])
    return round(time.monotonic() - begun, 1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stack", default="verl0.5-preview-cu128")
    parser.add_argument("--python", default="%d.%d" % sys.version_info[:2], help="version that this machine has")
    parser.add_argument("--folder", default=None, help="where to work; default the system's folder for temporary files")
    parser.add_argument("--install", action="store_true", help="install from the bundle and from the index, too")
    given = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="bundle-bench-", dir=given.folder))
    values = {
        "stack_name": given.stack,
        "stack_path": [str(ROOT / "tests/stacks")],
        "venv_torch_variant": "pypi",
        "bundle_path": str(work / "bundle"),
        "bundle_pythons": [given.python],
        "venv_python": given.python,
        "release_profile": False,
        "wheels_cache_controller": str(work / "wheels"),
    }
    found: dict[str, object] = {"stack": given.stack, "python": given.python, "cores": os.cpu_count()}
    try:
        found["make_cold_s"] = play("playbooks/bundle.yml", **values)
        index = json.loads((work / "bundle/bundle.json").read_text())
        found.update(files=len(index["files"]), bytes=index["bytes"], digest=index["digest"][:12])
        found["find_complete_s"] = play("playbooks/bundle.yml", **values)
        found["verify_s"] = play("playbooks/bundle.yml", "--tags", "verify", **values)
        if given.install:
            for name, more in (("bundle", {"stack_bundle": str(work / "bundle")}), ("index", {})):
                root = work / ("root-" + name)
                found[f"install_from_{name}_s"] = play("site.yml", **values, **more, stack_root=str(root))
                shutil.rmtree(root, ignore_errors=True)
        print(json.dumps(found, sort_keys=True))
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
