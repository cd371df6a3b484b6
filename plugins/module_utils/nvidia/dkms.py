# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""What DKMS says about the driver's kernel modules, and why a build failed."""

from __future__ import annotations

import os
import re
from typing import List, NamedTuple

from ansible_collections.verl.baremetal.plugins.module_utils.probes import driver, system

_LINE = re.compile(
    r"^(?P<name>[^/,:\s]+)(?:/|,\s*)(?P<version>[^,:\s]+)(?:,\s*(?P<kernel>[^,]+),\s*(?P<arch>[^:,]+))?:\s*(?P<state>\w+)"
)


class Build(NamedTuple):
    """One line of `dkms status`. kernel is empty for a module that was only added."""

    name: str
    version: str
    kernel: str
    state: str


def parse_status(text: str) -> List[Build]:
    """The output of `dkms status`, of DKMS 2 (name, version, ...) and 3 (name/version, ...)."""
    builds = []
    for line in text.splitlines():
        match = _LINE.match(line.strip())
        if match:
            kernel = (match.group("kernel") or "").strip()
            builds.append(Build(match.group("name"), match.group("version"), kernel, match.group("state")))
    return builds


def driver_builds(builds: List[Build]) -> List[Build]:
    """Those of NVIDIA's driver."""
    return [build for build in builds if build.name.startswith("nvidia")]


def is_installed(builds: List[Build], kernel: str, version: str = "") -> bool:
    """Whether the driver is built and installed for a kernel."""
    return any(
        build.kernel == kernel and build.state == "installed" and (not version or build.version == version)
        for build in driver_builds(builds)
    )


def has_module(builds: List[Build], kernel: str, version: str, root: str = "/") -> str:
    """Where the driver's module for a kernel comes from: dkms, a file's path, or an empty string for nowhere."""
    if is_installed(builds, kernel, version):
        return "dkms"
    on_disk = driver.module_on_disk(kernel, root)
    return str(on_disk["path"]) if on_disk and on_disk["version"] == version else ""


def from_tree(root: str = "/") -> List[Build]:
    """What DKMS's own tree says, without running it."""
    return [
        Build(item["module"], item["version"], item["kernel"], "installed" if item["state"] == "built" else item["state"])
        for item in system.dkms(root)
    ]


def make_log(name: str, version: str, kernel: str, root: str = "/") -> str:
    """The log of a build, where DKMS 2 and 3 leave it: of the failed one first."""
    base = os.path.join(root, "var/lib/dkms", name, version)
    for path in (os.path.join(base, "build", "make.log"), os.path.join(base, kernel, "x86_64", "log", "make.log")):
        if os.path.exists(path):
            return path
    return ""


def tail(path: str, lines: int = 20) -> str:
    """The last lines of a log."""
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            return "".join(handle.readlines()[-lines:]).rstrip()
    except OSError:
        return ""


def explain(builds: List[Build], kernel: str, version: str, root: str = "/") -> str:
    """Why the driver has no module for a kernel, and what to do, in words."""
    headers = os.path.join(root, "lib/modules", kernel, "build")
    if not os.path.exists(headers):
        return (
            f"the driver {version} has no kernel module for {kernel}: its headers are missing; "
            f"install the package linux-headers-{kernel} and run again"
        )
    mine = driver_builds(builds) or [Build("nvidia", version, "", "missing")]
    log = make_log(mine[0].name, mine[0].version or version, kernel, root)
    text = f"the driver {version} has no kernel module for {kernel}: DKMS could not build it"
    if log:
        return f"{text}; the end of {log}:\n{tail(log)}"
    return f"{text} and left no log; run: dkms install {mine[0].name}/{version} -k {kernel}"
