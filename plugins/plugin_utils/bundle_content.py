# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""What a bundle holds: follows from the stack file, its locks and the roles' variables; nothing is listed by hand."""

from __future__ import annotations

import os
import re
import typing as t
import urllib.parse

from ansible.module_utils.parsing.convert_bool import boolean

from ansible_collections.verl.baremetal.plugins.module_utils import host
from ansible_collections.verl.baremetal.plugins.module_utils import layer as layer_file
from ansible_collections.verl.baremetal.plugins.module_utils.nvidia import tables
from ansible_collections.verl.baremetal.plugins.module_utils.nvidia.decide import repository_url
from ansible_collections.verl.baremetal.plugins.module_utils.wheels import cache as wheel_cache
from ansible_collections.verl.baremetal.plugins.module_utils.wheels import key as wheel_key

from . import stack_file

ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
CONTROLLER_LOCKS = ("controller.txt", "uv.txt")
PREBUILT = "prebuilt/any"
Entry = dict[str, t.Any]


class ContentError(Exception):
    """Variables that decide nothing; the text says what to set."""


def chosen(name: str, asked: t.Sequence[str], known: t.Sequence[str], empty: t.Sequence[str]) -> list[str]:
    """The values of one variable: as asked, or the default where it is empty; all must be known."""
    values = [str(value) for value in asked] or list(empty)
    wrong = [value for value in values if value not in known]
    if wrong:
        raise ContentError(
            f"{name}: {', '.join(map(repr, wrong))} is not known; this stack has {', '.join(known) or 'none'}."
        )
    return sorted(set(values), key=list(known).index)


def lock_name(stack: t.Mapping[str, t.Any], layer: str, variant: str) -> str:
    """The name of a layer's lock, which is also the name of its part of a bundle."""
    return f"{layer}.{variant}" if layer in stack["variants"] and variant else layer


def serves(stack: t.Mapping[str, t.Any], values: t.Mapping[str, t.Any], controller_python: str) -> dict[str, list[str]]:
    """What the bundle will serve.

    Raises:
        ContentError: a variable asks for what the stack does not have.
    """
    pythons = list(stack["python"]["preferred"])
    variants = sorted(stack["variants"].get("torch", {}))
    systems = [f"{s['id']} {s['version']}" for s in stack["platform"]["systems"]]
    sources = ["pypi", "nvidia"] if stack["cuda"] else []
    first = [values["venv_torch_variant"]] if values["venv_torch_variant"] in variants else variants[:1]
    served = chosen("bundle_pythons", values["bundle_pythons"], pythons, pythons[:1])
    return {
        "pythons": served,
        "managed_pythons": served if boolean(values["venv_python_managed"]) else [],
        "torch_variants": chosen(
            "bundle_torch_variants", values["bundle_torch_variants"] if variants else [], variants, first
        ),
        "cuda_sources": chosen(
            "bundle_cuda_sources", values["bundle_cuda_sources"] if sources else [], sources, sources[:1]
        ),
        "systems": chosen("bundle_systems", values["bundle_systems"], systems, []),
        "controller_pythons": [controller_python] if boolean(values["bundle_controller"]) else [],
    }


def wanted(
    stack: t.Mapping[str, t.Any], served: t.Mapping[str, list[str]], values: t.Mapping[str, t.Any]
) -> list[Entry]:
    """Every package of every lock that the bundle serves: name, version, hashes, python, use, indexes, glibc."""
    index, glibc = values["stack_index_url"], stack["platform"]["glibc"]
    found: list[Entry] = []
    for python in served["pythons"]:
        locks: list[tuple[str, str | None, list[str]]] = []
        for layer in (layer["name"] for layer in stack["layers"]):
            variants = stack["variants"].get(layer, {})
            for variant in served["torch_variants"] if layer == "torch" else sorted(variants):
                own = variants[variant].get("index_url")
                own = [values["stack_torch_index_url"] or own] if own else []
                locks.append((layer, variant, [index, *own]))
            if not variants:
                locks.append((layer, None, [index]))
        if "pypi" in served["cuda_sources"]:
            locks.append(("cuda", None, [index]))
        locks.append(("uv", None, [index]))
        for layer, variant, indexes in locks:
            packages = stack_file.requirements(stack, layer, python, variant)["packages"]
            use = lock_name(stack, layer, variant or "") + "/" + python
            found += [
                _entry(name, p["version"], p["hashes"], python, use, indexes, glibc)
                for name, p in sorted(packages.items())
            ]
    for python in served["controller_pythons"]:
        found += controller(python, index, glibc)
    return found


def controller(python: str, index: str, glibc: str) -> list[Entry]:
    """The packages of the controller's own locks."""
    environment = stack_file.marker_environment(python)
    found = []
    for name in CONTROLLER_LOCKS:
        with open(os.path.join(ROOT, "requirements", name), encoding="utf-8") as stream:
            for entry in stack_file.parse_lock(stream.read()):
                if not entry["marker"] or layer_file.evaluate(entry["marker"], environment):
                    found.append(
                        _entry(
                            entry["name"],
                            entry["version"],
                            entry["hashes"],
                            python,
                            "controller/" + python,
                            [index],
                            glibc,
                        )
                    )
    return found


def host_system(root: str = "/") -> str:
    """The controller's own system, as ``debian 12``."""
    release = host.os_release(root)
    return "{id} {version}".format(**release)


def systems(
    stack: t.Mapping[str, t.Any], served: t.Mapping[str, list[str]], values: t.Mapping[str, t.Any], own: str
) -> list[Entry]:
    """The packages of operating systems: what compiling needs and packages load, and with CUDA source nvidia the driver, CUDA and cuDNN.

    Raises:
        ContentError: nobody says where a system's packages come from.
    """
    found = []
    for name in served["systems"]:
        sources = str(values["bundle_apt_sources"].get(name, ""))
        if not sources and name != own:
            raise ContentError(
                f"bundle_apt_sources: {name} is not named in it, and the controller is {own}. Give the lines of apt's "
                f"sources of {name}, for example bundle_apt_sources: {{'{name}': 'deb <mirror> <suite> main'}}."
            )
        distribution = tables.distribution(*name.split(" "))
        folder = system_folder(name)
        # What compiling needs, what packages load, and what Ansible's module apt needs. A question mark: taken where the system has it.
        tools = ["g++", "python3-apt", *sorted(stack_file.libraries(stack["layers"]).values())]
        tools += ["git"] if any(wheel["source"]["kind"] == "git" for wheel in stack["wheels"].values()) else []
        groups = [tools + [f"python{p}-{kind}?" for p in served["pythons"] for kind in ("dev", "venv")]]
        nvidia: Entry = {}
        branch, version = int(values["driver_branch"]), str(values["driver_version"])
        if "nvidia" in served["cuda_sources"] and distribution is not None:
            kit = tables.toolkit(stack["cuda"]["toolkit"])
            groups.append([f"{kit.package}={kit.version}", *tables.cudnn_packages(stack["cuda"]["cudnn"], 12)])
            pinning = tables.pinning_package(branch, version) + "?"
            modules = values["driver_kernel_modules"]
            for kind in ["open", "proprietary"] if modules == "auto" else [modules]:
                packages = tables.driver_packages(
                    distribution.family, branch, kind, boolean(values["driver_compute_only"])
                )
                groups.append([pinning, "dkms", "nvidia-persistenced?", *packages])
            groups += [[distribution.newest_headers + "?"], *[[f"linux-headers-{k}"] for k in values["bundle_kernels"]]]
            nvidia = {
                "url": repository_url(values["driver_repository_url"], folder),
                "key_url": values["driver_repository_key_url"],
                "fingerprints": values["driver_repository_fingerprints"],
            }
        found.append(
            {
                "system": name,
                "folder": "apt/" + folder + "/x86_64",
                "sources": sources,
                "groups": groups,
                "nvidia": nvidia,
                "branch": branch if nvidia else 0,
                "version": version if nvidia else "",
            }
        )
    return found


def added(
    stack: t.Mapping[str, t.Any], served: t.Mapping[str, list[str]], values: t.Mapping[str, t.Any], archive: str
) -> list[Entry]:
    """Files of the controller: the collection, compiled wheels of this stack out of the wheel cache, archives of images.

    Raises:
        ContentError: an archive that is named is not there.
    """
    found = [{"path": "collection/" + os.path.basename(archive), "source": archive, "uses": ["collection/any"]}]
    folder = os.path.expanduser(values["wheels_cache_controller"]) if values["wheels_cache_controller"] else ""
    versions = {wheel_key.normalise(w["dist"]): w["version"] for w in stack["wheels"].values()}
    for entry in wheel_cache.entries(folder) if folder else ():
        parts = entry["parts"]
        tag = re.match(r"cp(\d)(\d+)-", str(parts["python"]))
        python = ".".join(tag.groups()) if tag else ""
        if versions.get(parts["package"]) != parts["version"] or python not in served["pythons"]:
            continue
        for name in (entry["wheel"], entry["wheel"] + ".json"):
            found.append({"path": "built/" + name, "source": os.path.join(folder, name), "uses": ["built/" + python]})
    for path in (os.path.expanduser(p) for p in values["bundle_images"]):
        if not os.path.isfile(path):
            raise ContentError(f"bundle_images: {path} is not there. Make it (playbooks/images.yml) or take it out.")
        found.append({"path": "images/" + os.path.basename(path), "source": path, "uses": ["images/any"]})
    return found


def pythons(served: t.Mapping[str, list[str]], values: t.Mapping[str, t.Any]) -> list[Entry]:
    """The interpreters that uv brings."""
    return [{"python": python, "mirror": values["venv_python_mirror"]} for python in served["managed_pythons"]]


def sources(stack: t.Mapping[str, t.Any], values: t.Mapping[str, t.Any]) -> list[Entry]:
    """The sources of compiled wheels that lie in git; what is taken only where it can be had is not required."""
    wanted = str(values["megatron_apex"]).lower()
    return [
        {
            "name": name,
            "url": values["wheels_source_urls"].get(name) or wheel["source"]["url"],
            "commit": wheel["source"]["commit"],
            "required": wanted == "true",
        }
        for name, wheel in sorted(stack["wheels"].items())
        if wheel["source"]["kind"] == "git" and wanted != "false"
    ]


def direct(stack: t.Mapping[str, t.Any], values: t.Mapping[str, t.Any]) -> list[Entry]:
    """Wheels that lie in no index: upstream's of FlashAttention, where it is not compiled.

    Raises:
        ContentError: nobody says which one.
    """
    if values["flash_attention_method"] != "prebuilt" or "flash_attention" not in stack["wheels"]:
        return []
    url, sha256 = values["flash_attention_prebuilt_url"], values["flash_attention_prebuilt_sha256"]
    if not url or not sha256:
        raise ContentError(
            "flash_attention_method: prebuilt, without URL or sha256. Set flash_attention_prebuilt_url and "
            "flash_attention_prebuilt_sha256 to those of upstream's wheel."
        )
    # Upstream renames its wheels after the build: the part behind the plus is in the file's name and not in its metadata.
    name = re.sub(r"\+[^-]*", "", urllib.parse.unquote(os.path.basename(urllib.parse.urlsplit(url).path)))
    return [{"name": name, "url": url, "sha256": sha256, "use": PREBUILT}]


def _entry(name: str, version: str, hashes: list[str], python: str, use: str, indexes: list[str], glibc: str) -> Entry:
    return {
        "name": name,
        "version": version,
        "hashes": hashes,
        "python": python,
        "use": use,
        "indexes": indexes,
        "glibc": glibc,
    }


def system_folder(system: str) -> str:
    """The folder of a system's packages: ``ubuntu 24.04`` gives ubuntu2404, as NVIDIA names it."""
    return system.replace(" ", "").replace(".", "")


def uses(stack: t.Mapping[str, t.Any], plan: t.Mapping[str, t.Any], system: str, new: bool) -> list[str]:
    """What one host needs of a bundle, from its plan: with a release that is there only the system's packages."""
    packages = [f"apt.{system_folder(system)}/any"]
    if not new:
        return packages
    python, variant = plan["variants"]["python"], plan["variants"]["torch"]
    found = [lock_name(stack, layer, variant) + "/" + python for layer in plan["layers"]]
    found += ["uv/" + python, "built/" + python, "sources/any", *packages]
    if plan["cuda"]["source"] == "pypi":
        found.append("cuda/" + python)
    if any(wheel["method"] == "prebuilt" for wheel in plan["wheels"].values()):
        found.append(PREBUILT)
    if plan["python"].get("managed"):
        found.append("python/" + python)
    return sorted(found)


def requirement_lines(plan: t.Mapping[str, t.Any], values: t.Mapping[str, t.Any]) -> list[str]:
    """The requirement lines that one host's plan installs; the bundle must have a file for each."""
    lines = [line for layer in plan["layers"].values() for line in layer["requirements"]]
    lines += [
        f"{wheel['dist']}=={wheel['version']} --hash=sha256:{values['flash_attention_prebuilt_sha256']}"
        for wheel in plan["wheels"].values()
        if wheel["method"] == "prebuilt"
    ]
    return lines + plan["cuda"]["requirements"] + plan["uv"]["requirements"]
