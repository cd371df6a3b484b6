# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils.wheels import jobs

GIB = jobs.GIB


def tree(root, files):
    """A fixture of /proc and /sys as a kernel shows them."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


MEMINFO = "MemTotal:       65536000 kB\nMemFree:         1000000 kB\nMemAvailable:   33554432 kB\n"


def test_without_groups_the_machine_counts(tmp_path):
    root = tree(tmp_path, {"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/\n"})
    assert jobs.available_memory(root) == (32 * GIB, "free memory of the machine")


def test_the_limit_of_a_v2_group_counts_without_its_page_cache(tmp_path):
    root = tree(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/build.slice/job\n",
            "sys/fs/cgroup/build.slice/job/memory.max": "max\n",
            "sys/fs/cgroup/build.slice/memory.max": str(8 * GIB),
            "sys/fs/cgroup/build.slice/memory.current": str(5 * GIB),
            "sys/fs/cgroup/build.slice/memory.stat": f"anon 1\ninactive_file {2 * GIB}\n",
        },
    )
    assert jobs.available_memory(root) == (5 * GIB, "the control group's limit")


def test_the_limit_of_a_v1_group_counts(tmp_path):
    root = tree(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "5:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n",
            # in a container the group's own folder is the top of the mount
            "sys/fs/cgroup/memory/memory.limit_in_bytes": str(4 * GIB),
            "sys/fs/cgroup/memory/memory.usage_in_bytes": str(GIB),
            "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 0\n",
        },
    )
    assert jobs.available_memory(root)[0] == 3 * GIB


def test_a_v1_group_without_limit_does_not_count(tmp_path):
    root = tree(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "5:memory:/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
    )
    assert jobs.available_memory(root)[0] == 32 * GIB


@pytest.mark.parametrize(
    "files",
    [
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/cpu.max": "100000 100000\n"},
        {
            "proc/self/cgroup": "3:cpu,cpuacct:/\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
    ],
    ids=["v2", "v1"],
)
def test_a_quota_limits_the_cores(tmp_path, files):
    assert jobs.usable_cores(tree(tmp_path, files)) == 1


def test_without_quota_the_affinity_counts(tmp_path):
    root = tree(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/cpu.max": "max 100000\n"})
    assert jobs.usable_cores(root) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("cores", "gb", "per_job", "reserve", "limit", "number"),
    [
        (64, 512, 6, 2, 0, 64),
        (64, 62, 6, 2, 0, 10),
        (64, 62, 6, 2, 4, 4),
        (64, 62, 6, 2, 100, 10),
        (2, 24, 6, 2, 0, 2),
        (16, 8, 6, 2, 0, 1),
        (16, 8, 0, 2, 0, 16),
    ],
)
def test_jobs_come_from_cores_and_memory_together(cores, gb, per_job, reserve, limit, number):
    assert jobs.choose(cores, gb * GIB, "free memory", per_job, reserve, limit).number == number


def test_below_one_job_it_refuses_in_words():
    with pytest.raises(jobs.NotEnoughMemory) as refused:
        jobs.choose(16, 7 * GIB, "the control group's limit", 6, 2)
    text = str(refused.value)
    for word in ("6 GB", "2 GB stay in reserve", "7.0 GB are available (the control group's limit)", "playbooks/wheels.yml"):
        assert word in text


def test_kills_are_counted_where_the_kernel_tells_them(tmp_path):
    root = tree(
        tmp_path,
        {
            "proc/vmstat": "nr_free_pages 1\noom_kill 3\n",
            "proc/self/cgroup": "0::/a\n",
            "sys/fs/cgroup/a/memory.max": "1000",
            "sys/fs/cgroup/a/memory.events": "low 0\noom 1\noom_kill 2\n",
        },
    )
    assert jobs.kills(root) == 5


@pytest.mark.parametrize(
    ("output", "killed"),
    [
        ("Killed\nninja: build stopped: subcommand failed.", True),
        ("nvcc error   : 'cicc' died due to signal 9 (Kill signal)", True),
        ("c++: fatal error: Killed signal terminated program cc1plus", True),
        ("ninja: job failed with exit code 137", True),
        ("virtual memory exhausted: Cannot allocate memory", True),
        ("kernel.cu(3): error: identifier \"foo\" is undefined", False),
        ("FAILED: [code=1] kernel.o\nninja: build stopped: subcommand failed.", False),
        ("terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc", True),
        ("FAILED: a.o\nx.cpp:1: error: no match\nnote: candidate: std::bad_alloc(const char*)\n[2/3] c++ b.cpp\nninja: build stopped", False),
        ("[1/3] c++ a.cpp\na.cpp:1: warning: Killed\nFAILED: b.o\nb.cpp:1: error: no", False),
        ("[1/3] c++ a.cpp\nFAILED: b.o\nc++ -c b.cpp\nKilled\n[2/3] c++ c.cpp", True),
        ("x.cpp:3: error: 'cannot allocate memory' is no type", False),
        ("nvcc error   : 'cicc' died due to signal 11 (Invalid memory reference)", False),
    ],
)
def test_a_death_for_want_of_memory_is_told_from_an_error(output, killed):
    assert jobs.looks_killed(output) is killed
