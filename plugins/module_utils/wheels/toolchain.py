# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""What a build uses: Python, Torch, the CUDA home, the compiler, and an environment into which nothing else leaks."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import stat
import subprocess
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from ..probes import cuda
from . import key

_PROBE = (
    "import json, sys, sysconfig;"
    "print(json.dumps({'tag': 'cp%d%d' % sys.version_info[:2], 'version': '%d.%d.%d' % sys.version_info[:3],"
    "'soabi': sysconfig.get_config_var('SOABI'), 'site': sysconfig.get_path('platlib'),"
    "'include': sysconfig.get_path('include'),"
    "'prefix': sys.prefix}))"
)
_SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_KEPT = ("TZ", "SOURCE_DATE_EPOCH")


class ToolchainError(Exception):
    """Something that a build needs is missing or wrong; the text says what to do."""


class Python(NamedTuple):
    path: str
    tag: str
    version: str
    soabi: str
    site: str
    include: str
    prefix: str


class Cuda(NamedTuple):
    home: str
    version: str
    """12.8, or 12.8.93 where a compiler told it."""
    compiler: bool


def ask_python(path: str) -> Python:
    """What the interpreter says about itself."""
    try:
        done = subprocess.run(
            [path, "-I", "-c", _PROBE],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ToolchainError(f"{path} is no usable Python: {error}") from error
    if done.returncode != 0:
        raise ToolchainError(f"{path} is no usable Python: {done.stderr.decode('utf-8', 'replace').strip()[-300:]}")
    data = json.loads(done.stdout.decode())
    return Python(
        path, data["tag"], data["version"], data["soabi"] or "", data["site"], data["include"], data["prefix"]
    )


def torch_of(site: str) -> Optional[Dict[str, Any]]:
    """Version, CUDA version and C++ ABI of the Torch in site-packages, read without importing it."""
    try:
        with open(os.path.join(site, "torch", "version.py"), encoding="utf-8") as handle:
            text = handle.read()
    except OSError:
        return None
    version = re.search(r"""^__version__\s*=\s*['"]([^'"]+)['"]""", text, re.M)
    cuda_version = re.search(r"""^cuda\b[^=\n]*=\s*['"]([^'"]+)['"]""", text, re.M)
    if version is None:
        return None
    return {
        "version": version.group(1),
        "cuda": cuda_version.group(1) if cuda_version else None,
        "cxx11_abi": cxx11_abi(os.path.join(site, "torch", "lib", "libc10.so")),
    }


def cxx11_abi(library: str) -> Optional[bool]:
    """Whether a C++ library uses the C++11 strings: their mangled name is among its symbols."""
    try:
        with open(library, "rb") as handle:
            return b"NSt7__cxx1112basic_string" in handle.read()
    except OSError:
        return None


def cuda_of(home: str) -> Optional[Cuda]:
    """The CUDA home; None for an empty path."""
    if not home:
        return None
    version = cuda.ask_nvcc(home)
    if version:
        return Cuda(home, version, True)
    found = cuda.home(home)
    if found is None or not (found["version"] or found["header"]):
        raise ToolchainError(
            f"{home} is no CUDA home: there is neither bin/nvcc nor include/cuda.h. Correct cuda_home."
        )
    return Cuda(home, str(found["version"] or found["header"]), False)


def system(root: str = "/") -> str:
    """debian-12, ubuntu-22.04: what decides which libraries of the system a wheel was linked with."""
    values: Dict[str, str] = {}
    try:
        with open(os.path.join(root, "etc/os-release"), encoding="utf-8") as handle:
            for line in handle:
                name, found, value = line.strip().partition("=")
                if found:
                    values[name] = value.strip("\"'")
    except OSError:
        pass
    return (values.get("ID", "linux") + "-" + values.get("VERSION_ID", "")).rstrip("-")


def glibc() -> str:
    """The version of the C library."""
    try:
        text = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        text = ""
    return text.rpartition(" ")[2] or "unknown"


def machine() -> str:
    """x86_64."""
    return platform.machine()


def host_compiler(asked: str) -> Optional[str]:
    """The C++ compiler's path; None where there is none."""
    return shutil.which(asked or "g++", path=os.pathsep.join(_SYSTEM_PATH) if not asked.startswith("/") else None)


def compiler_version(path: Optional[str]) -> str:
    """The first line of its --version, for the record."""
    if not path:
        return ""
    try:
        done = subprocess.run(
            [path, "--version"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=20, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("utf-8", "replace").splitlines()[0] if done.stdout else ""


def ninja_of(python: Python) -> Optional[str]:
    """ninja beside the interpreter, or the system's."""
    own = os.path.join(os.path.dirname(python.path), "ninja")
    return own if os.access(own, os.X_OK) else shutil.which("ninja", path=os.pathsep.join(_SYSTEM_PATH))


def refusal(
    kit: Optional[Cuda],
    device_code: bool,
    torch: Optional[Dict[str, Any]],
    python: Python,
    compiler: str,
    archs: Sequence[str] = (),
) -> Optional[str]:
    """Why nothing can be compiled here, None when all is there."""
    if host_compiler(compiler) is None:
        return f"there is no C++ compiler ({compiler or 'g++'}); install g++"
    if not os.path.isfile(os.path.join(python.include, "Python.h")):
        return f"there is no Python.h in {python.include}; install python{'.'.join(python.version.split('.')[:2])}-dev"
    if ninja_of(python) is None:
        return "there is no ninja, without which units compile one after another; it is part of the stack's torch layer"
    if device_code:
        if kit is None:
            return "no CUDA home is given; set cuda_source to nvidia or existing"
        if not kit.compiler:
            return (
                f"{kit.home} has no nvcc (CUDA from PyPI brings none for CUDA 12); "
                "set cuda_source to nvidia or existing"
            )
        known = cuda.architectures_of_nvcc(kit.home)
        unknown = [name for name in archs if known and name.rstrip("af") not in known]
        if unknown:
            return (
                f"nvcc {kit.version} of {kit.home} does not compile for {', '.join('sm_' + name for name in unknown)}; "
                "take a newer CUDA (cuda_source), or leave them out of flash_attention_architectures"
            )
    if (
        kit is not None
        and torch is not None
        and torch["cuda"]
        and kit.version.split(".")[0] != str(torch["cuda"]).split(".", maxsplit=1)[0]
    ):
        return (
            f"{kit.home} is CUDA {kit.version} and Torch is built for CUDA {torch['cuda']}; "
            "take a CUDA home of the same major version"
        )
    return None


def system_path(home: Optional[str], folder: str) -> List[str]:
    """The system's program folders without any nvcc of some other CUDA.

    A folder that holds one, as /usr/bin does where the distribution's toolkit is installed, is replaced by a folder of
    links to everything else in it: the host's compiler lies there, too.
    """
    own = os.path.realpath(os.path.join(home, "bin")) if home else None
    links = os.path.join(folder, "path")
    shutil.rmtree(links, ignore_errors=True)
    real = {os.path.realpath(name): name for name in reversed(_SYSTEM_PATH) if os.path.isdir(name)}
    result = []
    for name in (name for name in _SYSTEM_PATH if name in real.values()):
        if not os.path.lexists(os.path.join(name, "nvcc")) or os.path.realpath(name) == own:
            result.append(name)
            continue
        shown = os.path.join(links, str(len(result)))
        os.makedirs(shown)
        for program in os.listdir(name):
            if program != "nvcc":
                os.symlink(os.path.join(name, program), os.path.join(shown, program))
        result.append(shown)
    return result


def remove(path: str) -> None:
    """Remove a folder, or a link to one and nothing behind it."""
    if os.path.islink(path):
        os.unlink(path)
    else:
        shutil.rmtree(path, ignore_errors=True)


def fixed(path: str, link: str) -> str:
    """A link in the build folder that stands for a folder of the release.

    The compilers' command lines, by which ninja knows what is done, so stay the same for another release.
    """
    remove(link)
    os.symlink(path, link)
    return link


def lasting(python: Python, folder: str) -> Python:
    """The Python of a virtual environment by way of a link in the build folder."""
    if not os.path.isfile(os.path.join(python.prefix, "pyvenv.cfg")):
        return python
    link = fixed(python.prefix, os.path.join(folder, "venv"))
    inside = os.path.join(python.prefix, "")
    moved = {
        name: os.path.join(link, value[len(inside) :])
        for name, value in (("path", python.path), ("site", python.site))
        if value.startswith(inside)
    }
    return python._replace(prefix=link, **moved)


def stand_in(kit: Cuda, folder: str) -> str:
    """A CUDA home with the real one's headers and libraries, and an nvcc that only tells the version.

    TransformerEngine asks nvcc for the version and compiles nothing with it. The stand-in lies in the build folder
    and is on no path outside the build.
    """
    home = os.path.join(folder, "cuda")
    remove(home)
    os.makedirs(os.path.join(home, "bin"))
    for name in ("include", "lib64", "lib", "nvvm", "targets", "version.json"):
        target = os.path.join(kit.home, name)
        if os.path.exists(target):
            os.symlink(target, os.path.join(home, name))
    numbers = ([*kit.version.split("."), "0", "0"])[:3]
    script = os.path.join(home, "bin", "nvcc")
    with open(script, "w", encoding="utf-8") as handle:
        handle.write(
            "#!/bin/sh\n"
            "# Stands in for nvcc in this build alone: tells the version of the CUDA headers and compiles nothing.\n"
            'case "$1" in\n'
            "-V | --version)\n"
            '    echo "nvcc: stand-in of verl.baremetal for CUDA without a compiler"\n'
            f'    echo "Cuda compilation tools, release {numbers[0]}.{numbers[1]}, V{".".join(numbers)}"\n'
            "    ;;\n"
            "*)\n"
            '    echo "this CUDA home has no nvcc: device code cannot be compiled" >&2\n'
            "    exit 1\n"
            "    ;;\n"
            "esac\n"
        )
    os.chmod(script, os.stat(script).st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    return home


def cudnn_home(asked: str, site: str, cuda_home: Optional[str]) -> Optional[str]:
    """The folder with include/cudnn.h: the one asked for, Torch's own wheel, or the CUDA home itself."""
    candidates = [asked] if asked else [os.path.join(site, "nvidia", "cudnn"), cuda_home or ""]
    for folder in candidates:
        if folder and os.path.isfile(os.path.join(folder, "include", "cudnn.h")):
            return folder
    if asked:
        raise ToolchainError(f"{asked} has no include/cudnn.h: correct cudnn_home.")
    return None


def environment(
    python: Python,
    home: Optional[str],
    cudnn: Optional[str],
    archs: Sequence[str],
    jobs: int,
    compiler: str,
    folder: str,
    extra: Dict[str, str],
) -> Dict[str, str]:
    """The whole environment of a build: what is not named here is not in it."""
    path = [os.path.dirname(python.path)]
    if home:
        path.append(os.path.join(home, "bin"))
    path += system_path(home, folder)
    for name in ("home", "tmp"):
        os.makedirs(os.path.join(folder, name), exist_ok=True)
    result = {
        "PATH": os.pathsep.join(dict.fromkeys(path)),
        "HOME": os.path.join(folder, "home"),
        "TMPDIR": os.path.join(folder, "tmp"),
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONHASHSEED": "0",
        "VIRTUAL_ENV": python.prefix,
        "MAX_JOBS": str(jobs),
        "NVTE_BUILD_MAX_JOBS": str(jobs),
        "CMAKE_BUILD_PARALLEL_LEVEL": str(jobs),
        "NVCC_THREADS": "1",
    }
    for name in _KEPT:
        if name in os.environ:
            result[name] = os.environ[name]
    if home:
        result.update(
            CUDA_HOME=home,
            CUDA_PATH=home,
            CUDACXX=os.path.join(home, "bin", "nvcc"),
            PYTORCH_NVCC=os.path.join(home, "bin", "nvcc"),
        )
    if cudnn:
        # Not every build looks where CUDNN_PATH points: the compilers themselves are told, too.
        result.update(CUDNN_PATH=cudnn, CUDNN_HOME=cudnn, CPATH=os.path.join(cudnn, "include"))
    if archs:
        result["TORCH_CUDA_ARCH_LIST"] = ";".join(key.dotted(name) for name in archs)
        result["FLASH_ATTN_CUDA_ARCHS"] = ";".join(archs)
        result["NVTE_CUDA_ARCHS"] = ";".join(archs)
        result["CUDAARCHS"] = ";".join(archs)
    if compiler:
        result.update(CXX=compiler, CC=_c_of(compiler), NVCC_PREPEND_FLAGS="-ccbin " + compiler)
    result.update(extra)
    return result


def _c_of(compiler: str) -> str:
    name = os.path.basename(compiler).replace("clang++", "clang").replace("g++", "gcc").replace("c++", "cc")
    candidate = os.path.join(os.path.dirname(compiler), name)
    return candidate if os.path.exists(candidate) or not os.path.dirname(compiler) else compiler
