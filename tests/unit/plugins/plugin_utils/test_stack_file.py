# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Reading stack files and locks."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ansible_collections.verl.baremetal.plugins.module_utils.nvidia import tables
from ansible_collections.verl.baremetal.plugins.plugin_utils import stack_file

MINIMAL = """
schema: 1
name: mine
platform: {architecture: x86_64, glibc: "2.28", systems: [{id: debian, version: "12"}]}
python: {preferred: ["3.12", "3.11"]}
layers: [{name: torch, requires: [six, "idna[all]", "toolz>=1"]}]
components: [{name: six, title: six, kind: python, dist: six, version: 1.17.0, layer: torch}]
tools: {uv: 0.13.9}
"""

LOCK = """# sources: Needs_Build
idna==3.10 \\
    --hash=sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
needs-build==1.0 ; python_full_version < '3.12' \\
    --hash=sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb --hash=sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc
six==1.17.0 ; sys_platform == 'win32' --hash=sha256:dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine" / "locks").mkdir(parents=True)
    (tmp_path / "mine" / "stack.yml").write_text(MINIMAL)
    (tmp_path / "mine" / "locks" / "torch.txt").write_text(LOCK)
    return tmp_path


def test_a_second_stack_is_a_second_folder(folder):
    stack = stack_file.load("mine", [str(folder)])
    assert stack["name"] == "mine" and stack["wheels"] == {} and stack["cuda"] is None
    assert stack_file.find("mine", f"/nowhere,{folder}") == str(folder / "mine")
    assert "mine" in stack_file.known([str(folder)]) and "verl0.5-preview-cu128" in stack_file.known()


def test_an_unknown_stack_is_refused_with_the_known_ones(folder):
    with pytest.raises(stack_file.StackError, match="no stack named 'other'.*mine"):
        stack_file.load("other", [str(folder)])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("schema: [", "is not YAML"),
        ("- a", "no mapping"),
        (MINIMAL.replace("schema: 1", "schema: 7"), "schema 7"),
        (MINIMAL.replace("name: mine", "name: yours"), "calls itself 'yours'"),
        (MINIMAL.replace("tools:", "tool:"), "lacks tools"),
        (MINIMAL + "wheels: {x: {component: nothing, source: {kind: sdist}}}", "'nothing', which is not there"),
        (MINIMAL + "wheels: {x: {component: six, source: {kind: sdist}}}", "wheels.x: no role compiles it"),
        (MINIMAL + "wheels: {apex: {component: six, source: {kind: sdist}}}", "wheels.apex lacks device_code, gb_per_job"),
        (MINIMAL + "wheels: {apex: {source: {kind: sdist}}}", "wheels.apex lacks component"),
        (MINIMAL + "images: {base: {layers: [torch]}}", "images.base lacks tag, wheels"),
        (MINIMAL + "cuda: {version: '12.8'}", "cuda lacks toolkit, cudnn, disk_gb"),
        (MINIMAL.replace("layers: [", "layers: null # ["), "layers is no list"),
        (MINIMAL.replace(" kind: python,", ""), "components: six lacks kind"),
        (MINIMAL.replace(" kind: python,", " kind: pyhton,"), "components: six has the kind 'pyhton'"),
        (MINIMAL.replace(" version: 1.17.0,", ""), "components: six lacks version"),
        (MINIMAL.replace("dist: six", "dist: six, x: {}").replace("kind: python", "kind: commit"), "six lacks commit"),
        (MINIMAL.replace("kind: python", "kind: driver"), "rules.driver, which six takes, lacks native"),
        (MINIMAL.replace("kind: python", "kind: cuda"), "six is of a stack with CUDA, and cuda is null"),
        (MINIMAL.replace(' glibc: "2.28",', ""), "platform lacks glibc"),
        (MINIMAL.replace("{name: torch", "{name: vision"), "no role installs a layer named 'vision'.*flashinfer"),
        (MINIMAL.replace("{name: torch", "{name: sglang"), "lacks the layer torch"),
    ],
)
def test_a_wrong_stack_file_is_refused_in_words(folder, text, words):
    (folder / "mine" / "stack.yml").write_text(text)
    with pytest.raises(stack_file.StackError, match=words):
        stack_file.load("mine", [str(folder)])


def test_a_stack_may_lack_any_layer_but_torch():
    roles = Path(__file__).resolve().parents[4] / "roles"
    tasks = yaml.safe_load((roles / "flash_attention/tasks/main.yml").read_text(encoding="utf-8"))
    (install,) = [task for task in tasks if "verl.baremetal.python_layer" in task]
    assert install["when"] == "'flash_attention' in verl_plan.layers"


def test_pins_go_into_the_requirements(folder):
    stack = stack_file.load("mine", [str(folder)])
    assert stack_file.pinned(stack, stack["layers"][0]["requires"]) == ["six==1.17.0", "idna[all]", "toolz>=1"]


def test_a_lock_is_read_for_one_python(folder):
    stack = stack_file.load("mine", [str(folder)])
    older = stack_file.requirements(stack, "torch", "3.11")
    assert older["lines"] == [
        "idna==3.10 --hash=sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "needs-build==1.0 --hash=sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb --hash=sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc",
    ]
    assert older["build"] == ["needs-build"]
    newer = stack_file.requirements(stack, "torch", "3.12.4")
    assert (
        newer["lines"] == ["idna==3.10 --hash=sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"]
        and newer["build"] == []
    )


def test_a_missing_lock_and_an_unpinned_line_are_errors(folder):
    stack = stack_file.load("mine", [str(folder)])
    with pytest.raises(stack_file.StackError, match="has no lock"):
        stack_file.requirements(stack, "sglang", "3.11")
    with pytest.raises(stack_file.StackError, match="cannot be read"):
        stack_file.parse_lock("six>=1 --hash=sha256:%s\n" % ("a" * 64))


def test_the_digest_follows_every_lock(folder):
    before = stack_file.digest(str(folder / "mine"))
    (folder / "mine" / "locks" / "torch.txt").write_text(LOCK + "\n# changed\n")
    assert stack_file.digest(str(folder / "mine")) != before


def test_the_shipped_stack_states_each_version_once():
    stack = stack_file.load("verl0.5-preview-cu128")
    by_name = {c["name"]: c for c in stack["components"]}
    assert by_name["cudnn"]["version"] == stack["cuda"]["cudnn"] == "9.8.0.87"
    # The role driver knows no stack: its table has the number again.
    assert by_name["driver"]["minimum"] == stack["rules"]["driver"]["native"] == tables.MINIMUM_DRIVER
    assert stack["wheels"]["apex"]["source"]["commit"] == by_name["apex"]["commit"]
    assert "torch==2.7.1" in stack_file.pinned(stack, stack["layers"][0]["requires"])
    assert stack_file.pinned(stack, stack["cuda"]["requires"])[-1] == "nvidia-cudnn-cu12==9.8.0.87"
