#!/usr/bin/python
# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
---
module: image_transfer
short_description: Move images between Docker, archives and registries, with digests
description:
  - Talks to Docker through its socket; neither the SDK nor the docker program is needed.
  - V(exported) writes C(docker save) through zstd on all cores under a temporary name and renames it when it is whole;
    the sha256, the manifest of the release and, with O(bom), a CycloneDX bill of materials are written beside it.
  - V(loaded) compares an archive with its sha256 before Docker sees it. V(pushed) and V(pulled) return the digest of the
    registry; with O(digest) another one is refused.
  - V(listed) reads the files of the release out of an archive's layers, without Docker, for the module release_parity.
version_added: 0.1.0
options:
  state:
    description:
      - What to do.
    type: str
    choices: [exported, loaded, listed, pushed, pulled]
    required: true
  tag:
    description:
      - The image's name, C(repository:tag). Not for V(loaded) and V(listed), where the archive says it.
    type: str
    default: ""
  as_tag:
    description:
      - For V(pushed), the name in the registry; for V(pulled), a name that the pulled image gets, too.
    type: str
    default: ""
  path:
    description:
      - The archive, for V(exported), V(loaded) and V(listed).
    type: path
  sha256:
    description:
      - Digest of the archive. When empty, the file beside it says it.
    type: str
    default: ""
  digest:
    description:
      - For V(pulled), the digest that the image has to have in the registry, C(sha256:...). It is pulled by it.
    type: str
    default: ""
  missing_only:
    description:
      - For V(pulled), leave an image alone that is there.
    type: bool
    default: false
  level:
    description:
      - Level of the compression.
    type: int
    default: 3
  bom:
    description:
      - Write the bill of materials. Needs the Python package cyclonedx-python-lib.
    type: bool
    default: true
  root:
    description:
      - The stack_root in the image.
    type: path
    default: /opt/verl
  listing:
    description:
      - For V(listed), the file to write the list into.
    type: path
  username:
    description:
      - Name at the registry.
    type: str
    default: ""
  password:
    description:
      - Password at the registry.
    type: str
    default: ""
  force:
    description:
      - Export also what was exported.
    type: bool
    default: false
  socket:
    description:
      - Docker's socket. Empty takes that of E(DOCKER_HOST), else V(/var/run/docker.sock).
    type: str
    default: ""
extends_documentation_fragment:
  - verl.baremetal.run
attributes:
  check_mode:
    support: full
    description: Says what would be done.
  diff_mode:
    support: none
    description: An image has no text.
  idempotent:
    support: full
    description: What is there by its identifier or digest is left alone.
author: the verl.baremetal authors (@verl-baremetal)
"""

EXAMPLES = r"""
- name: Export
  verl.baremetal.image_transfer:
    state: exported
    tag: verlai/verl:app-small
    path: /srv/images/small-app.tar.zst

- name: Load
  verl.baremetal.image_transfer:
    state: loaded
    path: /srv/images/small-app.tar.zst
"""

RETURN = r"""
tag:
  description: The image's name.
  returned: always
  type: str
  sample: verlai/verl:app-small
image_id:
  description: Its identifier.
  returned: exported, loaded, pushed, pulled
  type: str
  sample: sha256:6e27bc2dd37c2cfe3633d571886489472c38cb1673d85ab6355246d50acf90c1
digest:
  description: The digest that the registry knows it by.
  returned: pushed, pulled
  type: str
  sample: sha256:0c4c1f5f0d2b6f6f7f0c9d3f0c5a0e0c4c1f5f0d2b6f6f7f0c9d3f0c3f0c5a0e
sha256:
  description: Digest of the archive.
  returned: exported
  type: str
  sample: 0c4c1f5f0d2b6f6f7f0c9d3f0c5a0e0c4c1f5f0d2b6f6f7f0c9d3f0c3f0c5a0e
archive_size:
  description: Size of the archive in bytes.
  returned: exported
  type: int
  sample: 98000000
files:
  description: How many files the release in the archive holds.
  returned: listed
  type: int
  sample: 812
"""

import os
from typing import Any, Callable, Dict, Mapping, Optional

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ansible_collections.verl.baremetal.plugins.module_utils import arguments
from ansible_collections.verl.baremetal.plugins.module_utils.images import archive, bom, commit, engine, listing
from ansible_collections.verl.baremetal.plugins.module_utils.progress import Progress

Result = Dict[str, Any]


def exported(params: Mapping[str, Any], check: bool, tick: engine.Tick) -> Result:
    """Archive, digest, manifest, bill of materials."""
    daemon = engine.from_environment(params["socket"])
    tag, path = params["tag"], params["path"]
    image = commit.describe(daemon, tag)
    same = archive.intact(path, image["image_id"]) and not params["force"]
    if same or check:
        info = archive.read_info(path)
        sizes = {"sha256": info.get("sha256", ""), "archive_size": info.get("size", 0)}
        return {"changed": not same, "tag": tag, "image_id": image["image_id"], **sizes}
    if params["probe"]:
        return {"changed": False, "probe_pending": True}
    if params["bom"] and not bom.AVAILABLE:
        raise archive.ArchiveError(missing_required_lib("cyclonedx-python-lib") + " Or set image_bom: false.")
    inside = archive.read_inside(daemon, tag, params["root"].rstrip("/"))
    info = archive.export(daemon, tag, path, params["level"], tick)
    text = bom.make(tag, inside["manifest"], inside["system"]) if params["bom"] else None
    beside = archive.beside(path, inside["manifest"], text)
    return {
        "changed": True,
        "tag": tag,
        "image_id": image["image_id"],
        "sha256": info["sha256"],
        "archive_size": info["size"],
        "beside": beside,
    }


def loaded(params: Mapping[str, Any], check: bool, tick: engine.Tick) -> Result:
    """Verify, then load."""
    daemon = engine.from_environment(params["socket"])
    if params["probe"]:
        answer = archive.load(daemon, params["path"], params["sha256"], tick, True)
        return {"changed": False, "probe_pending": True} if answer["changed"] else answer
    return archive.load(daemon, params["path"], params["sha256"], tick, check)


def listed(params: Mapping[str, Any], check: bool, tick: engine.Tick) -> Result:
    """Read the layers."""
    if params["probe"]:
        return {"changed": False, "probe_pending": True}
    archive.verify(params["path"], archive.expected_digest(params["path"], params["sha256"]), tick)
    found = listing.of_archive(params["path"], params["root"].rstrip("/"), tick)
    listing.write(params["listing"], found)
    return {"changed": False, "tag": found["image"], "files": len(found["files"]), "release": found["release"]}


def auth_of(params: Mapping[str, Any]) -> Dict[str, str]:
    """What the registry is told."""
    if not params["username"]:
        return {}
    return {"username": params["username"], "password": params["password"]}


def digest_of(image: Mapping[str, Any], name: str) -> str:
    """The digest by which a repository knows an image, "" when it does not."""
    repository = engine.split(name)[0]
    for known in image.get("RepoDigests") or []:
        known_repository, _at, digest = known.partition("@")
        if known_repository == repository:
            return str(digest)
    return ""


def pushed(params: Mapping[str, Any], check: bool, tick: engine.Tick) -> Result:
    """Push under the registry's name; what the registry was given already costs one question for each layer."""
    daemon = engine.from_environment(params["socket"])
    name = params["as_tag"] or params["tag"]
    image = commit.describe(daemon, params["tag"])
    before = daemon.image(name)
    known = digest_of(before, name) if before is not None and before["Id"] == image["image_id"] else ""
    if check:
        return {"changed": not known, "tag": name, "image_id": image["image_id"], "digest": known}
    if params["probe"]:
        return {"changed": False, "probe_pending": True}
    if name != params["tag"]:
        daemon.tag(params["tag"], name)
    digest = daemon.push(name, auth_of(params), tick)
    return {"changed": digest != known, "tag": name, "image_id": image["image_id"], "digest": digest}


def pulled(params: Mapping[str, Any], check: bool, tick: engine.Tick) -> Result:
    """Pull, by digest where one is given."""
    daemon = engine.from_environment(params["socket"])
    tag, alias, wanted = params["tag"], params["as_tag"], params["digest"]
    name = f"{engine.split(tag)[0]}@{wanted}" if wanted else tag
    before = daemon.image(name)
    if before is not None and (wanted or params["missing_only"]) and _named(daemon, alias, before):
        return {"changed": False, "tag": tag, "image_id": before["Id"], "digest": digest_of(before, tag)}
    if check:
        return {"changed": before is None or bool(alias), "tag": tag, "image_id": "", "digest": wanted}
    if params["probe"]:
        return {"changed": False, "probe_pending": True}
    named = daemon.image(alias) if alias else None
    daemon.pull(name, auth_of(params), tick)
    after = daemon.image(name)
    if after is None:
        raise engine.EngineError(f"docker: {name} was pulled and is not there")
    if alias:
        daemon.tag(str(after["Id"]), alias)
    same = before is not None and before["Id"] == after["Id"] and (not alias or (named or {}).get("Id") == after["Id"])
    return {"changed": not same, "tag": alias or tag, "image_id": after["Id"], "digest": digest_of(after, tag)}


def _named(daemon: engine.Engine, alias: str, image: Mapping[str, Any]) -> bool:
    found = daemon.image(alias) if alias else image
    return found is not None and found["Id"] == image["Id"]


WORK: Dict[str, Callable[[Mapping[str, Any], bool, engine.Tick], Result]] = {
    "exported": exported,
    "loaded": loaded,
    "listed": listed,
    "pushed": pushed,
    "pulled": pulled,
}


def main() -> None:
    """Entry point."""
    spec: Dict[str, Any] = {
        "state": {"type": "str", "choices": list(WORK), "required": True},
        "path": {"type": "path"},
        "listing": {"type": "path"},
        "root": {"type": "path", "default": "/opt/verl"},
        "level": {"type": "int", "default": 3},
        "bom": {"type": "bool", "default": True},
        "force": {"type": "bool", "default": False},
        "missing_only": {"type": "bool", "default": False},
        "password": {"type": "str", "default": "", "no_log": True},
    }
    for name in ("tag", "as_tag", "sha256", "digest", "username", "socket"):
        spec[name] = {"type": "str", "default": ""}
    spec.update(arguments.RUN)
    module = AnsibleModule(
        argument_spec=spec,
        supports_check_mode=True,
        required_if=[
            ("state", "exported", ["tag", "path"]),
            ("state", "loaded", ["path"]),
            ("state", "listed", ["path", "listing"]),
            ("state", "pushed", ["tag"]),
            ("state", "pulled", ["tag"]),
        ],
    )
    progress = Progress(module.params["progress_file"])

    def tick(what: str, done: Optional[int], total: Optional[int]) -> None:
        progress.step(what, done, total)

    os.umask(0o022)
    try:
        result = WORK[module.params["state"]](module.params, module.check_mode, tick)
    except (engine.EngineError, archive.ArchiveError, listing.ListingError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{module.params['path']}: {error.strerror or error}")
    else:
        module.exit_json(**result)


if __name__ == "__main__":
    main()
