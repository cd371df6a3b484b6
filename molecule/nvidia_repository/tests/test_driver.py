# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""What must be on the hosts after everything that was done to them."""

from __future__ import annotations

testinfra_hosts = ["all"]
