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

from ansible_collections.verl.baremetal.plugins.module_utils import arguments, layer, lock, release, seal, uv
from ansible_collections.verl.baremetal.plugins.module_utils import install as installer
from ansible_collections.verl.baremetal.plugins.modules import python_layer
from ansible_collections.verl.baremetal.plugins.modules import release as release_module


def defaults(**values: Any) -> dict[str, Any]:
    """Parameters as AnsibleModule would fill them in."""
    params: dict[str, Any] = {name: spec.get("default") for name, spec in {**arguments.INDEX, **arguments.RUN}.items()}
    params.update(owner=lock.owner_of(os.getpid()))
    params.update(values)
    return params


def install_layer(job: dict[str, Any], path: str, name: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """The module python_layer."""
    return python_layer.run(
        defaults(
            name=name,
            path=os.path.join(path, "venv"),
            python=sys.executable,
            python_managed=False,
            python_mirror="",
            requirements=wanted["requirements"],
            build=wanted.get("build", []),
            build_environment={},
            uv=job["uv"],
            cache_dir=job["cache"],
            link_mode="auto",
            integrity="files",
            state="present",
            index_url=job.get("index_url", ""),
        ),
        False,
    )


def release_call(job: dict[str, Any], state: str, **values: Any) -> dict[str, Any]:
    """The module release."""
    params = defaults(
        state=state, root=job["root"], id=job["id"], path="", to="", keep=job.get("keep", 2), switch=True,
        layers=job["layers"], integrity="files", lock_minutes=60, lock_force=False, stack={"name": "small", "digest": "0"},
        variants={}, cuda={"source": "none"}, skipped={}, definition={"components": []}, environment={"SMALL": "{release}"},
    )  # fmt: skip
    params.update(values)
    return release_module.run(params, False)


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
