# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""What a converged host holds."""

from __future__ import annotations

import json
import re

CUOBJDUMP = "/opt/verl-baremetal-cache/nvcc-12.4/bin/cuobjdump"


def entries(host):
    listed = host.run("cat /opt/verl/wheels/index.json")
    assert listed.rc == 0, listed.stderr
    return json.loads(listed.stdout)["entries"]


def entry_of(host):
    found = [entry for entry in entries(host) if entry["parts"]["flags"]["env"] == {}]
    assert len(found) == 1
    return found[0]


def test_the_extension_loads(host):
    loaded = host.run("/opt/verl/venv/bin/python -c 'import verl_test_kernels as v; print(v.kernels())'")
    assert loaded.stdout.strip() == "4", loaded.stderr


def test_the_key_its_parts_and_the_hash_lie_beside_the_wheel(host):
    entry = entry_of(host)
    wheel = "/opt/verl/wheels/" + entry["wheel"]
    assert f"-0k{entry['key']}-" in entry["wheel"]
    beside = json.loads(host.file(wheel + ".json").content_string)
    assert beside == entry
    assert host.run(f"sha256sum {wheel}").stdout.split()[0] == entry["sha256"]
    assert entry["parts"]["nvcc"].startswith("12.4.")
    assert entry["parts"]["system"] == "debian-12"
    assert entry["built"]["seconds"] > 0 and entry["built"]["peak_mb"] > 50
    assert entry["built"]["units"] == 5


def test_both_hosts_have_the_same_wheel_and_one_built_it(host):
    assert entry_of(host)["built"]["host"] == "vb-wheels-builder"
    if host.backend.get_hostname() == "vb-wheels-second":
        assert host.run("command -v g++ c++ gcc nvcc ninja").stdout == ""
        assert not host.file("/opt/verl/build").exists
    else:
        assert host.file("/opt/verl/build").exists


def test_the_architectures_read_back_are_those_that_cuobjdump_lists(host):
    if host.backend.get_hostname() == "vb-wheels-second":
        return  # has no CUDA tools; its wheel has the same hash, see above
    site = host.run("/opt/verl/venv/bin/python -c 'import verl_test_kernels as v; print(v.__file__)'").stdout.strip()
    listed = host.run(f"{CUOBJDUMP} --list-elf {site}")
    assert listed.rc == 0, listed.stderr
    assert sorted(set(re.findall(r"sm_(\w+)\.cubin", listed.stdout))) == ["80", "90"]
    assert entry_of(host)["architectures"] == {"sass": ["80", "90"], "ptx": []}


def test_the_foreign_nvcc_was_never_called(host):
    assert not host.file("/tmp/foreign-nvcc-was-called").exists
