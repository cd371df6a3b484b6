# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""A small client of package indexes (PEP 503 and PEP 691): finds files by hash and fetches them with resume.

Needed where no installer can do it: an installer's download command builds a source distribution to read its metadata,
and a source distribution like FlashAttention's cannot be built on a machine without Torch.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html.parser
import http.client
import json
import os
import re
import ssl
import time
import typing as t
import urllib.error
import urllib.parse
import urllib.request

JSON_TYPE = "application/vnd.pypi.simple.v1+json"
ACCEPT = JSON_TYPE + ", application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
CHUNK = 1 << 20
ATTEMPTS = 4
WRONG_URL = (http.client.InvalidURL, ValueError)  # what no second attempt makes right


class PackageIndexError(Exception):
    """An index or a file that cannot be had; the text says what was asked and what came."""


@dataclasses.dataclass(frozen=True)
class File:
    """One file of an index; ``sha256`` is empty where the index names none, ``size`` None where it does not say."""

    name: str
    url: str
    sha256: str
    size: t.Optional[int] = None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows an answer to another server without the login of the first."""

    def redirect_request(self, req: t.Any, fp: t.Any, code: t.Any, msg: t.Any, headers: t.Any, newurl: t.Any) -> t.Any:
        again = super().redirect_request(req, fp, code, msg, headers, newurl)
        servers = [urllib.parse.urlsplit(url).hostname for url in (req.full_url, newurl)]
        if again is not None and servers[0] != servers[1]:
            again.remove_header("Authorization")
        return again


def opener(ca_file: t.Optional[str] = None, proxy: t.Optional[str] = None) -> urllib.request.OpenerDirector:
    """What asks web servers.

    Raises:
        OSError: the CA file cannot be read.
    """
    handlers: t.List[t.Any] = [
        _Redirects(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=ca_file or None)),
    ]
    if proxy:
        handlers.append(urllib.request.ProxyHandler({"http": proxy, "https": proxy}))
    return urllib.request.build_opener(*handlers)


def request(
    url: str, index_url: str = "", headers: t.Optional[t.Dict[str, str]] = None, method: t.Optional[str] = None
) -> urllib.request.Request:
    """A request, with the user and password of the URL, or of the index where it is the same server, in a header.

    Raises:
        ValueError: it is no URL.
    """
    split = urllib.parse.urlsplit(url)
    index = urllib.parse.urlsplit(index_url)
    user, password = split.username, split.password
    if user is None and index.username is not None and index.hostname == split.hostname:
        user, password = index.username, index.password
    made = urllib.request.Request(_plain(split), headers=headers or {}, method=method)
    if user is not None:
        pair = urllib.parse.unquote(user) + ":" + urllib.parse.unquote(password or "")
        made.add_header("Authorization", "Basic " + base64.b64encode(pair.encode()).decode())
    return made


def without_password(url: str) -> str:
    """A URL that may be shown."""
    try:
        return _plain(urllib.parse.urlsplit(url))
    except ValueError:
        return url.rpartition("@")[2]


def _plain(split: urllib.parse.SplitResult) -> str:
    return urllib.parse.urlunsplit(split._replace(netloc=split.netloc.rpartition("@")[2]))


class _Links(html.parser.HTMLParser):
    """Collects the links of a PEP 503 page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: t.List[str] = []

    def handle_starttag(self, tag: str, attrs: t.List[t.Tuple[str, t.Optional[str]]]) -> None:
        for key, value in attrs:
            if tag == "a" and key == "href" and value:
                self.links.append(value)


def normalise(name: str) -> str:
    """A distribution's name as indexes write it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse_page(body: bytes, content_type: str, url: str) -> t.List[File]:
    """The files of an index page, JSON or HTML.

    Raises:
        PackageIndexError: the body is neither.
    """
    if "json" in content_type:
        try:
            entries = json.loads(body.decode("utf-8"))["files"]
            return [
                File(
                    e["filename"],
                    urllib.parse.urljoin(url, e["url"]),
                    e.get("hashes", {}).get("sha256", ""),
                    e.get("size"),
                )
                for e in entries
            ]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PackageIndexError("%s answers JSON that is no page of an index: %s" % (url, error)) from error
    parser = _Links()
    parser.feed(body.decode("utf-8", "replace"))
    files = []
    for link in parser.links:
        target, _unused, fragment = urllib.parse.urljoin(url, link).partition("#")
        name = urllib.parse.unquote(target.rsplit("/", 1)[-1])
        sha256 = fragment[len("sha256=") :] if fragment.startswith("sha256=") else ""
        if name.endswith((".whl", ".tar.gz", ".zip")):
            files.append(File(name, target, sha256))
    return files


class Client:
    """Asks one index; several threads may share it."""

    def __init__(self, index_url: str, ca_file: str = "", proxy: str = "", timeout: float = 60.0) -> None:
        """``index_url`` ends before the package's name; ``timeout`` in seconds counts for each answer."""
        self.index_url = index_url.rstrip("/") + "/"
        self.timeout = timeout
        self.opener = opener(ca_file, proxy)

    def files(self, name: str) -> t.List[File]:
        """All files of a distribution.

        Raises:
            PackageIndexError: the index cannot be reached or does not know it.
        """
        url = self.index_url + normalise(name) + "/"
        reason = ""
        for attempt in range(ATTEMPTS):
            try:
                with self.opener.open(request(url, headers={"Accept": ACCEPT}), timeout=self.timeout) as answer:
                    return parse_page(answer.read(), answer.headers.get("Content-Type", ""), answer.geturl())
            except urllib.error.HTTPError as error:
                reason = "it answers %s" % error.code
                if error.code < 500 and error.code != 429:
                    break
            except (OSError, http.client.HTTPException, ValueError) as error:
                reason = str(getattr(error, "reason", error))
                if isinstance(error, WRONG_URL):
                    break
            time.sleep(attempt)
        raise PackageIndexError("the index has no page for %s at %s: %s" % (name, without_password(url), reason))

    def find(self, name: str, hashes: t.Iterable[str]) -> t.List[File]:
        """The files of a distribution whose sha256 is among ``hashes`` (with or without the prefix ``sha256:``)."""
        wanted = {h.split(":", 1)[-1] for h in hashes}
        return [f for f in self.files(name) if f.sha256 in wanted]

    def fetch(self, file: File, folder: str, progress: t.Optional[t.Callable[[int], None]] = None) -> str:
        """Fetch ``file`` into ``folder``, continue what an earlier call began, verify it, and return its path.

        Args:
            progress: called with the bytes of each piece.

        Raises:
            PackageIndexError: the file cannot be had, or has another sha256 than the index named.
            OSError: the folder cannot be written (a full disk, for example).
        """
        target = os.path.join(folder, file.name)
        if os.path.isfile(target) and (not file.sha256 or sha256_of(target) == file.sha256):
            return target
        part = target + ".part"
        reason = ""
        for attempt in range(ATTEMPTS):
            done = os.path.getsize(part) if os.path.exists(part) else 0
            headers = {"Range": "bytes=%d-" % done} if done else {}
            try:
                asked = request(file.url, self.index_url, headers)
                with self.opener.open(asked, timeout=self.timeout) as answer:
                    resumed = done and answer.status == 206
                    missing = int(answer.headers.get("Content-Length") or 0)
                    with open(part, "ab" if resumed else "wb") as stream:
                        while True:
                            piece = answer.read(CHUNK)
                            if not piece:
                                break
                            stream.write(piece)
                            missing -= len(piece)
                            if progress:
                                progress(len(piece))
                        stream.flush()
                        os.fsync(stream.fileno())
                if missing > 0:
                    reason = "the connection was cut"
                    continue
            except urllib.error.HTTPError as error:
                reason = "it answers %s" % error.code
                if error.code == 416 and os.path.exists(part):
                    os.unlink(part)
                elif error.code < 500 and error.code != 429:
                    break
                time.sleep(attempt)
                continue
            except (
                urllib.error.URLError,
                http.client.HTTPException,
                TimeoutError,
                ConnectionError,
                ssl.SSLError,
                ValueError,
            ) as error:
                reason = str(getattr(error, "reason", error))
                if isinstance(error, WRONG_URL):
                    break
                time.sleep(attempt)
                continue
            found = sha256_of(part)
            if not file.sha256 or found == file.sha256:
                os.replace(part, target)
                return target
            os.unlink(part)
            reason = "its sha256 is %s; %s is needed" % (found, file.sha256)
        raise PackageIndexError("%s cannot be fetched from %s: %s" % (file.name, without_password(file.url), reason))


def sha256_of(path: str) -> str:
    """sha256 of a file, as hexadecimal digits."""
    total = hashlib.sha256()
    with open(path, "rb") as stream:
        for piece in iter(lambda: stream.read(CHUNK), b""):
            total.update(piece)
    return total.hexdigest()
