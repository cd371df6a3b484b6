# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""From a container in which a release was built to an image: cleaned, described, committed."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Dict, List, Mapping, NamedTuple

from ansible_collections.verl.baremetal.plugins.module_utils.images.engine import Engine, EngineError, Tick, split

LABEL = "verl.baremetal."
INPUT = LABEL + "input"
ENTRYPOINT = ["/usr/bin/tini", "--"]
_SHELL_ONLY = ("PWD", "OLDPWD", "SHLVL", "_", "HOME")

# What the build leaves behind. Only links into the mounted build folder lie below the stack_root, so that nothing of it
# is copied; /run is the mounted folder's place and empty in the image.
CLEAN = r"""
root=$1
for uv in "$root"/tools/uv-*; do
    kept=/run/verl-build/${uv##*/}
    if [ -d "$uv" ] && [ ! -e "$kept" ] && cp -a "$uv" "$kept.$$"; then mv "$kept.$$" "$kept"; fi
done
for name in cache build wheels bundle; do
    if [ -L "$root/$name" ]; then rm "$root/$name" || exit 1; fi
done
rm -rf "$root/state" "$root"/tools/uv-* /root/.ansible /root/.ansible_async /root/.cache /var/lib/apt/lists/* /var/cache/apt/* \
    /var/cache/debconf/*-old /var/lib/dpkg/*-old /var/cache/ldconfig/aux-cache /var/tmp/* || exit 1
find /tmp -mindepth 1 -delete || exit 1
find /var/log -type f -delete || exit 1
rmdir "$root/tools" 2>/dev/null
ls -A "$root"
"""
ALLOWED = ("current", "releases", "tools")


class Job(NamedTuple):
    """What is to be committed, and as what."""

    container: str
    tag: str
    root: str
    input: str
    environment: Mapping[str, str]
    labels: Mapping[str, str]


def full_input(recipe: str, source_id: str) -> str:
    """The digest of everything that decides an image: its recipe and the image that it starts from."""
    return hashlib.sha256(f"{recipe}\n{source_id}\n".encode("ascii")).hexdigest()


def query(engine: Engine, source: str, tag: str, recipe: str) -> Dict[str, Any]:
    """Whether the image of a recipe is there already, made from the image that `source` names now."""
    version = engine.version()
    below, there = engine.image(source), engine.image(tag)
    wanted = full_input(recipe, str(below["Id"])) if below else ""
    labels = (there["Config"].get("Labels") or {}) if there else {}
    result = {
        "docker_version": version,
        "source_id": str(below["Id"]) if below else "",
        "input": wanted,
        "converged": bool(wanted) and labels.get(INPUT) == wanted,
    }
    result.update(describe(engine, tag) if there else {"image_id": "", "labels": {}, "size": 0, "layers": []})
    return result


def describe(engine: Engine, tag: str) -> Dict[str, Any]:
    """Identifier, labels, and the size of each layer, the lowest first."""
    found = engine.image(tag)
    if found is None:
        raise EngineError(f"there is no image {tag}", 404)
    layers = [
        {"size": int(entry["Size"]), "made_by": (entry.get("Comment") or entry.get("CreatedBy") or "")[:120]}
        for entry in reversed(engine.history(tag))
        if entry["Size"]
    ]
    return {
        "image_id": str(found["Id"]),
        "labels": dict(found["Config"].get("Labels") or {}),
        "size": int(found["Size"]),
        "layers": layers,
    }


def commit(engine: Engine, job: Job, tick: Tick) -> Dict[str, Any]:
    """Clean the container, read what it is, commit it."""
    tick("cleaning the container", None, None)
    cleaned = engine.execute(job.container, ["sh", "-c", CLEAN, "sh", job.root])
    if cleaned.code != 0:
        raise EngineError(f"cleaning the container {job.container} failed: {cleaned.output.strip()}")
    strangers = [name for name in cleaned.output.split() if name not in ALLOWED]
    if strangers:
        names = ", ".join(strangers)
        raise EngineError(f"{job.root} in {job.container} holds {names}, which has no business in an image")
    manifest = read_manifest(engine, job.container, job.root)
    environment = environment_of(engine, job.container, job.root)
    environment.update(job.environment)
    labels = dict(job.labels)
    labels.update(
        {
            INPUT: job.input,
            LABEL + "release": str(manifest["name"]),
            LABEL + "manifest.digest": str(manifest["digest"]),
        }
    )
    repository, tag = split(job.tag)
    config = {
        "Env": [f"{name}={value}" for name, value in sorted(environment.items())],
        "Entrypoint": ENTRYPOINT,
        "Cmd": ["/bin/bash"],
        "Labels": labels,
    }
    tick(f"committing {job.tag}", None, None)
    made = engine.commit(job.container, repository, tag, config, f"verl.baremetal: {manifest['name']}")
    result = describe(engine, made)
    result.update(tag=job.tag, manifest=manifest, environment=environment)
    return result


def read_manifest(engine: Engine, container: str, root: str) -> Dict[str, Any]:
    """The manifest of the live release in a container."""
    path = f"{root}/current/manifest.json"
    try:
        return dict(json.loads(engine.file(container, path)))
    except EngineError as error:
        raise EngineError(f"{path}: there is no live release in {container} ({error})") from error
    except ValueError as error:
        raise EngineError(f"{path} in {container} is no JSON ({error})") from error


def environment_of(engine: Engine, container: str, root: str) -> Dict[str, str]:
    """The variables that the release's env.sh sets: asked from a shell, so that an image and a host's shell agree."""
    path = engine.execute(container, ["printenv", "PATH"]).output.strip()
    # Where the image stands on another one, that one's programs are on the PATH already.
    path = ":".join(part for part in path.split(":") if not part.startswith(root + "/releases/"))
    script = f'. "{root}/current/env.sh" && env -0'
    ran = engine.execute(container, ["env", "-i", "PATH=" + path, "sh", "-c", script])
    if ran.code != 0:
        raise EngineError(f"{root}/current/env.sh in {container} cannot be sourced: {ran.output.strip()}")
    found: Dict[str, str] = {}
    for entry in ran.output.split("\0"):
        name, equals, value = entry.partition("=")
        if equals and name not in _SHELL_ONLY:
            found[name] = value
    return found


def summary(layers: List[Mapping[str, Any]]) -> List[str]:
    """The sizes of an image's layers for people."""
    return [f"{layer['size'] / 1e6:9.1f} MB  {layer['made_by']}" for layer in layers]
