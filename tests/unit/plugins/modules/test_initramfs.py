# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args

from ansible_collections.verl.baremetal.plugins.module_utils.nvidia.transaction import Ran
from ansible_collections.verl.baremetal.plugins.modules import initramfs

LISTINGS = {
    "/boot/initrd.img-6.1.0-30-amd64": "usr/lib/modules/6.1.0-30-amd64/kernel/drivers/gpu/drm/nouveau/nouveau.ko.xz\n",
    "/boot/initrd.img-6.1.0-31-amd64": "usr/lib/modules/6.1.0-31-amd64/kernel/fs/ext4/ext4.ko.xz\n",
}


@pytest.mark.parametrize(("check", "rc", "rebuilds"), [(False, 0, 1), (True, 0, 0), (False, 1, 1)])
def test_only_images_that_hold_the_module_are_rebuilt(monkeypatch, capsys, check, rc, rebuilds):
    calls = []

    def run(argv):
        if argv[0] == "lsinitramfs":
            return Ran(0, LISTINGS[argv[1]], "")
        calls.append(argv)
        return Ran(rc, "", "no space left on device")

    monkeypatch.setattr(initramfs.transaction, "run", run)
    monkeypatch.setattr(initramfs.os, "listdir", lambda path: ["vmlinuz-6.1.0-31-amd64", *[name[6:] for name in LISTINGS]])
    monkeypatch.setattr(AnsibleModule, "get_bin_path", lambda self, name: "/usr/sbin/" + name)
    with patch_module_args({"module": "nouveau", "_ansible_check_mode": check}), pytest.raises(SystemExit):
        initramfs.main()
    result = json.loads(capsys.readouterr().out)
    assert result["rebuilt"] == ["6.1.0-30-amd64"]
    assert len(calls) == rebuilds
    assert bool(result.get("failed")) is bool(rc)
    if rc:
        assert "no space left on device" in result["msg"]
