# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""From a release or a stack definition and the facts of a host to the list of checks."""

from __future__ import annotations

import json
import os
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

from .. import record
from ..probes import collect, dists
from . import host_rules, rules
from .model import MISMATCH, OK, SKIPPED, Check

SCHEMA = 1
INTEGRITY_OFF = "off"


class Unusable(Exception):
    """There is nothing to compare with; the text says what was found and what to do."""


class Subject(NamedTuple):
    """What is to be checked, against what."""

    definition: Mapping[str, Any]
    prefix: Optional[str]
    cuda_home: Optional[str]
    variants: Mapping[str, Any]
    skipped: Mapping[str, str]
    locked: Mapping[str, Mapping[str, Any]]


def load_manifest(release: str) -> Dict[str, Any]:
    """The manifest of a release's folder; raises Unusable where it is missing, broken or of another schema."""
    path = os.path.join(release, "manifest.json")
    try:
        with open(path, encoding="utf-8") as stream:
            value = json.load(stream)
    except FileNotFoundError:
        raise Unusable(
            f"{path} does not exist: {release} is no release; run the site playbook, or give stack and python"
        ) from None
    except OSError as error:
        raise Unusable(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise Unusable(
            f"{path} is not JSON ({error}): the release is damaged; run the site playbook, or roll back"
        ) from error
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        found = value.get("schema") if isinstance(value, dict) else type(value).__name__
        raise Unusable(
            f"{path} has the schema {found}, this version reads {SCHEMA}: use the collection that made the release"
        )
    if not isinstance(value.get("definition"), dict):
        raise Unusable(
            f"{path} has no definition of its stack: the release is damaged; run the site playbook, or roll back"
        )
    return value


def subject_of_release(release: str, cuda_home: Optional[str] = None) -> Subject:
    """A release, compared with its own pins."""
    manifest = load_manifest(release)
    own = os.path.join(release, "cuda")
    home = cuda_home or (own if os.path.isdir(own) else None)
    skipped = dict(manifest.get("skipped") or {})
    if home is None and (manifest.get("cuda") or {}).get("source") == "none":
        skipped.setdefault("cuda", "cuda_source is none")
    return Subject(
        manifest["definition"],
        os.path.join(release, "venv"),
        home,
        manifest.get("variants") or {},
        skipped,
        manifest.get("packages") or {},
    )


def subject_of_folder(release: str) -> Subject:
    """As `subject_of_release`; without a readable manifest the parts are where a release has them."""
    try:
        return subject_of_release(release)
    except Unusable:
        own = os.path.join(release, "cuda")
        return Subject({}, os.path.join(release, "venv"), own if os.path.isdir(own) else None, {}, {}, {})


def extensions_of(definition: Mapping[str, Any]) -> List[str]:
    """The packages whose compiled files are read: those with a rule for their kernels, and those that are built here."""
    named = [str(entry["dist"]) for entry in (definition.get("rules") or {}).get("extensions") or ()]
    wheels = definition.get("wheels") or {}
    built = [str(wheel.get("dist", "")) for wheel in (wheels.values() if isinstance(wheels, Mapping) else wheels)]
    return list(dict.fromkeys(record.normalise(name) for name in [*named, *built] if name))


def gather(
    subject: Subject, root: str = "/", ld_library_path: str = "", nvml: Optional[collect.NvmlProbe] = None
) -> rules.Context:
    """The facts of the host, with what the rules need of every package's metadata."""
    environment = dists.environment(subject.prefix) if subject.prefix else None
    listing = dists.list_dists(environment.site_packages if environment else [])
    extensions = extensions_of(subject.definition)
    facts = collect.facts(
        root, subject.prefix, subject.cuda_home, ld_library_path, nvml, extensions=extensions, listing=listing
    )
    requires = {name: dists.requires(dist) for name, dist in listing.dists.items()}
    records: Dict[str, str] = {}
    for name, entry in subject.locked.items():
        dist = listing.dists.get(record.normalise(name))
        if dist is not None and entry.get("record_sha256"):
            records[dist.name] = record.record_sha256(record.Distribution(dist.name, dist.version, dist.path))
    return rules.Context(
        subject.definition, facts, subject.variants, subject.skipped, subject.locked, requires, records
    )


def checks(context: rules.Context) -> List[Check]:
    """Every rule's checks, in the order of the report."""
    found: List[Check] = []
    for rule in (*host_rules.BEFORE, *rules.RULES, *host_rules.AFTER):
        found.extend(rule(context))
    return found


def integrity(context: rules.Context, mode: str, cuda_home: Optional[str] = None) -> List[Check]:
    """Every file of every package is as its RECORD says, CUDA's wheels included; mode is off, files (existence and size) or hashes."""
    title = "files of the packages"
    if mode == INTEGRITY_OFF:
        return []
    expected = "as recorded" if mode == record.MODE_FILES else "as recorded, hashes too"
    folders: Sequence[str] = context.facts["python"]["site_packages"] if context.facts["python"] else []
    if not folders:
        return [Check("integrity", title, SKIPPED, expected, "no Python environment")]
    report = record.verify(folders[0], mode=mode)
    found = f"{report.files} files of {report.distributions} packages"
    words = [f"{problem.name}: {problem.kind} {problem.path}".strip() for problem in report.problems]
    if cuda_home:
        from .. import cuda_layout  # and what it imports: most calls ask for no integrity

        words += cuda_layout.damage(cuda_home, mode)
    if not words:
        return [Check("integrity", title, OK, expected, found, folders[0])]
    remedy = "run the site playbook: it builds the release again; or roll back to the one before"
    return [
        Check(
            "integrity",
            title,
            MISMATCH,
            expected,
            f"{len(words)} wrong: {rules.names(words)}",
            folders[0],
            remedy,
        )
    ]
