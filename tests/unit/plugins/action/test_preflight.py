# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""What the controller makes of a host's answers."""

from __future__ import annotations

from ansible_collections.verl.baremetal.plugins.action import preflight


def test_an_index_that_does_not_answer_and_a_check_that_failed_are_failures():
    assert preflight.index_failures({"unreachable_indexes": {}}) == []
    (away,) = preflight.index_failures({"unreachable_indexes": {"https://mirror/simple": "refused"}})
    assert away["found"] == "https://mirror/simple cannot be reached: refused"
    (broken,) = preflight.index_failures({"failed": True, "msg": "no route to https://me:s3cret@mirror/simple"})
    assert "could not ask" in broken["found"] and "mirror/simple" in broken["found"] and "s3cret" not in broken["found"]
