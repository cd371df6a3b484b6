# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Images built by the roles against a plain `docker build` with the same packages through pip: images.py [--image OS].

The small stack of the tests, from the same image of an operating system and with the same index. Cold: no image of ours
is there and docker's build cache is not used. Warm: nothing has changed since.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from bench import ROOT, Result, ansible_env, interleave, median, save, timed

STACK = ROOT / "tests/stacks/small"
LAYERS = ("torch", "flash_attention", "flashinfer", "sglang", "megatron")
TAGS = {"base": "vb-bench/ours:base", "app": "vb-bench/ours:app"}
PLAIN = "vb-bench/plain:latest"
DOCKERFILE = """FROM {os}
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv python3-dev g++ tini && rm -rf /var/lib/apt/lists/*
COPY requirements.txt pip.conf /tmp/
RUN python3 -m venv /opt/plain && PIP_CONFIG_FILE=/tmp/pip.conf /opt/plain/bin/pip install --no-cache-dir --require-hashes -r /tmp/requirements.txt
"""


def remove() -> None:
    """Take our images away."""
    subprocess.run(["docker", "rmi", "-f", *TAGS.values(), PLAIN], capture_output=True, check=False)


def size(image: str) -> int:
    """Bytes of an image with all its layers."""
    answer = subprocess.run(["docker", "image", "inspect", "-f", "{{.Size}}", image], capture_output=True, check=True)
    return int(answer.stdout)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, default=Path("/var/tmp/verl-bench-images"))
    parser.add_argument("--image", default="vb-debian12:latest")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    shutil.rmtree(options.root, ignore_errors=True)
    context = options.root / "context"
    context.mkdir(parents=True)
    lines = [(STACK / "locks" / f"{layer}.txt").read_text(encoding="utf-8") for layer in LAYERS]
    (context / "requirements.txt").write_text("\n".join(lines), encoding="utf-8")
    (context / "Dockerfile").write_text(DOCKERFILE.format(os=options.image), encoding="utf-8")
    # Both use the index that this machine is configured for.
    asked = subprocess.run(["pip", "config", "list"], capture_output=True, text=True, check=False).stdout
    found = [line.partition("=")[2].strip("'\"") for line in asked.splitlines() if line.startswith("global.index-url=")]
    (context / "pip.conf").write_text("[global]\n" + "".join(f"index-url = {url}\n" for url in found), encoding="utf-8")
    values: dict[str, Any] = {
        "stack_name": "small",
        "stack_path": [str(STACK.parent)],
        "image_os": options.image,
        "image_tags": TAGS,
        "image_container": "vb-bench-build-",
        "image_cache": str(options.root / "cache"),
    }
    ours_command = ["ansible-playbook", "-i", "localhost,", "playbooks/images.yml", "-e", json.dumps(values)]
    plain_command = ["docker", "build", "-q", "-t", PLAIN, str(context)]

    def ours_cold() -> float:
        remove()
        shutil.rmtree(options.root / "cache", ignore_errors=True)
        return ours_warm()

    def ours_warm() -> float:
        return timed(ours_command, ansible_env(), cwd=str(ROOT))

    def plain_cold() -> float:
        return timed([*plain_command, "--no-cache"])

    def plain_warm() -> float:
        return timed(plain_command)

    try:
        runs = interleave(
            {"ours, cold": ours_cold, "ours, warm": ours_warm, "docker build, cold": plain_cold, "docker build, warm": plain_warm},
            options.rounds,
        )  # fmt: skip
        sizes = {"ours": size(TAGS["app"]) / 1e6, "docker build": size(PLAIN) / 1e6}
    finally:
        remove()
        shutil.rmtree(options.root, ignore_errors=True)
    save(
        Result(
            name="images",
            title="Images",
            question="How long does it take to build the images, and again when nothing has changed?",
            runs=runs,
            ratios=[
                {"what": "cold", "of": "ours, cold", "to": "docker build, cold", "target": ""},
                {"what": "warm", "of": "ours, warm", "to": "docker build, warm", "target": ""},
            ],
            figures={f"size of {name}, MB": round(value, 1) for name, value in sizes.items()},
            notes=[
                "The small stack of the tests: what is measured is what the roles cost beside the packages.",
                f"Ours makes two images that share layers; cold it takes {median(runs['ours, cold']):.0f} s.",
            ],
            left_out=["The real stack, of 12 GB, whose time is that of the packages and compiles on both sides."],
        )
    )


if __name__ == "__main__":
    main()
