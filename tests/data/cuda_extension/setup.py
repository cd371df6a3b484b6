# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""A small CUDA extension for the tests: real device code, compiled by ninja as Torch's own extensions are, without Torch.

What it reads from its environment, as the big packages do:
    CUDA_HOME, TORCH_CUDA_ARCH_LIST, MAX_JOBS
    VERL_TEST_ALLOCATE_MB   so much memory is taken before each compile (for the test of a memory limit)
    VERL_TEST_BREAK         the last unit gets an error
    VERL_TEST_SLOW          seconds that each unit takes longer
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = os.path.dirname(os.path.abspath(__file__))
UNITS = 4
PROLOGUE = """
import os, sys, time
size = int(os.environ.get('VERL_TEST_ALLOCATE_MB', '0')) * 1024 * 1024
taken = bytearray(size)
taken[::4096] = b'x' * len(taken[::4096])
time.sleep(float(os.environ.get('VERL_TEST_SLOW', '0')) + (2 if size else 0))
"""


def gencode() -> str:
    flags = []
    for name in os.environ["TORCH_CUDA_ARCH_LIST"].split(";"):
        number = name.replace(".", "")
        flags.append(f"-gencode arch=compute_{number},code=sm_{number}")
    return " ".join(flags)


class NinjaBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        folder = os.path.abspath(self.build_temp)
        os.makedirs(folder, exist_ok=True)
        home = os.environ["CUDA_HOME"]
        include = sysconfig.get_path("include")
        with open(os.path.join(folder, "prologue.py"), "w", encoding="utf-8") as handle:
            handle.write(PROLOGUE)
        broken = "-DVERL_TEST_BREAK" if os.environ.get("VERL_TEST_BREAK") else ""
        lines = [
            "ninja_required_version = 1.3",
            "rule cuda",
            f"  command = {sys.executable} {folder}/prologue.py && {home}/bin/nvcc {gencode()} -DUNIT=$unit $extra -O2 -Xcompiler -fPIC -c $in -o $out",
            "rule cxx",
            f"  command = {sys.executable} {folder}/prologue.py && c++ -O2 -fPIC -I{include} -DUNITS={UNITS} -c $in -o $out",
        ]
        objects = [os.path.join(folder, "module.o")]
        lines.append(f"build {objects[0]}: cxx {HERE}/src/module.cpp")
        for number in range(UNITS):
            objects.append(os.path.join(folder, f"kernel_{number}.o"))
            lines += [f"build {objects[-1]}: cuda {HERE}/src/kernel.cu", f"  unit = {number}", f"  extra = {broken if number == UNITS - 1 else ''}"]
        with open(os.path.join(folder, "build.ninja"), "w", encoding="utf-8") as handle:
            handle.write("\n".join(lines) + "\n")
        subprocess.run(["ninja", "-v", "-j", os.environ.get("MAX_JOBS", "1")], cwd=folder, check=True)
        target = self.get_ext_fullpath(ext.name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        subprocess.run([f"{home}/bin/nvcc", *gencode().split(), "-shared", "-cudart", "static", *objects, "-o", target], check=True)


setup(
    name="verl-test-kernels",
    version="1.0",
    ext_modules=[Extension("verl_test_kernels", sources=[])],
    cmdclass={"build_ext": NinjaBuild},
)
