# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""What the caches of compiled wheels hold that the controller sees: its own, and the one at a URL or in a shared folder."""

from __future__ import annotations

import os
import tempfile
import typing as t

from ansible_collections.verl.baremetal.plugins.module_utils.wheels import cache, source

VARIABLES = ["wheels_cache_controller", "wheels_cache_url"]


class Offers:
    """Reads the caches when it is asked, not before; ``problems`` says then what could not be read."""

    def __init__(self, values: t.Mapping[str, t.Any]) -> None:
        self.places = [str(values[name]) for name in VARIABLES if values[name]]
        self.client = source.Client(ca_file=os.environ.get("SSL_CERT_FILE", ""), proxy=str(values["stack_proxy"]))
        self.problems: list[str] = []

    def parts(self) -> list[dict[str, t.Any]]:
        """Parts of the key of every wheel that is offered."""
        found: list[dict[str, t.Any]] = []
        for place in self.places:
            folder = cache.local(place)
            if folder is not None:
                found += list(cache.entries(folder))
                continue
            with tempfile.TemporaryDirectory() as scratch:
                listed, problems = cache.listing(place, os.path.join(scratch, cache.INDEX), self.client)
            found += listed
            self.problems += problems
        return [entry["parts"] for entry in found]
