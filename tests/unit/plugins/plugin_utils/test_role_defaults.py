# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Action plugins see a role's variables with the types of its defaults, however they were set."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleActionFail

from ansible_collections.verl.baremetal.plugins.plugin_utils import role_defaults


class Templar:
    @staticmethod
    def template(value):
        return value


def value(name, given):
    return role_defaults.values(Templar, {name: given}, [name])[name]


@pytest.mark.parametrize(
    ("name", "given", "seen"),
    [
        ("stack_offline", "false", False),
        ("stack_offline", "yes", True),
        ("bundle_controller", False, False),
        ("stack_find_links", "/a,/b", ["/a", "/b"]),
        ("stack_path", "mystacks", ["mystacks"]),
        ("stack_path", ["a", "b"], ["a", "b"]),
        ("bundle_pythons", "3.12, 3.11", ["3.12", "3.11"]),
        ("flash_attention_architectures", "", []),
        ("stack_name", "a,b", "a,b"),
        ("bundle_pythons", 3.12, 3.12),
    ],
)
def test_a_text_becomes_what_the_default_is(name, given, seen):
    assert value(name, given) == seen


def test_what_is_not_set_is_the_default():
    assert role_defaults.values(Templar, {}, ["venv_torch_variant", "stack_offline"]) == {"venv_torch_variant": "cu128", "stack_offline": False}


def test_a_truth_that_is_none_is_refused_by_its_name():
    with pytest.raises(AnsibleActionFail, match="stack_offline: 'maybe' is neither true nor false"):
        value("stack_offline", "maybe")
