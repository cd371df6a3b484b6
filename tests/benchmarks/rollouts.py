# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The site playbook over many hosts, with this collection's ansible.cfg and with Ansible's defaults.

The hosts are this machine under many names, on a local connection and in check mode, so that all look at one release
of the tests' small stack: what is measured is the controller and the modules, not a network.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Callable, Dict, List

from bench import ROOT, Result, ansible_env, interleave, peak_memory, save, target, timed


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, default=Path("/var/tmp/verl-bench-rollouts"))
    parser.add_argument("--hosts", default="1,8,32")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    counts = [int(word) for word in options.hosts.split(",")]
    shutil.rmtree(options.root, ignore_errors=True)
    options.root.mkdir(parents=True)
    extra = ["-e", f"stack_root={options.root / 'verl'}", "-e", "stack_name=small", "-e", "release_profile=false"]
    extra += ["-e", '{"stack_path": ["' + str(ROOT / "tests/stacks") + '"]}']
    timed(["ansible-playbook", str(ROOT / "site.yml"), *extra], ansible_env(), cwd=str(ROOT))

    def command(count: int) -> List[str]:
        inventory = options.root / f"hosts{count}.yml"
        hosts = "".join(f"    host{number:03}:\n" for number in range(count))
        inventory.write_text(
            "all:\n  vars:\n    ansible_connection: local\n"
            '    ansible_python_interpreter: "{{ ansible_playbook_python }}"\n  hosts:\n' + hosts,
            encoding="utf-8",
        )
        return ["ansible-playbook", "--check", "-i", str(inventory), str(ROOT / "site.yml"), *extra]

    # Ansible's own defaults: 5 forks, no pipelining.
    defaults = options.root / "ansible.cfg"
    defaults.write_text("[defaults]\n", encoding="utf-8")
    plain = ansible_env(ANSIBLE_CONFIG=str(defaults))
    cases: Dict[str, Callable[[], float]] = {}
    for count in counts:
        cases[f"{count} hosts, tuned"] = lambda count=count: timed(command(count), ansible_env(), cwd=str(ROOT))
        cases[f"{count} hosts, defaults"] = lambda count=count: timed(command(count), plain, cwd=str(ROOT))
    runs = interleave(cases, options.rounds)
    memory = {count: peak_memory(command(count), ansible_env()) for count in (counts[0], counts[-1])}
    grown = (memory[counts[-1]] - memory[counts[0]]) / max(1, counts[-1] - counts[0])
    save(
        Result(
            name="rollouts",
            title="Many hosts",
            question="The site playbook in check mode over converged hosts, with this collection's ansible.cfg (20 forks, "
            "pipelining) and with Ansible's defaults (5 forks, none).",
            runs=runs,
            ratios=[
                {
                    "what": f"defaults to tuned, {count} hosts",
                    "of": f"{count} hosts, defaults",
                    "to": f"{count} hosts, tuned",
                    "target": "",
                }
                for count in counts
            ],  # fmt: skip
            targets=[
                target(
                    f"memory of the controller's largest process, {counts[-1]} hosts",
                    memory[counts[-1]],
                    "under",
                    150,
                    "MiB",
                    f"with {counts[0]} host{'s' if counts[0] > 1 else ''} {memory[counts[0]]:.0f} MiB",
                ),
                target("its growth a host", grown, "under", 2, "MiB", "none"),
            ],  # fmt: skip
            notes=[
                "The hosts are this machine under many names: all modules share its cores, which a cluster's would not."
            ],
            left_out=["rollouts with batches and switches over a network"],
        )
    )
    shutil.rmtree(options.root)


if __name__ == "__main__":
    main()
