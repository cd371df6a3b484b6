# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils.nvidia import apt
from ansible_collections.verl.baremetal.plugins.module_utils.nvidia.repository import Repository, Source, fetcher
from ansible_collections.verl.baremetal.plugins.module_utils.nvidia.transaction import Ran, Refused

FIXTURES = Path(__file__).resolve().parents[3] / "fixtures" / "nvidia"
KEY = (FIXTURES / "fixture_key.asc").read_bytes()
OTHER = (FIXTURES / "fixture_key_ed25519.asc").read_bytes()
FINGERPRINT = "F2B6CFC6943D50DA5B22E5674453D3D070E04D76"
FINE = Ran(0, "", "")
WANTED = Repository("verl-nvidia", "http://mirror/x/", "http://mirror/x/key.pub", [FINGERPRINT])


def source(root, repository=WANTED, key=KEY, answer=FINE, check=False):
    (root / "var/lib/apt/lists").mkdir(parents=True, exist_ok=True)
    calls = []

    def runner(argv):
        calls.append(list(argv))
        return answer

    made = Source(repository, fetch=lambda url: key, runner=runner, root=str(root), check=check)
    return made, calls


def files(root):
    return sorted(str(path.relative_to(root)) for path in (root / "etc").rglob("*") if path.is_file())


def test_first_time_and_second_time(tmp_path):
    first, calls = source(tmp_path)
    assert first.ensure()
    assert first.fingerprint == FINGERPRINT
    assert files(tmp_path) == [
        "etc/apt/keyrings/verl-nvidia.asc",
        "etc/apt/preferences.d/verl-nvidia",
        "etc/apt/sources.list.d/verl-nvidia.sources",
    ]
    assert calls[0][:3] == ["apt-get", "-q", "update"]
    (tmp_path / "var/lib/apt/lists/mirror_x_Packages").write_text("")
    second, calls = source(tmp_path, key=b"never fetched again")
    assert not second.ensure()
    assert calls == []


def test_wrong_key_writes_nothing(tmp_path):
    made, calls = source(tmp_path, key=OTHER)
    with pytest.raises(Refused, match="Nothing was written"):
        made.ensure()
    assert not (tmp_path / "etc").exists()
    assert calls == []


def test_unreadable_repository_leaves_apt_as_it_was(tmp_path):
    made, _calls = source(tmp_path, answer=Ran(100, "", "E: The repository is not signed.\n"))
    old = tmp_path / "etc/apt/sources.list.d/cuda.list"
    old.parent.mkdir(parents=True)
    old.write_text("deb http://mirror/x/ /\n")
    with pytest.raises(Refused, match="not signed"):
        made.ensure()
    assert files(tmp_path) == ["etc/apt/sources.list.d/cuda.list"]


def test_check_mode_neither_fetches_nor_writes(tmp_path):
    def never(url):
        raise AssertionError(url)

    made = Source(WANTED, fetch=never, runner=never, root=str(tmp_path), check=True)
    assert made.ensure()
    assert not (tmp_path / "etc").exists()


def test_other_lists_and_retired_keys_go(tmp_path):
    base = tmp_path / "etc/apt"
    (base / "sources.list.d").mkdir(parents=True)
    (base / "trusted.gpg.d").mkdir()
    (base / "sources.list.d/cuda.list").write_text("deb https://old.example/cuda/repos/x /\n")
    (base / "sources.list.d/kept.list").write_text("deb https://else.example/ x main\n")
    (base / "trusted.gpg.d/retired.asc").write_bytes(OTHER)
    (base / "trusted.gpg.d/kept.asc").write_bytes(KEY)
    made, _calls = source(
        tmp_path, WANTED._replace(replaces=["old.example/cuda/repos"], retired_keys=["c50da3879a9ec335"])
    )
    assert made.ensure()
    assert not (base / "sources.list.d/cuda.list").exists()
    assert not (base / "trusted.gpg.d/retired.asc").exists()
    assert (base / "sources.list.d/kept.list").exists()
    assert (base / "trusted.gpg.d/kept.asc").exists()


def test_proxy_and_authority_are_for_this_host_only(tmp_path):
    made, _calls = source(tmp_path, WANTED._replace(proxy="http://proxy:3128", ca_file="/etc/ssl/company.pem"))
    made.ensure()
    text = (tmp_path / "etc/apt/apt.conf.d/50verl-nvidia").read_text()
    assert 'Acquire::https::Proxy::mirror "http://proxy:3128";' in text
    assert 'Acquire::https::mirror::CAInfo "/etc/ssl/company.pem";' in text


def lists(root, name, release, packages):
    """apt's list of a repository, as if it had been read."""
    folder = root / "var/lib/apt/lists"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}_Release").write_text(f"Origin: x\nLabel: x\n{release}Date: Thu, 01 Jan 2026 00:00:00 UTC\n")
    suffix = "_main_binary-amd64_Packages" if "dists" in name else "_Packages"
    (folder / f"{name}{suffix}").write_text("\n".join(
        f"Package: {package}\nVersion: {version}\nArchitecture: amd64\nFilename: x.deb\nSize: 1\nSHA256: {'0' * 64}\n"
        for package, version in packages.items()
    ))


@pytest.mark.skipif(not shutil.which("apt-cache"), reason="there is no apt")
def test_the_real_apt_prefers_nvidias_names_only(tmp_path):
    made, _calls = source(tmp_path)
    made.ensure()
    (tmp_path / "etc/apt/sources.list").write_text("deb http://mirror/debian backports main\ndeb http://other/debian stable main\n")
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status").write_text("")
    # cuda-nvcc-12-8 stands for what Debian has newer than NVIDIA.
    lists(tmp_path, "mirror_x", "", {"cuda-nvcc-12-8": "1", "libcublas-12-8": "1"})
    lists(tmp_path, "other_debian_dists_stable", "Suite: stable\n", {"curl": "1", "libcurl4": "1", "cuda-nvcc-12-8": "2"})
    held_back = "Suite: backports\nNotAutomatic: yes\nButAutomaticUpgrades: yes\n"
    lists(tmp_path, "mirror_debian_dists_backports", held_back, {"curl": "2", "libcurl4": "2"})
    names = ["cuda-nvcc-12-8", "libcublas-12-8", "curl", "libcurl4"]
    options = ["-o", f"Dir={tmp_path}", "-o", f"Dir::State::status={tmp_path}/var/lib/dpkg/status", "-o", "APT::Architecture=amd64"]
    said = subprocess.run(["apt-cache", *options, "policy", *names], capture_output=True, text=True, check=True).stdout
    policy = apt.parse_policy(said)
    assert {name: policy[name].candidate for name in policy} == dict.fromkeys(names, "1")


def test_a_password_is_not_told(tmp_path):
    url = "http://me:s3cret@mirror/x/"
    wanted = WANTED._replace(url=url, key_url=url + "key.pub")
    made, _calls = source(tmp_path, wanted, answer=Ran(100, "", f"E: Failed to fetch {url}InRelease\n"))
    with pytest.raises(Refused, match="mirror/x/ cannot be read with the key") as told:
        made.ensure()
    assert "s3cret" not in str(told.value)
    made, _calls = source(tmp_path, wanted, key=OTHER)
    for work in (made.ensure, lambda: fetcher(wanted)(wanted.key_url)):
        with pytest.raises(Refused, match="mirror/x/key.pub") as told:
            work()
        assert "s3cret" not in str(told.value)


def test_absent(tmp_path):
    made, _calls = source(tmp_path)
    made.ensure()
    gone, _calls = source(tmp_path)
    assert gone.absent()
    assert files(tmp_path) == []
