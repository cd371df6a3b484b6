# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Images built by the roles against a plain `docker build` with the same packages through pip: images.py [--image OS].

The small stack of the tests, from the same image of an operating system and with the same index. Cold: no image of ours
is there and docker's build cache is not used. Warm: nothing has changed since. Then the app image as an archive and back,
against `docker save` through gzip.
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
# What the roles install for this stack (a compiler, since one package has no wheel), and the venv of Debian's Python.
OS_PACKAGES = "python3 python3-apt python3-dev python3-venv g++ ca-certificates tini"
DOCKERFILE = """FROM {os}
RUN apt-get update && apt-get install -y --no-install-recommends {packages} && rm -rf /var/lib/apt/lists/*
COPY requirements.txt pip.conf /tmp/
RUN python3 -m venv /opt/plain && PIP_CONFIG_FILE=/tmp/pip.conf /opt/plain/bin/pip install --no-cache-dir --require-hashes -r /tmp/requirements.txt
"""


def docker_forget(*names: str) -> None:
    """Take images away."""
    subprocess.run(["docker", "rmi", "-f", *names], capture_output=True, check=False)


def remove() -> None:
    """Take all images of this benchmark away."""
    docker_forget(*TAGS.values(), PLAIN)


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
    (context / "Dockerfile").write_text(DOCKERFILE.format(os=options.image, packages=OS_PACKAGES), encoding="utf-8")
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

    ours_archive, plain_archive = options.root / "app.tar.zst", options.root / "app.tar.gz"

    def transfer(**arguments: object) -> float:
        words = json.dumps({"path": str(ours_archive), **arguments})
        python = "ansible_python_interpreter={{ ansible_playbook_python }}"
        command = ["ansible", "-i", "localhost,", "localhost", "-c", "local", "-e", python]
        return timed([*command, "-m", "verl.baremetal.image_transfer", "-a", words], ansible_env(), cwd=str(ROOT))

    def ours_export() -> float:
        return transfer(state="exported", tag=TAGS["app"], force=True)

    def plain_export() -> float:
        return timed(["bash", "-o", "pipefail", "-c", f"docker save {TAGS['app']} | gzip > {plain_archive}"])

    def ours_load() -> float:
        docker_forget(*TAGS.values())
        return transfer(state="loaded")

    def plain_load() -> float:
        docker_forget(TAGS["app"])
        return timed(["docker", "load", "-q", "-i", str(plain_archive)])

    cases = {
        "ours, cold": ours_cold, "ours, warm": ours_warm, "docker build, cold": plain_cold, "docker build, warm": plain_warm,
        "ours, export": ours_export, "docker save and gzip": plain_export, "ours, load": ours_load, "docker load of gzip": plain_load,
    }  # fmt: skip
    try:
        runs = interleave(cases, options.rounds)
        sizes = {
            "size of ours": size(TAGS["app"]), "size of docker build": size(PLAIN),
            "size of our archive": ours_archive.stat().st_size, "size of the gzip archive": plain_archive.stat().st_size,
        }  # fmt: skip
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
                {"what": "export", "of": "ours, export", "to": "docker save and gzip", "target": ""},
                {"what": "load", "of": "ours, load", "to": "docker load of gzip", "target": ""},
            ],
            figures={f"{name}, MB": round(value / 1e6, 1) for name, value in sizes.items()},
            notes=[
                "The small stack of the tests: what is measured is what the roles cost beside the packages.",
                f"Ours makes two images that share layers; cold it takes {median(runs['ours, cold']):.0f} s.",
                "Our export writes sha256, manifest and bill of materials, too, and our load compares the sha256 first.",
            ],
            left_out=["The real stack, of 12 GB, whose time is that of the packages and compiles on both sides"],
        )
    )


if __name__ == "__main__":
    main()
