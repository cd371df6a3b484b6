# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""What the host has after `site.yml`, asked from the products themselves."""

from __future__ import annotations

import json

import pytest

testinfra_hosts = ["vb-site"]
RELEASE = "/opt/verl/current"

IMPORTS = """
import json, torch, torchvision, torchaudio, transformers, sglang, flashinfer, megatron.core, transformer_engine, transformer_engine.pytorch, ray
print(json.dumps({
    "torch": torch.__version__, "sglang": sglang.__version__, "megatron": megatron.core.__version__,
    "transformer_engine": transformer_engine.__version__, "cudnn": torch.backends.cudnn.version(), "abi": torch._C._GLIBCXX_USE_CXX11_ABI,
}))
"""


def run(host, command):
    done = host.run(command)
    assert done.rc == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def manifest(host):
    return json.loads(host.file(RELEASE + "/manifest.json").content_string)


def test_the_frameworks_say_the_versions_of_the_stack(host):
    out = run(host, ". %s/env.sh && python -c '%s'" % (RELEASE, IMPORTS.replace("\n", "\n").replace("'", '"')))
    found = json.loads(out.strip().splitlines()[-1])
    assert found == {
        "torch": "2.7.1+cu126",
        "sglang": "0.4.8",
        "megatron": "0.13.0",
        "transformer_engine": "2.5.0",
        "cudnn": 90800,
        "abi": True,
    }


def test_torch_computes(host):
    code = "import torch; a = torch.ones(64, 64, dtype=torch.bfloat16); print(float((a @ a).sum()))"
    assert float(run(host, "%s/venv/bin/python -c '%s'" % (RELEASE, code))) == 64.0**3


def test_megatron_computes_with_its_own_layers(host):
    code = (
        "from megatron.core.transformer.transformer_config import TransformerConfig as C; "
        "c = C(num_layers=1, hidden_size=64, num_attention_heads=4); print(c.kv_channels)"
    )
    assert run(host, "%s/venv/bin/python -c '%s'" % (RELEASE, code)).split()[-1] == "16"


def test_sgl_kernel_finds_the_library_of_the_system_that_it_loads(host):
    extension = RELEASE + "/venv/lib/python3.11/site-packages/sgl_kernel/common_ops.abi3.so"
    assert "libnuma.so.1 => /" in run(host, "ldd " + extension)


def test_the_build_host_compiled_and_this_host_did_not(host):
    (entry,) = json.loads(host.file("/opt/verl/wheels/index.json").content_string)["entries"]
    assert entry["parts"]["package"] == "transformer-engine-torch"
    assert entry["built"]["host"] == "vb-site-builder" and entry["built"]["units"] == 26
    assert entry["built"]["cpu_seconds"] > 60, "26 units of C++ take longer than that anywhere"
    assert not host.file("/opt/verl/build").exists


def test_the_cuda_home_is_usable(host):
    home = RELEASE + "/cuda"
    assert json.loads(host.file(home + "/version.json").content_string)["cuda"]["version"].startswith("12.8.1")
    for header in ("cuda.h", "cuda_runtime.h", "cublas_v2.h", "cudnn.h", "nvrtc.h"):
        assert host.file("%s/include/%s" % (home, header)).exists, header
    assert "12.8" in run(host, home + "/bin/ptxas --version")
    run(
        host,
        "mkdir -p /tmp/c && printf '#include <cuda_runtime.h>\\nint main(){int v; return cudaRuntimeGetVersion(&v) || v != 12080;}' > /tmp/c/a.cc",
    )
    run(
        host,
        f"g++ -I{home}/include /tmp/c/a.cc -o /tmp/c/a -L{home}/lib64 -lcudart -Wl,-rpath,{home}/lib64 && /tmp/c/a",
    )


def test_the_manifest_tells_what_is_there_and_what_is_not(manifest):
    assert manifest["stack"]["name"] == "verl0.5-preview-cu128"
    assert manifest["packages"]["torch"]["version"] == "2.7.1"
    assert "flash_attention" in manifest["skipped"] and "nvcc" in manifest["skipped"]["flash_attention"]


def test_every_shell_can_use_it(host):
    assert run(host, "bash -lc 'python -c \"import sys; print(sys.prefix)\"'").strip().endswith("/venv")
    assert "LD_LIBRARY_PATH" not in run(host, "env -i PATH=/usr/bin:/bin bash -c '. %s/env.sh; env'" % RELEASE)


def test_nothing_denied_is_there(host):
    listing = run(host, "ls %s/venv/lib/python3.11/site-packages" % RELEASE)
    assert "vllm" not in listing and "pyext" not in listing
