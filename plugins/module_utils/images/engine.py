# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""A small client of the Docker Engine's API over its socket: no Docker SDK and no docker program is needed on a host."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import socket
import tarfile
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Tuple
from urllib.parse import quote, urlencode

API = (1, 41)  # Docker 20.10, the oldest that is tested; a daemon that is too new for it is asked in its own oldest
DEFAULT_SOCKET = "/var/run/docker.sock"
_CHUNK = 1 << 20

Tick = Callable[[str, Optional[int], Optional[int]], None]


class EngineError(Exception):
    """Docker is not there or refused something; the text says what was found and what to do."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Ran(NamedTuple):
    """A command that ran in a container."""

    code: int
    output: str


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("docker", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        """Open the socket instead of a TCP connection."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def socket_path(given: str, environment: Mapping[str, str]) -> str:
    """The socket to use: the one given, that of DOCKER_HOST, or the usual one; EngineError for a TCP address."""
    address = given or environment.get("DOCKER_HOST", "") or DEFAULT_SOCKET
    if address.startswith("unix://"):
        address = address[len("unix://") :]
    if not address.startswith("/"):
        raise EngineError(f"Docker is reached through a socket only, not through {address}. Set image_docker_socket.")
    return address


class Engine:
    """One Docker daemon."""

    def __init__(self, path: str, timeout: float = 3600.0, prefix: str = "") -> None:
        self.path = path
        self.timeout = timeout
        self.prefix = prefix

    # -- plumbing

    def open(
        self,
        method: str,
        path: str,
        query: Optional[Mapping[str, str]] = None,
        body: Any = None,
        headers: Optional[Mapping[str, str]] = None,
    ) -> http.client.HTTPResponse:
        """Send one request; an answer of 400 and more becomes an EngineError with the daemon's words."""
        if not self.prefix and path != "/version":
            self.prefix = prefix_for(self.json("GET", "/version"))
        url = f"{self.prefix}{path}" + ("?" + urlencode(query) if query else "")
        sent = dict(headers or {})
        if isinstance(body, (dict, list)):
            body = json.dumps(body).encode("utf-8")
            sent["Content-Type"] = "application/json"
        connection = _Connection(self.path, self.timeout)
        stream = body is not None and not isinstance(body, bytes)
        try:
            connection.request(method, url, body=body, headers=sent, encode_chunked=stream and _chunked(sent))
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise EngineError(self._explain(error)) from error
        if answer.status >= 400:
            text = answer.read().decode("utf-8", "replace").strip()
            try:
                text = str(json.loads(text)["message"])
            except (ValueError, KeyError, TypeError):
                text = text or answer.reason
            raise EngineError(f"docker: {text}", answer.status)
        return answer

    def _explain(self, error: Exception) -> str:
        if isinstance(error, FileNotFoundError):
            return f"There is no Docker at {self.path}. Install Docker and start it (systemctl start docker)."
        if isinstance(error, ConnectionRefusedError):
            return f"Docker does not answer at {self.path}: its daemon does not run. Start it (systemctl start docker)."
        if isinstance(error, PermissionError):
            return f"{self.path} may not be used by this user. Add the user to the group docker, or use become."
        return f"Docker at {self.path} went away in the middle ({error}). See its log, start it and run again."

    def json(self, method: str, path: str, query: Optional[Mapping[str, str]] = None, body: Any = None) -> Any:
        """One request with a JSON answer."""
        text = self.read(self.open(method, path, query, body))
        return json.loads(text) if text.strip() else None

    def read(self, answer: http.client.HTTPResponse) -> bytes:
        """The rest of an answer; a daemon that goes away is told in words."""
        try:
            return answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise EngineError(self._explain(error)) from error

    def chunks(self, answer: http.client.HTTPResponse) -> Iterator[bytes]:
        """The body of an answer, piece by piece."""
        while True:
            try:
                piece = answer.read(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise EngineError(self._explain(error)) from error
            if not piece:
                return
            yield piece

    def _lines(self, answer: http.client.HTTPResponse) -> Iterator[bytes]:
        """The lines of an answer as they come. readline() of http.client takes an answer that was cut for a whole one."""
        rest = b""
        while True:
            try:
                piece = answer.read1(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise EngineError(self._explain(error)) from error
            if not piece:
                break
            *lines, rest = (rest + piece).split(b"\n")
            yield from lines
        yield rest

    def messages(self, answer: http.client.HTTPResponse, tick: Tick, what: str) -> List[Dict[str, Any]]:
        """Follow a stream of JSON lines (push, pull, load) and tell how far it is; an error in it is raised."""
        found: List[Dict[str, Any]] = []
        sizes: Dict[str, Tuple[int, int]] = {}
        for line in self._lines(answer):
            try:
                data = json.loads(line)
            except ValueError:
                continue
            if data.get("error"):
                raise EngineError(f"docker: {what}: {str(data['error']).strip()}")
            detail = data.get("progressDetail") or {}
            if data.get("id") and detail.get("total"):
                sizes[data["id"]] = (int(detail.get("current") or 0), int(detail["total"]))
                done, total = (sum(pair[i] for pair in sizes.values()) // 1000000 for i in (0, 1))
                tick(f"{what}, in MB", done, total)
            elif not detail:
                found.append(data)
        return found

    # -- what there is

    def version(self) -> str:
        """The daemon's version."""
        return str(self.json("GET", "/version")["Version"])

    def image(self, name: str) -> Optional[Dict[str, Any]]:
        """What the daemon knows of an image, None when it is not there."""
        try:
            found = self.json("GET", f"/images/{quote(name, safe='/:@')}/json")
        except EngineError as error:
            if error.status == 404:
                return None
            raise
        return dict(found)

    def history(self, name: str) -> List[Dict[str, Any]]:
        """The layers' history, newest first."""
        return list(self.json("GET", f"/images/{quote(name, safe='/:@')}/history"))

    # -- containers

    def create(self, image: str, config: Optional[Mapping[str, Any]] = None) -> str:
        """A container of an image; without a configuration one that is never started, to read files of the image."""
        body = dict(config or {"Cmd": ["true"]}, Image=image)
        return str(self.json("POST", "/containers/create", None, body)["Id"])

    def put(self, container: str, path: str, archive: bytes) -> None:
        """Unpack an archive in a folder of a container, which need not run."""
        headers = {"Content-Type": "application/x-tar"}
        self.read(self.open("PUT", f"/containers/{container}/archive", {"path": path}, archive, headers))

    def run(self, container: str) -> Ran:
        """Start a container, wait for its end, and return what it said."""
        self.json("POST", f"/containers/{container}/start")
        code = int(self.json("POST", f"/containers/{container}/wait")["StatusCode"])
        raw = self.read(self.open("GET", f"/containers/{container}/logs", {"stdout": "1", "stderr": "1"}))
        return Ran(code, _demultiplex(raw).decode("utf-8", "replace"))

    def remove(self, container: str) -> None:
        """Remove a container and its anonymous volumes."""
        try:
            self.json("DELETE", f"/containers/{container}", {"force": "1", "v": "1"})
        except EngineError as error:
            if error.status != 404:
                raise

    def execute(self, container: str, command: List[str], environment: Optional[List[str]] = None) -> Ran:
        """Run a command in a running container as root and wait for it."""
        body = {"AttachStdout": True, "AttachStderr": True, "Cmd": command, "User": "0", "Env": environment or []}
        job = str(self.json("POST", f"/containers/{container}/exec", None, body)["Id"])
        raw = self.read(self.open("POST", f"/exec/{job}/start", None, {"Detach": False, "Tty": False}))
        code = self.json("GET", f"/exec/{job}/json")["ExitCode"]
        return Ran(int(code) if code is not None else -1, _demultiplex(raw).decode("utf-8", "replace"))

    def file(self, container: str, path: str) -> bytes:
        """The content of one file of a container, which need not run."""
        answer = self.open("GET", f"/containers/{container}/archive", {"path": path})
        with tarfile.open(fileobj=io.BytesIO(self.read(answer))) as archive:
            for member in archive:
                handle = archive.extractfile(member)
                if handle is not None:
                    return handle.read()
        raise EngineError(f"{path} of the container {container} is no file")

    def commit(self, container: str, repository: str, tag: str, config: Mapping[str, Any], comment: str) -> str:
        """Commit a container; returns the image's id."""
        query = {"container": container, "repo": repository, "tag": tag, "comment": comment, "pause": "1"}
        return str(self.json("POST", "/commit", query, dict(config))["Id"])

    # -- moving images

    def save(self, names: List[str]) -> http.client.HTTPResponse:
        """The images as one uncompressed archive."""
        return self.open("GET", "/images/get", {"names": names[0]} if len(names) == 1 else None)

    def load(self, pieces: Iterable[bytes], tick: Tick) -> List[str]:
        """Load an archive; returns what the daemon says it loaded."""
        headers = {"Content-Type": "application/x-tar", "Transfer-Encoding": "chunked"}
        answer = self.open("POST", "/images/load", {"quiet": "1"}, pieces, headers)
        said = [str(m.get("stream", "")).strip() for m in self.messages(answer, tick, "loading")]
        return [line.split(": ", 1)[1] for line in said if line.startswith("Loaded image")]

    def tag(self, image: str, name: str) -> None:
        """Give an image another name."""
        repository, tag = split(name)
        self.json("POST", f"/images/{quote(image, safe='/:@')}/tag", {"repo": repository, "tag": tag})

    def push(self, name: str, auth: Mapping[str, str], tick: Tick) -> str:
        """Push an image; returns the digest that the registry gave it."""
        repository, tag = split(name)
        headers = {"X-Registry-Auth": _auth(auth)}
        answer = self.open("POST", f"/images/{quote(repository, safe='/:')}/push", {"tag": tag}, b"", headers)
        for message in self.messages(answer, tick, f"pushing {name}"):
            aux = message.get("aux") or {}
            if aux.get("Digest"):
                return str(aux["Digest"])
        raise EngineError(f"docker: pushing {name}: the registry gave no digest")

    def pull(self, name: str, auth: Mapping[str, str], tick: Tick) -> None:
        """Pull an image by tag (name:tag) or by digest (name@sha256:...)."""
        headers = {"X-Registry-Auth": _auth(auth)}
        query = {"fromImage": name} if "@" in name else dict(zip(("fromImage", "tag"), split(name)))
        said = self.messages(self.open("POST", "/images/create", query, b"", headers), tick, f"pulling {name}")
        if not any(str(message.get("status", "")).startswith("Status: ") for message in said):
            raise EngineError(
                f"docker: pulling {name}: the daemon stopped before it said that the image is there. See its log and run "
                "again: layers that are there are not pulled again."
            )


def prefix_for(version: Mapping[str, Any]) -> str:
    """The version of the API to speak with a daemon, as its paths begin."""
    oldest = tuple(int(part) for part in str(version.get("MinAPIVersion") or "1.12").split("."))
    return "/v{}.{}".format(*max(API, oldest))


def split(name: str) -> Tuple[str, str]:
    """Repository and tag of an image's name: a colon before a slash belongs to the registry's port."""
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        return name, "latest"
    return repository, tag


def _chunked(headers: Mapping[str, str]) -> bool:
    return headers.get("Transfer-Encoding") == "chunked"


def _auth(auth: Mapping[str, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(dict(auth)).encode("utf-8")).decode("ascii")


def _demultiplex(raw: bytes) -> bytes:
    """The output of an exec without a terminal: frames of eight bytes of header and the payload."""
    parts = []
    position = 0
    while position + 8 <= len(raw):
        size = int.from_bytes(raw[position + 4 : position + 8], "big")
        parts.append(raw[position + 8 : position + 8 + size])
        position += 8 + size
    return b"".join(parts)


def from_environment(given: str) -> Engine:
    """The daemon of this host."""
    return Engine(socket_path(given, os.environ))
