# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Turns a report into one self-contained HTML page."""

from __future__ import annotations

import html
import json
import os
from typing import Any, Mapping

TEMPLATE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "page.html")
TITLE = "@TITLE@"
DATA = "@DATA@"


def embed(value: Any) -> str:
    """JSON that cannot end the script element it stands in, whatever words hosts have put into it."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True, default=str)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def render(report: Mapping[str, Any]) -> str:
    """The page."""
    with open(TEMPLATE, encoding="utf-8") as stream:
        template = stream.read()
    head, middle, rest = template.partition(DATA)
    if not middle:
        raise ValueError(f"{TEMPLATE} has no {DATA}")
    return head.replace(TITLE, html.escape(str(report.get("title", "")))) + embed(report) + rest
