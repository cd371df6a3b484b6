# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Adds NVIDIA's runtime to Docker's daemon.json without touching anything else in it."""

from __future__ import annotations

import json
from typing import Any, Dict

RUNTIME: Dict[str, Any] = {"path": "nvidia-container-runtime", "args": []}


class BadConfig(ValueError):
    """The existing file cannot be kept; the message says why."""


def merge(text: str, default_runtime: bool) -> str:
    """The file's new text; the same text when nothing is missing."""
    try:
        config = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise BadConfig(f"it is not valid JSON ({error}); Docker would not start with it either: repair it") from error
    if not isinstance(config, dict) or not isinstance(config.get("runtimes", {}), dict):
        raise BadConfig("it is no object with an object `runtimes`; repair it")
    wanted = dict(config)
    runtimes = dict(config.get("runtimes", {}))
    if not _is_nvidia(runtimes.get("nvidia")):
        runtimes["nvidia"] = RUNTIME
        wanted["runtimes"] = runtimes
    if default_runtime:
        wanted["default-runtime"] = "nvidia"
    if wanted == config:
        return text
    return json.dumps(wanted, indent=4) + "\n"


def without(text: str) -> str:
    """The file's text without NVIDIA's runtime."""
    config = json.loads(text) if text.strip() else {}
    if not isinstance(config, dict) or "nvidia" not in config.get("runtimes", {}):
        return text
    del config["runtimes"]["nvidia"]
    if not config["runtimes"]:
        del config["runtimes"]
    if config.get("default-runtime") == "nvidia":
        del config["default-runtime"]
    return json.dumps(config, indent=4) + "\n"


def _is_nvidia(entry: object) -> bool:
    """Whether an entry already leads to NVIDIA's runtime, wherever an administrator has put it."""
    return isinstance(entry, dict) and str(entry.get("path", "")).rsplit("/", 1)[-1] == "nvidia-container-runtime"
