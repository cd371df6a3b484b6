# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Points at which a test may have our modules killed: VERL_BAREMETAL_FAILPOINT=<name> in the environment.

Nothing else reads the variable. A kill is SIGKILL, as by an out-of-memory killer: no handler runs, nothing is flushed.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Iterable

VARIABLE = "VERL_BAREMETAL_FAILPOINT"


def failpoint(name: str, children: Iterable[int] = ()) -> None:
    """Kill the given child processes and then this one, when the variable names this point."""
    if os.environ.get(VARIABLE) != name:
        return
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
