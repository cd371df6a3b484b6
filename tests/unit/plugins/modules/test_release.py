# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""What a begin that fails does with the lock."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils import layer, lock
from ansible_collections.verl.baremetal.plugins.module_utils import release as engine
from ansible_collections.verl.baremetal.plugins.modules import release


def parameters(root: Path, **values: Any) -> dict[str, Any]:
    """Parameters as AnsibleModule would fill them in."""
    params = {name: spec.get("default") for name, spec in release.argument_spec().items()}
    return {**params, "root": str(root), "id": "small-0123456789ab", "owner": lock.owner_of(os.getpid()), **values}


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        lock.LockHeld("a process of an earlier run still works there"),
        layer.LayerError("a stamp that cannot be read"),
        engine.ReleaseError("no such release"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_begin_that_fails_leaves_the_lock_as_it_was(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, held: bool
) -> None:
    params = parameters(tmp_path, state="begin")
    if held:
        lock.acquire(str(tmp_path), params["owner"])

    def begin(*unused: Any) -> Any:
        assert lock.holds(str(tmp_path), params["owner"])
        raise error

    monkeypatch.setattr(engine, "begin", begin)
    with pytest.raises(type(error)):
        release.run(params, False)
    assert lock.holds(str(tmp_path), params["owner"]) is held
