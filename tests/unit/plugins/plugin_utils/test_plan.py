# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The plan: what is decided for which host, and what is refused in which words."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml

from ansible_collections.verl.baremetal.plugins.module_utils.wheels import key
from ansible_collections.verl.baremetal.plugins.plugin_utils import plan, role_defaults, stack_file

GB = 1024**3
H100 = {"pci": "0000:3b:00.0", "device_id": "2330", "compute_capability": "9.0"}
HOST = {
    "os": {"id": "debian", "version": "12", "pretty": "Debian GNU/Linux 12 (bookworm)"},
    "architecture": "x86_64",
    "glibc": "2.36",
    "root": True,
    "home": "/root",
    "cores": 8,
    "memory_bytes": 64 * GB,
    "stack_root": "/opt/verl",
    "writable": True,
    "free_bytes": 200 * GB,
    "own_python": {"path": "/usr/bin/python3.11", "version": "3.11", "pip": True},
    "pythons": [
        {
            "path": "/usr/bin/python3.11",
            "version": "3.11.2",
            "implementation": "cpython",
            "headers": True,
        },
        {
            "path": "/usr/local/bin/python3.12",
            "version": "3.12.1",
            "implementation": "cpython",
            "headers": True,
        },
    ],
    "compiler": "/usr/bin/g++",
    "git": True,
    "apt": True,
    "toolkits": [],
    "libraries": ["libnuma.so.1"],
    "releases": [],
    "gpus": [],
}


def planner(host=None, stack="verl0.5-preview-cu128", offers=list, **options):
    facts = copy.deepcopy(HOST)
    facts.update(host or {})
    shipped = role_defaults.defaults()
    values = {name: shipped[name] for name in plan.Options.names()}
    values.update({"flash_attention_method": "auto", "venv_torch_variant": "pypi"}, **options)
    return plan.Planner(stack_file.load(stack), facts, plan.Options.from_values(values), offers)


def decide(*args, **options):
    return planner(*args, **options).plan()


def names(decided):
    return [f["name"] for f in decided["failures"]]


def test_a_machine_without_gpu_takes_what_needs_no_compiler():
    decided = decide()
    assert decided["failures"] == []
    assert decided["python"]["short"] == "3.12"
    assert decided["cuda"]["source"] == "pypi" and any(
        line.startswith("cuda-toolkit==12.8.1 ") for line in decided["cuda"]["requirements"]
    )
    assert decided["left_out"]["flash_attention"].startswith("no nvcc") and decided["left_out"]["apex"].startswith(
        "no nvcc"
    )
    assert list(decided["wheels"]) == ["transformer_engine"]
    assert decided["wheels"]["transformer_engine"]["source"]["hashes"]
    assert "CUDA 12.6 build" in decided["warnings"][0]
    lines = [line.split("==")[0] for layer in decided["layers"].values() for line in layer["requirements"]]
    assert "torch" in lines and "flash-attn" not in lines and "transformer-engine-torch" not in lines
    assert len(lines) == len(set(lines))


def test_a_gpu_host_takes_nvidias_repository_and_compiles_for_its_gpus():
    decided = decide({"gpus": [H100, H100]}, venv_torch_variant="cu128", flash_attention_method="build")
    assert decided["failures"] == []
    assert decided["cuda"]["source"] == "nvidia" and decided["cuda"]["requirements"] == []
    assert sorted(decided["wheels"]) == ["apex", "flash_attention", "transformer_engine"]
    assert decided["wheels"]["flash_attention"]["architectures"] == ["90"]
    assert decided["index_urls"] == ["https://download.pytorch.org/whl/cu128"]
    assert any(line.startswith("torch==2.7.1+cu128 ") for line in decided["layers"]["torch"]["requirements"])


def test_the_id_follows_what_decides_the_content_and_nothing_else():
    base = decide()["id"]
    assert base.startswith("verl0.5-preview-cu128-") and len(base.rsplit("-", 1)[1]) == plan.ID_LENGTH
    assert decide({"free_bytes": 90 * GB, "cores": 2})["id"] == base
    assert decide(venv_python="3.11")["id"] != base
    assert decide(venv_torch_variant="cu128")["id"] != base
    assert decide({"gpus": [H100]}, cuda_source="pypi")["id"] == base


def test_the_id_follows_the_prebuilt_wheel_and_a_recipes_options():
    prebuilt = {"flash_attention_method": "prebuilt", "flash_attention_prebuilt_url": "https://mirror/flash_attn.whl"}
    one, other = (decide(flash_attention_prebuilt_sha256=letter * 64, **prebuilt)["id"] for letter in "ab")
    assert one != other
    prebuilt["flash_attention_prebuilt_url"] = "https://elsewhere/flash_attn.whl"
    assert decide(flash_attention_prebuilt_sha256="a" * 64, **prebuilt)["id"] == one
    compiled = [decide(cuda_source="nvidia")["id"]]
    for name, value in (("env", {"NVTE_FRAMEWORK": "pytorch", "MORE": "1"}), ("options", ["--fast"])):
        asked = planner(cuda_source="nvidia")
        asked.stack = copy.deepcopy(asked.stack)
        asked.stack["wheels"]["transformer_engine"][name] = value
        compiled.append(asked.plan()["id"])
    assert len(set(compiled)) == 3


def test_everything_that_is_wrong_is_reported_together():
    decided = decide(
        {
            "os": {"id": "rocky", "version": "9.4", "pretty": "Rocky Linux 9.4"},
            "architecture": "aarch64",
            "glibc": "2.17",
            "writable": False,
            "free_bytes": 2 * GB,
            "memory_bytes": 1 * GB,
            "pythons": [],
        },
        stack_extra_packages=["vllm>=0.8", "pyext", "torch", "leftpad"],
    )
    assert names(decided) == [
        "operating system",
        "architecture",
        "glibc",
        "write permission",
        "stack_extra_packages",
        "stack_extra_packages",
        "stack_extra_packages",
        "python",
        "disk",
        "memory",
    ]
    words = plan.describe(decided["failures"])
    assert (
        "Rocky Linux 9.4" in words
        and "not supported by this stack" in words
        and "unmaintained" in words
        and "leftpad" in words
    )
    assert all(f["found"] and f["needed"] and f["remedy"] for f in decided["failures"])


@pytest.mark.parametrize(
    ("host", "options", "failed", "words"),
    [
        ({}, {"venv_python": "3.13"}, "python", "3.13"),
        ({}, {"venv_python": "3.10"}, "python", "Python 3.10"),
        ({}, {"venv_python": "/opt/py/bin/python"}, "python", "/opt/py/bin/python"),
        ({}, {"venv_torch_variant": "cu126"}, "venv_torch_variant", "cu128, pypi"),
        ({}, {"cuda_source": "existing"}, "cuda_home", "empty"),
        ({}, {"cuda_source": "existing", "cuda_home": "/opt/cuda"}, "cuda_home", "no CUDA toolkit"),
        (
            {"toolkits": [{"home": "/opt/cuda", "version": "13.0", "nvcc": True}]},
            {"cuda_home": "/opt/cuda"},
            "cuda_home",
            "CUDA 13.0",
        ),
        (
            {"toolkits": [{"home": "/opt/cuda", "version": "12.4", "nvcc": True}]},
            {"cuda_home": "/opt/cuda"},
            "cuda_home",
            "CUDA 12.8",
        ),
        ({}, {"cuda_source": "pypi", "cuda_home": "/opt/cuda"}, "cuda_home", "cuda_source: pypi"),
        ({"root": False}, {"cuda_source": "nvidia"}, "cuda_source", "without root"),
        ({}, {"flash_attention_method": "build"}, "flash_attention_method", "no nvcc"),
        ({}, {"flash_attention_method": "prebuilt"}, "flash_attention_method", "without URL"),
        ({}, {"megatron_apex": True}, "megatron_apex", "no nvcc"),
        ({"absent_folders": ["~/wheel"]}, {}, "stack_find_links", "~/wheel is no folder"),
        ({"root": False, "compiler": None}, {}, "packages of the system", "g++"),
        ({"root": False, "free_bytes": 20 * GB}, {}, "disk", "20.0 GB"),
    ],
)
def test_what_cannot_be_is_refused_in_words(host, options, failed, words):
    decided = decide(host, **options)
    assert names(decided) == [failed]
    assert words in plan.describe(decided["failures"])


@pytest.mark.parametrize(
    ("asked", "path"), [("~/x/python3.11", "/home/me/x/python3.11"), ("/srv/env/bin/python", "/usr/bin/python3.11")]
)
def test_a_python_that_is_asked_for_is_known_by_the_users_words(asked, path):
    found = {**HOST["pythons"][0], "path": path, "asked": asked}
    decided = decide({"pythons": [found]}, venv_python=asked)
    assert decided["failures"] == [] and decided["python"]["path"] == path


BARE = {"path": "/usr/bin/python3.11", "version": "3.11", "pip": False}


@pytest.mark.parametrize("chosen", [{}, {"pythons": [], "venv_python_managed": True}])
def test_uv_is_fetched_by_the_python_of_the_modules_whichever_the_stack_takes(chosen):
    host = {"own_python": BARE, **{name: chosen[name] for name in chosen if name == "pythons"}}
    options = {name: chosen[name] for name in chosen if name != "pythons"}
    assert decide(host, **options)["os_packages"] == ["python3.11-venv"]
    refused = decide({**host, "root": False}, **options)
    assert names(refused) == ["packages of the system"] and "python3.11-venv" in refused["failures"][0]["found"]
    refused = decide({**host, "own_python": {**BARE, "path": "/opt/py/bin/python"}}, **options)
    assert names(refused) == ["pip"] and "/opt/py/bin/python" in refused["failures"][0]["found"]


def test_root_gets_missing_packages_of_the_system_installed():
    bare = [
        {
            "path": "/usr/bin/python3.11",
            "version": "3.11.2",
            "implementation": "cpython",
            "headers": False,
        }
    ]
    decided = decide({"pythons": bare, "own_python": BARE, "compiler": None})
    assert decided["failures"] == []
    assert decided["os_packages"] == ["g++", "python3.11-dev", "python3.11-venv"]


def test_a_library_of_the_system_is_installed_or_asked_for():
    lacking = {"libraries": []}
    assert decide()["os_packages"] == []
    assert decide(lacking)["os_packages"] == ["libnuma1"]
    assert decide(lacking, stack_image="base")["os_packages"] == []
    for host in ({"root": False}, {"apt": False}):
        decided = decide({**lacking, **host})
        assert decided["failures"] == [] and decided["os_packages"] == []
        assert "libnuma.so.1" in decided["warnings"][0] and "apt-get install libnuma1" in decided["warnings"][0]


def test_an_existing_toolkit_with_nvcc_compiles():
    kit = {"home": "/opt/cuda", "version": "12.8.1", "nvcc": True}
    decided = decide({"toolkits": [kit]}, cuda_home="/opt/cuda", flash_attention_architectures=["9.0", "80"])
    assert decided["failures"] == []
    assert decided["cuda"] == {"source": "existing", "requirements": [], "home": "/opt/cuda"}
    assert decided["wheels"]["flash_attention"]["architectures"] == ["80", "90"]


@pytest.mark.parametrize(
    ("asked", "flash", "apex"),
    [
        (["8.0", "8.6", "8.9"], ["80"], ["80", "86", "89"]),
        (["sm_90a", "10.3"], ["90", "100"], ["90a", "103"]),
        ([], ["80", "90", "100", "120"], ["80", "90", "100", "120"]),
    ],
)
def test_kernels_stand_for_the_gpus_that_run_them(asked, flash, apex):
    kit = {"home": "/opt/cuda", "version": "12.8", "nvcc": True}
    given = {"cuda_home": "/opt/cuda", "flash_attention_architectures": asked, "flash_attention_method": "build"}
    decided = decide({"toolkits": [kit]}, **given)
    assert decided["failures"] == []
    assert decided["wheels"]["flash_attention"]["architectures"] == flash
    assert decided["wheels"]["apex"]["architectures"] == apex
    cards = [{"pci": "01", "name": "a card", "compute_capability": name} for name in asked if "." in name]
    if cards and len(cards) == len(asked):
        found = decide({"toolkits": [kit], "gpus": cards}, **{**given, "flash_attention_architectures": []})
        assert found["wheels"]["flash_attention"]["architectures"] == flash


def test_a_gpu_without_kernels_is_told_before_anything_is_compiled():
    kit = {"home": "/opt/cuda", "version": "12.8", "nvcc": True}
    given = {"cuda_home": "/opt/cuda", "flash_attention_architectures": ["7.5", "9.0"]}
    refused = decide({"toolkits": [kit]}, flash_attention_method="build", **given)
    assert names(refused) == ["flash_attention_method"] and "sm_75, which flash-attn has no kernels for" in refused["failures"][0]["found"]
    left = decide({"toolkits": [kit]}, **given)
    assert left["failures"] == [] and left["left_out"]["flash_attention"].startswith("sm_75, which")
    assert decide({"toolkits": [kit]}, flash_attention_method="none", **given)["failures"] == []


@pytest.mark.parametrize(
    ("asked", "found"),
    [("9.0", ["90"]), ("8.0,9.0", ["80", "90"]), (9.0, ["90"]), (["sm_90", "9.0a", "12.0", "8.0"], ["80", "90", "90a", "120"]), ("", ["80", "90", "100", "120"])],
)  # fmt: skip
def test_architectures_are_read_as_people_write_them(asked, found):
    decided = decide(cuda_source="nvidia", flash_attention_architectures=asked)
    assert decided["failures"] == []
    assert decided["wheels"]["apex"]["architectures"] == found


def test_what_is_no_architecture_is_refused_once_and_in_words():
    decided = decide(cuda_source="nvidia", flash_attention_architectures=["hopper", "9.0", "x"])
    assert names(decided) == ["flash_attention_architectures"]
    assert decided["failures"][0]["found"] == "'hopper', 'x'" and "9.0, 90 or sm_90" in decided["failures"][0]["needed"]


@pytest.mark.parametrize("name", sorted(plan.CHOICES))
def test_a_value_that_is_no_choice_is_refused_before_anything_changes(name):
    failure = next(f for f in decide(**{name: "biuld"})["failures"] if f["name"] == name)
    assert failure["found"] == "'biuld'" and failure["needed"] == "one of " + ", ".join(plan.CHOICES[name])


def test_the_choices_are_those_of_the_roles():
    specified = {}
    for path in (Path(__file__).resolve().parents[4] / "roles").glob("*/meta/argument_specs.yml"):
        for spec in yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"].values():
            specified.update(spec["options"])
    owned = {name: specified[name]["choices"] for name in plan.Options.names() if "choices" in specified[name]}
    assert {name: list(known) for name, known in plan.CHOICES.items()} == owned


@pytest.mark.parametrize(
    ("gpus", "driver", "failures"), [([H100], False, ["NVIDIA driver"]), ([H100], True, []), ([], False, [])]
)
def test_a_gpu_without_a_driver_is_refused_before_the_build_where_none_is_installed(gpus, driver, failures):
    asked = planner({"gpus": gpus, "driver": driver})
    asked.check_driver()
    assert names(asked.plan()) == failures
    assert not failures or "site.yml first" in asked.failures[0].remedy


def test_uv_brings_a_python_where_it_may():
    decided = decide({"pythons": []}, venv_python_managed=True)
    assert decided["failures"] == [] and decided["python"]["managed"] and decided["python"]["short"] == "3.12"


def test_a_release_that_is_there_needs_no_disk():
    decided = decide()
    again = decide({"releases": [decided["id"] + ".2"], "free_bytes": 1 * GB, "memory_bytes": 1 * GB})
    assert again["id"] == decided["id"] and not again["new"] and again["failures"] == []


def test_an_image_holds_its_layers_and_its_parents():
    base = decide(stack_image="base")
    assert (
        base["failures"] == []
        and list(base["layers"]) == ["torch", "flash_attention", "flashinfer"]
        and base["wheels"] == {}
    )
    assert base["left_out"]["sglang"] == base["left_out"]["transformer_engine_torch"] == "not part of the image base"
    assert "torch" not in base["left_out"] and base["left_out"]["apex"].startswith("no nvcc")
    app = decide(stack_image="app")
    assert list(app["layers"]) == list(decide()["layers"]) and list(app["wheels"]) == ["transformer_engine"]
    assert names(decide(stack_image="sidecar")) == ["stack_image"]


def compiled_flash(**changed):
    """Parts of the key of a FlashAttention wheel, as the builder writes them on a Debian 12 host with nvcc."""
    return key.parts(
        **{
            "package": "flash-attn",
            "version": "2.8.0.post2",
            "source": {"kind": "sdist", "sha256": "00"},
            "python": "cp312-cpython-312-x86_64-linux-gnu",
            "torch": {"version": "2.7.1+cu126", "cuda": "12.6", "cxx11_abi": True},
            "nvcc": "12.4.131",
            "archs": ["8.0", "9.0"],
            "flags": {"env": {"FLASH_ATTENTION_FORCE_BUILD": "TRUE"}, "options": []},
            "system": "debian-12",
            "glibc": "2.36",
            "machine": "x86_64",
            **changed,
        }
    )


@pytest.mark.parametrize("method", ["auto", "build"])
def test_a_compiled_wheel_needs_no_compiler(method):
    wanted = {"flash_attention_method": method, "flash_attention_architectures": ["9.0"]}
    own = decide({"wheels": [{"parts": compiled_flash()}]}, **wanted)
    beyond = decide(offers=lambda: [compiled_flash()], **wanted)
    for decided in (own, beyond):
        assert decided["failures"] == [] and "flash_attention" not in decided["left_out"]
        assert decided["wheels"]["flash_attention"]["architectures"] == ["90"]
    assert own["id"] == beyond["id"]


@pytest.mark.parametrize(
    "changed",
    [
        {"version": "2.8.0"},
        {"python": "cp311-cpython-311-x86_64-linux-gnu"},
        {"torch": {"version": "2.7.1+cu128", "cuda": "12.8", "cxx11_abi": True}},
        {"torch": {"version": "2.8.0+cu126", "cuda": "12.6", "cxx11_abi": True}},
        {"archs": ["8.0"]},
        {"flags": {"env": {}, "options": []}},
        {"system": "ubuntu-24.04"},
        {"glibc": "2.39"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_compiled_wheel_for_something_else_does_not_count(changed):
    offered = {"offers": lambda: [compiled_flash(**changed)], "flash_attention_architectures": ["9.0"]}
    assert "no cache has the wheel" in decide(**offered)["left_out"]["flash_attention"]
    assert names(decide(flash_attention_method="build", **offered)) == ["flash_attention_method"]


def test_the_caches_are_not_read_where_there_is_a_compiler():
    def read():
        raise AssertionError("read")

    kit = {"home": "/opt/cuda", "version": "12.8.1", "nvcc": True}
    assert decide({"toolkits": [kit]}, cuda_home="/opt/cuda", offers=read)["failures"] == []
