from __future__ import annotations

import json

from ansible_collections.verl.baremetal.plugins.module_utils.report import model
from ansible_collections.verl.baremetal.plugins.plugin_utils.report import page

OK = {"name": "torch", "expected": "2.7.1", "found": "2.7.1", "status": "ok"}
OLD = {"name": "torch", "expected": "2.7.1", "found": "2.6.0", "status": "mismatch", "remedy": "run the site"}
SKIPPED = {"name": "apex", "expected": "0.1", "found": None, "status": "skipped"}
HOSTILE = "</script><script>alert(1)</script><!-- & \u2028 '\""


def data_of(text):
    return json.loads(text.split('type="application/json">')[1].split("</script>")[0])


def test_verify_says_what_differs_once():
    report = model.verify({"a": {"checks": [OK, SKIPPED]}, "b": {"checks": [OLD]}, "c": {"msg": "broken"}}, 5.0, "Verify")
    assert report["counts"] == {"done": 1, "failed": 2, "unreachable": 0, "interrupted": 0, "waiting": 0}
    assert report["components"] == [{"name": "torch", "expected": "2.7.1"}, {"name": "apex", "expected": "0.1"}]
    assert [host["cells"] for host in report["hosts"]] == [
        [0, ["skipped", ""]],
        [["mismatch", "2.6.0", "2.7.1", "run the site"], None],
        [None, None],
    ]
    assert report["hosts"][1]["reason"] == "torch: 2.6.0 instead of 2.7.1"
    assert model.verify_lines(report)[-1] == "Verify: 3 hosts: 1 done, 2 failed"


def test_a_rollout_has_its_batches_in_order():
    run = {"title": "T", "started": 1, "batches": {"10": {"number": 10, "hosts": ["x"]}, "9": {"number": 9, "hosts": ["y", "z"]}}}
    hosts = {"x": {"done": True, "rollout": {"phase": "done", "batch": 10, "times": {"draining": 3, "done": 8}}, "checks": [OK]}}
    report = model.rollout(run, hosts, 9.0)
    assert [(batch["number"], batch["hosts"]) for batch in report["batches"]] == [(9, 2), (10, 1)]
    assert (report["hosts"][0]["started"], report["hosts"][0]["ended"]) == (3, 8)


def test_the_page_holds_hostile_words_as_data_only():
    report = model.verify({"a": {"checks": [dict(OLD, found=HOSTILE)]}}, 5.0, HOSTILE)
    text = page.render(report)
    assert text.count("</script>") == 2
    assert "alert(1)</script>" not in text
    assert data_of(text)["hosts"][0]["cells"][0][1] == HOSTILE


def test_the_page_needs_nothing_beside_itself():
    text = page.render(model.verify({"a": {"checks": [OK]}}, 5.0, "Verify"))
    for word in ("http://", "https://", "src=", "href=", "@import", "url("):
        assert word not in text


def test_a_thousand_hosts_stay_small():
    checks = [{"name": f"component {number}", "expected": "1.2.3", "found": "1.2.3", "status": "ok"} for number in range(40)]
    report = model.verify({f"node{number}": {"checks": checks} for number in range(1000)}, 5.0, "Verify")
    assert len(page.render(report)) < 400_000
