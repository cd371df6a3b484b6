#!/usr/bin/python
# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Reports the versions of everything that the stack depends on."""

from __future__ import annotations

DOCUMENTATION = r"""
module: stack_info
short_description: Report the versions of the Python stack, CUDA, cuDNN, the driver and the GPUs of a host
description:
  - Reads package metadata, headers, ELF files, C(/proc) and C(/sys); none of the packages is imported and no
    network is used. The GPUs are asked through NVIDIA's management library (NVML) without a CUDA context.
  - What is not there is reported as V(null) or empty, never as a failure.
author:
  - the verl.baremetal authors (@verl-baremetal)
version_added: 0.1.0
options:
  release:
    description:
      - Folder of a release, for example C(/opt/verl/current). Its environment and CUDA home are read.
    type: path
  python:
    description:
      - Folder of a Python environment, or the path of its interpreter.
      - Taken instead of the environment of O(release).
    type: path
  cuda_home:
    description:
      - Folder of a CUDA toolkit, beside those in C(/usr/local).
      - Taken instead of the CUDA home of O(release).
    type: path
  nvml:
    description: Ask NVML for the GPUs' details.
    type: bool
    default: true
attributes:
  check_mode:
    description: Can run in check_mode and return changed status prediction without modifying target.
    support: full
  diff_mode:
    description: Will return details on what has changed (or possibly needs changing in check_mode), when in diff mode.
    support: none
seealso:
  - module: verl.baremetal.version_check
  - module: verl.baremetal.gpu_info
"""

EXAMPLES = r"""
- name: Read what the live release holds
  verl.baremetal.stack_info:
    release: /opt/verl/current
  register: stack

- name: Read an environment of your own
  verl.baremetal.stack_info:
    python: /home/me/venv
    cuda_home: /usr/local/cuda-12.8
"""

RETURN = r"""
python:
  description: The environment; V(null) where none was given or found.
  returned: always
  type: dict
  sample:
    prefix: /opt/verl/current/venv
    version: 3.12.3
    site_packages: [/opt/verl/current/venv/lib/python3.12/site-packages]
packages:
  description: Name and version of every Python package.
  returned: always
  type: dict
  sample: {torch: 2.7.1+cu128, sglang: 0.4.8}
duplicates:
  description: Packages that are recorded more than once, with all versions.
  returned: always
  type: dict
  sample: {}
leftovers:
  description: Folders that an interrupted pip renamed.
  returned: always
  type: list
  elements: str
  sample: []
broken:
  description: Metadata folders without metadata, left by an interrupted installation.
  returned: always
  type: list
  elements: str
  sample: []
torch:
  description: What Torch says of its build; empty where it is not installed.
  returned: always
  type: dict
  sample:
    version: 2.7.1+cu128
    cuda: "12.8"
    git: e2d141dbde55c2a4370fac5165b0561b6af4798b
    cxx11_abi: true
    source: /opt/verl/current/venv/lib/python3.12/site-packages/torch/version.py
flashinfer:
  description: What FlashInfer was built with; empty where it is not installed.
  returned: always
  type: dict
  sample: {torch: "2.7", cuda_major: 12, source: flashinfer/_build_meta.py}
commits:
  description: Git commits of packages that were installed from one.
  returned: always
  type: dict
  sample: {apex: d8200a1bec8d29fe3f44d96b0a9e7b7fba850c77}
cuda:
  description: The CUDA home asked for, and every toolkit found.
  returned: always
  type: dict
  sample:
    home: /usr/local/cuda-12.8
    homes:
      - home: /usr/local/cuda-12.8
        real: /usr/local/cuda-12.8
        version: 12.8.1
        header: "12.8"
        nvcc: 12.8.93
        compiler: true
        source: /usr/local/cuda-12.8/version.json
cudnn:
  description: Every copy of cuDNN that a loader could find, the environment's own first.
  returned: always
  type: list
  elements: dict
  sample:
    - path: /opt/verl/current/venv/lib/python3.12/site-packages/nvidia/cudnn/lib/libcudnn.so.9
      version: 9.8.0
      place: environment
      source: /opt/verl/current/venv/lib/python3.12/site-packages/nvidia/cudnn/include/cudnn_version.h
nccl:
  description: Every copy of NCCL that a loader could find, the environment's own first.
  returned: always
  type: list
  elements: dict
  sample: []
extensions:
  description:
    - GPU architectures, C++ ABI, newest glibc asked for and libraries not to be found of the compiled packages.
  returned: always
  type: dict
  sample:
    sgl-kernel:
      files:
        - path: /opt/verl/current/venv/lib/python3.12/site-packages/sgl_kernel/common_ops.abi3.so
          sass: ["75", "80", "89", "90", "90a"]
          ptx: []
          cxx11_abi: true
          glibc: "2.28"
          unresolved: []
          problem: null
      architectures: {sass: ["75", "80", "89", "90", "90a"], ptx: []}
      cxx11_abi: true
gpus:
  description: As returned by M(verl.baremetal.gpu_info).
  returned: always
  type: list
  elements: dict
  sample: []
nvswitches:
  description: Number of NVSwitches on the PCI bus.
  returned: always
  type: int
  sample: 0
driver:
  description: As returned by M(verl.baremetal.gpu_info).
  returned: always
  type: dict
nvml:
  description: As returned by M(verl.baremetal.gpu_info).
  returned: always
  type: dict
gpu_reason:
  description: Why GPUs or details of them are missing; V(null) where nothing is.
  returned: always
  type: str
  sample: no NVIDIA GPU on the PCI bus
system:
  description: Operating system, kernel, glibc, Secure Boot, DKMS, pending reboot, fabric manager, limits.
  returned: always
  type: dict
  sample:
    os: {id: ubuntu, version: "24.04", name: Ubuntu 24.04.2 LTS}
    architecture: x86_64
    kernel: 6.8.0-60-generic
    glibc: "2.39"
    secure_boot: false
system_packages:
  description: NVIDIA's packages of the system and their versions.
  returned: always
  type: dict
  sample: {cuda-toolkit-12-8: 12.8.1-1}
held:
  description: NVIDIA's packages that are held at their version.
  returned: always
  type: list
  elements: str
  sample: [cuda-toolkit-12-8]
half_installed:
  description: NVIDIA's packages that an interrupted transaction left unfinished.
  returned: always
  type: list
  elements: str
  sample: []
apt_sources:
  description: Package sources that bring NVIDIA's packages.
  returned: always
  type: list
  elements: dict
  sample:
    - file: /etc/apt/sources.list.d/verl-nvidia.sources
      uri: https://developer.download.nvidia.com/compute/cuda/repos/ubuntu2404/x86_64/
driver_pin:
  description: The file with which the role driver keeps a driver at its version, null where there is none.
  returned: always
  type: str
  sample: /etc/apt/preferences.d/00verl-nvidia-driver
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.verl.baremetal.plugins.module_utils.checks import evaluate
from ansible_collections.verl.baremetal.plugins.module_utils.probes import collect


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "release": {"type": "path"},
            "python": {"type": "path"},
            "cuda_home": {"type": "path"},
            "nvml": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    prefix, cuda_home = module.params["python"], module.params["cuda_home"]
    if module.params["release"]:
        subject = evaluate.subject_of_folder(module.params["release"])
        prefix, cuda_home = prefix or subject.prefix, cuda_home or subject.cuda_home
    facts = collect.facts(
        prefix=prefix,
        cuda_home=cuda_home,
        ld_library_path=os.environ.get("LD_LIBRARY_PATH", ""),
        ask=collect.ask_nvml if module.params["nvml"] else None,
    )
    module.exit_json(changed=False, **facts)


if __name__ == "__main__":
    main()
