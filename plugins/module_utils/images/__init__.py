# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The stack as docker images: the daemon, commits, archives, and the comparison with a host."""
