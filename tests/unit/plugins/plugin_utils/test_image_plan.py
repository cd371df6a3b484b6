# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""What decides an image: a change of app leaves base alone, a change of base changes both."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.verl.baremetal.plugins.plugin_utils import image_plan, stack_file

STACKS = Path(__file__).resolve().parents[4] / "tests" / "stacks"
VALUES: dict[str, Any] = dict.fromkeys(image_plan.VARIABLES, "") | {
    "venv_torch_variant": "cu128",
    "image_extra_os_packages": ["less"],
    "image_environment": {"A": "b"},
}


def inputs(folder: Path) -> tuple[str, str]:
    stack_file._cache.clear()
    stack = stack_file.load("small", [str(folder)])
    base, app = (image_plan.describe(stack, name, VALUES)["input"] for name in ("base", "app"))
    return base, app


@pytest.fixture
def stacks(tmp_path: Path) -> Path:
    shutil.copytree(STACKS, tmp_path / "stacks")
    return tmp_path / "stacks"


@pytest.mark.parametrize(
    ("file", "old", "new", "base_changes", "app_changes"),
    [
        ("locks/sglang.txt", "292c8f1c", "392c8f1c", False, True),
        ("locks/torch.txt", "--hash=sha256:", "--hash=sha256:0", True, True),
        ("stack.yml", "dist: toolz, version: 1.0.0", "dist: toolz, version: 1.0.1", False, True),
        ("stack.yml", "dist: six, version: 1.17.0", "dist: six, version: 1.17.1", True, True),
        ("stack.yml", 'MAX_JOBS: "8"', 'MAX_JOBS: "4"', False, True),
        ("stack.yml", 'MAX_JOBS: "16"', 'MAX_JOBS: "4"', True, True),
        ("stack.yml", "title: small packages", "title: tiny packages", False, False),
    ],
)
def test_what_a_change_changes(
    stacks: Path, file: str, old: str, new: str, base_changes: bool, app_changes: bool
) -> None:
    before = inputs(stacks)
    path = stacks / "small" / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    after = inputs(stacks)
    assert (before[0] != after[0], before[1] != after[1]) == (base_changes, app_changes)


def test_the_recipe_of_the_real_stack() -> None:
    stack = stack_file.load("verl0.5-preview-cu128")
    base, app = (image_plan.describe(stack, name, VALUES) for name in ("base", "app"))
    assert base["tag"] == "verlai/verl:base-verl0.5-preview-cu128-cudnn9.8-torch2.7.1-fa2.8.0"
    assert app["tag"] == "verlai/verl:app-verl0.5-preview-sglang0.4.8-mcore0.13.0-preview"
    assert app["parent_tag"] == base["tag"] and base["parent_tag"] == ""
    assert {"tini", "aria2", "less"} <= set(base["os_packages"]) and base["nsight"] and not app["nsight"]
    assert app["environment"] == {"DEBIAN_FRONTEND": "noninteractive", "MAX_JOBS": "8", "A": "b"}
    assert base["lock_digest"] != app["lock_digest"]


def test_an_image_that_the_stack_does_not_have() -> None:
    with pytest.raises(stack_file.StackError, match="no usable image 'other'; it has base, app"):
        image_plan.chain(stack_file.load("small", [str(STACKS)]), "other")


def test_code_counts_and_the_rest_does_not(tmp_path: Path) -> None:
    role = tmp_path / "roles/venv/tasks/main.yml"
    for path in (role, tmp_path / "plugins/modules/release.py", tmp_path / "plugins/modules/gpu_info.py"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a = 1\n")
    first = image_plan.code_digest(str(tmp_path))
    (role.parent / "__pycache__").mkdir()
    for name in ("__pycache__/a.py", "README.md"):
        (role.parent / name).write_text("x")
    (tmp_path / "plugins/modules/gpu_info.py").write_text("x")
    assert image_plan.code_digest(str(tmp_path)) == first
    for path in (role, tmp_path / "plugins/modules/release.py"):
        path.write_text("a = 2\n")
        second = image_plan.code_digest(str(tmp_path))
        assert second != first
        first = second


def test_every_named_file_is_there() -> None:
    root = Path(image_plan.COLLECTION)
    assert [part for part in image_plan.CODE if not (root / part).exists()] == []


def test_what_a_ready_made_image_is_compared_with() -> None:
    stack = stack_file.load("verl0.5-preview-cu128")
    base, app = ({c["name"] for c in image_plan.definition(stack, name)["components"]} for name in ("base", "app"))
    assert {"torch", "flash_attention", "flashinfer", "apex", "cuda"} <= base and base < app
    assert {"sglang", "transformer_engine", "megatron_core"} == app - base - {"sgl_kernel"} - {
        name for name in app if name.startswith("transformer_engine_")
    }
    host = image_plan.host_definition(stack)
    assert [c["name"] for c in host["components"]] == ["driver"] and host["rules"]["driver"]["native"]


def test_the_stacks_own_tag_is_known_beside_the_name_in_use() -> None:
    assert image_plan.describe(stack_file.load("small", [str(STACKS)]), "app", VALUES)["stack_tag"] == (
        "verlai/verl:app-small"
    )
