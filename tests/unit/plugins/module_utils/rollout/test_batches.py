from __future__ import annotations

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils.rollout import batches

DEFAULT = [1, "10%", "25%"]


@pytest.mark.parametrize(
    ("items", "total", "sizes"),
    [
        (DEFAULT, 0, []),
        (DEFAULT, 1, [1]),
        (DEFAULT, 2, [1, 1]),
        (DEFAULT, 3, [1, 1, 1]),
        (DEFAULT, 8, [1, 1, 2, 2, 2]),
        (DEFAULT, 100, [1, 10, 25, 25, 25, 14]),
        (DEFAULT, 1000, [1, 100, 250, 250, 250, 149]),
        ([5], 12, [5, 5, 2]),
        (["100%"], 7, [7]),
        (["3", "50 %"], 8, [3, 4, 1]),
        (["33.4%"], 9, [3, 3, 3]),
        ("25", 60, [25, 25, 10]),
        (25, 60, [25, 25, 10]),
        ("1, 10%,25%", 100, [1, 10, 25, 25, 25, 14]),
    ],
)
def test_sizes(items, total, sizes):
    assert batches.batch_sizes(items, total) == sizes


@pytest.mark.parametrize("item", [0, -1, "0%", "101%", "many", "", None, True, 1.5, [1]])
def test_a_wrong_entry_is_refused_in_words(item):
    with pytest.raises(batches.BatchError, match="rollout_batches holds"):
        batches.batch_sizes([item], 10)


def test_an_empty_list_is_refused():
    for nothing in ([], "", " , "):
        with pytest.raises(batches.BatchError, match="empty"):
            batches.batch_sizes(nothing, 10)


@pytest.mark.parametrize("word", ["many", "1,many", True])
def test_a_wrong_word_is_refused_in_words(word):
    with pytest.raises(batches.BatchError, match="rollout_batches holds"):
        batches.batch_sizes(word, 10)


@pytest.mark.parametrize(
    ("done", "sizes", "number"),
    [(0, [1, 1, 2, 2, 2], 1), (1, [1, 2, 2, 2], 2), (3, [1, 2, 2], 3), (4, [2, 2], 4), (8, [], 6)],
)
def test_a_resumed_rollout_goes_on_in_its_batch(done, sizes, number):
    assert batches.remaining_sizes(DEFAULT, 8, done) == sizes
    assert batches.first_number(DEFAULT, 8, done) == number


@pytest.mark.parametrize("total", [1, 7, 8, 99, 1000])
@pytest.mark.parametrize("done", [0, 1, 5])
def test_no_host_is_lost(total, done):
    assert sum(batches.remaining_sizes(DEFAULT, total, min(done, total))) == total - min(done, total)


@pytest.mark.parametrize(
    ("failed", "size", "percent", "over"),
    [
        (0, 1, 0, False),
        (1, 1, 10, True),
        (1, 1, 100, False),
        (1, 10, 10, False),
        (2, 10, 10, True),
        (1, 2, 50, False),
        (1, 250, 0, True),
        (0, 0, 10, False),
    ],
)
def test_budget(failed, size, percent, over):
    assert batches.over_budget(failed, size, percent) is over
