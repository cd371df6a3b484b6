# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Every rule, on fixture releases: what is right, what is wrong, and what is not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from factories import ALONE, PTX, SASS, ReleaseTree, dynamic_section, elf_file, fat_binary

from ansible_collections.verl.baremetal.plugins.module_utils.checks import evaluate, host_rules, model, rules
from ansible_collections.verl.baremetal.plugins.module_utils.probes import nvml
from ansible_collections.verl.baremetal.plugins.plugin_utils import stack_file

DEFINITION: dict[str, Any] = {
    "cuda": {"version": "12.8", "cudnn": "9.8.0.87"},
    "components": [
        {"name": "driver", "title": "NVIDIA driver", "kind": "driver", "minimum": "570.26"},
        {"name": "cuda", "title": "CUDA", "kind": "cuda", "version": "12.8"},
        {"name": "cudnn", "title": "cuDNN", "kind": "cudnn", "version": "9.8.0.87"},
        {"name": "torch", "title": "Torch", "kind": "python", "dist": "torch", "version": "2.7.1", "layer": "torch"},
        {"name": "flash_attention", "title": "FlashAttention", "kind": "python", "dist": "flash-attn", "version": "2.8.0.post2", "layer": "flash_attention"},
        {"name": "apex", "title": "Apex", "kind": "commit", "dist": "apex", "version": "0.1", "commit": "d8200a1bec8d29fe3f44d96b0a9e7b7fba850c77", "layer": "megatron"},
    ],
    "variants": {
        "torch": {
            "cu128": {"local": "cu128", "cuda": "12.8"},
            "pypi": {"local": "", "cuda": "12.6", "deviation": "PyPI has the CUDA 12.6 build"},
        }
    },
    "wheels": {"flash": {"component": "flash_attention"}},
    "denied": [{"name": "vllm", "reason": "SGLang is the engine"}, {"name": "pyext", "reason": "unmaintained"}],
    "intended_conflicts": [{"dist": "torch", "requires": "nvidia-cudnn-cu12", "reason": "replaced on purpose"}],
    "rules": {
        "driver": {"native": "570.26", "minor_compatibility": "525.60.13"},
        "cxx11_abi": True,
        "same_version": [["transformer-engine", "transformer-engine-cu12", "transformer-engine-torch"]],
        "extensions": [{"name": "flash_attention", "dist": "flash-attn"}, {"name": "sgl_kernel", "dist": "sgl-kernel"}],
    },
    "bad_pairs": [
        {"name": "te_fa", "when": {"transformer-engine": ">=2.4,<2.6", "flash-attn": ">2.7.4.post1"}, "status": "warning", "found": "backend off", "remedy": "TransformerEngine 2.6"},
        {"name": "bindings", "when": {"cuda-bindings": ">=13"}, "status": "mismatch", "remedy": "install the locked one"},
    ],
}  # fmt: skip
TORCH_VERSION = "__version__ = '2.7.1+cu128'\ncuda = '12.8'\n"
ABI = b"\0_ZN3c105ErrorC2ENSt7__cxx1112basic_stringE\0"
OLD_ABI = b"\0_ZN3c106detail14torchCheckFailEPKcRKSs\0"


def good(tree: ReleaseTree) -> ReleaseTree:
    """A release without a mistake, on a host without a GPU."""
    site = "/" + str(tree.site.relative_to(tree.root))
    torch_files = {"torch/version.py": TORCH_VERSION, "torch/lib/libc10.so": elf_file({".dynstr": ABI})}
    tree.dist("torch", "2.7.1+cu128", ("nvidia-cudnn-cu12==9.7.1.26", "numpy<2", 'pytest; extra == "dev"'), torch_files)
    tree.dist("numpy", "1.26.4")
    tree.dist("nvidia-cudnn-cu12", "9.8.0.87")
    tree.dist(
        "flash-attn",
        "2.8.0.post2",
        ("torch",),
        {"flash_attn_2_cuda.cpython-312-x86_64-linux-gnu.so": extension("80", "90")},
    )
    tree.dist("apex", "0.1+d8200a1bec8d")
    tree.library(site + "/nvidia/cudnn/lib/libcudnn.so.9")
    tree.write(
        site + "/nvidia/cudnn/include/cudnn_version.h",
        "#define CUDNN_MAJOR 9\n#define CUDNN_MINOR 8\n#define CUDNN_PATCHLEVEL 0\n",
    )
    cuda = "/" + str(tree.release.relative_to(tree.root)) + "/cuda"
    tree.write(cuda + "/version.json", json.dumps({"cuda": {"version": "12.8.1"}}))
    tree.write(cuda + "/include/cuda.h", "#define CUDA_VERSION 12080\n")
    tree.write("/sys/bus/pci/devices/0000:00:00.0/vendor", "0x8086")
    tree.manifest(DEFINITION, variants={"torch": "cu128"})
    return tree


def extension(*architectures: str, names: bytes = ABI) -> bytes:
    entries = []
    for name in architectures:
        kind = PTX if name.startswith("ptx") else SASS
        entries.append((kind, int(name.strip("ptxa_")), ALONE if name.endswith("a") else 0))
    return elf_file({".nv_fatbin": fat_binary(*entries), ".dynstr": names})


def with_gpu(tree: ReleaseTree, driver: str = "570.133.20", device: str = "0x2330") -> ReleaseTree:
    """A GPU with a loaded driver."""
    tree.gpu(device=device)
    tree.write(
        "/proc/driver/nvidia/version", f"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {driver}  Release\n"
    )
    tree.library("/usr/lib/x86_64-linux-gnu/libcuda.so.1", f"libcuda.so.{driver}")
    return tree


def run(tree: ReleaseTree, definition: dict[str, Any] | None = None, **fields: Any) -> dict[str, model.Check]:
    """The checks of the release by name."""
    if definition is not None or fields:
        tree.manifest(definition or DEFINITION, **{"variants": {"torch": "cu128"}, **fields})
    subject = evaluate.subject_of_release(str(tree.release))
    found = evaluate.checks(evaluate.gather(subject, str(tree.root)))
    names = [check.name for check in found]
    assert len(names) == len(set(names)), "names are unique"
    assert all(check.status in model.STATUSES for check in found)
    assert all(check.remedy for check in found if check.failed or check.status == model.WARNING), (
        "every fault tells what to do"
    )
    return {check.name: check for check in found}


def test_a_good_release_passes(release_tree: ReleaseTree) -> None:
    found = run(good(release_tree))
    assert model.passed(found.values())
    assert {name for name, check in found.items() if check.status == model.WARNING} == set()
    assert found["driver"].status == model.SKIPPED and found["driver"].found == "no NVIDIA GPU on the PCI bus"
    assert found["kernels_flash_attention"].status == model.SKIPPED
    assert found["torch"].found == "2.7.1+cu128"
    assert found["cudnn"].found == "9.8.0.87"
    assert found["apex"].found == "0.1 d8200a1bec8d"
    assert found["requirements"].found == "all but 1 on purpose"
    assert "replaced on purpose" in found["requirements"].source


def test_a_good_release_passes_on_a_host_with_a_gpu(release_tree: ReleaseTree) -> None:
    found = run(with_gpu(good(release_tree)))
    assert [name for name, check in found.items() if check.failed] == []
    assert (
        found["driver"].status
        == found["driver_userspace"].status
        == found["kernels_flash_attention"].status
        == model.OK
    )
    assert found["nouveau"].status == model.OK


@pytest.mark.parametrize(
    "preferred, status", [(["3.12", "3.11"], "ok"), (["3.1"], "mismatch"), (["3.11"], "mismatch"), ([], None)]
)
def test_python(release_tree: ReleaseTree, preferred: list[str], status: str | None) -> None:
    found = run(good(release_tree), {**DEFINITION, "python": {"preferred": preferred}}).get("python")
    assert (found.status if found else None) == status


def torch_of(tree: ReleaseTree, version: str, content: str) -> None:
    import shutil

    for folder in tree.site.glob("torch-*.dist-info"):
        shutil.rmtree(folder)
    tree.dist("torch", version, files={"torch/version.py": content})


@pytest.mark.parametrize(
    "variant, version, cuda, statuses",
    [
        ("cu128", "2.7.1+cu128", "12.8", ("ok", "ok")),
        ("cu128", "2.7.1", "12.6", ("mismatch", "mismatch")),
        ("cu128", "2.7.1+cu126", "12.6", ("mismatch", "mismatch")),
        ("cu128", "2.6.0+cu128", "12.8", ("mismatch", "ok")),
        ("pypi", "2.7.1", "12.6", ("ok", "warning")),
        ("pypi", "2.7.1", "11.8", ("ok", "mismatch")),
        ("pypi", "2.7.10", "12.6", ("mismatch", "warning")),
        (None, "2.7.1+cu128", "12.8", ("ok", "ok")),
        (None, "2.7.1", "12.6", ("mismatch", "mismatch")),
    ],
)
def test_torch_and_its_variants(
    release_tree: ReleaseTree, variant: str | None, version: str, cuda: str, statuses: tuple[str, str]
) -> None:
    tree = good(release_tree)
    torch_of(tree, version, f"__version__ = '{version}'\ncuda = '{cuda}'\n")
    found = run(tree, variants={"torch": variant} if variant else {})
    assert (found["torch"].status, found["torch_cuda"].status) == statuses
    if statuses[1] == "warning":
        assert "PyPI has the CUDA 12.6 build" in found["torch_cuda"].remedy


@pytest.mark.parametrize("names, status", [(ABI, "ok"), (OLD_ABI, "mismatch"), (b"\0", "warning")])
def test_the_abi_of_torch(release_tree: ReleaseTree, names: bytes, status: str) -> None:
    tree = good(release_tree)
    (tree.site / "torch/lib/libc10.so").write_bytes(elf_file({".dynstr": names}))
    assert run(tree)["torch_abi"].status == status


def test_an_extension_of_another_abi(release_tree: ReleaseTree) -> None:
    tree = good(release_tree)
    next(tree.site.glob("flash_attn_2_cuda*")).write_bytes(extension("90", names=OLD_ABI))
    check = run(tree)["extension_abi"]
    assert check.status == model.MISMATCH and "flash-attn" in check.found


@pytest.mark.parametrize(
    "needed, status", [((), "ok"), (("libc10.so",), "ok"), (("libcuda.so.1",), "ok"), (("libnuma.so.1",), "warning")]
)
def test_libraries_of_extensions(release_tree: ReleaseTree, needed: tuple[str, ...], status: str) -> None:
    tree = good(release_tree)
    content = elf_file({".nv_fatbin": fat_binary((SASS, 90, 0)), **dynamic_section([(1, name) for name in needed])})
    next(tree.site.glob("flash_attn_2_cuda*")).write_bytes(content)
    check = run(tree)["extension_libraries"]
    assert check.status == status and (status == "ok" or "libnuma.so.1 for flash-attn" in check.found)


def test_an_extension_of_a_newer_system() -> None:
    entry = {"glibc": "2.39", "unresolved": []}
    facts = {"extensions": {"flash-attn": {"files": [entry]}}, "system": {"glibc": "2.36"}, "python": None}
    found = {
        check.name: check.status
        for check in rules.extension_libraries(rules.Context(DEFINITION, facts, {}, {}, {}, {}, {}))
    }
    assert found == {"extension_libraries": "ok", "extension_glibc": "mismatch"}
    facts["system"] = {"glibc": "2.39"}
    assert len(rules.extension_libraries(rules.Context(DEFINITION, facts, {}, {}, {}, {}, {}))) == 1


def remove(tree: ReleaseTree, name: str) -> None:
    import shutil

    for folder in tree.site.glob(f"{name}-*.dist-info"):
        shutil.rmtree(folder)


def test_a_missing_component(release_tree: ReleaseTree) -> None:
    tree = good(release_tree)
    remove(tree, "flash_attn")
    found = run(tree)
    assert found["flash_attention"].status == model.MISSING
    assert found["drift_missing"].status == model.MISSING and found["drift_missing"].found == "flash-attn"


@pytest.mark.parametrize("name", ["flash_attention", "flash-attn", "flash"])
def test_what_was_left_out_on_purpose_is_skipped_with_its_reason(release_tree: ReleaseTree, name: str) -> None:
    tree = good(release_tree)
    tree.dist("sglang", "0.4.8", ("flash-attn>=2",))
    remove(tree, "flash_attn")
    tree.packages.pop("flash-attn")
    found = run(tree, skipped={name: "no CUDA compiler here"})
    assert (found["flash_attention"].status, found["flash_attention"].found) == (
        model.SKIPPED,
        "not installed: no CUDA compiler here",
    )
    assert model.passed(found.values()), "who asks for it does not fail either"


@pytest.mark.parametrize(
    "version, url, status",
    [
        ("0.1", {"vcs_info": {"commit_id": "d8200a1bec8d29fe3f44d96b0a9e7b7fba850c77"}}, "ok"),
        ("0.1", {"vcs_info": {"commit_id": "0000000000000000000000000000000000000000"}}, "mismatch"),
        ("0.1", None, "warning"),
        ("0.1+d8200a1", None, "ok"),
        ("0.1+gd8200a1bec.k123", None, "ok"),
        ("0.1+aaaaaaaaaa", None, "mismatch"),
        ("0.2", None, "mismatch"),
    ],
)
def test_a_component_that_only_its_commit_identifies(
    release_tree: ReleaseTree, version: str, url: Any, status: str
) -> None:
    tree = good(release_tree)
    remove(tree, "apex")
    info = tree.dist("apex", version)
    if url:
        (info / "direct_url.json").write_text(json.dumps(url))
    assert run(tree)["apex"].status == status


def test_denied_packages(release_tree: ReleaseTree) -> None:
    tree = good(release_tree)
    assert run(tree)["denied"].status == model.OK
    tree.dist("vllm", "0.9.0")
    check = run(tree)["denied_vllm"]
    assert (check.status, check.found) == (model.DENIED, "0.9.0") and "SGLang is the engine" in check.remedy


def test_drift(release_tree: ReleaseTree) -> None:
    tree = good(release_tree)
    assert run(tree)["drift"].status == model.OK
    remove(tree, "numpy")
    tree.dist("numpy", "1.26.3", lock=False)
    tree.dist("black", "25.1", lock=False)
    (tree.site / "flash_attn-2.8.0.post2.dist-info/RECORD").write_text("flash_attn/__init__.py,,\n")
    found = run(tree)
    assert (
        found["drift_changed"].status == model.MISMATCH
        and found["drift_changed"].found == "numpy 1.26.3 (locked 1.26.4)"
    )
    assert found["drift_extra"].status == model.WARNING and found["drift_extra"].found == "black"
    assert found["drift_build"].status == model.MISMATCH and found["drift_build"].found == "flash-attn"
    assert "drift" not in found


def test_without_a_manifest_drift_is_skipped(release_tree: ReleaseTree) -> None:
    tree = good(release_tree)
    subject = evaluate.Subject(DEFINITION, str(tree.venv), None, {}, {}, {})
    found = {check.name: check for check in evaluate.checks(evaluate.gather(subject, str(tree.root)))}
    assert found["drift"].status == model.SKIPPED
    assert found["torch"].status == model.OK


def test_traces_of_interrupted_installations(release_tree: ReleaseTree) -> None:
    tree = good(release_tree)
    (tree.site / "~orch-2.5.0.dist-info").mkdir()
    assert run(tree)["leftovers"].status == model.WARNING
    tree.dist("numpy", "1.26.3", lock=False)
    check = run(tree)["leftovers"]
    assert check.status == model.MISMATCH and "numpy 1.26.3 and 1.26.4" in check.found


@pytest.mark.parametrize(
    "requires, status",
    [
        (("numpy>=1.26",), "ok"),
        (("numpy>=2",), "conflict"),
        (("nothing",), "conflict"),
        (('nothing; sys_platform == "win32"',), "ok"),
        (('nothing; extra == "dev"',), "ok"),
        (("nvidia-cudnn-cu12==9.7.1.26",), "conflict"),
        (("numpy>=",), "conflict"),
        (("torch[extras]",), "ok"),
        (("torch[dev]",), "conflict"),
    ],
)
def test_requirements(release_tree: ReleaseTree, requires: tuple[str, ...], status: str) -> None:
    tree = good(release_tree)
    tree.dist("tool", "1.0", requires)
    check = run(tree)["requirements"]
    assert check.status == status
    if status == "conflict":
        assert "tool" in check.found or "torch needs pytest" in check.found


def test_the_closure_follows_extras_and_circles() -> None:
    packages = {"a": "1", "b": "1", "c": "1"}
    requires = {
        "a": ["b[x,y]"],
        "b": ['c[z]; extra == "x"', 'd; extra == "y"', "a"],
        "c": ['e; extra == "z" and python_version >= "3.8"', 'f; extra == "other"'],
    }
    found = rules.unmet_requirements(packages, requires, "3.12.3")
    assert [(entry.dist, entry.name, entry.found) for entry in found] == [("b", "d", None), ("c", "e", None)]


@pytest.mark.parametrize(
    "packages, names",
    [
        ({"transformer-engine": "2.5.0", "flash-attn": "2.8.0.post2"}, {"pair_te_fa": "warning"}),
        ({"transformer-engine": "2.5.0", "flash-attn": "2.7.4.post1"}, {"bad_pairs": "ok"}),
        ({"transformer-engine": "2.6.0", "flash-attn": "2.8.0.post2"}, {"bad_pairs": "ok"}),
        ({"transformer-engine": "2.5.0"}, {"bad_pairs": "ok"}),
        ({"cuda-bindings": "13.0.0"}, {"pair_bindings": "mismatch"}),
        ({"cuda-bindings": "12.9.0"}, {"bad_pairs": "ok"}),
        ({"cuda-bindings": "garbage"}, {"bad_pairs": "ok"}),
    ],
)
def test_bad_pairs(packages: dict[str, str], names: dict[str, str]) -> None:
    context = rules.Context(DEFINITION, {"packages": packages, "python": None}, {}, {}, {}, {}, {})
    assert {check.name: check.status for check in rules.bad_pairs(context)} == names


@pytest.mark.parametrize(
    "versions, status",
    [
        (("2.5.0", "2.5.0", "2.5.0"), "ok"),
        (("2.5.0", "2.5.0", "2.5.0+f05f12c"), "ok"),
        (("2.5.0", "2.5.0", None), "ok"),
        (("2.5.0", "2.4.0", "2.5.0"), "mismatch"),
        (("2.5.0", None, None), "skipped"),
        ((None, None, None), "skipped"),
    ],
)
def test_packages_that_must_have_one_version(versions: tuple[str | None, ...], status: str) -> None:
    names = DEFINITION["rules"]["same_version"][0]
    packages = {name: version for name, version in zip(names, versions) if version}
    context = rules.Context(DEFINITION, {"packages": packages, "python": None}, {}, {}, {}, {}, {})
    (check,) = rules.same_versions(context)
    assert check.status == status


@pytest.mark.parametrize(
    "meta, status",
    [({"torch": "2.7", "cuda_major": 12}, "ok"), ({"torch": "2.15", "cuda_major": 12}, "mismatch"), ({"torch": "2.7", "cuda_major": 13}, "warning"), ({"torch": "2.7"}, "ok"), ({}, None)],
)  # fmt: skip
def test_what_flashinfer_was_built_with(release_tree: ReleaseTree, meta: dict[str, Any], status: str | None) -> None:
    tree = good(release_tree)
    content = f"__version__ = '0.2.6'\nbuild_meta = {meta!r}\n" if meta else "\0garbage build_meta = {"
    tree.dist("flashinfer-python", "0.2.6.post1", files={"flashinfer/_build_meta.py": content})
    found = run(tree).get("flashinfer_torch")
    assert (found.status if found else None) == status


@pytest.mark.parametrize(
    "device, architectures, status",
    [
        ("0x2330", ("80", "90"), "ok"),
        ("0x2330", ("80",), "mismatch"),
        ("0x2330", ("90a",), "ok"),
        ("0x2901", ("80", "90a"), "mismatch"),
        ("0x2901", ("ptx_90",), "ok"),
        ("0x26b9", ("80", "86"), "ok"),
    ],
)
def test_a_gpu_without_a_kernel(
    release_tree: ReleaseTree, device: str, architectures: tuple[str, ...], status: str
) -> None:
    tree = with_gpu(good(release_tree), device=device)
    next(tree.site.glob("flash_attn_2_cuda*")).write_bytes(extension(*architectures))
    check = run(tree)["kernels_flash_attention"]
    assert check.status == status
    if status == "mismatch":
        assert "no kernel in flash-attn" in check.remedy


def test_every_file_of_a_package_needs_a_kernel(release_tree: ReleaseTree) -> None:
    tree = with_gpu(good(release_tree), device="0x1eb8")
    files = {
        "sgl_kernel/common_ops.abi3.so": extension("75", "90"),
        "sgl_kernel/flash_ops.abi3.so": extension("80", "90a"),
        "sgl_kernel/other.so": extension(),
    }
    tree.dist("sgl-kernel", "0.1.9", files=files)
    check = run(tree)["kernels_sgl_kernel"]
    assert check.status == model.MISMATCH and check.source.endswith("flash_ops.abi3.so")


@pytest.mark.parametrize("content", [b"", b"garbage", extension("90")[:200]])
def test_an_extension_that_cannot_be_read(release_tree: ReleaseTree, content: bytes) -> None:
    tree = good(release_tree)
    next(tree.site.glob("flash_attn_2_cuda*")).write_bytes(content)
    assert run(tree)["kernels_flash_attention"].status == model.MISMATCH


@pytest.mark.parametrize(
    "version, status",
    [
        ("580.159.04", "ok"),
        ("570.26", "ok"),
        ("570.133.20", "ok"),
        ("570.10", "warning"),
        ("535.261.03", "warning"),
        ("525.60.13", "warning"),
        ("470.256.02", "mismatch"),
    ],
)
def test_the_driver_for_cuda(release_tree: ReleaseTree, version: str, status: str) -> None:
    assert run(with_gpu(good(release_tree), version))["driver"].status == status


def test_a_gpu_without_a_driver(release_tree: ReleaseTree) -> None:
    tree = good(release_tree)
    tree.gpu()
    found = run(tree)
    assert found["driver"].status == model.MISSING


def test_a_driver_that_is_not_loaded(release_tree: ReleaseTree) -> None:
    tree = good(release_tree)
    tree.gpu()
    tree.library("/usr/lib/x86_64-linux-gnu/libcuda.so.1", "libcuda.so.570.133.20")
    found = run(tree)
    assert found["driver_userspace"].status == model.MISSING and "not loaded" in found["driver_userspace"].found


def test_module_and_user_space_of_two_versions(release_tree: ReleaseTree) -> None:
    tree = with_gpu(good(release_tree))
    (tree.root / "usr/lib/x86_64-linux-gnu/libcuda.so.1").unlink()
    tree.library("/usr/lib/x86_64-linux-gnu/libcuda.so.1", "libcuda.so.570.124.06")
    check = run(tree)["driver_userspace"]
    assert check.status == model.MISMATCH and "reboot" in check.remedy


def dpkg(tree: ReleaseTree, *packages: tuple[str, str, str]) -> None:
    tree.write("/var/lib/dkms/none", "")
    text = "\n".join(f"Package: {name}\nStatus: {status}\nVersion: {version}\n" for name, status, version in packages)
    tree.write("/var/lib/dpkg/status", text)


def test_packages_of_the_driver(release_tree: ReleaseTree) -> None:
    tree = with_gpu(good(release_tree))
    dpkg(
        tree,
        ("nvidia-open-570", "hold ok installed", "570.133.20-0ubuntu1"),
        ("libnvidia-compute-570", "install ok installed", "570.124.06-0ubuntu1"),
    )
    found = run(tree)
    assert (
        found["driver_packages"].status == model.MISMATCH
        and "libnvidia-compute-570 570.124.06" in found["driver_packages"].found
    )
    assert found["driver_held"].status == model.WARNING and "libnvidia-compute-570" in found["driver_held"].found


@pytest.mark.parametrize(
    "packages, status",
    [
        ((("nvidia-open-570", "hold ok installed", "570.133.20-0ubuntu1"),), "ok"),
        ((("nvidia-open-570", "install ok installed", "570.133.20-0ubuntu1"),), "warning"),
        (
            (
                ("nvidia-open-570", "install ok installed", "570.133.20-0ubuntu1"),
                ("nvidia-driver-pinning-570", "install ok installed", "570-1"),
            ),
            "ok",
        ),
    ],
)
def test_a_driver_that_an_upgrade_could_move(release_tree: ReleaseTree, packages: Any, status: str) -> None:
    tree = with_gpu(good(release_tree))
    dpkg(tree, *packages)
    assert run(tree)["driver_held"].status == status


def test_a_driver_that_our_own_preferences_pin(release_tree: ReleaseTree) -> None:
    tree = with_gpu(good(release_tree))
    dpkg(tree, ("nvidia-open-570", "install ok installed", "570.133.20-0ubuntu1"))
    pin = tree.root / "etc/apt/preferences.d/00verl-nvidia-driver"
    pin.parent.mkdir(parents=True)
    pin.write_text("")
    assert run(tree)["driver_held"].status == "ok"


def test_the_system_around(release_tree: ReleaseTree) -> None:
    tree = with_gpu(good(release_tree))
    dpkg(tree, ("nvidia-open-570", "hold ok half-configured", "570.133.20-0ubuntu1"))
    tree.write("/sys/module/nouveau/x", "")
    tree.write("/run/reboot-required", "")
    tree.write("/var/lib/dkms/nvidia/570.133.20/build/make.log", "")
    tree.write("/etc/apt/sources.list.d/a.list", "deb https://a.example/cuda/ /\n")
    tree.write("/etc/apt/sources.list.d/b.list", "deb https://b.example/graphics-drivers/ /\n")
    found = run(tree)
    assert {name: found[name].status for name in ("dpkg", "nouveau", "pending_reboot", "dkms", "nvidia_sources")} == {
        "dpkg": "mismatch",
        "nouveau": "mismatch",
        "pending_reboot": "warning",
        "dkms": "mismatch",
        "nvidia_sources": "warning",
    }


def test_containers_on_a_host_without_a_gpu(release_tree: ReleaseTree) -> None:
    found = run(good(release_tree))
    check = found["container_toolkit"]
    assert (check.status, check.found) == (model.SKIPPED, "no NVIDIA GPU on the PCI bus")
    assert "container_cgroups" not in found and "container_shm" not in found


FAKE_PLACES = {
    "known": ("/etc/docker/daemon.json", '{"runtimes": {"nvidia": {}}, "default-shm-size": "32G"}'),
    "cgroupfs": (
        "/etc/docker/daemon.json",
        '{"runtimes": {"nvidia": {}}, "exec-opts": ["native.cgroupdriver=cgroupfs"]}',
    ),
    "no_cgroups": ("/etc/nvidia-container-runtime/config.toml", "[nvidia-container-cli]\nno-cgroups = true\n"),
    "cdi": ("/etc/nvidia-container-runtime/config.toml", '[nvidia-container-runtime]\nmode = "cdi"\n'),
    "v2": ("/sys/fs/cgroup/cgroup.controllers", "cpu\n"),
    "systemd": ("/run/systemd/system/x", ""),
    "links": ("/dev/char/195:255", ""),
}


@pytest.mark.parametrize(
    ("places", "toolkit", "cgroups", "shm"),
    [
        ((), "warning", "ok", "warning"),
        (("known",), "ok", "ok", "ok"),
        (("known", "v2", "systemd"), "ok", "warning", "ok"),
        (("known", "v2", "systemd", "links"), "ok", "ok", "ok"),
        (("known", "v2", "systemd", "cdi"), "ok", "ok", "ok"),
        (("known", "v2", "systemd", "links", "no_cgroups"), "ok", "warning", "ok"),
        (("cgroupfs", "v2", "systemd"), "ok", "ok", "warning"),
    ],
)
def test_containers_on_a_fake_gpu_host(
    release_tree: ReleaseTree, places: tuple[str, ...], toolkit: str, cgroups: str, shm: str
) -> None:
    """A made-up tree of /proc, /sys, /dev and Docker's files stands for a GPU host with the toolkit."""
    tree = with_gpu(good(release_tree))
    tree.write("/usr/bin/nvidia-ctk", "")
    for name in places:
        tree.write(*FAKE_PLACES[name])
    found = run(tree)
    statuses = [found[name].status for name in ("container_toolkit", "container_cgroups", "container_shm")]
    assert statuses == [toolkit, cgroups, shm]


def test_a_fake_gpu_host_without_the_toolkit(release_tree: ReleaseTree) -> None:
    found = run(with_gpu(good(release_tree)))
    assert (found["container_toolkit"].status, found["container_toolkit"].found) == (model.SKIPPED, "not installed")
    assert "container_shm" not in found


@pytest.mark.parametrize(
    "sources, status",
    [
        (["deb https://a.example/cuda/repos/debian12/x86_64/ /"], None),
        (
            [
                "deb https://a.example/cuda/repos/debian12/x86_64/ /",
                "deb http://a.example/cuda/repos/debian12/x86_64 /",
            ],
            "warning",
        ),
        (["deb https://a.example/cuda/ /", "deb https://b.example/graphics-drivers/ /"], "warning"),
        (["deb https://a.example/cuda/ /", "deb https://b.example/libnvidia-container/stable/deb/amd64 /"], None),
    ],
)
def test_package_sources(release_tree: ReleaseTree, sources: list[str], status: str | None) -> None:
    tree = good(release_tree)
    for number, line in enumerate(sources):
        tree.write(f"/etc/apt/sources.list.d/{number}.list", line + "\n")
    found = run(tree).get("nvidia_sources")
    assert (found.status if found else None) == status


@pytest.mark.parametrize(
    "packages, status",
    [
        (
            (
                ("cuda-toolkit-12-8", "hold ok installed", "12.8.1-1"),
                ("libcudnn9-cuda-12", "hold ok installed", "9.8.0.87-1"),
            ),
            "ok",
        ),
        (
            (
                ("cuda-toolkit-12-8", "hold ok installed", "12.8.1-1"),
                ("libcudnn9-cuda-12", "install ok installed", "9.8.0.87-1"),
            ),
            "warning",
        ),
        ((("cuda-toolkit-13-0", "install ok installed", "13.0.2-1"),), None),
    ],
)
def test_cuda_that_an_upgrade_could_move(release_tree: ReleaseTree, packages: Any, status: str | None) -> None:
    tree = good(release_tree)
    dpkg(tree, *packages)
    found = run(tree).get("cuda_held")
    assert (found.status if found else None) == status


def test_a_kernel_without_a_module_is_told_before_the_reboot(release_tree: ReleaseTree) -> None:
    driver = {
        "loaded": "570.133.20", "userspace": "570.133.20", "packages": {}, "libraries": {}, "running_kernel": "6.8.0-60-generic", "newest_kernel": "6.8.0-100-generic",
        "on_disk": [{"kernel": "6.8.0-60-generic", "version": "570.124.06", "path": "/x/nvidia.ko", "open": True}],
    }  # fmt: skip
    context = rules.Context(DEFINITION, {"driver": driver, "gpus": []}, {}, {}, {}, {}, {})
    found = {check.name: check for check in host_rules.driver_versions(context)}
    assert found["driver_on_disk"].status == model.MISMATCH
    assert (
        found["driver_next_kernel"].status == model.MISMATCH
        and "linux-headers-6.8.0-100-generic" in found["driver_next_kernel"].remedy
    )


def switches(tree: ReleaseTree) -> ReleaseTree:
    tree = with_gpu(tree)
    tree.gpu("0000:20:00.0", "0x22a3", "0x068000")
    return tree


@pytest.mark.parametrize(
    "package, program, running, status",
    [
        ("570.133.20-1", True, True, "ok"),
        ("570.133.20-1", True, False, "mismatch"),
        ("580.65.06-1", True, True, "mismatch"),
        (None, True, True, "warning"),
        (None, False, False, "missing"),
    ],
)
def test_the_fabric_manager(
    release_tree: ReleaseTree, package: str | None, program: bool, running: bool, status: str
) -> None:
    tree = switches(good(release_tree))
    if package:
        dpkg(tree, ("nvidia-fabricmanager-570", "install ok installed", package))
    if program:
        tree.write("/usr/bin/nv-fabricmanager", "")
    if running:
        tree.write("/proc/77/comm", "nv-fabricmanage\n")
    assert run(tree)["fabric_manager"].status == status


def test_without_switches_there_is_no_question_of_a_fabric_manager(release_tree: ReleaseTree) -> None:
    assert "fabric_manager" not in run(with_gpu(good(release_tree)))


@pytest.mark.parametrize(
    "version_json, header, status",
    [("12.8.1", 12080, "ok"), ("12.8.0", 12080, "ok"), ("13.0.2", 13000, "mismatch"), ("12.80.1", 12080, "mismatch"), ("12.8.1", 12090, "mismatch"), (None, 12080, "ok"), (None, None, "missing")],
)  # fmt: skip
def test_cuda(release_tree: ReleaseTree, version_json: str | None, header: int | None, status: str) -> None:
    tree = good(release_tree)
    home = "/" + str(tree.release.relative_to(tree.root)) + "/cuda"
    tree.write(home + "/version.json", json.dumps({"cuda": {"version": version_json}} if version_json else {}))
    tree.write(home + "/include/cuda.h", f"#define CUDA_VERSION {header}\n" if header else "")
    assert run(tree)["cuda"].status == status


def test_no_cuda_on_purpose(release_tree: ReleaseTree) -> None:
    import shutil

    tree = good(release_tree)
    shutil.rmtree(tree.release / "cuda")
    assert run(tree)["cuda"].status == model.MISSING
    assert run(tree, cuda={"source": "none"})["cuda"].status == model.SKIPPED
    tree.write("/usr/local/cuda-13.0/include/cuda.h", "#define CUDA_VERSION 13000\n")
    assert run(tree)["cuda"].status == model.SKIPPED, "another toolkit of the host is none of its business"
    assert run(tree, cuda={"source": "nvidia"})["cuda"].status == model.MISMATCH
    tree.write("/usr/local/cuda-12.8/include/cuda.h", "#define CUDA_VERSION 12080\n")
    assert run(tree)["cuda"].status == model.OK, "the right one of several"


def test_another_cudnn_that_a_loader_could_find(release_tree: ReleaseTree) -> None:
    tree = good(release_tree)
    tree.library("/usr/lib/x86_64-linux-gnu/libcudnn.so.9", "libcudnn.so.9.14.0")
    check = run(tree)["cudnn_copies"]
    assert check.status == model.WARNING and "9.14.0" in check.found
    tree.library("/early/libcudnn.so.9", "libcudnn.so.9.1.0")
    subject = evaluate.subject_of_release(str(tree.release))
    context = evaluate.gather(subject, str(tree.root), f"{tree.root}/early")
    found = {check.name: check for check in host_rules.cudnn(context)}
    assert found["cudnn_copies"].status == model.MISMATCH and "LD_LIBRARY_PATH" in found["cudnn_copies"].remedy


@pytest.mark.parametrize(
    "wheel, header, status",
    [("9.8.0.87", 8, "ok"), ("9.7.1.26", 7, "mismatch"), ("9.8.0.87", 7, "mismatch"), ("9.8.0.86", 8, "mismatch")],
)
def test_cudnn(release_tree: ReleaseTree, wheel: str, header: int, status: str) -> None:
    tree = good(release_tree)
    remove(tree, "nvidia_cudnn_cu12")
    tree.dist("nvidia-cudnn-cu12", wheel)
    site = "/" + str(tree.site.relative_to(tree.root))
    tree.write(
        site + "/nvidia/cudnn/include/cudnn_version.h",
        f"#define CUDNN_MAJOR 9\n#define CUDNN_MINOR {header}\n#define CUDNN_PATCHLEVEL 0\n",
    )
    assert run(tree)["cudnn"].status == status


@pytest.mark.parametrize(
    "gpu, status",
    [
        ({}, "ok"),
        ({"ecc_uncorrected": 3}, "mismatch"),
        ({"remapped_rows": {"failed": True, "pending": False}}, "mismatch"),
        ({"remapped_rows": {"failed": False, "pending": True}}, "mismatch"),
        ({"remapped_rows": None, "ecc_uncorrected": None}, "ok"),
    ],
)
def test_the_health_of_gpus(gpu: dict[str, Any], status: str) -> None:
    facts = {
        "gpus": [{"pci": "0000:0f:00.0", "name": "H100", "uuid": "GPU-1", **gpu}],
        "nvml": {"error": None, "remedy": None},
        "gpu_reason": None,
    }
    found = {check.name: check for check in host_rules.gpu_health(rules.Context(DEFINITION, facts, {}, {}, {}, {}, {}))}
    assert found["gpu_health"].status == status
    assert found["gpus"].found == "1 H100"


def test_a_gpu_that_the_driver_does_not_show() -> None:
    facts = {
        "gpus": [{"pci": "0000:0f:00.0", "name": "H100"}],
        "nvml": {"error": None, "remedy": None},
        "gpu_reason": None,
    }
    found = {check.name: check for check in host_rules.gpu_health(rules.Context(DEFINITION, facts, {}, {}, {}, {}, {}))}
    assert found["gpus_lost"].status == model.MISMATCH


def test_nvml_that_refuses() -> None:
    facts = {"gpus": [{"pci": "0000:0f:00.0", "name": "H100"}], "nvml": nvml.failure(18), "gpu_reason": None}
    (check,) = host_rules.gpu_health(rules.Context(DEFINITION, facts, {}, {}, {}, {}, {}))
    assert check.status == model.MISMATCH and "different versions" in check.found and check.remedy


def test_facts_captured_on_an_h100_with_another_stack(data: Path) -> None:
    """A real host with driver 580, CUDA 13.0 and a newer Torch comes out as exactly the mismatches that it has."""
    facts = json.loads((data / "probes/h100_driver580_facts.json").read_text())
    context = rules.Context(stack_file.load("verl0.5-preview-cu128"), facts, {}, {}, {}, {}, {})
    found = {check.name: check for check in evaluate.checks(context)}
    assert (found["driver"].status, found["driver"].found) == (model.OK, "580.159.04")
    assert found["driver_userspace"].status == model.OK
    assert (found["gpus"].status, found["gpus"].found) == (model.OK, "1 NVIDIA H100 80GB HBM3")
    assert found["gpu_health"].status == model.OK
    assert {name: (check.status, check.found) for name, check in found.items() if check.failed and check.found} == {
        "cuda": ("mismatch", "13.0"),
        "cudnn": ("mismatch", "9.19.0"),
        "torch": ("mismatch", "2.11.0"),
        "torchvision": ("mismatch", "0.26.0"),
        "torchaudio": ("mismatch", "2.11.0"),
        "pair_cuda_python": ("mismatch", "cuda-bindings 13.3.1"),
        "torch_cuda": ("mismatch", "13.0"),
    }
    missing = {name for name, check in found.items() if check.status == model.MISSING}
    assert {"flash_attention", "sglang", "megatron_core", "apex"} <= missing
    assert found["cudnn_copies"].status == model.WARNING


def test_no_environment_at_all(tmp_path: Path) -> None:
    context = evaluate.gather(evaluate.Subject(DEFINITION, str(tmp_path / "nothing"), None, {}, {}, {}), str(tmp_path))
    found = {check.name: check for check in evaluate.checks(context)}
    assert found["torch"].status == model.MISSING and found["cudnn"].status == model.MISSING
    assert found["torch_cuda"].status == model.SKIPPED


def test_an_empty_definition_has_nothing_to_say(release_tree: ReleaseTree) -> None:
    found = run(
        good(release_tree), {"components": [], "intended_conflicts": DEFINITION["intended_conflicts"]}, variants={}
    )
    assert model.passed(found.values()) and "torch" not in found
