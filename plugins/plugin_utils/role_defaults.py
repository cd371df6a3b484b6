# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Variables of the collection's roles as a play sees them: what was set, else the role's own default.

An action that decides over several roles needs their variables also where a play does not contain the role that owns them.
"""

from __future__ import annotations

import functools
import os
import typing as t

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean

try:
    import yaml
except ImportError:  # ansible-core brings it; the sanity tests import without
    yaml = None  # type: ignore[assignment]

ROLES = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "roles"))


@functools.lru_cache(maxsize=None)
def defaults() -> dict[str, t.Any]:
    """Every role's defaults/main.yml, in one dict."""
    found: dict[str, t.Any] = {}
    for role in sorted(os.listdir(ROLES)):
        path = os.path.join(ROLES, role, "defaults", "main.yml")
        if os.path.isfile(path):
            with open(path, encoding="utf-8") as stream:
                found.update(yaml.safe_load(stream) or {})
    return found


def values(templar: t.Any, task_vars: t.Mapping[str, t.Any], names: t.Sequence[str]) -> dict[str, t.Any]:
    """The value of each name: the play's, else the owning role's default; templated, and of the default's type."""
    shipped = defaults()
    missing = [n for n in names if n not in task_vars and n not in shipped]
    if missing:
        raise KeyError("no role of the collection has the variables " + ", ".join(missing))
    found = {n: templar.template(task_vars[n] if n in task_vars else shipped[n]) for n in names}
    return {n: like(n, shipped.get(n), value) for n, value in found.items()}


def like(name: str, default: t.Any, value: t.Any) -> t.Any:
    """A text, which is all that ``-e name=value`` gives, as Ansible's modules read it where the default is a truth or a list."""
    if not isinstance(value, str):
        return value
    if isinstance(default, bool):
        try:
            return boolean(value)
        except TypeError as error:
            raise AnsibleActionFail(f"{name}: {value!r} is neither true nor false.") from error
    if isinstance(default, list):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value
