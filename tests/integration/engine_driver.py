# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""One whole installation in one process, so that a test can kill it anywhere: python engine_driver.py JOB.json

It calls what the modules call, in the order of the playbook, with the arguments that the modules would get.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from ansible_collections.verl.baremetal.plugins.module_utils import layer, lock, release, seal, uv
from ansible_collections.verl.baremetal.plugins.module_utils import install as installer
from ansible_collections.verl.baremetal.plugins.modules import python_layer
from ansible_collections.verl.baremetal.plugins.modules import release as release_module


def defaults(module: Any, **values: Any) -> dict[str, Any]:
    """Parameters as AnsibleModule would fill them in."""
    params: dict[str, Any] = {name: spec.get("default") for name, spec in module.argument_spec().items()}
    return {**params, "owner": lock.owner_of(os.getpid()), **values}


def install_layer(job: dict[str, Any], path: str, name: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """The module python_layer."""
    params = defaults(
        python_layer, name=name, path=os.path.join(path, "venv"), python=sys.executable, uv=job["uv"], cache_dir=job["cache"],
        requirements=wanted["requirements"], build=wanted.get("build", []), index_url=job.get("index_url", ""),
    )  # fmt: skip
    return python_layer.run(params, False)


def release_call(job: dict[str, Any], state: str, **values: Any) -> dict[str, Any]:
    """The module release."""
    params = defaults(
        release_module, state=state, root=job["root"], id=job["id"], layers=job["layers"], stack={"name": "small", "digest": "0"},
        cuda={"source": "none"}, definition={"components": []}, environment={"SMALL": "{release}"},
    )  # fmt: skip
    return release_module.run({**params, **values}, False)


def main() -> None:
    """Run the job; the result is printed as JSON."""
    with open(sys.argv[1], encoding="utf-8") as handle:
        job = json.load(handle)
    try:
        begun = release_call(job, "begin")
        if not begun["converged"]:
            for name, wanted in job["layers"].items():
                install_layer(job, begun["path"], name, wanted)
            release_call(job, "seal", path=begun["path"])
        live = release_call(job, "activate", path=begun["path"])
    except (
        installer.InstallError, layer.LayerError, lock.LockHeld, release.ReleaseError, uv.UvError, OSError,
    ) as error:  # fmt: skip
        print(json.dumps({"failed": True, "msg": str(error), "kind": type(error).__name__}))
        sys.exit(1)
    print(json.dumps({"begun": begun, "live": live, "seal": seal.__name__}))


if __name__ == "__main__":
    main()
