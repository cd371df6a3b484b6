# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""What hosts without a network have after `site.yml` and `serve.yml`, and that nobody tried to reach out."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

sys.path.insert(0, os.environ["MOLECULE_PROJECT_DIRECTORY"] + "/.tree")
from ansible_collections.verl.baremetal.plugins.module_utils.host import default_index

RELEASE = "/opt/verl/current"
BUNDLES = Path.home() / ".cache/verl-baremetal/bundles-airgap"
UV = "/opt/verl/tools/uv-0.13.9/bin/uv"


def run(host, command):
    done = host.run(command)
    assert done.rc == 0, done.stdout + done.stderr
    return done.stdout


def index_of(name="small"):
    return json.loads((BUNDLES / name / "bundle.json").read_text())


def attempts(host):
    return run(host, "cat /var/tmp/attempts").split()


def test_the_stack_works(host):
    code = "import docopt, idna, iniconfig, packaging, six, toolz, zipp; print(six.__version__)"
    assert run(host, f"{RELEASE}/venv/bin/python -c '{code}'").strip() == "1.17.0"


def test_the_release_is_sealed_and_live(host):
    manifest = json.loads(run(host, f"cat {RELEASE}/manifest.json"))
    assert manifest["stack"]["digest"] == index_of()["stack"]["digest"]


def test_a_host_without_a_python_got_one_from_the_bundle(host):
    if host.backend.get_hostname() != "vb-airgap-alone":
        return
    code = "import sys, six; print(sys.base_prefix)"
    base = run(host, f"/opt/managed/current/venv/bin/python -c '{code}'").strip()
    assert base.startswith("/opt/managed/tools/python/cpython-3.11.")
    assert not host.file("/root/.local/bin").exists


def test_the_hosts_have_no_way_out(host):
    if host.backend.get_hostname() == "vb-airgap-alone":
        assert run(host, "ls /sys/class/net").split() == ["lo"]
    else:
        # Where the controller's own index is: by address, so that the missing name server is not what fails.
        server = urlsplit(default_index(sys.executable) or "")
        address, port = socket.gethostbyname(server.hostname), server.port or (80 if server.scheme == "http" else 443)
        assert host.run(f"timeout 5 bash -c '</dev/tcp/{address}/{port}'").rc != 0


def test_nobody_tried_to_reach_out_and_who_does_is_noticed(host):
    assert attempts(host) == []
    # The guard: the same uv without a bundle asks its default index, fails, and is noticed.
    reaching = host.run(f"{UV} pip install --no-cache --target /tmp/reach --python /usr/bin/python3 six==1.17.0")
    noticed = attempts(host)
    run(host, "truncate -s 0 /var/tmp/attempts")
    assert reaching.rc != 0 and len(noticed) >= 2
    assert not host.file("/tmp/reach/six.py").exists


def test_a_host_pulled_only_what_it_needs(host):
    if host.backend.get_hostname() == "vb-airgap-alone":
        assert not host.file("/opt/verl/bundle").exists or run(host, "find /opt/verl/bundle -name '*.whl'") == ""
        return
    bundle = index_of()
    folder = "/opt/verl/bundle/" + bundle["digest"][:12]
    pulled = set(run(host, f"cd {folder} && find . -type f").split())
    needed = {"./" + f["path"] for f in bundle["files"] if any(not u.startswith(("controller/", "about/", "collection/", "images/")) for u in f["uses"])}
    assert pulled == needed | {"./.pulled"}
    assert len(needed) < len(bundle["files"])
    for item in bundle["files"]:
        if "./" + item["path"] in needed:
            assert run(host, f"sha256sum {folder}/{item['path']}").split()[0] == item["sha256"]


def test_the_bundle_holds_the_tools_of_its_controller(host):
    if host.backend.get_hostname() != "vb-airgap-alone":
        return
    lock = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"]) / "requirements" / "controller.txt"
    lines = lock.read_text()
    host.run_expect([0], f"cat > /tmp/controller.txt <<'END'\n{lines}\nEND")
    planned = host.run(
        f"{UV} pip install --dry-run --offline --no-index --no-cache --find-links /srv/bundles/small/wheels --no-deps --require-hashes "
        f"--no-build --python /usr/bin/python3 --python-version {index_of()['serves']['controller_pythons'][0]} "
        "--target /tmp/controller -r /tmp/controller.txt"
    )
    assert planned.rc == 0, planned.stderr
    assert "ansible-core==" in planned.stderr


def test_bundles_beside_each_other_share_files():
    ours, other = index_of(), index_of("other-python")
    both = {f["path"] for f in ours["files"] if f["path"].startswith("wheels/")} & {f["path"] for f in other["files"]}
    assert len(both) >= 10
    for path in both:
        assert (BUNDLES / "small" / path).samefile(BUNDLES / "other-python" / path), path


@pytest.mark.parametrize("name", ["small", "other-python"])
def test_every_file_is_named_with_its_size(name):
    bundle = index_of(name)
    there = {str(p.relative_to(BUNDLES / name)) for p in (BUNDLES / name).rglob("*") if p.is_file()}
    assert there == {f["path"] for f in bundle["files"]} | {"bundle.json"}
    assert all((BUNDLES / name / f["path"]).stat().st_size == f["size"] for f in bundle["files"])
