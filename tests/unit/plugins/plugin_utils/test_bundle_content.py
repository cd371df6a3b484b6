# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""What a bundle holds follows from the stack and the variables; what a host takes from it follows from its plan."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import tarfile

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils import bundle, layer
from ansible_collections.verl.baremetal.plugins.module_utils.wheels import cache, key
from ansible_collections.verl.baremetal.plugins.plugin_utils import (
    bundle_content,
    collection_archive,
    plan,
    role_defaults,
    sources,
    stack_file,
)

GB = 1024**3
STACK = "verl0.5-preview-cu128"
HOST = {
    "os": {"id": "debian", "version": "12", "pretty": "Debian 12"},
    "architecture": "x86_64",
    "glibc": "2.36",
    "root": True,
    "memory_bytes": 64 * GB,
    "stack_root": "/opt/verl",
    "writable": True,
    "free_bytes": 200 * GB,
    "own_python": {"path": "/usr/bin/python3.11", "version": "3.11", "pip": True},
    "pythons": [
        {"path": f"/usr/bin/python{p}", "version": p + ".2", "implementation": "cpython", "headers": True}
        for p in ("3.11", "3.12")
    ],
    "compiler": "/usr/bin/g++",
    "git": True,
    "apt": True,
    "toolkits": [],
    "libraries": ["libnuma.so.1"],
    "releases": [],
    "gpus": [],
}


def values(**given):
    found = dict(role_defaults.defaults())
    found.update(stack_index_url="", **given)
    return found


def served(stack, **given):
    return bundle_content.serves(stack, values(**given), "3.11")


def test_the_defaults_serve_the_newest_python_and_the_variant_of_the_hosts():
    stack = stack_file.load(STACK)
    assert served(stack) == {
        "pythons": ["3.12"], "managed_pythons": [], "torch_variants": ["cu128"], "cuda_sources": ["pypi"], "systems": [],
        "controller_pythons": ["3.11"],
    }  # fmt: skip
    assert served(stack, bundle_controller=False, venv_torch_variant="pypi")["torch_variants"] == ["pypi"]
    assert served(stack, bundle_controller="false")["controller_pythons"] == []
    assert served(stack, bundle_pythons=["3.10", "3.12"])["pythons"] == ["3.12", "3.10"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"bundle_pythons": ["3.9"]}, "bundle_pythons: '3.9' is not known; this stack has 3.12, 3.11, 3.10"),
        ({"bundle_torch_variants": ["rocm"]}, "bundle_torch_variants: 'rocm'"),
        ({"bundle_systems": ["debian 11"]}, "bundle_systems: 'debian 11'"),
        ({"bundle_cuda_sources": ["existing"]}, "bundle_cuda_sources: 'existing'"),
    ],
)
def test_what_the_stack_does_not_have_is_refused(given, words):
    with pytest.raises(bundle_content.ContentError, match=words):
        served(stack_file.load(STACK), **given)


def test_every_line_of_every_lock_is_wanted():
    stack = stack_file.load(STACK)
    wanted = bundle_content.wanted(stack, served(stack, bundle_pythons=["3.10", "3.11"], bundle_torch_variants=["cu128", "pypi"]), values())
    uses = {w["use"] for w in wanted}
    locks = ["torch.cu128", "torch.pypi", "flash_attention", "flashinfer", "sglang", "megatron", "cuda", "uv"]
    assert uses == {f"{lock}/{python}" for lock in locks for python in ("3.10", "3.11")} | {"controller/3.11"}
    torch = [w for w in wanted if w["use"] == "torch.cu128/3.11" and w["name"] == "torch"]
    assert [w["version"] for w in torch] == ["2.7.1+cu128"]
    assert torch[0]["indexes"] == ["", stack["variants"]["torch"]["cu128"]["index_url"]]
    assert all(w["hashes"] for w in wanted)
    names = {w["name"] for w in wanted if w["use"] == "controller/3.11"}
    assert {"ansible-core", "aiohttp", "uv"} <= names and "pywin32" not in names
    # Sources that wheels are compiled from.
    assert {"flash-attn", "transformer-engine-torch"} <= {w["name"] for w in wanted if w["hashes"]}


def test_packages_of_a_system_follow_from_the_roles_variables():
    stack = stack_file.load(STACK)
    given = {"bundle_systems": ["ubuntu 24.04"], "bundle_cuda_sources": ["pypi", "nvidia"], "bundle_kernels": ["6.8.0-1-generic"]}
    what = values(bundle_apt_sources={"ubuntu 24.04": "deb http://mirror.example.com noble main"}, driver_branch=580, **given)
    (system,) = bundle_content.systems(stack, served(stack, **given), what, "debian 12")
    assert system["folder"] == "apt/ubuntu2404/x86_64" and system["nvidia"]["url"].endswith("/ubuntu2404/x86_64/")
    flat = {name for group in system["groups"] for name in group}
    assert {"g++", "git", "python3.12-dev?", "cuda-toolkit-12-8=12.8.1-1", "libcudnn9-cuda-12=9.8.0.87-1", "nvidia-dkms-580-open",
            "nvidia-dkms-580", "nvidia-driver-pinning-580?", "linux-headers-generic?", "linux-headers-6.8.0-1-generic"} <= flat  # fmt: skip
    together = [group for group in system["groups"] if {"nvidia-dkms-580-open", "nvidia-dkms-580"} <= set(group)]
    assert together == []
    with pytest.raises(bundle_content.ContentError, match="bundle_apt_sources: ubuntu 24.04 is not named"):
        bundle_content.systems(stack, served(stack, **given), values(**given), "debian 12")
    assert bundle_content.systems(stack, served(stack, **given), values(**given), "ubuntu 24.04")[0]["sources"] == ""


def entry(package, version, python):
    parts = key.parts(package, version, {"kind": "sdist", "sha256": "0" * 64}, python, None, "12.8", ["9.0"], {}, "debian-12", "2.36", "x86_64")
    short = key.digest(parts)
    return {"parts": parts, "key": short, "wheel": f"{package.replace('-', '_')}-{version}-0k{short}-cp311-cp311-linux_x86_64.whl", "sha256": "0" * 64}


def test_compiled_wheels_of_the_stack_and_of_its_pythons_are_added(tmp_path):
    stack = stack_file.load(STACK)
    version = stack["wheels"]["flash_attention"]["version"]
    for item in (entry("flash-attn", version, "cp311-x"), entry("flash-attn", version, "cp310-x"), entry("flash-attn", "1.0", "cp311-x")):
        assert cache.usable(item)
        (tmp_path / item["wheel"]).write_text("wheel")
        (tmp_path / (item["wheel"] + ".json")).write_text(json.dumps(item))
    what = values(wheels_cache_controller=str(tmp_path))
    found = bundle_content.added(stack, served(stack, bundle_pythons=["3.11"]), what, "/x/verl-baremetal-0.1.0.tar.gz")
    assert [(f["path"].split("/")[0], f["uses"]) for f in found] == [("collection", ["collection/any"]), *[("built", ["built/3.11"])] * 2]
    with pytest.raises(bundle_content.ContentError, match="bundle_images: /nowhere.tar is not there"):
        bundle_content.added(stack, served(stack), values(wheels_cache_controller="", bundle_images=["/nowhere.tar"]), "a")


# -- a host's side ------------------------------------------------------------------------------------------------------


def decide(bundle=None, host=None, stack="verl0.5-preview-cu128", **options):
    loaded = stack_file.load(stack)
    facts = copy.deepcopy(HOST)
    facts.update(host or {})
    what = values(stack_bundle="/srv/b", flash_attention_method="auto", venv_torch_variant="pypi")
    what.update(options)
    head = {
        "stack": {"name": stack, "digest": loaded["digest"]},
        "digest": "f" * 64,
        "bytes": 1,
        "serves": {"pythons": ["3.11"], "torch_variants": ["pypi"], "cuda_sources": ["pypi"], "systems": [], "controller_pythons": []},
    }
    head.update(bundle or {})
    facts["bundle"] = head
    decided = plan.Planner(loaded, facts, plan.Options.from_values({n: what[n] for n in plan.Options.names()})).plan()
    decided["sources"] = sources.derive(what, decided, loaded, facts)
    return decided


def said(decided):
    return " ".join(f"{f['name']}: {f['found']} {f['needed']} {f['remedy']}" for f in decided["failures"])


def test_a_host_takes_everything_from_the_bundle_and_the_python_that_it_serves():
    decided = decide(stack_index_url="https://index.example.com", stack_find_links=["/more"], stack_proxy="http://proxy.example.com")
    assert decided["failures"] == [] and decided["python"]["short"] == "3.11"
    found = decided["sources"]
    assert found["offline"] is True and found["find_links"] == ["/srv/b/wheels"]
    assert (found["index_url"], found["extra_index_urls"], found["proxy"]) == ("", [], "")
    assert {"torch.pypi/3.11", "sglang/3.11", "cuda/3.11", "uv/3.11", "built/3.11"} <= set(found["uses"])
    bare = decide(host={"own_python": {**HOST["own_python"], "pip": False}})
    assert bare["failures"] == [] and bare["os_packages"] == []  # the bundle holds uv
    url = decide(stack_bundle="http://controller.example.com:8000")["sources"]
    assert url["find_links"] == ["/opt/verl/bundle/ffffffffffff/wheels"]


def test_without_a_bundle_the_variables_hold():
    decided = decide(stack_bundle="", stack_index_url="https://index.example.com", stack_find_links=["/more"], venv_torch_variant="cu128")
    found = decided["sources"]
    assert found["index_url"] == "https://index.example.com" and found["find_links"] == ["/more"] and found["bundle"] == ""
    assert found["extra_index_urls"] == ["https://download.pytorch.org/whl/cu128"] and found["offline"] is False
    mirror = decide(stack_bundle="", stack_torch_index_url="https://mirror.example.com", venv_torch_variant="cu128")["sources"]
    assert mirror["extra_index_urls"] == ["https://mirror.example.com"]


@pytest.mark.parametrize(
    ("bundle", "host", "options", "words"),
    [
        ({"error": "there is no bundle at /srv/b"}, {}, {}, "there is no bundle at /srv/b"),
        ({"stack": {"name": "other", "digest": "0"}}, {}, {}, "a bundle of the stack other"),
        ({"stack": {"name": STACK, "digest": "0" * 64}}, {}, {}, "with other locks"),
        ({}, {"pythons": HOST["pythons"][1:]}, {}, "3.12.2 .* needed|one of 3.11 .*bundle_pythons"),
        ({}, {}, {"venv_python": "3.12"}, "it serves pythons: 3.11 3.12 make the bundle with bundle_pythons"),
        ({}, {}, {"venv_torch_variant": "cu128"}, "it serves torch variants: pypi cu128"),
        ({}, {}, {"cuda_source": "nvidia"}, "it serves cuda sources: pypi nvidia"),
        ({}, {"compiler": None}, {}, r"missing: g\+\+; the bundle holds none for debian 12 .*bundle_systems: \[debian 12\]"),
        ({}, {"pythons": []}, {"venv_python_managed": True}, "it serves managed pythons: none 3.11 make the bundle with venv_python_managed"),
    ],
)
def test_what_a_bundle_lacks_is_told_before_anything_changes(bundle, host, options, words):
    import re

    assert re.search(words, said(decide(bundle, host, **options)))


def test_packages_of_the_system_come_from_the_bundle_where_it_has_them():
    serves = {"pythons": ["3.11"], "torch_variants": ["pypi"], "cuda_sources": ["pypi"], "systems": ["debian 12"]}
    decided = decide({"serves": serves}, {"compiler": None})
    assert decided["failures"] == [] and decided["os_packages"] == ["g++"]
    found = decided["sources"]
    assert found["apt"] == "/srv/b/apt/debian12/x86_64"
    assert found["environment"] == {"APT_CONFIG": "/opt/verl/bundle/apt.conf"} and "apt.debian12/any" in found["uses"]
    assert decide({"serves": serves}, {"root": False})["sources"]["apt"] == ""


def test_a_host_with_the_release_needs_packages_of_the_system_only():
    first = decide()
    assert decide(host={"releases": [first["id"]]})["sources"]["uses"] == ["apt.debian12/any"]


def test_what_a_bundle_lacks_is_named():
    head = {"lacks": [f"p{n} 1" for n in range(12)], "problems": ["wheels/x is missing: it is not there"]}
    first, second = sources.lacking(head, "/srv/b")
    assert "lacks p0 1; p1 1" in first["found"] and "and 2 more" in first["found"]
    assert second["found"] == "in the bundle /srv/b: wheels/x is missing: it is not there"
    assert sources.lacking({"lacks": [], "problems": []}, "/srv/b") == []


# -- the collection -----------------------------------------------------------------------------------------------------


def test_the_collection_is_packed_the_same_each_time_and_galaxy_installs_it(tmp_path):
    path = collection_archive.have(str(tmp_path / "a"))
    again = collection_archive.have(str(tmp_path / "b"))
    assert open(path, "rb").read() == open(again, "rb").read()
    with tarfile.open(path) as archive:
        names = archive.getnames()
    assert "plugins/modules/bundle.py" in names and "roles/bundle/tasks/main.yml" in names and "MANIFEST.json" in names
    assert not [n for n in names if n.startswith((".git/", ".venv", ".tree"))]
    env = dict(os.environ, ANSIBLE_COLLECTIONS_PATH=str(tmp_path / "there"))
    galaxy = os.path.join(os.path.dirname(sys.executable), "ansible-galaxy")
    install = [galaxy, "collection", "install", path, "-p", str(tmp_path / "there"), "--no-deps", "--offline"]
    done = subprocess.run(install, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    installed = tmp_path / "there" / "ansible_collections" / "verl" / "baremetal"
    assert collection_archive.build(str(installed))[1] == open(path, "rb").read()


def test_a_source_in_git_or_its_compiled_wheel_must_be_in_the_bundle():
    kit = {"home": "/cuda", "version": "12.8", "nvcc": True}
    host = {"toolkits": [kit], "gpus": [{"pci": "0", "device_id": "2330", "compute_capability": "9.0"}]}
    given = {"cuda_source": "existing", "cuda_home": "/cuda"}
    assert decide({}, host, **given)["left_out"]["apex"] == "the bundle holds neither the source of apex nor a compiled wheel for Python 3.11"
    assert "megatron_apex: the bundle holds neither" in said(decide({}, host, megatron_apex=True, **given))
    there = decide({"built": ["apex/3.11"]}, host, megatron_apex=True, **given)
    assert there["failures"] == [] and "apex" in there["wheels"]
    held = decide({"sources": {"apex": "sources/apex-1.bundle"}}, host, megatron_apex=True, **given)
    assert held["failures"] == [] and held["sources"]["wheel_sources"] == {"apex": "/srv/b/sources/apex-1.bundle"}


def test_sources_in_git_are_wanted_unless_the_wheel_is_not():
    stack = stack_file.load(STACK)
    (found,) = bundle_content.sources(stack, values())
    assert found == {"name": "apex", "url": "https://github.com/NVIDIA/apex", "commit": stack["wheels"]["apex"]["source"]["commit"], "required": False}
    (found,) = bundle_content.sources(stack, values(megatron_apex=True, wheels_source_urls={"apex": "/srv/apex"}))
    assert found["url"] == "/srv/apex" and found["required"] is True
    assert bundle_content.sources(stack, values(megatron_apex=False)) == []


def test_upstreams_wheel_is_held_and_a_bundle_without_it_is_refused_for_a_host_that_wants_it():
    stack = stack_file.load(STACK)
    url = "https://example.com/v2.8.0/flash_attn-2.8.0.post2%2Bcu12torch2.7cxx11abiTRUE-cp311-cp311-linux_x86_64.whl"
    given = {"flash_attention_method": "prebuilt", "flash_attention_prebuilt_url": url, "flash_attention_prebuilt_sha256": "a" * 64}
    (found,) = bundle_content.direct(stack, values(**given))
    assert found == {"name": "flash_attn-2.8.0.post2-cp311-cp311-linux_x86_64.whl", "url": url, "sha256": "a" * 64, "use": "prebuilt/any"}
    assert bundle_content.direct(stack, values()) == []
    with pytest.raises(bundle_content.ContentError, match="prebuilt, without URL or sha256"):
        bundle_content.direct(stack, values(flash_attention_method="prebuilt"))
    decided = decide(**given)
    assert "prebuilt/any" in decided["sources"]["uses"] and "prebuilt/any" not in decide()["sources"]["uses"]
    lines = bundle_content.requirement_lines(decided, values(**given))
    held = [bundle.File("wheels/x.whl", 1, hash_[len("sha256:"):], ()) for one in layer.parse(lines) for hash_ in one.hashes]
    assert bundle.lacks(held, lines) == []
    assert bundle.lacks([item for item in held if item.sha256 != "a" * 64], lines) == ["flash-attn 2.8.0.post2"]


def test_a_python_that_uv_brings_comes_from_a_bundle_that_serves_it():
    stack = stack_file.load(STACK)
    given = {"venv_python_managed": True, "bundle_pythons": ["3.11"], "venv_python_mirror": "https://mirror.example.com"}
    serves = served(stack, **given)
    assert bundle_content.pythons(serves, values(**given)) == [{"python": "3.11", "mirror": "https://mirror.example.com"}]
    decided = decide({"serves": {**serves, "torch_variants": ["pypi"]}}, {"pythons": []}, **given)
    assert decided["failures"] == [] and decided["python"]["managed"] and "python/3.11" in decided["sources"]["uses"]
    assert decided["sources"]["python_mirror"] == "file:///srv/b/python"
    assert decide(stack_bundle="", **given)["sources"]["python_mirror"] == "https://mirror.example.com"


def test_a_python_that_uv_brings_needs_the_compiler_all_the_same():
    assert decide({}, {"pythons": [], "compiler": None}, stack_bundle="", venv_python_managed=True)["os_packages"] == ["g++"]
