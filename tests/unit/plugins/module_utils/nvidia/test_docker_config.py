# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils.nvidia import docker_config

NVIDIA = {"path": "nvidia-container-runtime", "args": []}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", {"runtimes": {"nvidia": NVIDIA}}),
        ('{"log-driver": "journald"}', {"log-driver": "journald", "runtimes": {"nvidia": NVIDIA}}),
        ('{"runtimes": {"crun": {"path": "/x"}}}', {"runtimes": {"crun": {"path": "/x"}, "nvidia": NVIDIA}}),
        ('{"runtimes": {"nvidia": {"path": "/wrong"}}}', {"runtimes": {"nvidia": NVIDIA}}),
    ],
)
def test_merge_keeps_the_rest(before, after):
    merged = docker_config.merge(before, False)
    assert json.loads(merged) == after
    assert docker_config.merge(merged, False) == merged


def test_a_runtime_at_another_place_is_left_alone_byte_for_byte():
    text = '{ "runtimes":{"nvidia": {"path":"/usr/bin/nvidia-container-runtime"}} }'
    assert docker_config.merge(text, False) == text


def test_default_runtime():
    assert json.loads(docker_config.merge("{}", True))["default-runtime"] == "nvidia"


@pytest.mark.parametrize("text", ['{"a": ', "[]", '{"runtimes": []}'])
def test_broken_files_are_refused(text):
    with pytest.raises(docker_config.BadConfig):
        docker_config.merge(text, False)


def test_without():
    text = docker_config.merge('{"log-driver": "journald"}', True)
    assert json.loads(docker_config.without(text)) == {"log-driver": "journald"}
    assert docker_config.without('{"log-driver": "x"}') == '{"log-driver": "x"}'
