# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: stack
author: the verl.baremetal authors (@verl-baremetal)
short_description: Read a stack file
description:
  - Returns a stack with what follows from it filled in, as every role and module of the collection sees it.
version_added: 0.1.0
options:
  _terms:
    description: Names of stacks, for example V(verl0.5-preview-cu128).
    type: list
    elements: str
    required: true
  path:
    description: Folders that are searched before the collection's own.
    type: list
    elements: path
    default: []
"""

EXAMPLES = r"""
- name: Show the version of Torch in a stack
  ansible.builtin.debug:
    msg: "{{ (lookup('verl.baremetal.stack', 'verl0.5-preview-cu128').components | selectattr('name', 'eq', 'torch') | first).version }}"
"""

RETURN = r"""
_raw:
  description: The stacks, one dictionary each; with C(folder) and C(digest) (sha256 of the file and its locks).
  type: list
  elements: dict
"""

import typing as t

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

from ansible_collections.verl.baremetal.plugins.plugin_utils import stack_file


class LookupModule(LookupBase):
    """Returns stacks by name."""

    def run(self, terms: t.List[str], variables: t.Optional[t.Dict[str, t.Any]] = None, **kwargs: t.Any) -> t.List[t.Any]:
        """Read each named stack; a stack that cannot be read is an error in words."""
        self.set_options(var_options=variables, direct=kwargs)
        try:
            return [stack_file.load(term, self.get_option("path")) for term in terms]
        except stack_file.StackError as error:
            raise AnsibleLookupError(str(error)) from error
