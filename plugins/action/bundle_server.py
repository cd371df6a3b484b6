# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Starts and stops the web server that hands a bundle to hosts; on the controller, in a process of its own.

Arguments: state (started, stopped), path (the bundle), address and port (empty and 0 choose), hosts (whose route to the
controller decides the URL), and for stopped: server, what started returned. Nothing of it outlives the run: never a change.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.verl.baremetal.plugins.module_utils import bundle
from ansible_collections.verl.baremetal.plugins.plugin_utils import serve

START_SECONDS = 20.0


class ActionModule(ActionBase):
    """The action of verl.baremetal.bundle_server."""

    _supports_check_mode = True
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Start or stop."""
        result = super().run(tmp, task_vars)
        _unused, given = self.validate_argument_spec(
            {
                "state": {"type": "str", "choices": ["started", "stopped"], "default": "started"},
                "path": {"type": "path"},
                "address": {"type": "str", "default": ""},
                "port": {"type": "int", "default": 0},
                "hosts": {"type": "list", "elements": "str", "default": []},
                "server": {"type": "dict", "default": {}},
            },
            required_if=[("state", "started", ["path"]), ("state", "stopped", ["server"])],
        )
        result.update(self._stop(given["server"]) if given["state"] == "stopped" else self._start(given))
        return result

    def _start(self, given: dict[str, t.Any]) -> dict[str, t.Any]:
        try:
            digest = bundle.read(given["path"]).digest
        except bundle.BundleError as error:
            raise AnsibleActionFail(f"bundle_server: {error}") from error
        # The worker's parent is ansible-playbook: the server lives as long as it does.
        parent = os.getppid()
        with tempfile.TemporaryDirectory(prefix="verl-serve-") as folder:
            ready, log = os.path.join(folder, "ready"), os.path.join(folder, "log")
            command = [sys.executable, serve.__file__, given["path"], given["address"], str(given["port"])]
            with open(log, "wb") as stream:
                process = subprocess.Popen(
                    [*command, str(parent), ready],
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=stream,
                    start_new_session=True,
                )
            until = time.monotonic() + START_SECONDS
            while not os.path.exists(ready):
                if process.poll() is not None or time.monotonic() > until:
                    with contextlib.suppress(OSError):
                        process.kill()
                    with open(log, encoding="utf-8", errors="replace") as stream:
                        said = stream.read().strip()[-600:]
                    raise AnsibleActionFail(
                        f"bundle_server: the web server does not start: {said or 'it says nothing'}. Choose another "
                        f"bundle_serve_port or bundle_serve_address, and have the controller's tools (make venv)."
                    )
                time.sleep(0.05)
            with open(ready, encoding="utf-8") as stream:
                server = json.load(stream)
        address = given["address"] or serve.reachable_address(given["hosts"])
        url = "http://{}:{}".format(f"[{address}]" if ":" in address else address, server["port"])
        return {"changed": False, "url": url, "digest": digest, **server}

    def _stop(self, server: dict[str, t.Any]) -> dict[str, t.Any]:
        pid = int(server.get("pid", 0))
        if not pid or serve.started(pid) != server.get("started"):
            return {"changed": False}
        os.kill(pid, signal.SIGTERM)
        until = time.monotonic() + START_SECONDS
        while serve.started(pid) == server["started"] and time.monotonic() < until:
            time.sleep(0.05)
        return {"changed": False}
