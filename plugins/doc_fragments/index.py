# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Where packages come from."""

from __future__ import annotations


class ModuleDocFragment:
    """Options of the modules that install packages."""

    DOCUMENTATION = r"""
options:
  index_url:
    description:
      - URL of the package index. When empty, the configuration of uv on the host holds.
    type: str
    default: ""
  extra_index_urls:
    description:
      - URLs of further indexes. The hashes decide which file is taken.
    type: list
    elements: str
    default: []
  find_links:
    description:
      - Folders or URLs with further packages, for example those of a bundle.
    type: list
    elements: str
    default: []
  ca_file:
    description:
      - File on the host with the certificate authorities of the index. When empty, the system's are used.
    type: str
    default: ""
  proxy:
    description:
      - URL of a proxy for downloads.
    type: str
    default: ""
  offline:
    description:
      - Never use the network. With O(find_links) only those folders are looked at, without them the cache.
    type: bool
    default: false
"""
