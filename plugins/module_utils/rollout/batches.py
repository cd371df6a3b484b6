# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""How a rollout cuts its hosts into batches, and when failures stop it. Pure: numbers in, numbers out."""

from __future__ import annotations

import re
from typing import List, Sequence, Union

BatchItem = Union[int, str]
_PERCENT = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*%\s*$")
_NUMBER = re.compile(r"^\s*(\d+)\s*$")


class BatchError(ValueError):
    """A batch list that cannot be used; the text says what was found and what is needed."""


def batch_size(item: BatchItem, total: int) -> int:
    """Number of hosts that one entry of the batch list stands for: at least one."""
    if isinstance(item, bool):
        raise BatchError(_complaint(item))
    if isinstance(item, int):
        if item < 1:
            raise BatchError(_complaint(item))
        return item
    text = str(item)
    number = _NUMBER.match(text)
    if number:
        return batch_size(int(number.group(1)), total)
    percent = _PERCENT.match(text)
    if not percent or not 0 < float(percent.group(1)) <= 100:
        raise BatchError(_complaint(item))
    return max(1, int(float(percent.group(1)) * total / 100))


def batch_sizes(batches: Union[BatchItem, Sequence[BatchItem]], total: int) -> List[int]:
    """The sizes of all batches of `total` hosts; the last entry repeats until every host has its place.

    `-e rollout_batches=1,10%,25%` gives a text, and JSON may give a single number.
    """
    if isinstance(batches, (int, str)):
        batches = [part for part in str(batches).split(",") if part.strip()]
    if not batches:
        raise BatchError("rollout_batches is empty; give at least one entry, for example [1, '10%', '25%']")
    wanted = [batch_size(item, total) for item in batches]
    sizes: List[int] = []
    left = total
    while left > 0:
        size = min(left, wanted[min(len(sizes), len(wanted) - 1)])
        sizes.append(size)
        left -= size
    return sizes


def remaining_sizes(batches: Union[BatchItem, Sequence[BatchItem]], total: int, done: int) -> List[int]:
    """The sizes that are left when `done` of `total` hosts are finished: a resumed rollout goes on where it was."""
    left: List[int] = []
    for size in batch_sizes(batches, total):
        if done >= size:
            done -= size
            continue
        left.append(size - done)
        done = 0
    return left


def first_number(batches: Union[BatchItem, Sequence[BatchItem]], total: int, done: int) -> int:
    """The number (from 1) of the batch that the next host belongs to."""
    return len(batch_sizes(batches, total)) - len(remaining_sizes(batches, total, done)) + 1


def over_budget(failed: int, size: int, max_fail_percentage: float) -> bool:
    """True when more hosts of a batch failed than the percentage allows."""
    return failed > 0 and failed * 100 > max_fail_percentage * size


def _complaint(item: object) -> str:
    return (
        f"rollout_batches holds {item!r}; each entry is a number of hosts of at least 1 or a percentage of all hosts"
        " between 0 and 100, for example [1, '10%', '25%']"
    )
