"""What Slurm itself says, while and after the role drain has worked."""

from __future__ import annotations


def test_slurm(host):
    name = host.backend.get_hostname()
    if name == "vb-slurm-n1":
        # The job wrote this file in its last step: it was there when the drain was over.
        assert host.file("/tmp/seen-after-drain").content_string.strip() == "/tmp/job-has-ended"
    if name != "vb-slurm-ctl":
        assert host.process.filter(comm="slurmd")
        return

    drained = host.file("/evidence/vb-slurm-n1.drained").content_string
    assert "State=IDLE+DRAIN " in drained
    assert "Reason=verl.baremetal rollout [root@" in drained
    assert host.file("/evidence/vb-slurm-n1.jobs").content_string == ""

    # Given back, twice: and the job that outlasted the drain runs on.
    node = host.check_output("scontrol --oneliner show node vb-slurm-n1")
    assert "DRAIN" not in node
    assert "Reason=" not in node
    assert host.check_output("squeue --noheader --states RUNNING --nodelist vb-slurm-n1 --format %T") == "RUNNING"
    words = host.file("/evidence/timeout").content_string
    assert "node vb-slurm-n1 still runs" in words
    assert "(root, 0:" in words
    assert "raise drain_timeout" in words

    # The administrator's drain was there before and is there after.
    for text in (
        host.file("/evidence/vb-slurm-n2.drained").content_string,
        host.check_output("scontrol --oneliner show node vb-slurm-n2"),
    ):
        assert "State=IDLE+DRAIN " in text
        assert "Reason=bad DIMM, see ticket 7 [root@" in text
