#!/usr/bin/python
# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
---
module: bundle
short_description: Make, check or pull a bundle, with which hosts are provisioned without a network
description:
  - With O(state=present) makes a folder with everything that a host without a network needs, or makes one complete.
    What is wanted follows from the stack's locks and the roles' variables; the action plugin of the same name makes the
    list. Downloads are parallel, verified by hash and resumed; files of bundles beside it are shared by hard links.
  - With O(state=verified) compares a bundle with its C(bundle.json), and names what is damaged, missing or not known.
  - With O(state=pulled) has on a host the parts that it needs, from a folder as it is or from a URL with resume, each
    file compared by hash.
version_added: 0.1.0
options:
  state:
    description:
      - What shall be true.
    type: str
    choices: [present, verified, pulled]
    default: present
  path:
    description:
      - Folder of the bundle, for V(present) and V(verified).
    type: path
  source:
    description:
      - Folder or URL of the bundle as the host sees it, for V(pulled).
    type: str
    default: ""
  root:
    description:
      - Folder of the installation on the host, for V(pulled).
    type: path
  uses:
    description:
      - What the host needs of the bundle, for example V(torch.cu128/3.12). Set from the plan.
    type: list
    elements: str
    default: []
  wheel_cache:
    description:
      - The host's cache of compiled wheels, which those of the bundle are put into.
    type: path
  options:
    description:
      - Variables of the roles that decide what a bundle holds, by their names, for those that the play does not set.
    type: dict
    default: {}
  stack:
    description:
      - Name and digest of the stack. Set by the action plugin.
    type: dict
    default: {}
  serves:
    description:
      - What the bundle serves. Set by the action plugin.
    type: dict
    default: {}
  wanted:
    description:
      - Packages of the locks. Set by the action plugin.
    type: list
    elements: dict
    default: []
  added:
    description:
      - Files of the controller that belong to the bundle. Set by the action plugin.
    type: list
    elements: dict
    default: []
  systems:
    description:
      - Packages of operating systems. Set by the action plugin.
    type: list
    elements: dict
    default: []
  direct:
    description:
      - Wheels that lie in no index. Set by the action plugin.
    type: list
    elements: dict
    default: []
  sources:
    description:
      - Sources of compiled wheels that lie in git. Set by the action plugin.
    type: list
    elements: dict
    default: []
  pythons:
    description:
      - Interpreters that uv brings. Set by the action plugin.
    type: list
    elements: dict
    default: []
  gnupg:
    description:
      - Folder of the site's own key, with which the lists of packages are signed. The key is made where there is none.
    type: path
    default: ~/.local/share/verl-baremetal/gnupg
  index_url:
    description:
      - The package index that stands for the client's default. Set by the action plugin.
    type: str
    default: ""
  ca_file:
    description:
      - File with the certificate authorities of the indexes or of the bundle's server. Empty takes the system's.
    type: str
    default: ""
  proxy:
    description:
      - Proxy for downloads, as URL.
    type: str
    default: ""
  jobs:
    description:
      - Downloads, or comparisons, at a time.
    type: int
    default: 6
extends_documentation_fragment:
  - verl.baremetal.run
attributes:
  check_mode:
    support: full
    description: Says whether something would be fetched, made or compared.
  diff_mode:
    support: none
    description: Bundles are large; the counts say what changed.
  idempotent:
    support: full
    description: A complete bundle is left alone, without any question to an index.
author: the verl.baremetal authors (@verl-baremetal)
"""

EXAMPLES = r"""
- name: Make the bundle of the default stack
  verl.baremetal.bundle:
    path: /srv/bundles/verl0.5-preview-cu128

- name: Check a bundle
  verl.baremetal.bundle:
    path: /srv/bundles/verl0.5-preview-cu128
    state: verified

- name: Have on a host what it needs of the bundle
  verl.baremetal.bundle:
    state: pulled
    source: "{{ stack_bundle }}"
    root: "{{ verl_plan.root }}"
    uses: "{{ verl_plan.sources.uses }}"
"""

RETURN = r"""
path:
  description: The folder that packages are taken from.
  returned: success
  type: str
  sample: /srv/bundles/verl0.5-preview-cu128
digest:
  description: sha256 over the paths and hashes of all files.
  returned: success
  type: str
  sample: 4f0c9a1b2d3e4f0c9a1b2d3e4f0c9a1b2d3e4f0c9a1b2d3e4f0c9a1b2d3e4f0c
bytes:
  description: Size of the bundle, or of what this host needs of it.
  returned: success
  type: int
  sample: 6123456789
files:
  description: How many files that are.
  returned: success
  type: int
  sample: 251
fetched:
  description: How many files were fetched.
  returned: success
  type: int
  sample: 251
fetched_bytes:
  description: How many bytes that was; less than the files' size when an interrupted run was resumed.
  returned: success
  type: int
  sample: 6123456789
shared:
  description: How many files were taken from another bundle or from this machine.
  returned: success
  type: int
  sample: 0
removed:
  description: How many files were removed since the bundle does not need them.
  returned: success
  type: int
  sample: 0
problems:
  description: What is not as C(bundle.json) says.
  returned: with state verified
  type: list
  elements: dict
  sample: [{"path": "wheels/six-1.17.0-py2.py3-none-any.whl", "kind": "missing", "detail": "it is not there"}]
"""

import sys
from typing import Any, Dict, Mapping

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.verl.baremetal.plugins.module_utils import (
    arguments,
    bundle,
    bundle_apt,
    bundle_collect,
    bundle_pull,
    bundle_python,
    host,
    index,
    layer,
    lock,
    uv,
)
from ansible_collections.verl.baremetal.plugins.module_utils.progress import Progress

PARTS = {
    "wheels": "packages of the locks, uv, CUDA and the controller's tools, with the hashes of the locks",
    "built": "wheels of compiled extensions, each with what it was made of",
    "sources": "sources of compiled extensions that lie in git, one commit each as a git bundle",
    "apt": "packages of the operating system with all that they depend on, signed with the site's own key",
    "collection": "the collection itself",
    "images": "archives of images",
    "python": "interpreters that uv brings",
}


def make(params: Mapping[str, Any], check: bool) -> Dict[str, Any]:
    """state present."""
    own = bundle_apt.host_sources()
    systems = [bundle_apt.Wanted.from_dict(item) for item in params["systems"]]
    content = bundle_collect.Content(
        [bundle_collect.Wanted.from_dict(item) for item in params["wanted"]],
        [bundle_collect.Added(item["path"], item["source"], tuple(item["uses"])) for item in params["added"]],
        [item if item.sources else item._replace(sources=own) for item in systems],
        [bundle_collect.Direct(**item) for item in params["direct"]],
        [bundle_collect.Source(**item) for item in params["sources"]],
        [bundle_python.Wanted.from_dict(item) for item in params["pythons"]],
    )
    requests = bundle_collect.requests_of(content, params["serves"], params["stack"])
    there = bundle_collect.complete(params["path"], requests)
    counts = bundle_collect.Counts(0, 0, 0, 0)
    before = bundle.read_or_none(params["path"])
    changed = there is None
    if there is None and params["probe"] and not check:
        return {"changed": True, "probe_pending": True}
    if there is None and check:
        there = bundle.read_or_none(params["path"]) or bundle.Bundle({}, {}, ())
    elif there is None:
        there, counts = bundle_collect.collect(
            params["path"],
            params["stack"],
            params["serves"],
            content,
            bundle_collect.Places(
                params["index_url"] or host.default_index(sys.executable),
                params["ca_file"],
                params["proxy"],
                params["jobs"],
                params["gnupg"],
            ),
            PARTS,
            Progress(params["progress_file"]),
        )
        # What could not be had is asked for again by every run, and may still not be there.
        changed = there != before or any(counts[:4])
    answer = {
        "changed": changed,
        "path": params["path"],
        "digest": there.digest,
        "bytes": there.bytes,
        "files": len(there.files),
    }
    answer.update(counts._asdict(), warnings=list(counts.warnings))
    return answer


def check_whole(params: Mapping[str, Any], check: bool) -> Dict[str, Any]:
    """state verified."""
    path = params["path"]
    there = bundle.read(path)
    if params["probe"] and not check:
        return {"changed": False, "probe_pending": True}
    step = Progress(params["progress_file"]).step
    problems = bundle.verify(path, there.files, step=step, jobs=params["jobs"]) + bundle.superfluous(path, there.files)
    answer: Dict[str, Any] = {"changed": False, "path": path, "digest": there.digest, "bytes": there.bytes}
    answer.update(files=len(there.files), problems=[problem._asdict() for problem in problems])
    if problems:
        answer.update(failed=True, msg=bundle.describe(problems, path))
    return answer


def have(params: Mapping[str, Any], check: bool) -> Dict[str, Any]:
    """state pulled."""
    place = bundle_pull.Place(params["source"], params["ca_file"], params["proxy"])
    root, uses = params["root"], params["uses"]
    there = bundle_pull.read(place)
    needed = bundle.needed(there.files, uses)
    changed = bundle_pull.pending(place, root, there, uses)
    folder = bundle_pull.folder_of(place, root, there.digest)
    fetched = (0, 0)
    if changed and not check:
        if params["probe"]:
            return {"changed": True, "probe_pending": True}
        arguments.renew(params, root)
        fetched = bundle_pull.pull(place, root, there, uses, params["jobs"], Progress(params["progress_file"]))
    if params["wheel_cache"] and not check:
        changed = bool(bundle_pull.give_built(folder, needed, params["wheel_cache"])) or changed
    answer: Dict[str, Any] = {"changed": changed, "path": folder, "digest": there.digest}
    answer.update(
        bytes=sum(item.size for item in needed), files=len(needed), fetched=fetched[0], fetched_bytes=fetched[1]
    )
    return answer


STATES = {"present": make, "verified": check_whole, "pulled": have}


def main() -> None:
    """Entry point."""
    spec: Dict[str, Any] = {
        "state": {"type": "str", "choices": ["present", "verified", "pulled"], "default": "present"},
        "path": {"type": "path"},
        "source": {"type": "str", "default": ""},
        "root": {"type": "path"},
        "uses": {"type": "list", "elements": "str", "default": []},
        "wheel_cache": {"type": "path"},
        "options": {"type": "dict", "default": {}},
        "stack": {"type": "dict", "default": {}},
        "serves": {"type": "dict", "default": {}},
        "wanted": {"type": "list", "elements": "dict", "default": []},
        "added": {"type": "list", "elements": "dict", "default": []},
        "systems": {"type": "list", "elements": "dict", "default": []},
        "direct": {"type": "list", "elements": "dict", "default": []},
        "sources": {"type": "list", "elements": "dict", "default": []},
        "pythons": {"type": "list", "elements": "dict", "default": []},
        "gnupg": {"type": "path", "default": "~/.local/share/verl-baremetal/gnupg"},
        "index_url": {"type": "str", "default": ""},
        "ca_file": {"type": "str", "default": ""},
        "proxy": {"type": "str", "default": ""},
        "jobs": {"type": "int", "default": 6},
    }
    spec.update(arguments.RUN)
    module = AnsibleModule(
        argument_spec=spec,
        supports_check_mode=True,
        required_if=[
            ("state", "present", ["path"]),
            ("state", "verified", ["path"]),
            ("state", "pulled", ["source", "root", "uses"]),
        ],
    )
    folder = module.params["path"] or module.params["root"]
    try:
        result = STATES[module.params["state"]](module.params, module.check_mode)
    except (bundle.BundleError, index.PackageIndexError, layer.LayerError, lock.LockHeld) as error:
        module.fail_json(msg=f"bundle: {error}")
    except OSError as error:
        module.fail_json(msg="bundle: " + uv.explain_os_error(error, folder))
    else:
        module.exit_json(**result)


if __name__ == "__main__":
    main()
