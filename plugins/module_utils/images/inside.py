# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The version check inside an image: this code and what it imports are copied into a container and run by the image's Python."""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
from typing import Any, Dict, List, Mapping

from ansible_collections.verl.baremetal.plugins.module_utils.checks import evaluate, host_rules, model, rules
from ansible_collections.verl.baremetal.plugins.module_utils.images.engine import Engine, EngineError

FOLDER = "/verl-check"
SPEC, REPORT = "spec.json", "report.json"
_PREFIX = "ansible_collections.verl.baremetal.plugins.module_utils"
_SAID = 2000  # characters of a failed program's output that are told
# What an image answers for. Driver, GPUs and everything else of the host are not its.
RULES = (host_rules.cuda, host_rules.cudnn, *rules.RULES, host_rules.nccl)


def main(folder: str = FOLDER) -> None:
    """In the container: read what is asked, write what was found."""
    with open(os.path.join(folder, SPEC), encoding="utf-8") as stream:
        found = report(json.load(stream))
    with open(os.path.join(folder, REPORT), "w", encoding="utf-8") as stream:
        json.dump(found, stream)


def report(spec: Mapping[str, Any]) -> Dict[str, Any]:
    """An image of ours is compared with its release's own pins, any other with the stack that is given."""
    live = os.path.join(spec["root"], "current")
    python = spec["python"] or sys.executable
    if os.path.exists(os.path.join(live, "manifest.json")):
        release = os.path.realpath(live)
        subject = evaluate.subject_of_release(release)
    else:
        release = ""
        subject = evaluate.Subject(spec["stack"], python, None, spec["variants"], spec["skipped"], {})
    context = evaluate.gather(subject, ld_library_path=os.environ.get("LD_LIBRARY_PATH", ""))
    checks = [check for rule in RULES for check in rule(context)]
    environment = context.facts["python"]
    return {
        "checks": model.as_dicts(checks),
        "fingerprint": model.fingerprint(checks, context.packages),
        "python": str(environment["prefix"]) if environment else python,
        "release": release,
    }


def sources() -> Dict[str, bytes]:
    """Path -> content of the collection's loaded modules, wherever they were imported from (a folder or a zip)."""
    found: Dict[str, bytes] = {}
    parts = _PREFIX.split(".")
    for count in range(1, len(parts) + 1):  # namespaces become packages
        found["/".join([*parts[:count], "__init__.py"])] = b""
    for name, module in sorted(sys.modules.items()):
        if not name.startswith(_PREFIX + "."):
            continue
        loader: Any = module.__spec__.loader if module.__spec__ else None
        text = loader.get_source(name) if hasattr(loader, "get_source") else None
        path = name.replace(".", "/") + ("/__init__.py" if hasattr(module, "__path__") else ".py")
        found[path] = (text or "").encode("utf-8")
    return found


def packed(spec: Mapping[str, Any]) -> bytes:
    """The folder that the container gets, as an archive."""
    files = dict(sources(), **{SPEC: json.dumps(spec).encode("utf-8")})
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        folders: List[str] = []
        for path in files:
            parents = path.split("/")[:-1]
            folders += ["/".join(parents[:count]) for count in range(1, len(parents) + 1)]
        for folder in ("", *dict.fromkeys(folders)):
            member = tarfile.TarInfo((FOLDER + "/" + folder).strip("/"))
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(member)
        for path, content in files.items():
            member = tarfile.TarInfo(f"{FOLDER}/{path}".lstrip("/"))
            member.size, member.mode = len(content), 0o644
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def check(engine: Engine, tag: str, spec: Mapping[str, Any]) -> Dict[str, Any]:
    """Run the check in a container of the image, which has no network and is removed afterwards."""
    # Not the stack's Python where the user names another: a folder has its interpreter in bin.
    python = str(spec["python"] or "python3")
    program = python if "bin/" in python or "/" not in python else python.rstrip("/") + "/bin/python3"
    code = f"import sys; sys.path.insert(0, {FOLDER!r}); from {__name__} import main; main()"
    config = {
        "Image": tag,
        "User": "0",
        "Entrypoint": [program, "-B", "-s", "-c", code],
        "Cmd": [],
        "HostConfig": {"NetworkMode": "none"},
    }
    container = engine.create(tag, config)
    try:
        engine.put(container, "/", packed(spec))
        try:
            ran = engine.run(container)
        except EngineError as error:
            raise EngineError(
                f"{tag}: {program} cannot be run in it ({error}): the check needs the image's own Python 3. "
                f"Set image_python to the folder of its environment."
            ) from error
        if ran.code != 0:
            raise EngineError(f"{tag}: the check failed in it, it ended with {ran.code}: {ran.output.strip()[-_SAID:]}")
        return dict(json.loads(engine.file(container, f"{FOLDER}/{REPORT}")))
    finally:
        engine.remove(container)
