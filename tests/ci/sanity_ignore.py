# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Write tests/sanity/ignore-*.txt: the few findings of ansible-test that do not apply to this collection.

    python3 tests/ci/sanity_ignore.py [root of the collection]

* missing-gplv3-license: the collection is Apache-2.0; only ansible-core's own modules must be GPLv3.
* action-plugin-docs: an action plugin without a module is a role's own part, and the role documents it.
* pep8:E501: tests hold captured output as it was printed.
* shebang: programs outside plugins/ are run by people, with the python3 that every system has.
"""

from __future__ import annotations

import sys
from pathlib import Path

CORE_VERSIONS = ("2.19", "2.20", "2.21")

# What a file does on purpose: entry, and the text that makes it necessary (without it the entry would be refused as stale).
ON_PURPOSE = (
    # The default interpreter lies in the user's home; the smoke test's output is read while it runs.
    ("plugins/modules/gpu_smoke.py", "use-argspec-type-path", "expanduser"),
    ("plugins/modules/gpu_smoke.py", "validate-modules:use-run-command-not-popen", "subprocess.Popen"),
    # Empty means "find it", and uv may be a bare name.
    ("plugins/modules/wheel_build.py", "use-argspec-type-path", "expanduser"),
    # The pure part knows nothing of ansible; it passes its own trust and proxy.
    ("plugins/module_utils/bundle_apt.py", "replace-urlopen", "urllib.request.urlopen("),
    # A program of its own, run on the host by a stack's Python; `not x > 0` refuses NaN too.
    ("plugins/module_utils/gpu_smoke.py", "pylint:ansible-bad-function", "sys.exit("),
    ("plugins/module_utils/gpu_smoke.py", "pylint:unnecessary-negation", "if not seconds > 0.0"),
)


def entries(root: Path) -> list[str]:
    found = []
    for folder in ("modules", "lookup", "filter", "callback", "inventory", "connection", "test", "vars"):
        for path in sorted((root / "plugins" / folder).glob("*.py")):
            if path.name != "__init__.py" and "DOCUMENTATION" in path.read_text(encoding="utf-8"):
                found.append(f"{path.relative_to(root)} validate-modules:missing-gplv3-license")
    for path in sorted((root / "plugins" / "action").glob("*.py")):
        if path.name != "__init__.py" and not (root / "plugins" / "modules" / path.name).exists():
            found.append(f"{path.relative_to(root)} action-plugin-docs")
    for folder in ("tools", "tests", "molecule", "roles"):
        for path in sorted((root / folder).rglob("*.py")):
            with path.open("rb") as file:
                if file.readline().rstrip() == b"#!/usr/bin/env python3":
                    found.append(f"{path.relative_to(root)} shebang")
            if any(len(line) > 160 for line in path.read_text(encoding="utf-8").splitlines()):
                found.append(f"{path.relative_to(root)} pep8:E501")
    for name, entry, text in ON_PURPOSE:
        if (root / name).exists() and text in (root / name).read_text(encoding="utf-8"):
            found.append(f"{name} {entry}")
    return sorted(found)


def main() -> None:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[2]).resolve()
    folder = root / "tests" / "sanity"
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{line}\n" for line in entries(root))
    for version in CORE_VERSIONS:
        path = folder / f"ignore-{version}.txt"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
