# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Arguments that several modules share; their words are in the documentation fragments index and run."""

from __future__ import annotations

import os
from typing import Any, Dict, Mapping

from ansible_collections.verl.baremetal.plugins.module_utils import lock, uv

INDEX: Dict[str, Any] = {
    "index_url": {"type": "str", "default": ""},
    "extra_index_urls": {"type": "list", "elements": "str", "default": []},
    "find_links": {"type": "list", "elements": "str", "default": []},
    "ca_file": {"type": "str", "default": ""},
    "proxy": {"type": "str", "default": ""},
    "offline": {"type": "bool", "default": False},
}
RUN: Dict[str, Any] = {
    "owner": {"type": "dict"},
    "probe": {"type": "bool", "default": False},
    "progress_file": {"type": "path"},
    "lock_takeover": {"type": "str", "default": ""},
}


def sources(params: Mapping[str, Any]) -> uv.Sources:
    """Where packages come from, out of a module's parameters."""
    return uv.Sources(
        index_url=params["index_url"],
        extra_index_urls=tuple(params["extra_index_urls"]),
        find_links=tuple(os.path.expanduser(place) for place in params["find_links"] if there(place)),
        ca_file=params["ca_file"],
        proxy=params["proxy"],
        offline=params["offline"],
    )


def share_files() -> None:
    """What is written is readable for everyone and writable for its owner, whatever the umask of the caller."""
    os.umask(0o022)


def there(place: str) -> bool:
    """A folder that does not exist yet holds no packages; uv would call it an error."""
    return "://" in place or os.path.isdir(os.path.expanduser(place))


def owner(params: Mapping[str, Any]) -> lock.Owner:
    """The run that a module call belongs to: as the action plugin says, else the process that started the module."""
    given = params.get("owner")
    return dict(given) if given and given.get("run") else lock.owner_of(os.getppid())


def renew(params: Mapping[str, Any], path: str) -> None:
    """Renew the run's heartbeat for the stack_root that a path lies in; raises LockHeld when another run holds it."""
    root = lock.root_of(path)
    if root is not None:
        lock.renew(root, owner(params))
