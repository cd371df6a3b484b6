# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
