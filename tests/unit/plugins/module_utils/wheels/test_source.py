# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import os
import subprocess
import tarfile
import zipfile

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils import index
from ansible_collections.verl.baremetal.plugins.module_utils.wheels import source

CLIENT = source.Client(uv="/nonexistent/uv")


def sdist(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.mtime = 1_700_000_000
            if isinstance(content, tuple):
                info.type, info.linkname = content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return str(path)


GOOD = {"demo-1.0/setup.py": b"print()", "demo-1.0/csrc/a.cpp": b"int a;", "demo-1.0/link": (tarfile.SYMTYPE, "csrc/a.cpp")}


def test_an_sdist_is_unpacked_without_its_top_folder_and_with_its_times(tmp_path):
    archive = sdist(tmp_path / "demo-1.0.tar.gz", GOOD)
    assert source.unpack(archive, str(tmp_path / "out")) == 3
    assert (tmp_path / "out/csrc/a.cpp").read_bytes() == b"int a;"
    assert (tmp_path / "out/csrc/a.cpp").stat().st_mtime == 1_700_000_000
    assert os.readlink(tmp_path / "out/link") == "csrc/a.cpp"


def test_only_what_is_missing_comes_back(tmp_path):
    archive = sdist(tmp_path / "demo-1.0.tar.gz", GOOD)
    source.unpack(archive, str(tmp_path / "out"))
    (tmp_path / "out/csrc/a.cpp").write_bytes(b"int changed;")
    (tmp_path / "out/setup.py").unlink()
    assert source.unpack(archive, str(tmp_path / "out")) == 1
    assert (tmp_path / "out/csrc/a.cpp").read_bytes() == b"int changed;"
    assert (tmp_path / "out/setup.py").exists()


@pytest.mark.parametrize(
    "members",
    [
        {"demo-1.0/../../evil": b""},
        {"/etc/evil": b""},
        {"demo-1.0/link": (tarfile.SYMTYPE, "/etc/passwd")},
        {"demo-1.0/link": (tarfile.SYMTYPE, "../../evil")},
        {"demo-1.0/link": (tarfile.LNKTYPE, "demo-1.0/none")},
        {"demo-1.0/pipe": (tarfile.FIFOTYPE, "")},
    ],
    ids=["upwards", "absolute", "link to elsewhere", "link upwards", "hard link to nothing", "pipe"],
)
def test_an_archive_that_leads_out_of_its_folder_is_refused(tmp_path, members):
    archive = sdist(tmp_path / "demo-1.0.tar.gz", members)
    with pytest.raises(source.SourceError, match="refused"):
        source.unpack(archive, str(tmp_path / "out"))
    assert not (tmp_path / "evil").exists()


def test_a_zip_is_unpacked_too(tmp_path):
    with zipfile.ZipFile(tmp_path / "demo-1.0.zip", "w") as opened:
        opened.writestr("demo-1.0/setup.py", "print()")
    assert source.unpack(str(tmp_path / "demo-1.0.zip"), str(tmp_path / "out")) == 1
    assert (tmp_path / "out/setup.py").exists()


def test_an_sdist_is_found_in_a_folder_and_checked(tmp_path):
    (tmp_path / "links").mkdir()
    archive = sdist(tmp_path / "links/flash_attn-2.8.0.post2.tar.gz", GOOD)
    client = CLIENT._replace(find_links=[str(tmp_path / "links")])
    wanted = ["sha256:" + source.sha256_of(archive)]
    got = source.fetch_sdist("flash-attn", "2.8.0.post2", wanted, "", str(tmp_path / "got"), client)
    assert got == str(tmp_path / "got/flash_attn-2.8.0.post2.tar.gz")
    os.unlink(archive)  # from now on nothing is fetched
    assert source.fetch_sdist("flash-attn", "2.8.0.post2", wanted, "", str(tmp_path / "got"), client) == got


def test_a_file_with_another_hash_is_thrown_away(tmp_path):
    archive = sdist(tmp_path / "demo-1.0.tar.gz", GOOD)
    with pytest.raises(source.SourceError, match="not the file of the lock"):
        source.fetch_sdist("demo", "1.0", ["0" * 64], archive, str(tmp_path / "got"), CLIENT)
    assert os.listdir(tmp_path / "got") == []


def test_without_a_hash_nothing_is_fetched(tmp_path):
    with pytest.raises(source.SourceError, match="No sha256"):
        source.fetch_sdist("demo", "1.0", [], "", str(tmp_path / "got"), CLIENT)


def test_a_missing_uv_is_told_in_words(tmp_path):
    with pytest.raises(source.SourceError, match="/nonexistent/uv could not be asked"):
        source.fetch_sdist("demo", "1.0", ["0" * 64], "", str(tmp_path / "got"), CLIENT)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            '[[packages]]\nname = "demo"\nsdist = { url = "https://index.example/demo-1.0.tar.gz", upload-time = 2025-06-15T01:39:32Z, '
            'size = 7, hashes = { sha256 = "' + "ab" * 32 + '" } }\n',
            ("https://index.example/demo-1.0.tar.gz", "ab" * 32),
        ),
        ('sdist = { path = "links/demo-1.0.tar.gz", hashes = { sha256 = "' + "cd" * 32 + '" } }\n', ("links/demo-1.0.tar.gz", "cd" * 32)),
        ('wheels = [{ url = "https://index.example/demo-1.0-py3-none-any.whl" }]\n', None),
        ("", None),
    ],
    ids=["index", "folder", "wheels alone", "nothing"],
)
def test_the_address_is_read_from_uvs_lock(text, found):
    assert source.parse_pylock(text) == found


@pytest.mark.parametrize(
    ("url", "asked", "header"),
    [
        ("https://user:p%40ss@host.example/a", "", "Basic dXNlcjpwQHNz"),
        ("https://host.example/a", "https://user:p%40ss@host.example/simple", "Basic dXNlcjpwQHNz"),
        ("https://other.example/a", "https://user:p%40ss@host.example/simple", None),
    ],
)
def test_passwords_go_to_the_servers_they_are_for(url, asked, header):
    request = index.request(url, asked)
    assert request.get_header("Authorization") == header
    assert "@" not in request.full_url
    assert "p%40ss" not in index.without_password(url)


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repository"
    folder.mkdir()

    def git(*arguments):
        environment = dict(os.environ, GIT_CONFIG_GLOBAL="/dev/null", GIT_CONFIG_SYSTEM="/dev/null")
        done = subprocess.run(
            ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *arguments], cwd=folder, env=environment, capture_output=True, check=True
        )
        return done.stdout.decode().strip()

    git("init", "-q", "-b", "main")
    (folder / "version").write_text("first")
    git("add", ".")
    git("commit", "-qm", "first")
    first = git("rev-parse", "HEAD")
    (folder / "version").write_text("second")
    git("commit", "-qam", "second")
    return str(folder), first, git("rev-parse", "HEAD")


def test_a_commit_is_fetched_by_its_id_and_kept(tmp_path, repository):
    url, first, second = repository
    target = tmp_path / "source"
    source.fetch_git(url, first, str(target), CLIENT)
    assert (target / "version").read_text() == "first"
    source.fetch_git(url, second, str(target), CLIENT)
    assert (target / "version").read_text() == "second"
    (target / "version").unlink()
    source.fetch_git("/nonexistent", second, str(target), CLIENT)
    assert (target / "version").read_text() == "second", "what a build removed comes back without any network"


@pytest.mark.parametrize("left", ["index.lock", "shallow.lock", "refs/heads/main.lock", "HEAD"])
def test_what_a_killed_git_left_is_no_obstacle(tmp_path, repository, left):
    url, first, _second = repository
    target = tmp_path / "source"
    source.fetch_git(url, first, str(target), CLIENT)
    (target / "version").unlink()
    (target / ".git" / left).parent.mkdir(parents=True, exist_ok=True)
    (target / ".git" / left).write_text("")  # of HEAD: init was killed before it wrote it
    source.fetch_git(url, first, str(target), CLIENT)
    assert (target / "version").read_text() == "first"


@pytest.mark.parametrize("commit", ["main", "v1.0", "d8200a1", ""])
def test_a_branch_or_tag_or_short_id_is_refused(tmp_path, commit):
    with pytest.raises(source.SourceError, match="never a branch"):
        source.fetch_git("/nonexistent", commit, str(tmp_path / "source"), CLIENT)


def test_a_commit_that_is_not_there_is_told(tmp_path, repository):
    with pytest.raises(source.SourceError, match="could not be fetched"):
        source.fetch_git(repository[0], "0" * 40, str(tmp_path / "source"), CLIENT)


def test_the_source_is_a_part_of_the_key():
    assert source.identity("sdist", ["sha256:BB", "aa"], "") == {"kind": "sdist", "sha256": "aa bb"}
    assert source.identity("git", [], "d8200a1") == {"kind": "git", "commit": "d8200a1"}
