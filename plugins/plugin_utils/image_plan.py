# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""What an image of a stack is made of, and one digest of everything that decides its content.

Pure but for reading the stack's locks and the collection's own code. A base image's digest does not depend on what only the
app image holds, so that a change there leaves base alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import typing as t

from ansible_collections.verl.baremetal.plugins.plugin_utils import stack_file

COLLECTION = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
# The code that decides what lies in an image: the roles that run in a build container, and what they install with. What only
# checks, reports or rolls out is left out, so that a change there builds no image of 12 GB anew.
CODE = (
    *("roles/" + name for name in ("cuda", "flash_attention", "megatron", "release", "sglang")),
    *(
        "roles/image/" + name
        for name in ("vars", *(f"tasks/{part}.yml" for part in ("bootstrap", "commit", "nsight", "start")))
    ),
    *("roles/" + name for name in ("stack/defaults", "venv", "wheels")),
    "playbooks/tasks/build.yml",
    "playbooks/tasks/image.yml",
    *(
        f"plugins/modules/{name}.py"
        for name in (
            "cuda_home",
            "image_commit",
            "nvidia_packages",
            "python_layer",
            "release",
            "uv_tool",
            "wheel_build",
        )
    ),
    *(
        f"plugins/module_utils/{name}.py"
        for name in ("cuda_layout", "install", "layer", "record", "release", "seal", "source_build", "uv", "uv_fetch")
    ),
    "plugins/module_utils/images/commit.py",
    "plugins/module_utils/wheels",
    "plugins/plugin_utils/image_plan.py",
    "plugins/plugin_utils/plan.py",
)
ENDINGS = (".py", ".yml", ".j2")
# Variables that decide what is installed in a build container.
VARIABLES = (
    "venv_python",
    "venv_python_managed",
    "venv_torch_variant",
    "cuda_source",
    "flash_attention_method",
    "flash_attention_architectures",
    "flash_attention_prebuilt_sha256",
    "megatron_apex",
    "sglang_build_environment",
    "image_extra_os_packages",
    "image_environment",
)


def chain(stack: t.Mapping[str, t.Any], image: str) -> list[str]:
    """The image and what it stands on, the lowest last; StackError for an image that the stack does not have."""
    images = stack["images"]
    names: list[str] = []
    name: str | None = image
    while name:
        if name not in images or name in names:
            raise stack_file.StackError(
                "the stack %s has no usable image %r; it has %s. Give its stack file an images section with it."
                % (stack["name"], name, ", ".join(images) or "none")
            )
        names.append(name)
        name = images[name].get("parent")
    return names


def parts(stack: t.Mapping[str, t.Any], image: str) -> tuple[set[str], set[str], list[dict[str, t.Any]]]:
    """The layers, the compiled wheels and the components that an image holds, with those of what it stands on."""
    names = chain(stack, image)
    layers = {layer for name in names for layer in stack["images"][name]["layers"]}
    wheels = {wheel for name in names for wheel in stack["images"][name]["wheels"]}
    compiled = {recipe["component"] for name, recipe in stack["wheels"].items() if name in wheels}
    components = [
        c for c in stack["components"] if c.get("layer") is None or c["layer"] in layers or c["name"] in compiled
    ]
    return layers, wheels, components


def definition(stack: t.Mapping[str, t.Any], image: str) -> dict[str, t.Any]:
    """What the version check compares an image with that holds no release."""
    left_out = ("folder", "digest", "layers", "tools", "images", "platform")
    return {**{k: v for k, v in stack.items() if k not in left_out}, "components": parts(stack, image)[2]}


def host_definition(stack: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """What a host needs that only runs images: the driver."""
    return {
        "components": [c for c in stack["components"] if c["kind"] == "driver"],
        "rules": {k: v for k, v in stack["rules"].items() if k == "driver"},
    }


def scope(stack: t.Mapping[str, t.Any], image: str, variants: t.Mapping[str, str]) -> dict[str, t.Any]:
    """Everything of the stack that an image's content depends on."""
    names = chain(stack, image)
    layers, wheels, components = parts(stack, image)
    locks = {}
    for lock in [*sorted(layers), "uv", *(["cuda"] if stack["cuda"] else [])]:
        variant = variants.get(lock)
        with open(stack_file.lock_path(stack, lock, variant), "rb") as stream:
            locks[lock] = hashlib.sha256(stream.read()).hexdigest()
    return {
        "images": {name: stack["images"][name] for name in names},
        "layers": [layer for layer in stack["layers"] if layer["name"] in layers],
        "wheels": {name: recipe for name, recipe in stack["wheels"].items() if name in wheels},
        "components": components,
        "locks": locks,
        **{
            key: stack.get(key)
            for key in ("name", "python", "variants", "cuda", "tools", "environment", "denied", "nsight_systems")
        },
    }


def code_files(root: str) -> list[str]:
    """The files of CODE, sorted: code and templates, no documentation."""
    found = []
    for part in CODE:
        top = os.path.join(root, part)
        if os.path.isfile(top):
            found.append(top)
        for folder, _folders, files in os.walk(top):
            inside = os.path.relpath(folder, root).split(os.sep)
            if not {"__pycache__", "files", "meta"} & {*inside}:
                found += [os.path.join(folder, name) for name in files if name.endswith(ENDINGS)]
    return sorted(found)


def code_digest(root: str = COLLECTION) -> str:
    """sha256 of the code that makes an image: names and contents."""
    total = hashlib.sha256()
    for path in code_files(root):
        with open(path, "rb") as stream:
            content = hashlib.sha256(stream.read()).hexdigest()
        total.update(("%s %s\n" % (os.path.relpath(path, root), content)).encode())
    return total.hexdigest()


def identity(root: str = COLLECTION) -> dict[str, str]:
    """Where the code comes from: repository, version, and the commit where this is a checkout."""
    try:
        with open(os.path.join(root, "MANIFEST.json"), encoding="utf-8") as stream:
            info = json.load(stream)["collection_info"]
        found = {"source": str(info["repository"]), "version": str(info["version"])}
    except (OSError, ValueError, KeyError):
        with open(os.path.join(root, "galaxy.yml"), encoding="utf-8") as stream:
            lines = dict(re.findall(r"^(repository|version):\s*(\S+)", stream.read(), re.MULTILINE))
        found = {"source": lines["repository"], "version": lines["version"]}
    found["revision"] = "v" + found["version"]
    if os.path.isdir(os.path.join(root, ".git")):
        command = ["git", "-C", root, "rev-parse", "HEAD"]
        answer = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
        if answer.returncode == 0:
            found["revision"] = answer.stdout.decode("ascii").strip()
    return found


def describe(
    stack: t.Mapping[str, t.Any], image: str, values: t.Mapping[str, t.Any], root: str = COLLECTION
) -> dict[str, t.Any]:
    """An image's recipe: tag, parent, what it needs, and the digest of its inputs but for the image that it starts from."""
    variants = {"torch": values["venv_torch_variant"]} if stack["variants"].get("torch") else {}
    inside = scope(stack, image, variants)
    own = stack["images"][image]
    parent = own.get("parent")
    return {
        "name": image,
        "tag": own["tag"],
        "stack_tag": own["tag"],
        "parent": parent or "",
        "parent_tag": stack["images"][parent]["tag"] if parent else "",
        "os_packages": sorted({*own["os_packages"], *values["image_extra_os_packages"]}),
        "environment": {**own["environment"], **values["image_environment"]},
        "uv": stack["tools"]["uv"],
        "stack": {"name": stack["name"], "digest": stack["digest"]},
        "nsight": (stack.get("nsight_systems") or {}).get("package", "") if not parent else "",
        **identity(root),
        "lock_digest": stack_file.canonical_digest(inside["locks"]),
        "input": stack_file.canonical_digest(
            {
                "scope": inside,
                "code": code_digest(root),
                "variables": {name: values[name] for name in VARIABLES},
            }
        ),
    }
