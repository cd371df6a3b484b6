# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Cheap rules that hold for the whole tree."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TEXT = {".py", ".yml", ".yaml", ".md", ".rst", ".sh", ".txt", ".toml", ".j2", ".cfg", ".ini", ".json", ".html", ".css", ".service", ""}
PINNED = ("ansible-core", "ansible", "molecule", "pytest", "pytest-testinfra", "ansible-lint", "uv")


@lru_cache(maxsize=None)
def tracked() -> tuple[Path, ...]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    paths = [ROOT / name for name in listing.split("\0") if name]
    return tuple(path for path in paths if path.is_file() and not path.is_symlink())


@lru_cache(maxsize=None)
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def texts() -> list[Path]:
    return [path for path in tracked() if path.suffix in TEXT and path.stat().st_size < 4_000_000]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def task_files() -> list[Path]:
    return [path for path in tracked() if path.suffix in {".yml", ".yaml"} and path.parent.name in {"tasks", "handlers"}]


def registry_hosts() -> set[str]:
    """The hosts of the package indexes, asked from the clients themselves: none of them is written here."""
    from pip._internal.models.index import PyPI, TestPyPI

    hosts = {PyPI.netloc, PyPI.file_storage_domain, TestPyPI.netloc, TestPyPI.file_storage_domain}
    for variable in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        hosts.add(urlsplit(os.environ.get(variable, "")).hostname or "")
    for source in [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]:
        if source.is_file() and os.access(source, os.R_OK):
            for host in re.findall(r"^(?:URIs:|deb(?:-src)? ).*?https?://([^/\s]+)", text_of(source), re.MULTILINE):
                # Vendors' own download places are what the roles install from; distributions' mirrors are the machine's.
                if host.split(".")[-2:-1] in (["debian"], ["ubuntu"]):
                    hosts.add(host)
    return {host.split(":")[0] for host in hosts if host and host != "localhost"}


def test_no_package_index_is_written_down() -> None:
    hosts = registry_hosts()
    assert hosts
    found = [f"{named(path)}: {host}" for path in texts() for host in hosts if host in text_of(path)]
    assert not found, "leave the index to the client's configuration: " + ", ".join(found)


def test_task_files_are_short() -> None:
    long = [f"{named(path)}: {len(text_of(path).splitlines())} lines" for path in task_files() if len(text_of(path).splitlines()) > 150]
    assert not long, "a task file has one subject and at most 150 lines: " + ", ".join(long)


@pytest.mark.parametrize("pattern", [r"^\s*ignore_errors\s*:", r"trusted\s*=\s*yes", r"\bansible_(?:distribution|os_family|hostname|processor_\w+)\b"])
def test_roles_and_playbooks_avoid(pattern: str) -> None:
    found = [
        named(path)
        for path in tracked()
        if path.suffix in {".yml", ".yaml", ".j2"} and path.relative_to(ROOT).parts[0] in {"roles", "playbooks", "molecule"}
        and "files" not in path.parts and re.search(pattern, text_of(path), re.MULTILINE)
    ]
    assert not found, f"{pattern} is used in {', '.join(found)}"


def test_plugins_say_their_licence_and_import_annotations_first() -> None:
    bad = []
    for path in tracked():
        if path.suffix != ".py" or path.relative_to(ROOT).parts[0] != "plugins" or not text_of(path).strip():
            continue
        if "SPDX-License-Identifier: Apache-2.0" not in text_of(path)[:400]:
            bad.append(f"{named(path)}: no SPDX line")
        imports = [node for node in ast.parse(text_of(path)).body if isinstance(node, (ast.Import, ast.ImportFrom))]
        if imports and not (isinstance(imports[0], ast.ImportFrom) and imports[0].module == "__future__"):
            bad.append(f"{named(path)}: the first import is not `from __future__ import annotations`")
    assert not bad, ", ".join(bad)


def test_what_runs_on_hosts_needs_the_standard_library_alone() -> None:
    import sys

    allowed = set(sys.stdlib_module_names) | {"ansible", "ansible_collections"}
    bad = []
    for path in tracked():
        parts = path.relative_to(ROOT).parts
        if path.suffix != ".py" or parts[:2] not in (("plugins", "modules"), ("plugins", "module_utils")):
            continue
        # Only what is imported when the file is loaded: a smoke test may import torch where it uses it.
        for node in ast.parse(text_of(path)).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and node.level == 0 else []
            bad += [f"{named(path)}: {name}" for name in names if name.split(".")[0] not in allowed]
    assert not bad, ", ".join(bad)


def test_scenarios_name_their_containers_apart() -> None:
    seen: dict[str, str] = {}
    for path in sorted((ROOT / "molecule").glob("*/molecule.yml")):
        scenario = path.parent.name
        content = yaml.safe_load(text_of(path)) or {}
        for platform in content.get("platforms", []):
            name = platform["name"]
            assert name.startswith("vb-"), f"{scenario}: the container {name} must begin with vb-"
            assert name not in seen, f"{scenario} and {seen.get(name)} both have a container {name}, and may run at once"
            seen[name] = scenario
    assert seen


def pins(name: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for match in re.finditer(r"^([A-Za-z0-9_.-]+)==(\S+)", text_of(ROOT / "requirements" / f"{name}.txt"), re.MULTILINE):
        found.setdefault(match[1].lower(), set()).add(match[2])
    return found


def test_the_controllers_lock_is_part_of_the_developers_lock() -> None:
    developers = pins("dev")
    assert {name: versions for name, versions in pins("controller").items() if developers.get(name) != versions} == {}
    assert pins("uv")["uv"] == pins("controller")["uv"]


def test_locks_hold_the_pins_of_pyproject() -> None:
    wanted = text_of(ROOT / "pyproject.toml")
    developers = pins("dev")
    for name in PINNED:
        versions = set(re.findall(rf'"{re.escape(name)}==([0-9.]+)', wanted))
        assert versions, f"pyproject.toml pins no {name}"
        assert versions == developers[name], f"requirements/dev.txt holds another {name}: make relock-tools"


def test_every_locked_tool_has_hashes() -> None:
    for name in ("controller", "dev", "uv"):
        lines = text_of(ROOT / "requirements" / f"{name}.txt").splitlines()
        for number, line in enumerate(lines):
            if "==" in line and not line.startswith("#"):
                assert lines[number + 1].lstrip().startswith("--hash=sha256:"), f"requirements/{name}.txt: {line} has no hash"


def test_ci_runs_make_test() -> None:
    commands = [line for line in text_of(ROOT / ".ci" / "run").splitlines() if line and not line.startswith("#")]
    assert commands == ["set -eu", 'cd "$(dirname "$0")/.."', "exec make test"]


def test_changelog_fragments_begin_with_their_subject() -> None:
    for path in sorted((ROOT / "changelogs" / "fragments").glob("*.y*ml")):
        for section, entries in yaml.safe_load(text_of(path)).items():
            for entry in entries if isinstance(entries, list) else [entries]:
                assert re.match(r"[a-z_./, ]+ - \S", str(entry)) or section == "release_summary", f"{path.name}: {entry!r}"


def test_the_local_inventory_decides_for_this_machine_alone() -> None:
    """Variables of the group all would reach build containers too, and localhost's the plays that make images and bundles."""
    inventory = yaml.safe_load(text_of(ROOT / "inventories" / "local" / "hosts.yml"))
    assert list(inventory) == ["all"] and list(inventory["all"]) == ["hosts"]
    assert list(inventory["all"]["hosts"]) == ["this_machine"]


def test_the_version_is_one() -> None:
    version = yaml.safe_load(text_of(ROOT / "galaxy.yml"))["version"]
    assert f'\nversion = "{version}"\n' in text_of(ROOT / "pyproject.toml")
    archives = re.findall(r"verl-baremetal-(\S+?)\.tar\.gz", text_of(ROOT / "execution-environment.yml"))
    assert archives and set(archives) == {version}


def test_the_changelog_will_name_every_module() -> None:
    for path in [*(ROOT / "plugins" / "modules").glob("*.py"), *(ROOT / "plugins" / "lookup").glob("*.py")]:
        assert re.search(r"^version_added: \d+\.\d+\.\d+$", text_of(path), re.MULTILINE), f"{named(path)} lacks version_added"
