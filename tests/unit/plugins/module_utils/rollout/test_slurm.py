from __future__ import annotations

import pytest

from ansible_collections.verl.baremetal.plugins.module_utils.rollout import slurm

LINE = (
    "NodeName=n1 Arch=x86_64 CoresPerSocket=1 CPUAlloc={used} CPUTot=2 CPULoad=0.42 AvailableFeatures=(null)"
    " ActiveFeatures=(null) Gres=(null) NodeAddr=127.0.0.1 NodeHostName=n1 Version=22.05.8 OS=Linux 6.1.0 #1 SMP"
    " RealMemory=1 AllocMem=0 FreeMem=9 Sockets=2 Boards=1 State={state} ThreadsPerCore=1 TmpDisk=0 Weight=1"
    " Owner=N/A MCS_label=N/A Partitions=all BootTime=2026-11-25T10:00:00 SlurmdStartTime=2026-11-25T10:00:01"
    " CfgTRES=cpu=2,mem=1M,billing=2 AllocTRES= CapWatts=n/a CurrentWatts=0 AveWatts=0{reason}"
)


def node(state, reason="", used=0):
    text = f" Reason={reason} [root@2026-11-25T10:10:00]" if reason else ""
    return slurm.parse_node(LINE.format(state=state, reason=text, used=used))


@pytest.mark.parametrize(
    ("state", "reason", "used", "draining", "ours", "busy"),
    [
        ("IDLE", "", 0, False, False, False),
        ("MIXED", "", 1, False, False, True),
        ("ALLOCATED", "", 2, False, False, True),
        ("MIXED+DRAIN", "verl.baremetal rollout", 1, True, True, True),
        ("IDLE+DRAIN", "verl.baremetal rollout", 0, True, True, False),
        ("IDLE+DRAIN", "bad DIMM, see State=odd ticket", 0, True, False, False),
        ("IDLE+DRAIN", "not verl.baremetal", 0, True, False, False),
        ("COMPLETING+DRAIN", "verl.baremetal", 0, True, True, True),
        ("DOWN*+DRAIN", "Not responding", 0, True, False, False),
        ("IDLE*", "", 0, False, False, False),
    ],
)
def test_node(state, reason, used, draining, ours, busy):
    found = node(state, reason, used)
    assert (found.draining, found.ours, found.busy) == (draining, ours, busy)
    assert found.reason == reason


@pytest.mark.parametrize("text", ["", "slurm_load_node error: Unable to contact slurm controller", "Node n9 not found"])
def test_what_is_no_node_is_refused(text):
    with pytest.raises(ValueError, match="did not describe a node"):
        slurm.parse_node(text)


def test_a_reason_on_lines_of_its_own():
    found = slurm.parse_node("NodeName=n1 CPUAlloc=0 State=IDLE+DRAIN\n   Reason=verl.baremetal two words [root@2026-11-25T10:10:00]\n")
    assert found.reason == "verl.baremetal two words"


@pytest.mark.parametrize(
    ("state", "reason", "drain", "resume"),
    [
        ("IDLE", "", "drain", "keep"),
        ("ALLOCATED", "", "drain", "keep"),
        ("IDLE+DRAIN", "verl.baremetal rollout", "keep", "resume"),
        ("IDLE+DRAIN", "bad DIMM", "foreign", "foreign"),
        ("DOWN", "verl.baremetal rollout", "drain", "resume"),
        ("DOWN", "Node unexpectedly rebooted", "drain", "foreign"),
    ],
)
def test_steps(state, reason, drain, resume):
    found = node(state, reason)
    assert (slurm.drain_step(found), slurm.resume_step(found)) == (drain, resume)


def test_jobs():
    jobs = slurm.parse_jobs("12|ann|1:02|train\n13|bob|10|odd|name\n\nbroken\n")
    assert [job["id"] for job in jobs] == ["12", "13"]
    assert jobs[1]["name"] == "odd|name"
    assert slurm.describe_jobs(jobs) == "12 (ann, 1:02), 13 (bob, 10)"
    assert slurm.describe_jobs(jobs * 4, limit=1).endswith("and 7 more")
