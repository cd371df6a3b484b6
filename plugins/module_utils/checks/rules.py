# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The stack's rules on the Python side: versions, drift, denied packages, requirements, bad pairs. Pure functions.

A rule takes the context and returns its checks; `RULES` at the end is their order in the report.
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from .. import pep440, pep508
from ..probes import fatbin
from ..record import normalise
from .model import CONFLICT, DENIED, MISMATCH, MISSING, OK, SKIPPED, WARNING, Check

_LISTED = 3


class Context(NamedTuple):
    """What the rules look at."""

    definition: Mapping[str, Any]
    """The stack: components, rules, denied, bad_pairs, intended_conflicts, cuda, variants, wheels."""
    facts: Mapping[str, Any]
    """What `probes.collect.facts` found."""
    variants: Mapping[str, Any]
    """Which variant of a layer was chosen, for example {"torch": "pypi"}."""
    skipped: Mapping[str, str]
    """Components that were left out on purpose, and why."""
    locked: Mapping[str, Mapping[str, Any]]
    """The packages of the release: {name: {"version", "record_sha256"}}; empty where there is no manifest."""
    requires: Mapping[str, Sequence[str]]
    """The Requires-Dist values of every installed package."""
    records: Mapping[str, str]
    """sha256 of the RECORD of every installed package that the manifest has one for."""

    @property
    def packages(self) -> Mapping[str, str]:
        found: Mapping[str, str] = self.facts["packages"]
        return found

    @property
    def where(self) -> str:
        python = self.facts["python"]
        return python["site_packages"][0] if python else "no Python environment"

    def title(self, dist: str) -> str:
        """The component's title for a distribution, its own name where it is no component."""
        for component in self.definition.get("components", ()):
            if normalise(str(component.get("dist", ""))) == normalise(dist):
                return str(component.get("title", dist))
        return dist

    def rule(self, name: str) -> Any:
        return (self.definition.get("rules") or {}).get(name)


def names(values: Sequence[str]) -> str:
    """The first few of them, and how many more there are."""
    shown = ", ".join(values[:_LISTED])
    return f"{shown} and {len(values) - _LISTED} more" if len(values) > _LISTED else shown


def skip_reason(context: Context, component: Mapping[str, Any]) -> Optional[str]:
    """Why a component was left out on purpose: by its own name, its package's, or that of the wheel built for it."""
    known = [str(component.get("name")), str(component.get("dist", ""))]
    wheels = context.definition.get("wheels") or {}
    entries = wheels.items() if isinstance(wheels, Mapping) else [(entry.get("name"), entry) for entry in wheels]
    known.extend(str(name) for name, wheel in entries if wheel.get("component") == component.get("name"))
    return next((context.skipped[name] for name in known if name in context.skipped), None)


def expected_version(context: Context, component: Mapping[str, Any]) -> str:
    """The version with the local part that the chosen variant of its layer brings."""
    version = str(component["version"])
    local = variant_of(context, str(component.get("layer", ""))).get("local")
    return f"{version}+{local}" if local and "+" not in version else version


def variant_of(context: Context, layer: str) -> Mapping[str, Any]:
    """The description of the layer's chosen variant; of its first one where none was chosen; empty without variants."""
    described = (context.definition.get("variants") or {}).get(layer) or {}
    chosen = context.variants.get(layer) or next(iter(described), "")
    variant: Mapping[str, Any] = described.get(chosen) or {}
    return variant


def _has_variants(context: Context, component: Mapping[str, Any]) -> bool:
    return bool((context.definition.get("variants") or {}).get(component.get("layer")))


def python(context: Context) -> List[Check]:
    """The environment's Python is one that the locks were made for."""
    wanted = [str(version) for version in (context.definition.get("python") or {}).get("preferred") or ()]
    environment = context.facts["python"]
    if not wanted or not environment:
        return []
    found = str(environment["version"] or "unknown")
    check = Check("python", "Python", OK, ", ".join(wanted), found, f"{environment['prefix']}/pyvenv.cfg")
    if ".".join(found.split(".")[:2]) in wanted:
        return [check]
    return [check._replace(status=MISMATCH, remedy=f"build the environment with Python {wanted[0]}")]


def python_components(context: Context) -> List[Check]:
    """One check for every component that is a Python package."""
    return [
        _python_component(context, component)
        for component in context.definition.get("components", ())
        if component.get("kind", "python") in ("python", "commit")
    ]


def _python_component(context: Context, component: Mapping[str, Any]) -> Check:
    name, title = str(component["name"]), str(component.get("title", component["name"]))
    dist = normalise(str(component.get("dist", name)))
    expected = expected_version(context, component)
    commit = component.get("commit") if component.get("kind") == "commit" else None
    if commit:
        expected = f"{expected} {str(commit)[:12]}"
    found = context.packages.get(dist)
    if found is None:
        reason = skip_reason(context, component)
        if reason is not None:
            return Check(name, title, SKIPPED, expected, f"not installed: {reason}", context.where)
        return Check(
            name, title, MISSING, expected, "", context.where, f"install the layer {component.get('layer', dist)} again"
        )
    source = f"{context.where}/{dist.replace('-', '_')}-{found}.dist-info"
    if commit:
        return _commit(context, Check(name, title, OK, expected, found, source), component, dist)
    # a variant's local part names the build (torch 2.7.1+cu128); elsewhere it only says who built the same source
    equal = pep440.same if _has_variants(context, component) or "+" in expected else pep440.same_public
    if equal(found, expected):
        return Check(name, title, OK, expected, found, source)
    return Check(name, title, MISMATCH, expected, found, source, f"install {dist}=={expected} from the stack's lock")


def _commit(context: Context, check: Check, component: Mapping[str, Any], dist: str) -> Check:
    """A component whose version says nothing: its commit does."""
    wanted = str(component["commit"])
    if not pep440.same_public(check.found, str(component["version"])):
        return check._replace(status=MISMATCH, remedy=f"build {dist} from commit {wanted}")
    commit = context.facts.get("commits", {}).get(dist) or _commit_in_version(check.found)
    if not commit:
        remedy = f"nothing says which commit {dist} was built from; build it with the role to have it recorded"
        return check._replace(status=WARNING, remedy=remedy)
    found = f"{check.found.split('+')[0]} {commit[:12]}"
    if wanted.startswith(commit) or commit.startswith(wanted):
        return check._replace(found=found)
    return check._replace(status=MISMATCH, found=found, remedy=f"build {dist} from commit {wanted}")


def _commit_in_version(version: str) -> Optional[str]:
    """The commit in a local version such as 0.1+d8200a1bec8d or 0.1+gd8200a1.key."""
    parsed = pep440.parse(version)
    for part in (parsed.local or "").split(".") if parsed else ():
        candidate = part[1:] if part.startswith("g") else part
        if len(candidate) >= 7 and all(letter in "0123456789abcdef" for letter in candidate):
            return candidate
    return None


def torch_build(context: Context) -> List[Check]:
    """Torch is the build for the stack's CUDA, and of the expected C++ ABI."""
    cuda = str((context.definition.get("cuda") or {}).get("version", ""))
    abi = context.rule("cxx11_abi")
    if not cuda:
        return []
    torch = context.facts["torch"]
    if not torch:
        return [Check("torch_cuda", "Torch built for CUDA", SKIPPED, cuda, "Torch is not installed")]
    found, source = str(torch.get("cuda") or "no CUDA"), str(torch["source"])
    variant = variant_of(context, "torch")
    check = Check("torch_cuda", "Torch built for CUDA", OK, cuda, found, source)
    if found != cuda:
        if context.variants.get("torch") and found == variant.get("cuda") and variant.get("deviation"):
            check = check._replace(
                status=WARNING,
                remedy=f"chosen on purpose: {variant['deviation']}; the torch variant cu128 has no deviation",
            )
        else:
            check = check._replace(
                status=MISMATCH, remedy="install Torch from the stack's lock (its own index has the CUDA build)"
            )
    checks = [check]
    if abi is not None:
        wanted = "C++11" if abi else "before C++11"
        built = torch.get("cxx11_abi")
        words = "unknown" if built is None else "C++11" if built else "before C++11"
        status = WARNING if built is None else OK if built == abi else MISMATCH
        remedy = "" if status == OK else "install Torch from the stack's lock; extensions of the other ABI do not load"
        checks.append(Check("torch_abi", "Torch's C++ ABI", status, wanted, words, source, remedy))
    return checks


def extension_abi(context: Context) -> List[Check]:
    """Every compiled extension has Torch's C++ ABI."""
    wanted = context.facts["torch"].get("cxx11_abi") if context.facts["torch"] else None
    if wanted is None:
        return []
    wrong = [
        name
        for name, entry in sorted(context.facts["extensions"].items())
        if entry["cxx11_abi"] is not None and entry["cxx11_abi"] != wanted
    ]
    known = [name for name, entry in context.facts["extensions"].items() if entry["cxx11_abi"] is not None]
    if not known:
        return []
    if not wrong:
        return [
            Check(
                "extension_abi",
                "C++ ABI of extensions",
                OK,
                "as Torch",
                f"as Torch ({len(known)} packages)",
                context.where,
            )
        ]
    return [
        Check(
            "extension_abi",
            "C++ ABI of extensions",
            MISMATCH,
            "as Torch",
            "another ABI: " + names(wrong),
            context.where,
            "build these packages against the installed Torch; they fail to load with undefined symbols",
        )
    ]


# The driver brings these: its own checks tell when they are missing.
_OF_THE_DRIVER = ("libcuda.so.1", "libnvidia-ml.so.1")


def extension_libraries(context: Context) -> List[Check]:
    """The compiled packages find the libraries that they need, and the C library is new enough for them."""
    extensions = context.facts["extensions"]
    if not extensions:
        return []
    files = [(name, entry) for name, extension in sorted(extensions.items()) for entry in extension["files"]]
    missing = sorted(
        {
            f"{library} for {name}"
            for name, entry in files
            for library in entry["unresolved"]
            if library not in _OF_THE_DRIVER
        }
    )
    check = Check(
        "extension_libraries", "libraries of extensions", OK, "all found", f"all of {len(files)} files", context.where
    )
    if missing:
        remedy = "install the system packages that bring them (libnuma1, libibverbs1, ...), or the package's own again"
        check = check._replace(status=WARNING, found="not found: " + names(missing), remedy=remedy)
    glibc = pep440.parse(context.facts["system"]["glibc"])
    newer = [
        f"{name} needs {entry['glibc']}"
        for name, entry in files
        if glibc and entry["glibc"] and pep440.Version(entry["glibc"]) > glibc
    ]
    if newer:
        remedy = "build these packages on this system: they were built on a newer one"
        found = f"{glibc}: {names(newer)}"
        return [
            check,
            Check("extension_glibc", "glibc for extensions", MISMATCH, "new enough", found, context.where, remedy),
        ]
    return [check]


def flashinfer_build(context: Context) -> List[Check]:
    """flashinfer-python is a source package that records the Torch (2.7) and the CUDA it was built with."""
    meta = context.facts["flashinfer"]
    built, installed = meta.get("torch"), context.packages.get("torch")
    if not built or not installed:
        return []
    check = Check("flashinfer_torch", "FlashInfer built with Torch", OK, installed, str(built), str(meta["source"]))
    remedy = "build flashinfer-python without isolation against the installed Torch, with no other CUDA on PATH"
    numbers = str(built).partition("+")[0].split(".")
    if installed.partition("+")[0].split(".")[: len(numbers)] != numbers:
        return [check._replace(status=MISMATCH, remedy=remedy)]
    torch_cuda = str(context.facts["torch"].get("cuda") or "")
    if meta.get("cuda_major") and torch_cuda and str(meta["cuda_major"]) != torch_cuda.partition(".")[0]:
        return [check._replace(status=WARNING, found=f"{built}, CUDA {meta['cuda_major']}", remedy=remedy)]
    return [check]


def same_versions(context: Context) -> List[Check]:
    """Groups of packages that must have one version."""
    checks: List[Check] = []
    for group in context.rule("same_version") or ():
        found = {normalise(dist): context.packages.get(normalise(dist)) for dist in group}
        present = {dist: version for dist, version in found.items() if version is not None}
        title = f"{context.title(group[0])}'s versions"
        name = "same_version_" + normalise(group[0]).replace("-", "_")
        if len(present) < 2:
            checks.append(
                Check(name, title, SKIPPED, "one version", "fewer than two of them are installed", context.where)
            )
            continue
        words = ", ".join(f"{dist} {version}" for dist, version in present.items())
        if (
            len(
                {
                    pep440.Version(version).public_key if pep440.parse(version) else version
                    for version in present.values()
                }
            )
            == 1
        ):
            first = next(iter(present.values())).split("+")[0]
            checks.append(
                Check(name, title, OK, "one version", f"{first} ({len(present)} of {len(group)})", context.where)
            )
        else:
            checks.append(
                Check(
                    name,
                    title,
                    MISMATCH,
                    "one version",
                    words,
                    context.where,
                    "install all of them from the stack's lock",
                )
            )
    return checks


def denied(context: Context) -> List[Check]:
    """Packages that the stack never holds."""
    entries = context.definition.get("denied") or ()
    checks: List[Check] = []
    for entry in entries:
        dist = normalise(str(entry["name"]))
        if dist in context.packages:
            checks.append(
                Check(
                    f"denied_{dist.replace('-', '_')}",
                    dist,
                    DENIED,
                    "not installed",
                    context.packages[dist],
                    context.where,
                    f"uninstall {dist}: {entry['reason']}",
                )
            )
    if entries and not checks:
        every = ", ".join(str(entry["name"]) for entry in entries)
        checks.append(Check("denied", "denied packages", OK, f"no {every}", "none", context.where))
    return checks


def bad_pairs(context: Context) -> List[Check]:
    """Combinations that are known not to work together."""
    checks: List[Check] = []
    for pair in context.definition.get("bad_pairs") or ():
        conditions = {normalise(str(dist)): str(specifier) for dist, specifier in pair["when"].items()}
        if any(dist not in context.packages for dist in conditions):
            continue
        if not all(_allows(specifier, context.packages[dist]) for dist, specifier in conditions.items()):
            continue
        expected = "not " + " with ".join(f"{dist} {specifier}" for dist, specifier in conditions.items())
        found = " with ".join(f"{dist} {context.packages[dist]}" for dist in conditions)
        remedy = f"{pair['found']}: {pair['remedy']}" if pair.get("found") else str(pair["remedy"])
        title = " and ".join(context.title(dist) for dist in conditions)
        checks.append(
            Check(
                f"pair_{pair['name']}", title, str(pair["status"]), expected, found, str(pair.get("source", "")), remedy
            )
        )
    if not checks and context.definition.get("bad_pairs"):
        count = len(context.definition["bad_pairs"])
        checks.append(
            Check("bad_pairs", "known bad combinations", OK, "none", f"none of the {count} known", context.where)
        )
    return checks


def _allows(specifier: str, version: str) -> bool:
    try:
        return pep440.allows(specifier, version)
    except pep440.InvalidVersion:
        return False


def locked(context: Context) -> List[Check]:
    """Every package is as the release's manifest has it, and no other is there."""
    if not context.locked:
        return [Check("drift", "locked packages", SKIPPED, "as locked", "no manifest to compare with")]
    wanted = {normalise(name): entry for name, entry in context.locked.items()}
    missing = sorted(name for name in wanted if name not in context.packages)
    changed = sorted(
        f"{name} {context.packages[name]} (locked {entry['version']})"
        for name, entry in wanted.items()
        if name in context.packages and not pep440.same(context.packages[name], str(entry["version"]))
    )
    rebuilt = sorted(
        name
        for name, entry in wanted.items()
        if entry.get("record_sha256")
        and name in context.records
        and context.records[name] != entry["record_sha256"]
        and pep440.same(context.packages.get(name), str(entry["version"]))
    )
    extra = sorted(name for name in context.packages if name not in wanted)
    checks: List[Check] = []
    again = "run the site playbook: it builds the release again"
    if missing:
        checks.append(
            Check("drift_missing", "locked but missing", MISSING, "installed", names(missing), context.where, again)
        )
    if changed:
        checks.append(
            Check("drift_changed", "changed since locked", MISMATCH, "as locked", names(changed), context.where, again)
        )
    if rebuilt:
        title, expected = "other build than locked", "the locked files"
        checks.append(Check("drift_build", title, MISMATCH, expected, names(rebuilt), context.where, again))
    if extra:
        remedy = "remove them, or keep them in an environment of your own"
        checks.append(
            Check("drift_extra", "not in the lock", WARNING, "nothing else", names(extra), context.where, remedy)
        )
    if not checks:
        checks.append(
            Check("drift", "locked packages", OK, f"{len(wanted)} packages", "as locked, no other", context.where)
        )
    return checks


def leftovers(context: Context) -> List[Check]:
    """Traces of interrupted or doubled installations."""
    found: List[str] = [f"{name} {' and '.join(versions)}" for name, versions in context.facts["duplicates"].items()]
    found += [f"no METADATA in {path.rsplit('/', 1)[-1]}" for path in context.facts["broken"]]
    found += [path.rsplit("/", 1)[-1] for path in context.facts["leftovers"]]
    if not context.facts["python"]:
        return []
    title = "interrupted installations"
    if not found:
        return [Check("leftovers", title, OK, "none", "none", context.where)]
    # a folder that pip renamed does no harm; two versions of one package or half of one do
    status = MISMATCH if context.facts["duplicates"] or context.facts["broken"] else WARNING
    return [Check("leftovers", title, status, "none", names(found), context.where, "install these packages again")]


class Unmet(NamedTuple):
    """A requirement that the installed packages do not meet."""

    dist: str
    requirement: str
    name: str
    found: Optional[str]


def _of_extra(
    line: str, extra: str, environment: Mapping[str, str], verdicts: Dict[Tuple[str, str], bool]
) -> Optional[pep508.Requirement]:
    """The requirement in a line, where it counts for the package itself (no extra) or for one of its extras alone.

    `verdicts` keeps what was said of a marker: packages have the same few.
    """
    mentions = "extra" in line
    # most lines belong to extras that nobody asked for: they are not worth reading
    if (extra and not mentions) or (not extra and mentions and " or " not in line and "extra !=" not in line):
        return None
    requirement = pep508.parse_requirement(line)
    asked = (requirement.marker, extra)
    if asked not in verdicts:
        verdicts[asked] = pep508.evaluate_marker(requirement.marker, environment, [extra] if extra else [])
    return requirement if verdicts[asked] else None


def unmet_requirements(packages: Mapping[str, str], requires: Mapping[str, Sequence[str]], python: str) -> List[Unmet]:
    """Every requirement of an installed package, with the extras that others ask of it, that is not met."""
    environment = pep508.marker_environment(python)
    verdicts: Dict[Tuple[str, str], bool] = {}
    unmet: Set[Unmet] = set()
    done: Set[Tuple[str, str]] = set()
    queue: List[Tuple[str, str]] = [(name, "") for name in requires]
    while queue:
        name, extra = queue.pop()
        if (name, extra) in done:
            continue
        done.add((name, extra))
        for line in requires.get(name, ()):
            try:
                requirement = _of_extra(line, extra, environment, verdicts)
            except pep508.InvalidRequirement:
                unmet.add(Unmet(name, line, "", "a requirement that cannot be read"))
                continue
            if requirement is None:
                continue
            wanted = normalise(requirement.name)
            found = packages.get(wanted)
            if found is None or not (requirement.url or _allows(requirement.specifier, found)):
                unmet.add(Unmet(name, f"{wanted}{requirement.specifier}", wanted, found))
            if found is not None:
                queue.extend((wanted, asked) for asked in requirement.extras)
    return sorted(unmet, key=lambda entry: (entry.dist, entry.requirement))


def requirements(context: Context) -> List[Check]:
    """What the packages require of each other holds, but for what the stack breaks on purpose."""
    python = context.facts["python"]
    if not python:
        return []
    title = "requirements"
    if not context.requires:
        return [Check("requirements", title, SKIPPED, "all met", "no packages", context.where)]
    unmet = unmet_requirements(context.packages, context.requires, python["version"] or "3.12.0")
    intended = {
        (normalise(str(entry["dist"])), normalise(str(entry["requires"]))): str(entry["reason"])
        for entry in context.definition.get("intended_conflicts") or ()
    }
    allowed = [entry for entry in unmet if (entry.dist, entry.name) in intended]
    wrong = [entry for entry in unmet if (entry.dist, entry.name) not in intended]
    # what was left out on purpose is not missed by those that ask for it
    left_out = {
        normalise(str(component["dist"]))
        for component in context.definition.get("components", ())
        if component.get("dist") and skip_reason(context, component) is not None
    }
    wrong = [entry for entry in wrong if not (entry.found is None and entry.name in left_out)]
    if wrong:
        words = [f"{entry.dist} needs {entry.requirement}, found {entry.found or 'nothing'}" for entry in wrong]
        remedy = "install the packages from the stack's lock"
        return [Check("requirements", title, CONFLICT, "all met", names(words), context.where, remedy)]
    found = "all met" if not allowed else f"all but {len(allowed)} on purpose"
    detail = "; ".join(
        f"{entry.dist} needs {entry.requirement}: {intended[(entry.dist, entry.name)]}" for entry in allowed
    )
    return [Check("requirements", title, OK, "all met", found, detail or context.where)]


def gpu_kernels(context: Context) -> List[Check]:
    """Every GPU of the host has a kernel in every compiled extension."""
    capabilities = sorted(
        {
            fatbin.capability_number(str(gpu["compute_capability"]))
            for gpu in context.facts["gpus"]
            if gpu.get("compute_capability")
        }
    )
    checks: List[Check] = []
    for entry in context.rule("extensions") or ():
        dist = normalise(str(entry["dist"]))
        extension = context.facts["extensions"].get(dist)
        if extension is None:
            continue
        checks.append(_kernels_of(context, str(entry["name"]), dist, extension, capabilities))
    return checks


def _kernels_of(
    context: Context, name: str, dist: str, extension: Mapping[str, Any], capabilities: Sequence[int]
) -> Check:
    files: Sequence[Mapping[str, Any]] = extension["files"]
    found = fatbin.words(fatbin.from_dict(extension["architectures"]))
    title = f"{context.title(dist)} kernels"
    wanted = " ".join(f"sm_{capability}" for capability in capabilities) or "for this host's GPUs"
    check = Check(f"kernels_{name}", title, OK, wanted, found, str(files[0]["path"]) if files else context.where)
    broken = next((entry for entry in files if entry["problem"]), None)
    if broken is not None:
        found, source = str(broken["problem"]), str(broken["path"])
        return check._replace(status=MISMATCH, found=found, source=source, remedy=f"install {dist} again")
    if not capabilities:
        return check._replace(status=SKIPPED, found="no GPU here")
    device = [entry for entry in files if entry["sass"] or entry["ptx"]]
    if not device:
        return check._replace(status=MISMATCH, remedy=f"{dist} holds no GPU code: build it with a CUDA compiler")
    for entry in device:  # each file holds other kernels: one that covers the GPU does not help another
        every = fatbin.from_dict(entry)
        missing = " ".join(f"sm_{capability}" for capability in fatbin.missing(every, capabilities))
        if missing:
            remedy = f"this host's GPU has no kernel in {dist}: build it for {missing}"
            return check._replace(status=MISMATCH, found=fatbin.words(every), source=str(entry["path"]), remedy=remedy)
    return check


RULES = (
    python,
    python_components,
    torch_build,
    extension_abi,
    extension_libraries,
    flashinfer_build,
    same_versions,
    locked,
    leftovers,
    denied,
    requirements,
    bad_pairs,
    gpu_kernels,
)
