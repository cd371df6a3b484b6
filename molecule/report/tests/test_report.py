"""What a browser makes of the pages: opened, filtered by the address, looked at."""

from __future__ import annotations

import html
import re

import pytest

BROWSER = "chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars --window-size=1400,1200"


@pytest.fixture(scope="module")
def dom(host):
    pages = {}

    def get(page: str) -> str:
        if page not in pages:
            done = host.run(f"timeout 120 {BROWSER} --dump-dom 'file:///pages/{page}' 2>/dev/null")
            assert done.rc == 0, done.stderr
            pages[page] = done.stdout
        return pages[page]

    return get


def count_of(text: str) -> str:
    return re.search(r'id="count">([^<]*)<', text).group(1)


def rows_of(text: str) -> list[tuple[str, str]]:
    return re.findall(r'<div class="row" data-host="([^"]+)".*?<span class="tag (\w+)"', text)


@pytest.mark.parametrize(
    ("page", "count"),
    [
        ("rollout-3.html", "3 hosts"),
        ("rollout-1000.html", "1000 hosts"),
        ("verify-41.html", "41 hosts"),
        ("rollout-1000.html#status=failed", "11 of 1000 hosts"),
        ("rollout-1000.html#status=unreachable", "5 of 1000 hosts"),
        ("rollout-1000.html#q=node012", "10 of 1000 hosts"),
        ("rollout-1000.html#component=4", "11 of 1000 hosts"),
        ("rollout-1000.html#status=failed&q=node0005", "1 of 1000 hosts"),
        ("rollout-1000.html#q=nothing-is-called-this", "0 of 1000 hosts"),
    ],
)
def test_the_page_shows_the_hosts_that_the_filter_wants(dom, page, count):
    text = dom(page)
    assert count_of(text) == count
    # The script ran to its end; the time is for the reader of the log.
    milliseconds = re.search(r'<html[^>]* data-ready="(\d+)"', text).group(1)
    print(f"{page}: {milliseconds} ms to a complete page")
    wanted = re.search(r"status=(\w+)", page)
    rows = rows_of(text)
    assert len(rows) == min(int(count.split()[0]), len(rows))
    assert (len(rows) > 0) is not count.startswith("0 ")
    if wanted:
        assert {status for _name, status in rows} == {wanted.group(1)}


def test_a_thousand_hosts_are_not_all_drawn_at_once(dom):
    assert len(rows_of(dom("rollout-1000.html"))) < 100


def test_the_timeline_has_every_batch(dom):
    text = dom("rollout-1000.html")
    assert re.findall(r"<div>Batch (\d+) ", text) == ["1", "2", "3", "4", "5", "6"]
    assert "more than 5 % (rollout_max_fail_percentage)" in text


def test_a_host_opens_with_what_was_found_and_expected(dom):
    text = dom("rollout-1000.html#host=node0005")
    detail = text[text.index("<dialog") :]
    assert " open" in detail[: detail.index(">")]
    for words in ("2.7.0+cu126", "2.7.1+cu128", "never pip install into a release", "kept out of service"):
        assert words in detail


def test_hostile_words_stay_words(dom):
    for page in ("rollout-3.html", "verify-41.html"):
        text = dom(page)
        assert "<title>owned</title>" not in text
        assert "<img" not in text.split('type="application/json"')[0]
        assert html.escape("</script><script>document.title='owned'</script>", quote=False) in text


def test_a_screenshot_is_not_empty(host):
    for page in ("rollout-3", "rollout-1000"):
        host.check_output(f"timeout 120 {BROWSER} --screenshot=/pages/{page}.png file:///pages/{page}.html")
        assert host.file(f"/pages/{page}.png").size > 40_000
