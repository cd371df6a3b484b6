#!/usr/bin/python
# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Rebuilds the initramfs images that hold a kernel module."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: initramfs
short_description: Rebuilds the initramfs images that hold a kernel module
description:
  - An image without the module is left alone, because building one takes half a minute for each kernel.
  - Hosts without initramfs-tools have nothing to rebuild.
author: the verl.baremetal authors (@verl-baremetal)
version_added: 0.1.0
options:
  module:
    description: The kernel module's name.
    type: str
    required: true
attributes:
  check_mode:
    support: full
    description: Says which images would be rebuilt.
  diff_mode:
    support: none
    description: Images are binary.
"""

EXAMPLES = r"""
- name: Take nouveau out of the images
  verl.baremetal.initramfs:
    module: nouveau
"""

RETURN = r"""
rebuilt:
  description: The kernels whose image was rebuilt.
  returned: always
  type: list
  elements: str
  sample: [6.1.0-31-amd64]
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.verl.baremetal.plugins.module_utils.nvidia import transaction


def holds(image: str, name: str) -> bool:
    """Whether an image holds a kernel module."""
    listing = transaction.run(["lsinitramfs", image]).out
    return any(f"/{name}.ko" in line for line in listing.splitlines())


def main() -> None:
    """Look into each image, rebuild those that hold the module."""
    module = AnsibleModule(
        argument_spec={"module": {"type": "str", "required": True}},
        supports_check_mode=True,
    )
    rebuilt = []
    tools = module.get_bin_path("lsinitramfs") and module.get_bin_path("update-initramfs")
    images = sorted(name for name in os.listdir("/boot") if name.startswith("initrd.img-")) if tools else []
    for image in images:
        if not holds("/boot/" + image, module.params["module"]):
            continue
        kernel = image[len("initrd.img-") :]
        rebuilt.append(kernel)
        if module.check_mode:
            continue
        done = transaction.run(["update-initramfs", "-u", "-k", kernel])
        if done.rc != 0:
            module.fail_json(
                msg=f"the initramfs of {kernel} could not be rebuilt: {(done.err or done.out).strip()[-800:]}; "
                f"free space in /boot, then run update-initramfs -u -k {kernel}",
                rebuilt=rebuilt,
            )
    module.exit_json(changed=bool(rebuilt), rebuilt=rebuilt)


if __name__ == "__main__":
    main()
