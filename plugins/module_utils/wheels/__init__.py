# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Wheels of compiled extensions: built once for a key, kept in caches, given to every host."""
