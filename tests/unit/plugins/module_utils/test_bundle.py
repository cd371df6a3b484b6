# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Bundles: what bundle.json says, what is damaged, what a host needs; made from and pulled from real web servers."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections import namedtuple

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils import bundle, bundle_collect, bundle_pull
from ansible_collections.verl.baremetal.plugins.module_utils.progress import Progress
from ansible_collections.verl.baremetal.plugins.module_utils.wheels import source

STACK = {"name": "s", "digest": "d" * 64}
SERVES = {"pythons": ["3.11"], "torch_variants": [], "cuda_sources": [], "systems": [], "controller_pythons": []}


@pytest.fixture
def tmp_path(tmp_path):
    """A folder without neighbours: bundles beside each other share their files."""
    own = tmp_path / "own"
    own.mkdir()
    return own


def sha(data):
    return hashlib.sha256(data).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """An index and a file server: content by path; ranges; what was asked for is noted."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        content = self.server.content.get(self.path)
        self.server.asked.append((self.path, self.headers.get("Range", "")))
        if content is None:
            self.send_error(404)
            return
        start = int(self.headers["Range"][6:-1]) if self.headers.get("Range") else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        limit = self.server.cut.pop(self.path, None)
        self.wfile.write(content[start : len(content) if limit is None else limit])
        if limit is not None:
            self.close_connection = True


@pytest.fixture
def web():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.asked, server.cut = {}, [], {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.url = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()
    server.server_close()


FILES = {
    "a": [("a-1-cp311-cp311-manylinux2014_x86_64.whl", b"a" * 300000), ("a-1-cp312-cp312-manylinux2014_x86_64.whl", b"A" * 1000)],
    "b": [("b-2.tar.gz", b"b" * 2000)],
    "c": [("c-3-py3-none-any.whl", b"c" * 500)],
}


@pytest.fixture
def index(web):
    for name, files in FILES.items():
        links = []
        for filename, data in files:
            web.content[f"/files/{filename}"] = data
            links.append(f'<a href="../../files/{filename}#sha256={sha(data)}">{filename}</a>')
        web.content[f"/simple/{name}/"] = "".join(links).encode()
    return web


def wanted(python="3.11", names="abc", url=""):
    return [
        bundle_collect.Wanted(n, "1", tuple("sha256:" + sha(data) for _f, data in FILES[n]), python, f"{n}/{python}", (url,))
        for n in names
    ]


def collect(folder, index, what=None, serves=SERVES, **more):
    content = bundle_collect.Content(wanted() if what is None else what, **more)
    return bundle_collect.collect(
        str(folder), STACK, serves, content, bundle_collect.Places(index.url + "/simple", jobs=2), {}, Progress(None)
    )


def test_a_bundle_is_made_of_what_serves_and_a_second_one_is_the_same(index, tmp_path):
    made, counts = collect(tmp_path / "one", index)
    assert sorted(f.path for f in made.files) == ["README.md", "wheels/a-1-cp311-cp311-manylinux2014_x86_64.whl", "wheels/b-2.tar.gz", "wheels/c-3-py3-none-any.whl"]
    assert counts.fetched == 3 and bundle.read(str(tmp_path / "one")) == made
    index.asked.clear()
    again, counts = collect(tmp_path / "two", index)
    assert again.digest == made.digest and counts.fetched == 0 and counts.shared == 3
    assert os.path.samefile(tmp_path / "one/wheels/b-2.tar.gz", tmp_path / "two/wheels/b-2.tar.gz")
    assert not [path for path, _range in index.asked if path.startswith("/files/")]
    assert "| wheels/ | 3 |" in (tmp_path / "one/README.md").read_text()


def test_a_complete_bundle_is_found_without_a_question_and_an_incomplete_one_is_not(index, tmp_path):
    made, _counts = collect(tmp_path, index)
    request = bundle_collect.requests_of(bundle_collect.Content(wanted()), SERVES, STACK)
    assert bundle_collect.complete(str(tmp_path), request) == made
    assert bundle_collect.complete(str(tmp_path), dict(request, packages="others")) is None
    # With other files of this machine the packages are not asked for again.
    extra = tmp_path.parent / "extra"
    extra.write_text("x")
    index.asked.clear()
    more, counts = collect(tmp_path, index, added=[bundle_collect.Added("images/x", str(extra), ("images/any",))])
    assert index.asked == [] and counts.fetched == 0 and len(more.files) == len(made.files) + 1
    (tmp_path / "wheels/b-2.tar.gz").unlink()
    assert bundle_collect.complete(str(tmp_path), request) is None
    again, counts = collect(tmp_path, index)
    assert again == made and counts.fetched == 1


def test_what_is_not_wanted_any_more_goes(index, tmp_path):
    collect(tmp_path, index)
    made, counts = collect(tmp_path, index, wanted(names="ac"))
    assert counts.removed == 1 and counts.fetched == 0 and not (tmp_path / "wheels/b-2.tar.gz").exists()
    assert bundle.superfluous(str(tmp_path), made.files) == []


def test_a_damaged_file_is_named_and_fetched_again(index, tmp_path):
    made, _counts = collect(tmp_path, index)
    (tmp_path / "wheels/c-3-py3-none-any.whl").write_bytes(b"x" * 500)
    (tmp_path / "wheels/b-2.tar.gz").unlink()
    (tmp_path / "wheels/more").write_text("")
    problems = bundle.verify(str(tmp_path), made.files) + bundle.superfluous(str(tmp_path), made.files)
    assert [(p.path, p.kind) for p in problems] == [
        ("wheels/b-2.tar.gz", "missing"),
        ("wheels/c-3-py3-none-any.whl", "damaged"),
        ("wheels/more", "superfluous"),
    ]
    words = bundle.describe(problems, "/b")
    assert "wheels/c-3-py3-none-any.whl is damaged: its sha256 is " + sha(b"x" * 500) in words and "Remove what is damaged and run playbooks/bundle.yml again" in words
    again, counts = collect(tmp_path, index)
    assert again == made and counts.fetched == 2 and counts.removed == 1 and bundle.verify(str(tmp_path), made.files) == []


def test_an_interrupted_download_goes_on_where_it_was(index, tmp_path):
    name = "a-1-cp311-cp311-manylinux2014_x86_64.whl"
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / (name + ".part")).write_bytes(FILES["a"][0][1][:200000])
    made, counts = collect(tmp_path, index, wanted(names="a"))
    assert (f"/files/{name}", "bytes=200000-") in index.asked and counts.fetched_bytes == 100000
    assert bundle.verify(str(tmp_path), made.files) == []


def test_a_killed_run_leaves_no_index_and_the_next_one_finishes(index, tmp_path):
    code = (
        "import sys; sys.path.insert(0, %r); import test_bundle as t; "
        "t.collect(sys.argv[1], type('I', (), {'url': sys.argv[2]}))" % os.path.dirname(__file__)
    )
    env = dict(os.environ, VERL_BAREMETAL_FAILPOINT="bundle.fetch", PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path), index.url], env=env, capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr
    assert not (tmp_path / bundle.INDEX).exists()
    made, counts = collect(tmp_path, index)
    assert counts.fetched < 3 and bundle.verify(str(tmp_path), made.files) == []


def test_what_cannot_be_had_is_named(index, tmp_path):
    gone = wanted(names="a", python="3.9") + [bundle_collect.Wanted("nothing", "4", ("sha256:" + "0" * 64,), "3.11", "x/3.11", ("",))]
    with pytest.raises(bundle.BundleError, match=r"2 of 2 packages cannot be had: a 1 for Python 3.9: no file.*nothing 4 .*answers 404"):
        collect(tmp_path, index, gone)
    with pytest.raises(bundle.BundleError, match="no package index is configured"):
        bundle_collect.collect(str(tmp_path), STACK, SERVES, bundle_collect.Content(wanted()), bundle_collect.Places(None), {}, Progress(None))


def test_a_further_index_is_asked_for_what_the_first_does_not_have(index, tmp_path):
    other = bundle_collect.Wanted("c", "3", ("sha256:" + sha(FILES["c"][0][1]),), "3.11", "c/3.11", (index.url + "/empty", ""))
    made, _counts = collect(tmp_path, index, [other])
    assert [f.path for f in made.files] == ["README.md", "wheels/c-3-py3-none-any.whl"]


def test_a_full_disk_is_told_before_it_is_filled(index, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(1, 1, bundle_collect.RESERVE + 100))
    bundle_collect.check_room(str(tmp_path), 100)
    with pytest.raises(bundle.BundleError, match="the disk is full: .* are needed"):
        bundle_collect.check_room(str(tmp_path), 101)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.update(schema=2), "schema 2, this collection reads schema 1"),
        (lambda data: data.pop("files"), "no bundle.json"),
        (lambda data: data["files"][0].update(sha256="0" * 64), "was changed"),
        (lambda data: data["files"][0].update(path="../../etc/passwd"), "leads out"),
        (lambda data: data["files"][0].update(path="/etc/passwd"), "leads out"),
    ],
)
def test_a_broken_index_is_refused_in_words(change, words):
    data = json.loads(bundle.dump(bundle.Bundle(STACK, SERVES, (bundle.File("wheels/a", 1, "1" * 64, ("a/3.11",)),))))
    change(data)
    with pytest.raises(bundle.BundleError, match=words):
        bundle.parse(json.dumps(data), "there")


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '"schema"'])
def test_what_is_no_index_is_refused(text):
    with pytest.raises(bundle.BundleError, match="no bundle.json"):
        bundle.parse(text, "there")


def test_a_host_needs_the_parts_of_its_plan():
    files = [
        bundle.File("1", 1, "1" * 64, ("torch.cu128/3.11", "torch.pypi/3.11")),
        bundle.File("2", 1, "2" * 64, ("torch.cu128/3.12",)),
        bundle.File("3", 1, "3" * 64, ("sources/any",)),
        bundle.File("4", 1, "4" * 64, ("controller/3.11",)),
    ]
    assert [f.path for f in bundle.needed(files, ["torch.pypi/3.11", "sources/3.11"])] == ["1", "3"]
    lines = ["one==1 --hash=sha256:" + "1" * 64 + " --hash=sha256:" + "9" * 64, "two==2 --hash=sha256:" + "2" * 64]
    assert bundle.lacks(files[:1], lines) == ["two 2"]


@pytest.fixture
def served(index, tmp_path):
    made, _counts = collect(tmp_path / "bundle", index)
    for item in [*made.files, bundle.File(bundle.INDEX, 0, "", ())]:
        index.content["/bundle/" + item.path] = (tmp_path / "bundle" / item.path).read_bytes()
    index.asked.clear()
    return made


def pull(index, tmp_path, made, uses=("a/3.11",)):
    place = bundle_pull.Place(index.url + "/bundle")
    return bundle_pull.pull(place, str(tmp_path / "root"), made, list(uses), 2, Progress(None))


def test_a_host_pulls_what_it_needs_once(index, served, tmp_path):
    place = bundle_pull.Place(index.url + "/bundle/")
    assert bundle_pull.read(place) == served
    assert bundle_pull.pending(place, str(tmp_path / "root"), served, ["a/3.11"])
    assert pull(index, tmp_path, served) == (1, 300000)
    own = tmp_path / "root" / "bundle" / served.digest[:12]
    assert sorted(p.name for p in own.rglob("*") if p.is_file()) == [".pulled", "a-1-cp311-cp311-manylinux2014_x86_64.whl"]
    assert not bundle_pull.pending(place, str(tmp_path / "root"), served, ["a/3.11"])
    assert bundle_pull.pending(place, str(tmp_path / "root"), served, ["a/3.11", "c/3.11"])
    assert pull(index, tmp_path, served, ["a/3.11", "c/3.11"]) == (1, 500)


def test_a_pull_that_was_cut_goes_on(index, served, tmp_path):
    index.cut["/bundle/wheels/a-1-cp311-cp311-manylinux2014_x86_64.whl"] = 100000
    files, _bytes = pull(index, tmp_path, served)
    assert files == 1
    assert [r for p, r in index.asked if p.endswith("cp311-manylinux2014_x86_64.whl")] == ["", "bytes=100000-"]


def test_a_file_that_arrives_damaged_is_refused_and_named(index, served, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    index.content["/bundle/wheels/c-3-py3-none-any.whl"] = b"x" * 500
    with pytest.raises(bundle.BundleError, match=r"c-3-py3-none-any.whl cannot be fetched .* its sha256 is"):
        pull(index, tmp_path, served, ["c/3.11"])


def test_an_older_pulled_bundle_gives_its_files_and_goes(index, served, tmp_path):
    old = tmp_path / "root" / "bundle" / ("0" * 12) / "wheels"
    old.mkdir(parents=True)
    (old.parent / ".pulled").touch()
    (old / "a-1-cp311-cp311-manylinux2014_x86_64.whl").write_bytes(FILES["a"][0][1])
    assert pull(index, tmp_path, served) == (0, 0)
    assert [p.name for p in (tmp_path / "root" / "bundle").iterdir()] == [served.digest[:12]]


def test_a_folder_is_used_as_it_is_after_its_hashes_were_compared(index, served, tmp_path):
    place = bundle_pull.Place("file://" + str(tmp_path / "bundle"))
    root = str(tmp_path / "root")
    assert bundle_pull.folder_of(place, root, served.digest) == str(tmp_path / "bundle")
    assert bundle_pull.pull(place, root, served, ["c/3.11"], 2, Progress(None)) == (0, 0)
    assert not bundle_pull.pending(place, root, served, ["c/3.11"])
    (tmp_path / "bundle/wheels/a-1-cp311-cp311-manylinux2014_x86_64.whl").write_bytes(b"x" * 300000)
    with pytest.raises(bundle.BundleError, match=r"a-1-cp311-cp311-manylinux2014_x86_64.whl is damaged"):
        bundle_pull.pull(place, root, served, ["a/3.11"], 2, Progress(None))


@pytest.mark.parametrize("where", ["bundle", "bundle/verl", "bundle/" + "0" * 12, "bundle/" + "0" * 12 + "/inner"])
def test_a_bundle_below_the_root_is_left_whole(index, served, tmp_path, where):
    root = tmp_path / "root"
    foreign = ["mine/notes", "1" * 12 + "/unstamped"]
    for path in [*foreign, "2" * 12 + "/.pulled", "0" * 12 + "/.pulled"]:
        (root / "bundle" / path).parent.mkdir(parents=True)
        (root / "bundle" / path).touch()
    folder = root / where
    shutil.copytree(tmp_path / "bundle", folder, dirs_exist_ok=True)
    bundle_pull.pull(bundle_pull.Place(str(folder)), str(root), served, ["c/3.11"], 2, Progress(None))
    assert bundle.verify(str(folder), served.files) == []
    assert all((root / "bundle" / path).exists() for path in foreign)
    # What lies beside the bundle and was pulled is cleared, what lies inside it is not.
    assert (root / "bundle" / ("2" * 12)).exists() is (where == "bundle")


def test_a_pull_that_was_killed_is_cleared_later(index, served, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    path = "/bundle/wheels/c-3-py3-none-any.whl"
    whole, index.content[path] = index.content[path], b"x" * 500
    with pytest.raises(bundle.BundleError):
        pull(index, tmp_path, served, ["c/3.11"])
    index.content[path] = whole
    assert pull(index, tmp_path, served._replace(files=served.files[:-1]), ["a/3.11"])[0] == 1
    assert not (tmp_path / "root" / "bundle" / served.digest[:12]).exists()


@pytest.mark.parametrize("where", ["/nowhere/at/all", "http://127.0.0.1:9/none"])
def test_no_bundle_is_told_in_words(where, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    with pytest.raises(bundle.BundleError, match="there is no bundle at " + where):
        bundle_pull.read(bundle_pull.Place(where))


@pytest.mark.parametrize("where", ["http://me:s3cret@127.0.0.1:9/none", "http://me:s3cret@127.0.0.1/none"])
def test_a_password_in_the_bundles_address_is_not_told(where, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    place = bundle_pull.Place(where)
    with pytest.raises(bundle.BundleError, match=r"there is no bundle at http://\*\*\*@127") as told:
        bundle_pull.read(place)
    assert "s3cret" not in str(told.value)


def test_compiled_wheels_go_to_the_hosts_cache(tmp_path):
    (tmp_path / "b/built").mkdir(parents=True)
    (tmp_path / "b/built/x.whl").write_bytes(b"x")
    item = bundle.file_of(str(tmp_path / "b"), "built/x.whl", ["built/any"])
    give = functools.partial(bundle_pull.give_built, str(tmp_path / "b"), [item], str(tmp_path / "cache"))
    assert (give(), give()) == (1, 0) and (tmp_path / "cache/x.whl").read_bytes() == b"x"


def test_a_damaged_compiled_wheel_is_named_and_not_given(tmp_path):
    (tmp_path / "b/built").mkdir(parents=True)
    (tmp_path / "b/built/x.whl").write_bytes(b"x")
    item = bundle.file_of(str(tmp_path / "b"), "built/x.whl", ["built/any"])
    (tmp_path / "b/built/x.whl").write_bytes(b"y")
    with pytest.raises(bundle.BundleError, match="built/x.whl is damaged: its sha256 is"):
        bundle_pull.give_built(str(tmp_path / "b"), [item], str(tmp_path / "cache"))
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_wheel_that_lies_in_no_index_is_held_by_its_hash(index, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    index.content["/up/flash_attn-2%2Bcu12-cp311.whl"] = b"f" * 100
    direct = bundle_collect.Direct("flash_attn-2-cp311.whl", index.url + "/up/flash_attn-2%2Bcu12-cp311.whl", sha(b"f" * 100), "prebuilt/any")
    made, counts = collect(tmp_path, index, direct=[direct])
    assert [f.uses for f in made.files if f.path == "wheels/flash_attn-2-cp311.whl"] == [("prebuilt/any",)] and counts.fetched == 4
    assert collect(tmp_path, index, direct=[direct]) == (made, counts._replace(fetched=0, fetched_bytes=0))
    with pytest.raises(bundle_collect.index.PackageIndexError, match="its sha256 is .* is needed"):
        collect(tmp_path, index, direct=[direct._replace(sha256="0" * 64)])


def test_a_source_in_git_is_held_at_its_commit_and_built_from_without_a_network(index, tmp_path):
    repository = tmp_path / "repository"
    repository.mkdir()

    def git(*words, where=repository):
        command = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *words]
        return subprocess.run(command, cwd=where, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q", "-b", "main")
    for text in ("first", "second", "third"):
        (repository / "setup.py").write_text(text * 1000)
        git("add", ".")
        git("commit", "-qm", text)
    commit, place = git("rev-parse", "HEAD~1"), "sources/apex-%s.bundle"
    wanted_source = bundle_collect.Source("apex", str(repository), commit, True)
    made, _counts = collect(tmp_path / "one", index, sources=[wanted_source])
    assert bundle.head(made)["sources"] == {"apex": place % commit}
    # Whoever hands it out, and however much besides: the same bytes.
    git("bundle", "create", "-q", str(tmp_path / "whole.bundle"), "--all")
    again, _counts = collect(tmp_path / "two", index, sources=[wanted_source._replace(url=str(tmp_path / "whole.bundle"))])
    assert again.digest == made.digest
    shutil.rmtree(repository)
    assert collect(tmp_path / "one", index, sources=[wanted_source])[0] == made
    offline = source.Client(offline=True)
    source.fetch_git(str(tmp_path / "one" / (place % commit)), commit, str(tmp_path / "tree"), offline)
    assert (tmp_path / "tree/setup.py").read_text() == "second" * 1000
    assert git("rev-list", "--count", "HEAD", where=tmp_path / "tree") == "1"
    with pytest.raises(source.SourceError, match="neither here nor in the bundle"):
        source.fetch_git("https://example.invalid/apex", commit, str(tmp_path / "other"), offline)


def test_a_source_that_cannot_be_had_is_a_warning_and_tried_again_or_an_error(index, tmp_path):
    gone = bundle_collect.Source("apex", str(tmp_path / "nowhere"), "1" * 40, False)
    made, counts = collect(tmp_path / "b", index, sources=[gone])
    assert "could not be fetched" in counts.warnings[0] and "the next run tries again" in counts.warnings[0]
    assert not [f for f in made.files if f.path.startswith("sources/")] and bundle.superfluous(str(tmp_path / "b"), made.files) == []
    request = bundle_collect.requests_of(bundle_collect.Content(wanted(), sources=[gone]), SERVES, STACK)
    assert bundle_collect.complete(str(tmp_path / "b"), request) is None
    index.asked.clear()
    assert collect(tmp_path / "b", index, sources=[gone])[0] == made and index.asked == []
    with pytest.raises(bundle.BundleError, match="the source of apex cannot be had"):
        collect(tmp_path / "b", index, sources=[gone._replace(required=True)])


def test_the_head_tells_which_wheels_are_compiled():
    files = (bundle.File("built/flash_attn-2.8.0-0kabc-cp311-cp311-linux_x86_64.whl", 1, "1" * 64, ("built/3.11",)),)
    assert bundle.head(bundle.Bundle(STACK, SERVES, files))["built"] == ["flash-attn/3.11"]
