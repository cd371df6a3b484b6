# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The packages of a system in a bundle, with the real apt and gpg and the fixture repository (nothing of NVIDIA's is in it)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils import bundle, bundle_apt, bundle_collect
from ansible_collections.verl.baremetal.plugins.module_utils.nvidia import openpgp
from ansible_collections.verl.baremetal.plugins.module_utils.progress import Progress
from ansible_collections.verl.baremetal.plugins.plugin_utils import bundle_content, role_defaults, stack_file

FIXTURE = Path(__file__).resolve().parents[1] / "ci" / "nvidia_fixture.py"
FOLDER = "apt/debian12/x86_64"
STACK = {"name": "s", "digest": "d"}


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    base = tmp_path_factory.mktemp("f") / "www"
    subprocess.run([sys.executable, str(FIXTURE), str(base)], check=True, capture_output=True)
    return base


def wanted(repository, **given):
    """As the roles' variables make it, without what the real Debian would bring."""
    stack = stack_file.load("verl0.5-preview-cu128")
    values = dict(role_defaults.defaults(), stack_index_url="", bundle_systems=["debian 12"], bundle_cuda_sources=["nvidia"])
    values.update(
        driver_repository_url=f"file://{repository}/cuda/repos",
        driver_repository_fingerprints=[(repository / "fingerprint").read_text().strip()],
        bundle_kernels=["6.1.0-99-amd64"],
        **given,
    )
    (found,) = bundle_content.systems(stack, bundle_content.serves(stack, values, "3.11"), values, "debian 12")
    found["groups"] = [group for group in found["groups"] if "g++" not in group]
    return bundle_apt.Wanted.from_dict(found)


def resolve(what, folder):
    folder.mkdir()
    return bundle_apt.resolve(what, str(folder), "", "", Progress(None))


def versions(packages):
    fields = [bundle_apt.fields_of(item.paragraph) for item in packages]
    return {f["Package"]: f["Version"] for f in fields}


def test_the_closure_holds_one_driver_of_both_kinds_and_no_trap(repository, tmp_path):
    found = versions(resolve(wanted(repository), tmp_path / "work"))
    assert found["nvidia-kernel-open-dkms"] == found["nvidia-kernel-dkms"] == found["libcuda1"] == "570.133.20-1"
    # A newer fabric manager is in the repository: it must not be taken.
    assert found["nvidia-fabricmanager-570"] == "570.133.20-1"
    assert found["cuda-toolkit-12-8"] == "12.8.1-1" and found["libcudnn9-dev-cuda-12"] == "9.8.0.87-1"
    assert "linux-headers-6.1.0-99-amd64" in found and "dkms" in found
    assert not {"cuda", "cuda-12-8", "cuda-runtime-12-8", "cuda-drivers"} & set(found)


def test_a_chosen_version_is_taken(repository, tmp_path):
    found = versions(resolve(wanted(repository, driver_version="570.124.06"), tmp_path / "work"))
    assert found["libcuda1"] == found["nvidia-fabricmanager-570"] == "570.124.06-1" and "nvidia-driver-pinning-570.124.06" in found


def test_what_the_sources_lack_is_named(repository, tmp_path):
    what = wanted(repository)
    with pytest.raises(bundle.BundleError, match=r"debian 12: apt-get install .*nothing-such.*bundle_apt_sources"):
        resolve(what._replace(groups=(("nothing-such",),)), tmp_path / "one")
    wrong = dict(what.nvidia, fingerprints=[(repository / "other-fingerprint").read_text().strip()])
    with pytest.raises(bundle.BundleError, match="is not trusted"):
        resolve(what._replace(nvidia=wrong), tmp_path / "two")
    gone = dict(what.nvidia, url=f"file://{tmp_path}/gone/")
    with pytest.raises(bundle.BundleError, match="cannot be had"):
        resolve(what._replace(nvidia=gone), tmp_path / "three")


@pytest.fixture(scope="module")
def made(repository, tmp_path_factory):
    """Two bundles of the same, signed with two keys."""
    folder = tmp_path_factory.mktemp("b")
    serves = {"pythons": [], "systems": ["debian 12"]}
    found = []
    for name in ("one", "two"):
        places = bundle_collect.Places("http://127.0.0.1:9", jobs=2, gnupg=str(folder / ("k" + name)))
        one, _counts = bundle_collect.collect(
            str(folder / name), STACK, serves, bundle_collect.Content(systems=[wanted(repository)]), places, {}, Progress(None)
        )
        found.append((folder / name, one, places))
    return found


def keys(folder):
    return [key.hex for key in openpgp.fingerprints((folder / FOLDER / bundle_apt.KEY).read_bytes())]


def test_the_repository_is_signed_and_apt_installs_from_it(made, tmp_path):
    folder, one, _places = made[0]
    assert {f.uses for f in one.files if f.path.startswith("apt/")} == {("apt.debian12/any",)}
    nvidia = {"url": f"file://{folder}/{FOLDER}/", "key_url": "", "fingerprints": keys(folder)}
    host = bundle_apt.Wanted("debian 12", FOLDER, "", (("nvidia-driver-cuda", "nvidia-kernel-open-dkms", "cuda-toolkit-12-8"),), nvidia)
    there = versions(resolve(host, tmp_path / "host"))
    assert there["libcuda1"] == "570.133.20-1" and there["cuda-toolkit-12-8"] == "12.8.1-1"

    # A list that was changed after it was signed is refused.
    packages = folder / FOLDER / "Packages"
    whole = packages.read_bytes()
    zipped = (folder / FOLDER / "Packages.gz").read_bytes()
    try:
        packages.write_bytes(whole.replace(b"570.133.20", b"570.133.21"))
        (folder / FOLDER / "Packages.gz").unlink()
        with pytest.raises(bundle.BundleError, match="apt-get update"):
            resolve(host, tmp_path / "again")
    finally:
        packages.write_bytes(whole)
        (folder / FOLDER / "Packages.gz").write_bytes(zipped)


def test_the_digest_does_not_depend_on_key_and_time_and_a_second_run_keeps_the_signature(made, repository):
    (first, one, places), (second, two, _places) = made
    assert one.digest == two.digest and keys(first) != keys(second)
    signature = (first / FOLDER / "InRelease").read_bytes()
    again, counts = bundle_collect.collect(
        str(first), STACK, {"pythons": [], "systems": ["debian 12"]}, bundle_collect.Content(systems=[wanted(repository)]), places, {}, Progress(None)
    )
    assert again == one and counts.fetched == 0 and (first / FOLDER / "InRelease").read_bytes() == signature
    assert bundle.verify(str(first), one.files) == [] and bundle.superfluous(str(first), one.files) == []
