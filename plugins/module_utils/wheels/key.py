# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The key of a compiled wheel: everything that decides its content. Same key, same wheel.

A host that cannot compile takes a wheel whose key differs only where that does no harm: it may hold more
architectures than were asked for, and its compiler is known only to the host that built it.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Dict, Iterable, List, Optional, Tuple

SCHEMA = 1
LENGTH = 12

Parts = Dict[str, Any]


class ArchitectureError(ValueError):
    """An architecture that cannot be read; the text says how to write one."""


def architecture(text: str) -> str:
    """One architecture as the compiler writes it: "90" for "9.0", "sm_90", "90"; "90a" and "100f" keep their letter."""
    match = re.fullmatch(
        r"(?:sm_|compute_)?(\d{1,2})\.(\d)([af]?)|(?:sm_|compute_)?(\d{2,3})([af]?)", str(text).strip()
    )
    if match is None:
        raise ArchitectureError(f"{text!r} is no GPU architecture: write it as 9.0, 90 or sm_90.")
    if match.group(1):
        return match.group(1) + match.group(2) + match.group(3)
    return match.group(4) + match.group(5)


def _order(name: str) -> Tuple[int, str]:
    digits = re.match(r"\d+", name)
    return (int(digits.group()) if digits else 0, name)


def architectures(names: Iterable[str]) -> List[str]:
    """The set of architectures, each once, in order."""
    return sorted({architecture(name) for name in names}, key=_order)


def dotted(name: str) -> str:
    """9.0 for 90, as Torch's build reads it."""
    match = re.fullmatch(r"(\d+)(\d)([af]?)", name)
    if match is None:
        raise ArchitectureError(f"{name!r} is no GPU architecture.")
    return f"{match.group(1)}.{match.group(2)}{match.group(3)}"


def normalise(name: str) -> str:
    """The name of a distribution as an index writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parts(
    package: str,
    version: str,
    source: Dict[str, str],
    python: str,
    torch: Optional[Dict[str, Any]],
    nvcc: str,
    archs: Iterable[str],
    flags: Dict[str, Any],
    system: str,
    glibc: str,
    machine: str,
    patches: Iterable[str] = (),
) -> Parts:
    """All parts of a key, in one form."""
    return {
        "schema": SCHEMA,
        "package": normalise(package),
        "version": version,
        "source": dict(source),
        "patches": list(patches),
        "python": python,
        "torch": dict(torch) if torch else None,
        "nvcc": nvcc,
        "architectures": architectures(archs),
        "flags": flags,
        "system": system,
        "glibc": glibc,
        "machine": machine,
    }


def canonical(value: Parts) -> str:
    """The one way in which parts are written."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def digest(value: Parts) -> str:
    """The short key."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:LENGTH]


def build_tag(short: str) -> str:
    """The key as a wheel's build tag, which must begin with a digit."""
    return "0k" + short


def key_in_name(filename: str) -> Optional[str]:
    """The short key in the file name of a wheel, None for a wheel that was not made here."""
    fields = filename[: -len(".whl")].split("-") if filename.endswith(".whl") else []
    if len(fields) != 6:
        return None
    match = re.fullmatch(rf"0k([0-9a-f]{{{LENGTH}}})", fields[2])
    return match.group(1) if match else None


_EXACT = ("schema", "package", "version", "source", "patches", "python", "torch", "flags", "system", "glibc", "machine")


def serves(offered: Parts, wanted: Parts) -> bool:
    """Whether a wheel with the offered key does all that the wanted one does."""
    if any(offered.get(name) != wanted.get(name) for name in _EXACT):
        return False
    if not set(wanted["architectures"]) <= set(offered.get("architectures") or []):
        return False
    return not wanted["nvcc"] or wanted["nvcc"] == offered.get("nvcc")


def may_serve(offered: Parts, wanted: Parts) -> bool:
    """The same as far as it can be told before Torch is installed.

    Of Python its tag is compared, of Torch version and CUDA (None stands for any), of the source a commit alone: an sdist's
    version stands for its hash.
    """
    torch, there = wanted["torch"], offered.get("torch") or {}
    return (
        all(offered.get(name) == wanted[name] for name in _EXACT if name not in ("source", "python", "torch"))
        and (offered.get("source") or {}).get("commit") == wanted["source"].get("commit")
        and str(offered.get("python")).startswith(wanted["python"] + "-")
        and (not torch or str(there.get("version")).partition("+")[0] == torch["version"])
        and (not torch or torch["cuda"] in (None, there.get("cuda")))
        and set(wanted["architectures"]) <= set(offered.get("architectures") or [])
    )


def difference(offered: Parts, wanted: Parts) -> List[str]:
    """The names of the parts that differ, for people."""
    return sorted(name for name in set(offered) | set(wanted) if offered.get(name) != wanted.get(name))
