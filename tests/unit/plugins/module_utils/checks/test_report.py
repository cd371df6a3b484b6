# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The report: table, counts, message, fingerprint, and what is refused before a check."""

from __future__ import annotations

import json
from typing import Any

import pytest
from factories import ReleaseTree

from ansible_collections.verl.baremetal.plugins.module_utils.checks import evaluate, model, rules, table

CHECKS = [
    model.Check("torch", "Torch", model.OK, "2.7.1+cu128", "2.7.1+cu128", "/venv"),
    model.Check(
        "apex", "Apex", model.MISMATCH, "0.1 d8200a1bec8d", "0.1 " + "0" * 60, "/venv/" + "x" * 100, "build it again"
    ),
    model.Check("driver", "NVIDIA driver", model.SKIPPED, ">= 570.26", "no NVIDIA GPU on the PCI bus", "/sys/bus/pci"),
    model.Check(
        "pair",
        "TransformerEngine and FlashAttention together",
        model.WARNING,
        "not both",
        "both",
        "verl issue 4038",
        "nothing to do " * 20,
    ),
]


def test_the_table_fits_80_columns_and_loses_nothing() -> None:
    text = table.render(model.as_dicts(CHECKS))
    lines = text.splitlines()
    assert max(len(line) for line in lines) <= 80
    assert text.replace("\n", "").replace(" ", "").count("0" * 10)
    for status in ("ok", "mismatch", "skipped", "warning"):
        assert any(line.startswith(status + " ") for line in lines)
    assert "4 checks: 1 ok, 1 mismatch, 1 skipped, 1 warning" in lines
    assert "mismatch: Apex: build it again" in text
    assert "no NVIDIA GPU on" in text


def test_the_table_of_nothing() -> None:
    assert "0 checks" in table.render([])


def test_counts_and_verdict() -> None:
    assert model.summary(CHECKS) == {
        "ok": 1,
        "mismatch": 1,
        "missing": 0,
        "skipped": 1,
        "denied": 0,
        "conflict": 0,
        "warning": 1,
    }
    assert not model.passed(CHECKS)
    assert model.passed([check for check in CHECKS if check.status != model.MISMATCH])


def test_the_message_names_found_needed_and_what_to_do() -> None:
    words = model.message(CHECKS)
    assert "1 of 4 checks failed" in words
    assert "Apex: mismatch: found 0.1" in words and "needed 0.1 d8200a1bec8d" in words and "build it again" in words
    assert "Torch" not in words
    assert model.message(CHECKS[:1]) == "all 1 checks passed"


def test_the_fingerprint_tells_versions_apart_and_not_places_or_moments() -> None:
    first = model.fingerprint(CHECKS, {"torch": "2.7.1"})
    elsewhere = [check._replace(source="/other", remedy="") for check in reversed(CHECKS)]
    moment = model.Check("pending_reboot", "reboot", model.WARNING, "not needed", "asked for")
    assert model.fingerprint([*elsewhere, moment], {"torch": "2.7.1"}) == first
    assert model.fingerprint(CHECKS, {"torch": "2.7.2"}) != first
    assert model.fingerprint([CHECKS[0]._replace(found="2.7.2"), *CHECKS[1:]], {"torch": "2.7.1"}) != first


@pytest.mark.parametrize(
    "content, words",
    [
        (None, "does not exist"),
        ("", "is not JSON"),
        ('{"schema": 1', "is not JSON"),
        ("[]", "schema list"),
        ("null", "schema NoneType"),
        ('{"schema": 2}', "schema 2"),
        ('{"schema": 1}', "no definition"),
        ('{"schema": 1, "definition": []}', "no definition"),
        ("\0\1", "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused_in_words(
    release_tree: ReleaseTree, content: Any, words: str
) -> None:
    if content is not None:
        (release_tree.release / "manifest.json").write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )
    with pytest.raises(evaluate.Unusable, match=words):
        evaluate.subject_of_release(str(release_tree.release))
    subject = evaluate.subject_of_folder(str(release_tree.release))
    assert subject.prefix == str(release_tree.venv) and subject.definition == {}


def test_the_parts_of_a_release(release_tree: ReleaseTree) -> None:
    release_tree.dist("torch", "2.7.1")
    release_tree.manifest({"components": []}, variants={"torch": "pypi"}, skipped={"apex": "no compiler"})
    subject = evaluate.subject_of_release(str(release_tree.release))
    assert (subject.cuda_home, subject.variants, subject.skipped) == (None, {"torch": "pypi"}, {"apex": "no compiler"})
    assert subject.locked["torch"]["version"] == "2.7.1"
    (release_tree.release / "cuda").mkdir()
    assert evaluate.subject_of_release(str(release_tree.release)).cuda_home == str(release_tree.release / "cuda")
    assert evaluate.subject_of_release(str(release_tree.release), "/given").cuda_home == "/given"


def test_a_release_without_cuda_on_purpose(release_tree: ReleaseTree) -> None:
    release_tree.manifest({"components": []}, cuda={"source": "none"})
    assert evaluate.subject_of_release(str(release_tree.release)).skipped == {"cuda": "cuda_source is none"}
    assert evaluate.subject_of_release(str(release_tree.release), "/given").skipped == {}


def test_integrity(release_tree: ReleaseTree) -> None:
    release_tree.dist("torch", "2.7.1", files={"torch/lib.py": "x = 1\n"})
    release_tree.manifest({"components": []})
    context = evaluate.gather(evaluate.subject_of_release(str(release_tree.release)), str(release_tree.root))
    assert evaluate.integrity(context, "off") == []
    assert [check.status for check in evaluate.integrity(context, "files")] == [model.OK]
    (release_tree.site / "torch/lib.py").write_text("x = 2\n")
    assert [check.status for check in evaluate.integrity(context, "files")] == [model.OK], "the size is the same"
    (check,) = evaluate.integrity(context, "hashes")
    assert check.status == model.MISMATCH and "torch: hash torch/lib.py" in check.found
    (release_tree.site / "torch/lib.py").unlink()
    (check,) = evaluate.integrity(context, "files")
    assert check.status == model.MISMATCH and "torch: missing torch/lib.py" in check.found


def test_integrity_of_the_cuda_home(release_tree: ReleaseTree) -> None:
    release_tree.manifest({"components": []})
    release_tree.dist("torch", "2.7.1")
    context = evaluate.gather(evaluate.subject_of_release(str(release_tree.release)), str(release_tree.root))
    home = release_tree.release / "cuda"
    assert [check.status for check in evaluate.integrity(context, "files", str(home))] == [model.OK], "none is there"
    (home / ".wheels").mkdir(parents=True)
    (check,) = evaluate.integrity(context, "files", str(home))
    assert check.status == model.MISMATCH and "lacks files or links of its wheels" in check.found


def test_integrity_without_an_environment(release_tree: ReleaseTree) -> None:
    context = evaluate.gather(evaluate.Subject({}, None, None, {}, {}, {}), str(release_tree.root))
    assert [check.status for check in evaluate.integrity(context, "files")] == [model.SKIPPED]


@pytest.mark.parametrize("count, words", [(0, ""), (2, "0, 1"), (3, "0, 1, 2"), (5, "0, 1, 2 and 2 more")])
def test_names(count: int, words: str) -> None:
    assert rules.names([str(number) for number in range(count)]) == words


def test_the_report_of_a_host_is_small(release_tree: ReleaseTree) -> None:
    release_tree.dist("torch", "2.7.1")
    release_tree.manifest({"components": [{"name": "torch", "kind": "python", "version": "2.7.1", "layer": "torch"}]})
    found = evaluate.checks(
        evaluate.gather(evaluate.subject_of_release(str(release_tree.release)), str(release_tree.root))
    )
    assert len(json.dumps(model.as_dicts(found))) < 20_000
