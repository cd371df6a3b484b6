# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Decides what will be installed on a host: from the stack, the host's facts and the roles' variables to a plan, or to failures.

Pure: nothing here asks a host or the network. All failures are collected, none stops the others.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import typing as t

from ansible.module_utils.parsing.convert_bool import boolean

from ansible_collections.verl.baremetal.plugins.module_utils import cuda_layout
from ansible_collections.verl.baremetal.plugins.module_utils.probes import fatbin
from ansible_collections.verl.baremetal.plugins.module_utils.wheels import key

from . import stack_file

GB = 1024**3
ID_LENGTH = 12
RUNTIME_GB = 4.0  # memory that importing the stack needs
# What the roles' specifications allow: a role that is refused for it is refused after others have changed the host.
CHOICES = {
    "cuda_source": ("auto", "nvidia", "pypi", "existing"),
    "flash_attention_method": ("build", "prebuilt", "auto", "none"),
    "megatron_apex": ("auto", "true", "false"),
}


@dataclasses.dataclass(frozen=True)
class Failure:
    """One failed precondition."""

    name: str
    found: str
    needed: str
    remedy: str


@dataclasses.dataclass
class Options:
    """The roles' variables that take part in the decision; defaults are the roles' own."""

    stack_root: str
    stack_bundle: str
    stack_image: str
    stack_extra_packages: list[str]
    venv_python: str
    venv_python_managed: bool
    venv_torch_variant: str
    cuda_source: str
    cuda_home: str
    flash_attention_method: str
    flash_attention_architectures: list[str]
    flash_attention_prebuilt_url: str
    flash_attention_prebuilt_sha256: str
    megatron_apex: str
    preflight_disk_reserve_gb: float
    preflight_unsupported_os: bool

    @classmethod
    def names(cls) -> list[str]:
        """The variables' names."""
        return [field.name for field in dataclasses.fields(cls)]

    @classmethod
    def from_values(cls, values: t.Mapping[str, t.Any]) -> Options:
        """From variables as a user writes them: a YAML true is as good as the word."""
        wanted = {name: values[name] for name in cls.names()}
        wanted["megatron_apex"] = str(wanted["megatron_apex"]).lower()
        for name in ("venv_python_managed", "preflight_unsupported_os"):
            wanted[name] = boolean(wanted[name])
        wanted["preflight_disk_reserve_gb"] = float(wanted["preflight_disk_reserve_gb"])
        wanted["venv_python"] = str(wanted["venv_python"])
        asked = wanted["flash_attention_architectures"]
        asked = asked if isinstance(asked, (list, tuple)) else str(asked).split(",")
        wanted["flash_attention_architectures"] = [str(a).strip() for a in asked if str(a).strip()]
        return cls(**wanted)


def gb(value: float) -> str:
    """Bytes as words."""
    return "%.1f GB" % (value / GB)


def version_tuple(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: ``2.36-9`` gives (2, 36)."""
    match = re.match(r"\d+(?:\.\d+)*", text or "")
    return tuple(int(part) for part in match.group(0).split(".")) if match else ()


def words_of(architectures: t.Iterable[str]) -> str:
    """Architectures as words."""
    return ", ".join("sm_" + name for name in key.architectures(architectures))


class Planner:
    """Collects decisions and failures for one host.

    ``offers`` tells which compiled wheels the caches beyond the host's own hold, as parts of their keys; it is asked only where
    the host has no compiler for them.
    """

    def __init__(
        self,
        stack: dict[str, t.Any],
        facts: dict[str, t.Any],
        options: Options,
        offers: t.Callable[[], list[dict[str, t.Any]]] = list,
    ) -> None:
        self.stack = stack
        self.facts = facts
        self.options = options
        self.failures: list[Failure] = []
        self.warnings: list[str] = []
        self.skipped: dict[str, str] = {}
        self.os_packages: list[str] = []
        self.asked_architectures: list[str] = []
        self._offers = offers

    def fail(self, name: str, found: str, needed: str, remedy: str) -> None:
        """Note one failed precondition."""
        self.failures.append(Failure(name, found, needed, remedy))

    def check_options(self) -> None:
        """Values that mean nothing, before anything is decided by them."""
        for name, known in CHOICES.items():
            value = str(getattr(self.options, name))
            if value not in known:
                self.fail(name, repr(value), "one of " + ", ".join(known), "correct it")
        wrong = []
        for asked in self.options.flash_attention_architectures:
            try:
                self.asked_architectures.append(key.architecture(asked))
            except key.ArchitectureError:
                wrong.append(asked)
        if wrong:
            self.fail(
                "flash_attention_architectures",
                ", ".join(map(repr, wrong)),
                "GPU architectures, each written as 9.0, 90 or sm_90",
                "correct it, or leave it empty: the hosts' GPUs are asked",
            )

    @property
    def bundle(self) -> dict[str, t.Any] | None:
        """The head of the bundle that everything is taken from; None without one, or where it cannot be read."""
        found = self.facts.get("bundle")
        return found if self.options.stack_bundle and found and not found.get("error") else None

    def check_bundle(self) -> None:
        """Whether the bundle is there and one of this stack."""
        found = self.facts.get("bundle") if self.options.stack_bundle else None
        if found is None:
            return
        if found.get("error"):
            self.fail(
                "stack_bundle",
                found["error"],
                "a bundle of this stack",
                "make one (playbooks/bundle.yml) or correct stack_bundle",
            )
        elif found["stack"]["name"] != self.stack["name"]:
            self.fail(
                "stack_bundle",
                "a bundle of the stack %s" % found["stack"]["name"],
                "one of the stack %s (stack_name)" % self.stack["name"],
                "correct stack_bundle, or set stack_name",
            )
        elif found["stack"]["digest"] != self.stack["digest"]:
            self.fail(
                "stack_bundle",
                "a bundle of %s with other locks (%s)" % (self.stack["name"], found["stack"]["digest"][:ID_LENGTH]),
                "one of this collection's locks (%s)" % self.stack["digest"][:ID_LENGTH],
                "run playbooks/bundle.yml again: it fetches only what changed",
            )

    def served(self, name: str, wanted: str, variable: str) -> None:
        """Fail when the bundle does not serve a choice."""
        values = self.bundle["serves"].get(name, []) if self.bundle else [wanted]
        if wanted not in values:
            self.fail(
                "stack_bundle",
                "it serves %s: %s" % (name.replace("_", " "), ", ".join(values) or "none"),
                wanted,
                "make the bundle with %s: it fetches only what is missing" % variable,
            )

    def has_source(self, wheel: dict[str, t.Any], python: str) -> bool:
        """Whether the bundle has what a wheel is made of; a source in git may have been out of its maker's reach."""
        if self.bundle and wheel["name"] in self.bundle.get("sources", {}):
            return True
        built = self.bundle.get("built", []) if self.bundle else []
        if wheel["method"] != "build" or wheel["source"]["kind"] != "git" or "%s/%s" % (wheel["dist"], python) in built:
            return True
        lacks = "the bundle holds neither the source of %s nor a compiled wheel for Python %s"
        reason = lacks % (wheel["dist"], python)
        if self.options.megatron_apex == "auto":
            self.skipped[wheel["name"]] = reason
        else:
            self.fail(
                "megatron_apex",
                reason,
                "one of them",
                "run playbooks/bundle.yml again where wheels_source_urls or its repository can be reached; or set megatron_apex: auto or false",
            )
        return False

    def scope(self) -> tuple[list[str], list[str]]:
        """Names of the layers and of the compiled wheels that are wanted: all, or those of one image and its parents."""
        layers = [layer["name"] for layer in self.stack["layers"]]
        wheels = list(self.stack["wheels"])
        image = self.options.stack_image
        if not image:
            return layers, wheels
        images = self.stack["images"]
        if image not in images:
            self.fail(
                "stack_image",
                repr(image),
                "one of " + (", ".join(images) or "none: this stack has no images"),
                "correct it",
            )
            return layers, wheels
        held_layers: set[str] = set()
        held_wheels: set[str] = set()
        name: str | None = image
        while name:
            held_layers.update(images[name]["layers"])
            held_wheels.update(images[name]["wheels"])
            name = images[name].get("parent")
        compiled = {wheel["component"]: wheel_name for wheel_name, wheel in self.stack["wheels"].items()}
        for component in self.stack["components"]:
            wheel = compiled.get(component["name"])
            absent = wheel not in held_wheels if wheel else component.get("layer", layers[0]) not in held_layers
            if absent:
                self.skipped[component["name"]] = "not part of the image %s" % image
        return [n for n in layers if n in held_layers], [n for n in wheels if n in held_wheels]

    # -- the host ---------------------------------------------------------------------------------------------------------------

    def check_system(self) -> None:
        """Operating system, architecture and C library."""
        platform, system = self.stack["platform"], self.facts["os"]
        supported = ["%s %s" % (s["id"], s["version"]) for s in platform["systems"]]
        found = ("%s %s" % (system["id"], system["version"])).strip()
        if found not in supported and not self.options.preflight_unsupported_os:
            self.fail(
                "operating system",
                system["pretty"] or found or "none that /etc/os-release names",
                " or ".join(supported),
                "take a supported system; preflight_unsupported_os: true tries anyway, without promise",
            )
        if self.facts["architecture"] != platform["architecture"]:
            self.fail(
                "architecture",
                self.facts["architecture"],
                platform["architecture"],
                "the locks hold wheels for this architecture only",
            )
        if version_tuple(self.facts["glibc"]) < version_tuple(platform["glibc"]):
            self.fail(
                "glibc",
                self.facts["glibc"] or "another C library",
                "%s or newer" % platform["glibc"],
                "take a newer system: the wheels are built for manylinux_2_28",
            )

    def check_driver(self) -> None:
        """A driver for the GPUs, where this run installs none; without one the release's gate would fail after the build."""
        needed = any(component["kind"] == "driver" for component in self.stack["components"])
        if needed and self.facts["gpus"] and not self.facts["driver"]:
            self.fail(
                "NVIDIA driver",
                "none, with %d GPUs of NVIDIA" % len(self.facts["gpus"]),
                "an installed driver: this run builds a release and leaves the driver alone",
                "provision the host with site.yml first",
            )

    def check_root(self) -> None:
        """Permission to write where the stack goes."""
        if not self.facts["writable"]:
            self.fail(
                "write permission",
                "%s cannot be written" % self.facts["stack_root"],
                "a folder that this user may write",
                "set stack_root to such a folder, or run as root (become: true)",
            )

    def check_folders(self) -> None:
        """Folders of packages; one that is not there would be passed over without a word."""
        for place in self.facts.get("absent_folders", []):
            self.fail(
                "stack_find_links", "%s is no folder on this host" % place, "folders or URLs", "correct it, or make it"
            )

    def check_resources(self, new: bool, layers: list[str], wheels: list[dict[str, t.Any]], source: str) -> float:
        """Disk and memory; returns the disk that a new release needs, in GB."""
        need = sum(layer.get("disk_gb", 0.0) for layer in self.stack["layers"] if layer["name"] in layers)
        if source == "pypi" and self.stack["cuda"]:
            need += self.stack["cuda"]["disk_gb"]
        if not self.facts["root"]:
            need *= 2  # a user's release holds copies of the package cache, root's holds hard links
        reserve = self.options.preflight_disk_reserve_gb
        if new and self.facts["free_bytes"] < (need + reserve) * GB:
            self.fail(
                "disk",
                "%s free under %s" % (gb(self.facts["free_bytes"]), self.facts["stack_root"]),
                "%.1f GB for the release and %.1f GB in reserve" % (need, reserve),
                "free space, set stack_root to a larger disk, or lower preflight_disk_reserve_gb",
            )
        memory = self.facts["memory_bytes"]
        per_job = max([w["gb_per_job"] for w in wheels] + [RUNTIME_GB if self.stack["cuda"] else 0.0])
        if new and memory is not None and memory < per_job * GB:
            self.fail(
                "memory",
                gb(memory),
                "%.1f GB" % per_job,
                "take a larger machine or raise the container's limit; wheels can be built elsewhere (playbooks/wheels.yml)",
            )
        return need

    # -- decisions --------------------------------------------------------------------------------------------------------------

    def python(self) -> dict[str, t.Any] | None:
        """The interpreter: the newest of the stack's that is there, or the one asked for."""
        preferred = self.stack["python"]["preferred"]
        wanted = self.options.venv_python
        if self.bundle and wanted == "auto":
            preferred = [short for short in preferred if short in self.bundle["serves"]["pythons"]]
        found = self.facts["pythons"]
        there = ", ".join("%s (%s)" % (p["version"], p["path"]) for p in found) or "none"
        usable = [p for p in found if p["implementation"] == "cpython"]
        if wanted == "auto":
            for short in preferred:
                for python in usable:
                    if python["version"].startswith(short + "."):
                        return {**python, "short": short, "managed": False}
            if self.options.venv_python_managed and preferred:
                return {
                    "path": "",
                    "version": preferred[0],
                    "short": preferred[0],
                    "managed": True,
                    "headers": True,
                }
            needed, remedy = (
                "one of " + (", ".join(preferred) or "none"),
                "install one, or set venv_python_managed: true and uv brings its own",
            )
        elif wanted.startswith(("/", "~")):
            for python in usable:
                if python["path"] == wanted or python.get("asked") == wanted:
                    short = ".".join(python["version"].split(".")[:2])
                    if short in preferred:
                        return {**python, "short": short, "managed": False}
            needed, remedy = (
                "%s to be a CPython %s" % (wanted, " or ".join(preferred)),
                "set venv_python to another path or version, or to auto",
            )
        elif wanted in preferred:
            for python in usable:
                if python["version"].startswith(wanted + "."):
                    return {**python, "short": wanted, "managed": False}
            if self.options.venv_python_managed:
                return {"path": "", "version": wanted, "short": wanted, "managed": True, "headers": True}
            needed = "Python %s (venv_python)" % wanted
            remedy = "install it, set venv_python: auto, or venv_python_managed: true and uv brings its own"
        else:
            needed = "venv_python to be auto, a path, or one of %s; it is %r" % (", ".join(preferred), wanted)
            remedy = "the locks are made for these versions of Python only"
        if self.bundle:
            remedy += "; or make the bundle for one that is there (bundle_pythons)"
        self.fail("python", there, needed, remedy)
        return None

    def cuda_source(self) -> str:
        """Where CUDA is taken from."""
        source, home = self.options.cuda_source, self.options.cuda_home
        if not self.stack["cuda"]:
            return "none"
        if source == "auto":
            if home:
                source = "existing"
            else:
                source = "nvidia" if self.facts["gpus"] and self.facts["root"] else "pypi"
        if source == "existing":
            if not home:
                self.fail(
                    "cuda_home",
                    "empty, with cuda_source: existing",
                    "the folder of a CUDA %s toolkit" % self.stack["cuda"]["version"],
                    "set cuda_home, or another cuda_source",
                )
            else:
                kit = self.toolkit(home)
                wanted = self.stack["cuda"]["version"]
                if kit is None or not kit["version"]:
                    self.fail(
                        "cuda_home",
                        "no CUDA toolkit at %s" % home,
                        "a folder with version.json or include/cuda.h",
                        "correct cuda_home",
                    )
                elif not cuda_layout.serves(kit["version"], wanted):
                    self.fail(
                        "cuda_home",
                        "CUDA %s at %s" % (kit["version"], home),
                        "CUDA " + wanted,
                        "set cuda_home to such a toolkit, or cuda_source to another source",
                    )
        elif home:
            self.fail(
                "cuda_home",
                "%s, with cuda_source: %s" % (home, source),
                "cuda_source: existing",
                "set it, or leave cuda_home empty",
            )
        if source == "nvidia" and not self.facts["root"]:
            self.fail(
                "cuda_source",
                "nvidia, without root",
                "root, since packages of the system are installed",
                "run as root, or set cuda_source: pypi",
            )
        return source

    def toolkit(self, home: str) -> dict[str, t.Any] | None:
        """The fact about one CUDA home."""
        for kit in self.facts["toolkits"]:
            if kit["home"].rstrip("/") == home.rstrip("/"):
                return t.cast("dict[str, t.Any]", kit)
        return None

    def has_nvcc(self, source: str) -> bool:
        """Whether the plan's CUDA home has a compiler for CUDA sources."""
        if source == "nvidia":
            return True
        if source == "existing":
            kit = self.toolkit(self.options.cuda_home)
            return bool(kit and kit["nvcc"])
        return False

    @functools.cached_property
    def offers(self) -> list[dict[str, t.Any]]:
        """Parts of the keys of all compiled wheels that a cache holds for this host: its own, and those beyond it."""
        return [entry["parts"] for entry in self.facts.get("wheels", [])] + self._offers()

    def cached(self, recipe: dict[str, t.Any], python: str) -> bool:
        """Whether a cache or the bundle has the wheel, so that no compiler is needed."""
        if self.bundle and "%s/%s" % (recipe["dist"], python) in self.bundle.get("built", []):
            return True
        variant = self.stack["variants"].get("torch", {}).get(self.options.venv_torch_variant, {})
        torch = stack_file.pins(self.stack).get("torch")
        wanted = key.parts(
            package=recipe["dist"],
            version=recipe["version"],
            source=recipe["source"],
            python="cp" + python.replace(".", ""),
            torch={"version": torch, "cuda": variant.get("cuda")} if torch else None,
            nvcc="",
            archs=self.architectures(recipe),
            flags={"env": recipe.get("env", {}), "options": recipe.get("options", [])},
            system="%s-%s" % (self.facts["os"]["id"], self.facts["os"]["version"]),
            glibc=self.facts["glibc"],
            machine=self.facts["architecture"],
        )
        return any(key.may_serve(offered, wanted) for offered in self.offers)

    def architectures(self, wheel: dict[str, t.Any]) -> list[str]:
        """GPU architectures to compile for: asked for, else the host's GPUs', else the image's list.

        Where a package has kernels for some architectures only, the newest of them that runs on the GPU stands for it.
        """
        found = [g["compute_capability"] for g in self.facts["gpus"] if g.get("compute_capability")]
        wanted = key.architectures(self.asked_architectures or found or wheel.get("image_architectures", []))
        supported = key.architectures(wheel.get("supported_architectures", []))
        chosen = set()
        for name in wanted:
            code = [fatbin.Architectures(frozenset([arch]), frozenset()) for arch in supported]
            running = [arch for arch, made in zip(supported, code) if fatbin.runs_on(made, int(name.rstrip("af")))]
            chosen.add(running[-1] if running else name)
        return key.architectures(chosen)

    def without_kernels(self, recipe: dict[str, t.Any]) -> str:
        """The architectures that the package has no kernels for, in words; empty where there are none."""
        supported = key.architectures(recipe.get("supported_architectures", []))
        lacking = [name for name in self.architectures(recipe) if supported and name not in supported]
        return "%s, which %s has no kernels for" % (words_of(lacking), recipe["dist"]) if lacking else ""

    def wheels(self, source: str, wanted_wheels: list[str], python: str) -> list[dict[str, t.Any]]:
        """The compiled wheels, each with its method; those left out go to ``skipped`` with the reason."""
        chosen = []
        nowhere = "no nvcc of CUDA 12 in the CUDA source %r, and no cache has the wheel" % source
        elsewhere = ", or build the wheel on another host (playbooks/wheels.yml)"
        for name in wanted_wheels:
            recipe = self.stack["wheels"][name]
            method = "build"
            can = not recipe["device_code"] or self.has_nvcc(source) or self.cached(recipe, python)
            if name == "flash_attention":
                method = self.options.flash_attention_method
                without = self.without_kernels(recipe)
                if method == "auto":
                    method = "build" if can and not without else "none"
                    if method == "none":
                        self.skipped[name] = without or nowhere
                elif method == "none":
                    self.skipped[name] = "flash_attention_method is none"
                elif method == "build" and without:
                    self.fail(
                        "flash_attention_method",
                        "build, with " + without,
                        "GPUs of " + words_of(recipe["supported_architectures"]) + ", or what runs their code",
                        "set flash_attention_method to none, or flash_attention_architectures to what it has kernels for",
                    )
                elif method == "build" and not can:
                    self.fail(
                        "flash_attention_method",
                        "build, with " + nowhere,
                        "a CUDA compiler, or a compiled wheel for this system, Python, Torch and GPU",
                        "set cuda_source to nvidia or existing, or flash_attention_method to prebuilt, auto or none"
                        + elsewhere,
                    )
                elif method == "prebuilt" and not (
                    self.options.flash_attention_prebuilt_url and self.options.flash_attention_prebuilt_sha256
                ):
                    self.fail(
                        "flash_attention_method",
                        "prebuilt, without URL or sha256",
                        "both, of a wheel for this Torch, ABI and Python",
                        "set flash_attention_prebuilt_url and flash_attention_prebuilt_sha256",
                    )
            elif name == "apex":
                wanted = self.options.megatron_apex
                if wanted == "auto":
                    wanted = "true" if can else "false"
                    if wanted == "false":
                        self.skipped[name] = nowhere
                elif wanted == "false":
                    self.skipped[name] = "megatron_apex is false"
                elif not can:
                    self.fail(
                        "megatron_apex",
                        "true, with " + nowhere,
                        "a CUDA compiler, or a compiled wheel for this system, Python, Torch and GPU",
                        "set cuda_source to nvidia or existing, or megatron_apex: auto" + elsewhere,
                    )
                method = "build" if wanted == "true" else "none"
            if method == "none":
                continue
            chosen.append(
                {
                    **recipe,
                    "method": method,
                    "architectures": self.architectures(recipe) if recipe["device_code"] else [],
                }
            )
        return chosen

    def made_of(self, wheel: dict[str, t.Any]) -> list[t.Any]:
        """What decides a compiled wheel's content: it is part of the release's id."""
        found = [wheel["dist"], wheel["version"], wheel["method"], wheel["architectures"]]
        found.append(wheel["source"].get("commit", ""))
        if wheel["method"] == "prebuilt":
            found.append(self.options.flash_attention_prebuilt_sha256)
        else:
            found += [wheel[name] for name in ("env", "options") if wheel.get(name)]
        return found

    def check_compilers(
        self, python: dict[str, t.Any] | None, wheels: list[dict[str, t.Any]], builds: list[str]
    ) -> None:
        """What has to be there to compile; packages of the system that root gets installed, a failure for anyone else."""
        if not (wheels or builds) or python is None:
            return
        packages = []
        if not self.facts["compiler"]:
            packages.append("g++")
        if not python["headers"]:
            if python["path"].startswith("/usr/bin/"):
                packages.append("python%s-dev" % python["short"])
            else:
                self.fail(
                    "python headers",
                    "no Python.h of %s" % python["path"],
                    "the headers, since extensions are compiled",
                    "install them, or take another venv_python",
                )
        if any(w["source"]["kind"] == "git" for w in wheels) and not self.facts["git"]:
            packages.append("git")
        self.need_packages(packages)

    def check_pip(self) -> None:
        """The pip that fetches uv: that of the Python that runs the modules, whatever Python the stack takes."""
        python = self.facts["own_python"]
        if python["pip"] or self.bundle:  # a bundle holds uv
            return
        if python["path"].startswith("/usr/bin/"):
            self.need_packages(["python%s-venv" % python["version"]])
        else:
            self.fail(
                "pip",
                "%s, which runs Ansible's modules, has neither pip nor ensurepip" % python["path"],
                "one of them, since it fetches uv",
                "set ansible_python_interpreter to a whole Python",
            )

    def need_packages(self, packages: list[str]) -> None:
        """Packages of the system: installed where this run is root on Debian or Ubuntu, otherwise asked for."""
        if not packages:
            return
        system = "%s %s" % (self.facts["os"]["id"], self.facts["os"]["version"])
        if self.bundle and system not in self.bundle["serves"].get("systems", []):
            self.fail(
                "packages of the system",
                "missing: %s; the bundle holds none for %s" % (", ".join(packages), system),
                "these packages",
                "install them, or make the bundle with bundle_systems: [%s]" % system,
            )
        elif self.facts["root"] and self.facts["apt"]:
            self.os_packages += packages
        else:
            self.fail(
                "packages of the system",
                "missing: " + ", ".join(packages),
                "these packages",
                "ask an administrator for: apt-get install " + " ".join(packages),
            )

    def check_libraries(self, layers: list[str]) -> None:
        """Libraries of the system that the layers' packages load: root gets them installed, anyone else is told."""
        wanted = stack_file.libraries(layer for layer in self.stack["layers"] if layer["name"] in layers)
        missing = {name: package for name, package in wanted.items() if name not in self.facts["libraries"]}
        system = "%s %s" % (self.facts["os"]["id"], self.facts["os"]["version"])
        served = not self.bundle or system in self.bundle["serves"].get("systems", [])
        if self.facts["root"] and self.facts["apt"] and served:
            self.os_packages += missing.values()
        elif missing:
            self.warnings.append(
                "the system lacks %s, which packages of the stack load; ask an administrator for: apt-get install %s"
                % (", ".join(sorted(missing)), " ".join(sorted(missing.values())))
            )

    def check_extra_packages(self) -> None:
        """Packages that the user asks for beside the stack: denied ones, and ones that are no part of it."""
        locked = set()
        for layer in self.stack["layers"]:
            variants = self.stack["variants"].get(layer["name"])
            for variant in variants or [None]:
                with open(stack_file.lock_path(self.stack, layer["name"], variant), encoding="utf-8") as stream:
                    locked |= {entry["name"] for entry in stack_file.parse_lock(stream.read())}
        denied = {d["name"]: d["reason"] for d in self.stack["denied"]}
        for requirement in self.options.stack_extra_packages:
            name = stack_file.normalise(re.split(r"[^A-Za-z0-9._-]", requirement.strip())[0])
            if name in denied:
                self.fail("stack_extra_packages", requirement, "no such package in this stack", denied[name])
            elif name not in locked:
                self.fail(
                    "stack_extra_packages",
                    requirement,
                    "a package of the stack's locks",
                    "a stack is frozen: add it to a stack file of your own and make its locks (docs/stacks.md)",
                )

    # -- the plan ---------------------------------------------------------------------------------------------------------------

    def plan(self) -> dict[str, t.Any]:
        """The plan, with ``failures`` (a list, empty when all is well) and ``warnings``."""
        stack, options = self.stack, self.options
        self.check_options()
        self.check_system()
        self.check_root()
        self.check_folders()
        self.check_bundle()
        self.check_extra_packages()
        python = self.python()
        source = self.cuda_source()
        variants_of_torch = stack["variants"].get("torch", {})
        variant = options.venv_torch_variant if variants_of_torch else ""
        if variants_of_torch and variant not in variants_of_torch:
            self.fail(
                "venv_torch_variant", repr(variant), "one of " + ", ".join(sorted(variants_of_torch)), "correct it"
            )
            variant = ""
        if python is not None:
            self.served("pythons", python["short"], "bundle_pythons")
            if python["managed"]:
                self.served("managed_pythons", python["short"], "venv_python_managed: true")
        if variant:
            self.served("torch_variants", variant, "bundle_torch_variants")
        if source in ("pypi", "nvidia"):
            self.served("cuda_sources", source, "bundle_cuda_sources")
        wanted_layers, wanted_wheels = self.scope()
        self.check_libraries(wanted_layers)
        wheels = self.wheels(source, wanted_wheels, python["short"] if python else "")
        if self.bundle and python is not None:
            wheels = [wheel for wheel in wheels if self.has_source(wheel, python["short"])]

        layers: dict[str, dict[str, t.Any]] = {}
        cuda_lines: list[str] = []
        if python is not None and (variant or not variants_of_torch):
            compiled = {stack_file.normalise(w["dist"]) for w in stack["wheels"].values()}
            for layer in (layer for layer in stack["layers"] if layer["name"] in wanted_layers):
                wanted = stack_file.requirements(stack, layer["name"], python["short"], variant or None)
                lines = [line for line in wanted["lines"] if line.split("==")[0] not in compiled]
                layers[layer["name"]] = {
                    "requirements": lines,
                    "build": [n for n in wanted["build"] if n not in compiled],
                }
                for wheel in (w for w in wheels if w["source"]["kind"] == "sdist"):
                    package = wanted["packages"].get(stack_file.normalise(wheel["dist"]))
                    if package:
                        wheel["source"] = {**wheel["source"], "hashes": package["hashes"]}
            if source == "pypi":
                cuda_lines = stack_file.requirements(stack, "cuda", python["short"])["lines"]
        self.check_compilers(python, wheels, [n for layer in layers.values() for n in layer["build"]])
        self.check_pip()

        variants: dict[str, t.Any] = {
            "python": python["short"] if python else "",
            "torch": variant,
            "cuda_source": source,
        }
        variants["wheels"] = {w["name"]: w["architectures"] for w in wheels}
        decided = {
            "layers": layers,
            "cuda": cuda_lines or options.cuda_home,
            "variants": variants,
            "wheels": [self.made_of(w) for w in wheels],
            "environment": stack["environment"],
        }
        release_id = "%s-%s" % (stack["name"], stack_file.canonical_digest(decided)[:ID_LENGTH])
        new = not any(name == release_id or name.startswith(release_id + ".") for name in self.facts["releases"])
        disk = self.check_resources(new, wanted_layers, [w for w in wheels if w["method"] == "build"], source)
        deviation = variants_of_torch.get(variant, {}).get("deviation")
        if deviation:
            self.warnings.append(deviation)
        uv_lines = stack_file.requirements(stack, "uv", python["short"])["lines"] if python else []
        return {
            "id": release_id,
            "new": new,
            "root": self.facts["stack_root"],
            "stack": {"name": stack["name"], "digest": stack["digest"]},
            "definition": {
                k: v for k, v in stack.items() if k not in ("folder", "digest", "layers", "tools", "images", "platform")
            },
            "python": python or {},
            "variants": variants,
            "index_urls": [variants_of_torch[variant]["index_url"]]
            if variants_of_torch.get(variant, {}).get("index_url")
            else [],
            "layers": layers,
            "cuda": {"source": source, "requirements": cuda_lines, "home": options.cuda_home},
            "uv": {"version": stack["tools"]["uv"], "requirements": uv_lines},
            "wheels": {w["name"]: w for w in wheels},
            "left_out": self.skipped,  # a result's key "skipped" would make the task a skipped one
            "os_packages": sorted(set(self.os_packages)),
            "disk_gb": disk,
            "warnings": self.warnings,
            "failures": [dataclasses.asdict(f) for f in self.failures],
        }


def describe(failures: t.Sequence[dict[str, str]]) -> str:
    """All failures in words, one paragraph each."""
    lines = ["%d precondition%s failed; nothing was changed." % (len(failures), "" if len(failures) == 1 else "s")]
    for failure in failures:
        lines += [
            "",
            failure["name"] + ":",
            "  found:  " + failure["found"],
            "  needed: " + failure["needed"],
            "  to do:  " + failure["remedy"],
        ]
    return "\n".join(lines)
