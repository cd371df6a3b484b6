# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils.wheels import toolchain


def script(path, text="#!/bin/sh\nexit 0\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


NVCC = '#!/bin/sh\necho "nvcc: NVIDIA (R) Cuda compiler driver"\necho "Cuda compilation tools, release 12.4, V12.4.131"\n'


@pytest.fixture
def kit(tmp_path):
    """A fixture: a CUDA home whose nvcc only tells its version."""
    script(tmp_path / "cuda/bin/nvcc", NVCC)
    return toolchain.cuda_of(str(tmp_path / "cuda"))


@pytest.fixture
def headers(tmp_path):
    """A fixture: a CUDA home as the wheels make it, without a compiler."""
    include = tmp_path / "headers/include"
    include.mkdir(parents=True)
    (include / "cuda.h").write_text("#define CUDA_VERSION 12080\n")
    (include / "cudnn.h").write_text("\n")
    return toolchain.cuda_of(str(tmp_path / "headers"))


def python_of(tmp_path):
    script(tmp_path / "venv/bin/python")
    script(tmp_path / "venv/bin/ninja")
    include = tmp_path / "python"
    include.mkdir()
    (include / "Python.h").write_text("")
    return toolchain.Python(str(tmp_path / "venv/bin/python"), "cp312", "3.12.3", "cpython-312", str(tmp_path / "site"), str(include), str(tmp_path / "venv"))


def test_a_python_tells_about_itself():
    python = toolchain.ask_python(sys.executable)
    assert python.tag == "cp%d%d" % sys.version_info[:2]
    assert python.soabi.startswith("cpython-3")
    assert os.path.isdir(python.site)


def test_what_is_no_python_is_told(tmp_path):
    with pytest.raises(toolchain.ToolchainError, match="no usable Python"):
        toolchain.ask_python(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("version", "library", "expected"),
    [
        ("__version__ = '2.7.1+cu128'\ncuda: Optional[str] = '12.8'\n", b"..NSt7__cxx1112basic_string..", ("2.7.1+cu128", "12.8", True)),
        ("__version__ = '2.6.0+cu124'\ncuda: Optional[str] = '12.4'\n", b"..Ss..", ("2.6.0+cu124", "12.4", False)),
        ("__version__ = '2.7.1+cpu'\ncuda: Optional[str] = None\n", None, ("2.7.1+cpu", None, None)),
    ],
    ids=["new ABI", "old ABI", "no CUDA"],
)
def test_torch_is_read_without_importing_it(tmp_path, version, library, expected):
    (tmp_path / "torch/lib").mkdir(parents=True)
    (tmp_path / "torch/version.py").write_text(version)
    if library is not None:
        (tmp_path / "torch/lib/libc10.so").write_bytes(library)
    found = toolchain.torch_of(str(tmp_path))
    assert (found["version"], found["cuda"], found["cxx11_abi"]) == expected


def test_no_torch_is_no_failure(tmp_path):
    assert toolchain.torch_of(str(tmp_path)) is None


def test_the_compiler_tells_its_version(kit):
    assert (kit.version, kit.compiler) == ("12.4.131", True)


def test_without_a_compiler_the_headers_tell(headers):
    assert (headers.version, headers.compiler) == ("12.8", False)


def test_an_empty_folder_is_no_cuda_home(tmp_path):
    with pytest.raises(toolchain.ToolchainError, match="no CUDA home"):
        toolchain.cuda_of(str(tmp_path))
    assert toolchain.cuda_of("") is None


def test_the_stand_in_tells_the_version_of_the_headers_and_compiles_nothing(headers, tmp_path):
    home = toolchain.stand_in(headers, str(tmp_path / "build"))
    nvcc = os.path.join(home, "bin/nvcc")
    told = subprocess.run([nvcc, "-V"], capture_output=True, check=True).stdout.decode()
    assert "release 12.8, V12.8.0" in told
    assert subprocess.run([nvcc, "-c", "x.cu"], capture_output=True, check=False).returncode == 1
    assert os.path.isfile(os.path.join(home, "include/cuda.h"))
    assert toolchain.stand_in(headers, str(tmp_path / "build")) == home


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A fixture of a host: a compiler in one folder, and another CUDA's nvcc in a second one."""
    script(tmp_path / "usr/bin/g++")
    script(tmp_path / "usr/local/bin/nvcc")
    monkeypatch.setattr(toolchain, "_SYSTEM_PATH", (str(tmp_path / "usr/local/bin"), str(tmp_path / "usr/bin")))
    return tmp_path


def test_a_foreign_nvcc_is_on_no_path_of_the_build(host, kit):
    python = python_of(host)
    made = toolchain.environment(python, kit.home, None, ["80", "90"], 4, "", str(host / "build"), {"FLASH_ATTENTION_FORCE_BUILD": "TRUE"})
    folders = made["PATH"].split(":")
    assert folders == [str(host / "venv/bin"), kit.home + "/bin", str(host / "build/path/0"), str(host / "usr/bin")]
    assert shutil.which("nvcc", path=made["PATH"]) == kit.home + "/bin/nvcc" and shutil.which("nvcc", path=":".join(folders[2:])) is None
    assert made["CUDA_HOME"] == kit.home and made["CUDACXX"] == kit.home + "/bin/nvcc"
    assert made["TORCH_CUDA_ARCH_LIST"] == "8.0;9.0"
    assert made["FLASH_ATTN_CUDA_ARCHS"] == made["NVTE_CUDA_ARCHS"] == "80;90"
    assert made["MAX_JOBS"] == "4" and made["FLASH_ATTENTION_FORCE_BUILD"] == "TRUE"


def test_a_foreign_nvcc_beside_the_compiler_hides_only_itself(host, headers):
    script(host / "usr/bin/nvcc")
    for _again in range(2):
        path = ":".join(toolchain.system_path(headers.home, str(host / "build")))
        assert shutil.which("nvcc", path=path) is None
        assert os.path.realpath(shutil.which("g++", path=path)) == str(host / "usr/bin/g++")
    own = toolchain.system_path(str(host / "usr"), str(host / "build"))
    assert str(host / "usr/bin") in own, "a CUDA home may be the system itself"


def test_two_releases_have_the_same_command_lines(tmp_path, kit):
    """Python as it tells about itself through the link, which is what ends up in the compilers' commands."""
    told = []
    for name in ("first", "second"):
        venv = tmp_path / name
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
        python = toolchain.lasting(toolchain.ask_python(str(venv / "bin/python")), str(tmp_path))
        assert os.path.realpath(python.prefix) == str(venv)
        told.append((python, toolchain.ask_python(python.path)))
    assert told[0] == told[1]
    assert told[0][1].prefix == told[0][0].prefix and told[0][1].site == told[0][0].site
    assert toolchain.fixed(kit.home, str(tmp_path / "link")) == toolchain.fixed(str(tmp_path), str(tmp_path / "link"))


def test_what_nvcc_cannot_compile_for_is_refused_before_it_starts(host, kit):
    script(host / "cuda/bin/nvcc", NVCC + 'test "$1" = --list-gpu-code && printf "sm_80\\nsm_90\\n"\n')
    python = python_of(host)
    assert toolchain.refusal(kit, True, TORCH, python, "", ["80", "90a"]) is None
    assert "does not compile for sm_100, sm_120" in toolchain.refusal(kit, True, TORCH, python, "", ["90", "100", "120"])


def test_nothing_of_the_callers_environment_is_in_the_builds(host, kit, monkeypatch):
    for name in ("LD_LIBRARY_PATH", "CFLAGS", "NVCC_APPEND_FLAGS", "PIP_FIND_LINKS", "CONDA_PREFIX", "CPATH", "MAX_JOBS", "HOME", "PYTHONPATH"):
        monkeypatch.setenv(name, "/leak")
    made = toolchain.environment(python_of(host), kit.home, None, [], 2, "", str(host / "build"), {})
    assert not [name for name, value in made.items() if "/leak" in value]
    assert made["HOME"] == str(host / "build/home") and os.path.isdir(made["TMPDIR"])


def test_the_host_compiler_that_was_asked_for_is_used_by_all(host, kit):
    made = toolchain.environment(python_of(host), kit.home, None, [], 2, "/usr/bin/g++-12", str(host / "build"), {})
    assert made["CXX"] == "/usr/bin/g++-12" and made["NVCC_PREPEND_FLAGS"] == "-ccbin /usr/bin/g++-12"


def test_cudnn_comes_from_torchs_wheel_and_its_headers_are_on_the_path(host, headers):
    include = host / "site/nvidia/cudnn/include"
    include.mkdir(parents=True)
    (include / "cudnn.h").write_text("")
    found = toolchain.cudnn_home("", str(host / "site"), headers.home)
    assert found == str(host / "site/nvidia/cudnn")
    made = toolchain.environment(python_of(host), headers.home, found, [], 2, "", str(host / "build"), {})
    assert made["CUDNN_PATH"] == found and made["CPATH"] == found + "/include"


def test_cudnn_may_lie_in_the_cuda_home_and_a_wrong_one_is_told(host, headers):
    assert toolchain.cudnn_home("", str(host / "site"), headers.home) == headers.home
    with pytest.raises(toolchain.ToolchainError, match="correct cudnn_home"):
        toolchain.cudnn_home(str(host), str(host / "site"), headers.home)


TORCH = {"version": "2.7.1+cu126", "cuda": "12.6", "cxx11_abi": True}


@pytest.mark.parametrize(
    ("which", "device_code", "torch", "missing", "words"),
    [
        ("kit", True, TORCH, "", None),
        ("headers", False, TORCH, "", None),
        (None, False, None, "", None),
        ("headers", True, TORCH, "", "has no nvcc"),
        (None, True, TORCH, "", "no CUDA home is given"),
        ("kit", True, dict(TORCH, cuda="13.0"), "", "same major version"),
        ("kit", True, TORCH, "usr/bin/g++", "install g++"),
        ("kit", True, TORCH, "python/Python.h", "install python3.12-dev"),
        ("kit", True, TORCH, "venv/bin/ninja", "no ninja"),
    ],
)
def test_why_a_host_cannot_build(request, host, which, device_code, torch, missing, words):
    python = python_of(host)
    chosen = request.getfixturevalue(which) if which else None
    if missing:
        (host / missing).unlink()
    refusal = toolchain.refusal(chosen, device_code, torch, python, "")
    assert refusal is None if words is None else words in refusal


def test_the_system_is_named_with_its_version(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text('NAME="Ubuntu"\nID=ubuntu\nVERSION_ID="22.04"\n')
    assert toolchain.system(str(tmp_path)) == "ubuntu-22.04"
    assert toolchain.glibc().startswith("2.")
