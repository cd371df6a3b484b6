"""Makes reports of invented hosts (a fixture: no such cluster exists) and their pages: sample.py FOLDER."""

from __future__ import annotations

import os
import sys

from ansible_collections.verl.baremetal.plugins.module_utils.report import model
from ansible_collections.verl.baremetal.plugins.plugin_utils.report import page

EPOCH = 1764000000.0
HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> & 'quoted'"
COMPONENTS = {
    "driver": "570.172.08",
    "cuda": "12.8.1",
    "cudnn": "9.8.0.87",
    "nccl": "2.26.2",
    "torch": "2.7.1+cu128",
    "torchvision": "0.22.1",
    "flash_attn": "2.8.0.post2",
    "flashinfer": "0.2.6.post1",
    "sglang": "0.4.8",
    "sgl_kernel": "0.1.9",
    "transformer_engine": "2.5.0",
    "apex": "0.1",
    "megatron_core": "0.13.0",
    "mbridge": "0.13.0",
    "fabric manager": "570.172.08",
    "python": "3.12",
}


def checks(number: int) -> list[dict[str, str]]:
    """Answers of version_check; a few hosts differ."""
    found = []
    for name, expected in COMPONENTS.items():
        check = {"name": name, "expected": expected, "found": expected, "status": "ok"}
        if name == "torch" and number % 97 == 5:
            check.update(found="2.7.0+cu126", status="mismatch", remedy="run the site again; never pip install into a release")
        if name == "fabric manager" and number % 2:
            check.update(found="", status="skipped", expected="")
        if name == "flash_attn" and number % 61 == 3:
            check.update(status="warning", remedy="TransformerEngine 2.5 does not use this version of FlashAttention")
        found.append(check)
    return found


def rollout(total: int) -> dict:
    """A rollout over invented hosts in a canary, a tenth, and quarters."""
    sizes, left = [], total
    for wanted in [1, max(1, total // 10)] + [max(1, total // 4)] * 8:
        sizes.append(min(wanted, left))
        left -= sizes[-1]
        if not left:
            break
    hosts, batches, at, number = {}, {}, EPOCH, 0
    for batch, size in enumerate(sizes, 1):
        length, names = 180 + 40 * batch, []
        for _place in range(size):
            name = f"node{number:04d}"
            names.append(name)
            start = at + number % 7
            took = 60 + number * 7 % 90
            times = {"preparing": EPOCH - 600, "prepared": EPOCH - 60, "draining": start, "changing": start + 20,
                     "checking": start + 25, "returning": start + took - 2, "done": start + took}
            state = {"phase": "done", "batch": batch, "release": "verl0.5-preview-cu128-4be1c0ffee12",
                     "previous": "verl0.5-preview-cu128-0ddba11ca711", "times": times, "failure": None}
            entry = {"done": True, "live": state["release"], "rollout": state, "checks": checks(number)}
            if number % 97 == 5 or (total < 10 and number == total - 1):
                del times["done"], times["returning"]
                times["failed"] = start + took
                reason = "torch is 2.7.0+cu126, 2.7.1+cu128 is needed" if number % 2 else f"gate said {HOSTILE}"
                state.update(phase="failed", failure={"task": "Check the release", "reason": reason,
                                                      "rolled_back": state["previous"], "in_service": False})
                entry.update(done=False, live=state["previous"])
            elif number % 211 == 17:
                entry.update(done=False, unreachable="Failed to connect to the host via ssh: No route to host")
            elif number % 307 == 100:
                state.update(phase="changing")
                entry.update(done=False)
            elif batch == len(sizes) and total > 10 and number % 3:
                state.update(phase="prepared", batch=0, times={"preparing": EPOCH - 600, "prepared": EPOCH - 60})
                entry.update(done=False, live=state["previous"], checks=[])
            hosts[name] = entry
            number += 1
        batches[str(batch)] = {"number": batch, "hosts": names, "started": at, "ended": at + length}
        at += length + 60
    run = {"title": f"Rollout of verl0.5-preview-cu128 to {total} fixture hosts", "started": EPOCH - 600, "ended": at,
           "direction": "activate", "batches": batches, "stopped": None}
    if total > 10:
        run["stopped"] = "invented: 13 of 250 hosts of batch 5 failed, more than 5 % (rollout_max_fail_percentage)"
    return model.rollout(run, hosts, at)


def main() -> None:
    """Write the pages."""
    folder = sys.argv[1]
    os.makedirs(folder, exist_ok=True)
    for total in (3, 1000):
        with open(os.path.join(folder, f"rollout-{total}.html"), "w", encoding="utf-8") as stream:
            stream.write(page.render(rollout(total)))
    answers = {f"node{number:04d}": {"checks": checks(number)} for number in range(40)}
    answers["node0040"] = {"unreachable": True, "msg": HOSTILE}
    with open(os.path.join(folder, "verify-41.html"), "w", encoding="utf-8") as stream:
        stream.write(page.render(model.verify(answers, EPOCH, "Verify of 41 fixture hosts")))


if __name__ == "__main__":
    main()
