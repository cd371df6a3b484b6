# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The images as their users meet them. The tests build on each other and run in the order in which they are written."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
EPHEMERAL = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])
ARCHIVE = EPHEMERAL / "archives" / "small-app.tar.zst"
HOST = "vb-images-host"
BASE, APP = "vb-images/verl:base-small", "vb-images/verl:app-small"
REGISTRY = "127.0.0.1:42250"
READY = "verlai/verl:app-small"  # the stack's own tag
TOOLZ_OLD = "d22731364c07d72eea0a0ad45bafb2c2937ab6fd38a3507bf55eae8744aa7d85"


def command(*words: str) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ, ANSIBLE_FORCE_COLOR="0", NO_COLOR="1")
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)


def docker(*words: str) -> str:
    done = command("docker", *words)
    assert done.returncode == 0, f"docker {' '.join(words)}: {done.stderr}"
    return done.stdout.strip()


def play(playbook: str, *, fails: bool = False, **values: object) -> str:
    inventory = str(EPHEMERAL / "inventory")
    done = command(
        "ansible-playbook",
        "-i",
        inventory,
        str(ROOT / "playbooks" / playbook),
        "-e",
        json.dumps({"verl_hosts": HOST, **values}),
    )
    assert (done.returncode != 0) is fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def module(host: str, name: str, fails: bool = False, **arguments: object) -> str:
    inventory = str(EPHEMERAL / "inventory")
    done = command("ansible", "-i", inventory, host, "-m", f"verl.baremetal.{name}", "-a", json.dumps(arguments))
    assert (done.returncode != 0) is fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def inspect(image: str) -> dict:
    return json.loads(docker("image", "inspect", image))[0]


def inside(image: str, script: str) -> str:
    return docker("run", "--rm", "--network", "none", "--label", "vb-images", image, "sh", "-c", script)


def exists(image: str) -> bool:
    return command("docker", "image", "inspect", image).returncode == 0


def unreachable(name: str) -> dict[str, object]:
    """A build that fails inside its container, under names of its own."""
    return {
        "stack_index_url": "http://127.0.0.1:9/simple",
        "image_container": f"vb-images-build-{name}-",
        "image_tags": {"base": f"vb-images/verl:{name}-base", "app": f"vb-images/verl:{name}-app"},
        "image_export": [],
        "image_registry": "",
    }


def test_app_lies_on_base():
    base, app = inspect(BASE), inspect(APP)
    assert app["RootFS"]["Layers"][: len(base["RootFS"]["Layers"])] == base["RootFS"]["Layers"]
    assert len(app["RootFS"]["Layers"]) == len(base["RootFS"]["Layers"]) + 1
    assert app["Config"]["Labels"]["verl.baremetal.parent"] == base["Id"]


def test_what_the_images_say_of_themselves():
    for image, name in ((BASE, "base"), (APP, "app")):
        config = inspect(image)["Config"]
        labels = config["Labels"]
        assert config["Entrypoint"] == ["/usr/bin/tini", "--"]
        manifest = json.loads(inside(image, "cat /opt/verl/current/manifest.json"))
        assert labels["verl.baremetal.manifest.digest"] == manifest["digest"]
        assert labels["verl.baremetal.stack"] == "small" and labels["verl.baremetal.image"] == name
        assert len(labels["verl.baremetal.lock.digest"]) == 64
        assert labels["org.opencontainers.image.source"].startswith("https://")
        assert len(labels["org.opencontainers.image.revision"]) >= 6


def test_the_environment_is_set_for_every_program():
    environment = dict(entry.split("=", 1) for entry in inspect(APP)["Config"]["Env"])
    release = inspect(APP)["Config"]["Labels"]["verl.baremetal.release"]
    assert environment["VIRTUAL_ENV"] == f"/opt/verl/releases/{release}/venv"
    assert environment["SMALL_STACK"] == f"/opt/verl/releases/{release}"
    assert environment["MAX_JOBS"] == "8" and environment["DEBIAN_FRONTEND"] == "noninteractive"
    assert environment["PATH"].count("/opt/verl") == 1
    assert inside(APP, "python -c 'import six, toolz, zipp, sys; print(sys.prefix)'") == environment["VIRTUAL_ENV"]
    assert "No module" in inside(BASE, "python -c 'import toolz' 2>&1; python -c 'import six'")


def test_nothing_of_the_build_stays():
    for image in (BASE, APP):
        assert inside(image, "ls -A /opt/verl").split() == ["current", "releases"]
        assert (
            inside(
                image,
                "find /run/verl-build /tmp /var/tmp /var/lib/apt/lists /var/cache/apt -mindepth 1; find /var/log -type f",
            )
            == ""
        )
        assert inside(image, "ls -d /root/.ansible* /root/.cache 2>/dev/null || true") == ""
        assert inside(image, "find / -xdev -name '*ansible*' -not -path '/proc/*'") == ""


def test_app_changes_no_file_of_base():
    container = docker("create", "--label", "vb-images", APP)
    try:
        base_files = inside(BASE, "cd /opt/verl/releases && find . -type f -exec sha256sum {} +").splitlines()
        app_files = set(inside(APP, "cd /opt/verl/releases && find . -type f -exec sha256sum {} +").splitlines())
    finally:
        docker("rm", container)
    assert len(base_files) > 500
    assert [line for line in base_files if line not in app_files] == []


def test_the_version_check_passes_in_a_container():
    docker("run", "-d", "--name", "vb-images-run-check", "--network", "none", APP, "sleep", "300")
    try:
        done = command(
            "ansible", "-i", "vb-images-run-check,", "all", "-c", "community.docker.docker", "-e", "ansible_python_interpreter=/usr/bin/python3",
            "-m", "verl.baremetal.version_check", "-a", "integrity=hashes",
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert '"passed": true' in done.stdout or "passed: true" in done.stdout
    finally:
        docker("rm", "-f", "vb-images-run-check")


def test_the_archive_its_digest_and_what_lies_beside():
    assert command("zstd", "-t", "-q", str(ARCHIVE)).returncode == 0
    digest = hashlib.sha256(ARCHIVE.read_bytes()).hexdigest()
    assert Path(f"{ARCHIVE}.sha256").read_text() == f"{digest}  {ARCHIVE.name}\n"
    assert ARCHIVE.stat().st_size < inspect(APP)["Size"] / 2
    bom = json.loads((ARCHIVE.parent / "small-app.cdx.json").read_text())
    assert bom["bomFormat"] == "CycloneDX"
    purls = {component.get("purl", "") for component in bom["components"]}
    assert "pkg:pypi/toolz@1.0.0" in purls and any(p.startswith("pkg:deb/debian/tini@") for p in purls)
    manifest = json.loads((ARCHIVE.parent / "small-app.manifest.json").read_text())
    assert manifest["digest"] == inspect(APP)["Config"]["Labels"]["verl.baremetal.manifest.digest"]


def test_host_and_image_are_the_same_and_a_changed_file_is_named():
    out = play("verify.yml", verify_image_archive=str(ARCHIVE), verify_gpu="false")
    assert " 0 differences" in out
    path = docker(
        "exec", HOST, "sh", "-c", "realpath /opt/verl/current/venv/lib/python3.11/site-packages/toolz/recipes.py"
    )
    # One byte, so that the size stays.
    docker("exec", HOST, "sh", "-c", f"cp -p {path} /root/kept && sed -i '1s/^./#/' {path}")
    try:
        out = play("verify.yml", fails=True, verify_image_archive=str(ARCHIVE), verify_gpu="false")
    finally:
        docker("exec", HOST, "sh", "-c", f"cp -p /root/kept {path}")
    flat = " ".join(out.split())
    assert "differ in 1: venv/lib/python3.11/site-packages/toolz/recipes.py: sha256" in flat


def test_the_registry_has_both_and_refuses_another_digest():
    found = {}
    for image in (BASE, APP):
        name, tag = image.split(":")
        request = urllib.request.Request(f"http://{REGISTRY}/v2/{name}/manifests/{tag}")
        request.add_header("Accept", "application/vnd.docker.distribution.manifest.v2+json")
        request.add_header("Authorization", "Basic " + base64.b64encode(b"fixture:fixture-word").decode())
        with urllib.request.urlopen(request, timeout=30) as answer:
            found[image] = answer.headers["Docker-Content-Digest"]
            assert json.load(answer)["config"]["digest"] == inspect(image)["Id"]
    before = inspect(APP)["Id"]
    docker("rmi", f"{REGISTRY}/{APP}", APP)
    values: dict[str, object] = {"image_source": "registry"}
    out = play("images_load.yml", fails=True, image_digest="sha256:" + "0" * 64, **values)
    assert not exists(APP) and "manifest unknown" in out.lower()
    play("images_load.yml", image_digest=found[APP], **values)
    assert inspect(APP)["Id"] == before
    # Ours is checked inside, too, where that is asked for: with its release's own pins.
    out = play("images_load.yml", image_digest=found[APP], image_check=True, image_policy="fail", **values)
    assert "changed=0" in out and "nothing deviates" in out
    docker("rmi", f"{REGISTRY}/{BASE}")


def stand_in() -> None:
    """A fixture for the image of verl's authors, which no registry gives here: an environment that pip made, without a release.

    It deviates in two packages, and the registry has it under the stack's own tag.
    """
    name, image = "vb-images-run-ready", f"{REGISTRY}/{READY}"
    packages = ["six==1.17.0", "idna==3.10", "packaging==25.0", "iniconfig==2.1.0", "zipp==3.23.0", "toolz==0.12.1"]
    docker("run", "-d", "--name", name, "vb-debian12", "sleep", "300")
    try:
        docker("exec", name, "python3", "-m", "venv", "/opt/ready")
        docker("exec", name, "/opt/ready/bin/pip", "install", "-q", "--no-cache-dir", "--no-compile", *packages)
        docker("commit", "-c", "ENV PATH=/opt/ready/bin:/usr/bin:/bin", name, image)
    finally:
        docker("rm", "-f", name)
    user = {"username": "fixture", "password": "fixture-word"}
    module(HOST, "image_transfer", state="pushed", tag=image, **user)
    docker("rmi", image)


def test_a_ready_made_image_is_pulled_and_what_deviates_is_listed():
    stand_in()
    ours = inspect(APP)["Id"]
    values: dict[str, object] = {"image_source": "upstream"}
    out = play("images_load.yml", fails=True, **values)
    assert "was made by this collection" in " ".join(out.split()) and inspect(APP)["Id"] == ours
    values["image_tags"] = {"app": "vb-images/verl:ready"}
    play("images_load.yml", **values)
    out = play("images_load.yml", **values)
    assert "changed=0" in out
    flat = " ".join(out.split())
    assert "toolz: found 0.12.1, needed 1.0.0" in flat and "docopt: found nothing, needed 0.6.2" in flat
    assert "six: found" not in flat and "2 of " in flat
    # What containers with GPUs need on the host: skipped, with the reason, where no GPU is.
    assert "container toolkit for Docker no NVIDIA GPU on the" in flat
    out = play("images_load.yml", fails=True, image_policy="fail", **values)
    assert "toolz: mismatch" in out
    assert docker("ps", "-aq", "--filter", "ancestor=vb-images/verl:ready") == ""
    docker("rmi", "vb-images/verl:ready", f"{REGISTRY}/{READY}")


def test_a_tampered_archive_is_not_loaded_and_the_true_one_is():
    before = inspect(APP)["Id"]
    docker("rmi", "-f", before)
    assert not exists(APP)
    docker("exec", HOST, "mkdir", "-p", "/srv/archives")
    for name in (ARCHIVE.name, f"{ARCHIVE.name}.sha256", f"{ARCHIVE.name}.json"):
        docker("cp", str(ARCHIVE.parent / name), f"{HOST}:/srv/archives/{name}")
    there = f"/srv/archives/{ARCHIVE.name}"
    flip = (
        "import sys; f=open(sys.argv[1],'r+b'); f.seek(100000); b=f.read(1); f.seek(100000); f.write(bytes([b[0]^1]))"
    )
    docker("exec", HOST, "python3", "-c", flip, there)
    out = play("images_load.yml", fails=True, image_source="archive", image_archive=there)
    assert "was not loaded" in " ".join(out.split()) and not exists(APP)
    docker("exec", HOST, "python3", "-c", flip, there)
    play("images_load.yml", image_source="archive", image_archive=there)
    assert inspect(APP)["Id"] == before
    assert "changed=0" in play("images_load.yml", image_source="archive", image_archive=there)


def test_a_full_disk_leaves_no_half_archive():
    out = module(HOST, "image_transfer", fails=True, state="exported", tag=APP, path="/full/app.tar.zst", bom=False)
    assert "/full is full" in out
    assert docker("exec", HOST, "ls", "-A", "/full") == ""


def test_a_change_in_app_leaves_base_alone():
    folder = EPHEMERAL / "stacks"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "tests" / "stacks" / "small", folder / "small")
    stack, lock = folder / "small" / "stack.yml", folder / "small" / "locks" / "sglang.txt"
    stack.write_text(stack.read_text().replace("dist: toolz, version: 1.0.0", "dist: toolz, version: 0.12.1"))
    lock.write_text("".join(f"toolz==0.12.1 --hash=sha256:{digest}\n" for digest in [TOOLZ_OLD]))
    base, app = inspect(BASE)["Id"], inspect(APP)["Id"]
    out = play("images.yml", stack_path=[str(folder)], image_export=[], image_registry="")
    assert "vb-images-build-base" not in out
    assert inspect(BASE)["Id"] == base and inspect(APP)["Id"] != app
    assert inspect(APP)["RootFS"]["Layers"][:-1] == inspect(BASE)["RootFS"]["Layers"]
    assert inside(APP, "python -c 'import toolz; print(toolz.__version__)'") == "0.12.1"


@pytest.mark.parametrize("keep", [True, False])
def test_a_role_that_fails_inside(keep: bool):
    out = " ".join(play("images.yml", fails=True, image_keep_failed=keep, **unreachable("fails")).split())
    assert "cannot be reached" in out
    assert ("docker exec -it vb-images-build-fails-base bash" in out) is keep
    assert bool(docker("ps", "-q", "--filter", "name=vb-images-build-fails-base")) is keep
    assert not exists("vb-images/verl:fails-base")


def test_no_docker_is_said_in_words():
    out = play("images.yml", fails=True, image_docker_socket="/nowhere/docker.sock")
    assert "There is no Docker at /nowhere/docker.sock" in " ".join(out.split())
