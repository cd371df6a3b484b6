# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Compares what a host has with the list of an image, which stays on the controller."""

from __future__ import annotations

import typing as t

from ansible_collections.verl.baremetal.plugins.module_utils.images import listing
from ansible_collections.verl.baremetal.plugins.plugin_utils.progress_action import ProgressAction, Result

MOST = 200
IN_MESSAGE = 10


class ActionModule(ProgressAction):
    """The action of verl.baremetal.release_parity."""

    MODULE = "verl.baremetal.release_parity"

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> Result:
        """Ask the host, compare here."""
        try:
            image = listing.read(str(self._task.args["listing"]))
        except (listing.ListingError, KeyError) as error:
            return {"failed": True, "msg": f"release_parity: the image's list cannot be read: {error}"}
        # Reading is the same in check mode, and may take as long.
        result = super().run(tmp, task_vars)
        packed = result.pop("packed", None)
        if result.get("failed") or packed is None:
            return result
        host = listing.unpack(packed)
        deep = self._task.args.get("mode", "files") == "files"
        found = listing.compare_manifests(host["manifest"], image["manifest"])
        shared = {*host["shared"]} & {*image["shared"]} if deep else set()
        if deep:
            found += listing.compare_files(host["files"], image["files"], shared)
        words = [f"{one.path}: {one.words}" for one in found]
        result.update(
            same=not found,
            count=len(found),
            differences=[one._asdict() for one in found[:MOST]],
            files=len(image["files"]) if deep else 0,
            shared=sorted(shared),
            image=image["image"],
        )
        if found:
            more = f"; and {len(found) - IN_MESSAGE} more" if len(found) > IN_MESSAGE else ""
            text = (
                f"{result['release']} and the image {image['image']} differ in {len(found)}: "
                f"{'; '.join(words[:IN_MESSAGE])}{more}. Provision the host anew, or build the image anew."
            )
            if self._task.args.get("policy", "fail") == "fail":
                result.update(failed=True, msg=text)
            else:
                result["warnings"] = [*result.get("warnings", []), text]
        return result
