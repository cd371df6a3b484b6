"""One story in order: each test goes on where the one before ended, as a cluster's life does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, os.path.dirname(__file__))

from cluster import BOOTS, BROKEN, HOSTS, ROOT, Cluster, docker, on, tasks_of

H1, H2, H3, H4, H5, H6, H7, H8 = HOSTS
AT_ONCE = ["-e", '{"rollout_batches": ["100%"]}']


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    key = os.path.join(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], "key")
    made = Cluster(tmp_path_factory.mktemp("cluster"), key)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def releases(cluster):
    """Two releases: one rolled out to a host, one prepared there, for real; then copied to the others as if prepared there."""
    names = {}
    cluster.play("rollout.yml", "first", "--limit", H1)
    names["first"] = cluster.live(H1)
    cluster.play("site.yml", "second", "--limit", H1, "-e", '{"release_activate": false}')
    (names["second"],) = set(on(H1, "ls /opt/verl/releases").split()) - {names["first"]}
    archive = str(cluster.folder / "releases.tar")
    on(H1, "tar -C /opt/verl -cf /var/tmp/releases.tar releases")
    docker("cp", f"{H1}:/var/tmp/releases.tar", archive)
    for host in [*HOSTS[1:], BOOTS]:
        docker("cp", archive, f"{host}:/var/tmp/releases.tar")
        on(host, "mkdir -p /opt/verl && tar -C /opt/verl -xf /var/tmp/releases.tar")
    return names


def test_two_hosts_are_down_and_are_caught_up_later(cluster, releases):
    docker("kill", H7, H8)
    text = cluster.play("rollout.yml", "first", "--limit", "nodes", *AT_ONCE, expect={4})
    assert "1 done before, 5 to do, 2 unreachable" in text
    assert all(cluster.live(host) == releases["first"] for host in HOSTS[:6])
    assert {name for name, status in cluster.status().items() if status == "unreachable"} == {H7, H8}

    docker("start", H7, H8)
    before = {host: cluster.state(host) for host in HOSTS[:6]}
    text = cluster.play("rollout.yml", "first", "--limit", "nodes", *AT_ONCE)
    assert "6 done before, 2 to do" in text
    assert all(cluster.live(host) == releases["first"] for host in HOSTS)
    assert {host: cluster.state(host) for host in HOSTS[:6]} == before
    # A host that is done costs its claim; what one host does for all of them is counted at the first.
    assert all(tasks_of(text, host) <= 2 for host in HOSTS[1:6])
    assert set(cluster.status().values()) == {"done"}
    assert not any(cluster.out_of_service(host) for host in HOSTS)


def test_a_second_rollout_refuses_and_a_killed_controller_leaves_a_resumable_cluster(cluster, releases):
    docker("exec", "-d", H1, f"/opt/verl/releases/{releases['first']}/venv/bin/python", "-c",
           f"import time; held = open('/opt/verl/releases/{releases['first']}/manifest.json'); time.sleep(100000)")
    process = cluster.start("rollout.yml", "second", "--limit", "nodes")
    cluster.wait_for(H2, "draining", "changing", process=process)
    # Canary first: the second batch began, the canary is done, and nobody else has been touched.
    assert cluster.state(H1)["phase"] == "done"
    assert all(cluster.state(host)["phase"] == "prepared" for host in HOSTS[2:])
    text = cluster.play("rollout.yml", "second", "--limit", "nodes", expect={2})
    assert "another rollout is running" in " ".join(text.split())
    elsewhere = cluster.folder / "elsewhere"
    text = cluster.play("rollout.yml", "second", "--limit", f"{H7},{H8}", expect={2}, journal=elsewhere)
    assert "2 hosts cannot be claimed" in " ".join(text.split())

    cluster.wait_for(H3, "draining", "changing", process=process)
    cluster.kill(process)
    assert cluster.live(H1) == cluster.live(H2) == releases["second"]
    assert cluster.live(H5) == releases["first"]


def test_a_bad_host_goes_back_alone_and_a_killed_host_is_told(cluster, releases):
    on(H6, f"touch {BROKEN}")
    before = {host: cluster.state(host) for host in (H1, H2)}
    process = cluster.start("rollout.yml", "second", "--limit", "nodes", "-e", "rollout_max_fail_percentage=50")
    cluster.wait_for(H8, "draining", process=process)
    docker("kill", H8)
    assert process.wait(timeout=1500) != 0
    text = cluster.text()
    print(text)
    assert "was interrupted; this one goes on with it" in text
    assert {host: cluster.state(host) for host in (H1, H2)} == before
    for host in (H3, H4, H5, H7):
        assert (cluster.live(host), cluster.out_of_service(host)) == (releases["second"], False), host
    # The host whose gate failed: on its old release, out of service, and told with the reason.
    assert cluster.live(H6) == releases["first"]
    assert cluster.out_of_service(H6)
    state = cluster.state(H6)
    assert state["phase"] == "failed"
    assert state["failure"]["rolled_back"] == releases["first"]
    assert state["failure"]["in_service"] is False
    assert state["failure"]["reason"] == f"test ! -e {BROKEN} ended with 1"
    assert f"Run the user's own checks: test ! -e {BROKEN} ended with 1 (back on {releases['first']}, kept out of service)" in text
    status = cluster.status()
    assert status[H6] == "failed"
    # Which of the two depends on the step that the kill has hit.
    assert status[H8] in ("interrupted", "unreachable")
    assert {name for name, value in status.items() if value == "done"} == set(HOSTS) - {H6, H8}
    batches = {host: cluster.state(host)["batch"] for host in (H1, H2, H3, H4, H5, H6, H7)}
    assert list(batches.values()) == [1, 2, 3, 3, 4, 4, 5]

    # A process that ran from the old release still runs, and its files are there.
    assert on(H1, "pgrep -fc 'import time; held'") != "0"
    assert on(H1, f"ls /opt/verl/releases/{releases['first']}/manifest.json")

    on(H6, f"rm {BROKEN}")
    docker("start", H8)
    cluster.play("rollout.yml", "second", "--limit", "nodes")
    assert all(cluster.live(host) == releases["second"] for host in HOSTS)
    assert not any(cluster.out_of_service(host) for host in HOSTS)


def test_the_whole_cluster_goes_back_once(cluster, releases):
    batches = ["-e", '{"rollout_batches": ["50%"]}']
    cluster.play("rollback.yml", "second", "--limit", "nodes", *batches)
    assert all(cluster.live(host) == releases["first"] for host in HOSTS)
    assert {cluster.state(host)["batch"] for host in HOSTS} == {1, 2}
    text = cluster.play("rollback.yml", "second", "--limit", "nodes", *batches)
    assert "8 done before, 0 to do" in text
    assert all(cluster.live(host) == releases["first"] for host in HOSTS)


def test_a_failed_canary_stops_the_rollout(cluster, releases):
    on(H1, f"touch {BROKEN}")
    before = {host: on(host, "ls --full-time -d /opt/verl/current") for host in HOSTS[1:]}
    text = cluster.play("rollout.yml", "second", "--limit", "nodes", expect={2})
    assert "1 of 1 hosts of batch 1 failed" in text
    assert cluster.live(H1) == releases["first"]
    assert cluster.out_of_service(H1)
    assert {host: on(host, "ls --full-time -d /opt/verl/current") for host in HOSTS[1:]} == before
    assert not any(cluster.out_of_service(host) for host in HOSTS[1:])
    # The others are prepared, and free for anybody's next rollout.
    assert {(cluster.state(host)["phase"], cluster.state(host)["claim"]) for host in HOSTS[1:]} == {("prepared", None)}
    page = (cluster.journal / "rollout" / "report.html").read_text()
    assert "1 of 1 hosts of batch 1 failed" in page
    assert Path(cluster.journal / "rollout" / "report.json").stat().st_size < 100_000
    assert json.loads((cluster.journal / "rollout" / "report.json").read_text())["counts"]["waiting"] == 7


def test_a_host_reboots_on_the_way(cluster, releases):
    began = on(BOOTS, "cut -d' ' -f22 /proc/1/stat")
    options = {
        "rollout_reboot": "always",
        # A container has no login manager to hear a shutdown, and its host's boot id.
        "rollout_reboot_command": "systemctl reboot",
        "rollout_boot_time_command": "cut -d' ' -f22 /proc/1/stat",
    }
    cluster.play("rollout.yml", "first", "--limit", BOOTS, "-e", json.dumps(options))
    assert on(BOOTS, "cut -d' ' -f22 /proc/1/stat") != began
    assert cluster.live(BOOTS) == releases["first"]
    assert cluster.state(BOOTS)["phase"] == "done"
    assert not cluster.out_of_service(BOOTS)


def test_a_host_converges_itself(tmp_path):
    """ansible-pull: a repository with one line of playbook, and this machine as its own controller."""
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "converge.yml").write_text("---\n- name: Converge\n  ansible.builtin.import_playbook: verl.baremetal.site\n")
    git = ["git", "-C", str(repository), "-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "One line"], check=True)
    wanted = {
        "stack_name": "small",
        "stack_path": [str(ROOT / "tests" / "stacks")],
        "stack_root": str(tmp_path / "verl"),
        "release_profile": False,
        "ansible_python_interpreter": sys.executable,
    }
    pull = ["ansible-pull", "--url", str(repository), "--directory", str(tmp_path / "checkout"), "--inventory", "localhost,"]
    pull += ["--connection", "local", "--extra-vars", json.dumps(wanted), "converge.yml"]
    environment = dict(os.environ, ANSIBLE_CONFIG=str(ROOT / "ansible.cfg"), ANSIBLE_COLLECTIONS_PATH=str(ROOT / ".tree"))
    done = subprocess.run(pull, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:]
    python = tmp_path / "verl" / "current" / "venv" / "bin" / "python"
    assert subprocess.run([str(python), "-c", "import six, toolz, zipp"]).returncode == 0
