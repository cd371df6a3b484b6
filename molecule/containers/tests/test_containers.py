# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The containers offer what scenarios rely on."""

from __future__ import annotations


def test_python_can_make_a_virtual_environment(host):
    python = host.run("python3 -c 'import ensurepip, venv, sys; print(sys.version_info[:2])'")
    assert python.rc == 0, python.stderr
    assert python.stdout.strip() == "(3, 11)"


def test_the_package_cache_is_shared_and_writable(host):
    probe = host.run("touch /var/cache/verl-baremetal/uv/.probe && rm /var/cache/verl-baremetal/uv/.probe")
    assert probe.rc == 0, probe.stderr
    assert host.mount_point("/var/cache/verl-baremetal/uv").exists


def test_certificates_are_there(host):
    assert host.file("/etc/ssl/certs/ca-certificates.crt").size > 1000


def test_systemd_runs_services_where_it_was_asked_for(host):
    if host.backend.get_hostname() == "vb-containers-plain":
        assert host.file("/proc/1/comm").content_string.strip() != "systemd"
        return
    started = host.run("systemctl start ssh && systemctl is-active ssh")
    assert started.stdout.strip() == "active", started.stderr


def test_nothing_is_left_of_the_image_maker(host):
    assert not host.file("/finish.sh").exists
    assert host.file("/etc/machine-id").size in (0, 33)
