# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""The version check for scripts: version_check's own checks without Ansible, in a fraction of its time.

    python3 -m ansible_collections.verl.baremetal.plugins.module_utils.checks [RELEASE]

It prints the report and ends with 0 where every check passed, 1 where one failed, 2 where there is nothing to check.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import List

from ..probes import collect
from . import evaluate, model, table


def main(arguments: List[str]) -> int:
    """Check one release, the live one where none is named."""
    if len(arguments) > 1 or any(word.startswith("-") for word in arguments):
        sys.stderr.write("usage: checks [RELEASE]: the folder of a release; by default the live one\n")
        return 2
    if not arguments:
        from .. import host  # slow to import

        arguments = [os.path.join(host.stack_root(), "current")]
    try:
        subject = evaluate.subject_of_release(arguments[0])
    except evaluate.Unusable as error:
        sys.stderr.write(f"{error}\n")
        return 2
    ld_library_path = os.environ.get("LD_LIBRARY_PATH", "")
    context = evaluate.gather(subject, ld_library_path=ld_library_path, nvml=collect.ask_nvml)
    checks = evaluate.checks(context)
    sys.stdout.write(table.render(model.as_dicts(checks)) + "\n")
    return 0 if model.passed(checks) else 1


if __name__ == "__main__":
    # It ends before there is anything to collect, and what it made needs no tidying.
    gc.disable()
    status = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(status)
