# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""Archives of images: `docker save` through zstd on all cores, a digest beside, and back again only when it matches."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import shutil
import subprocess
import threading
from typing import IO, Any, Dict, Iterable, Iterator, List, Mapping, Optional

from ansible_collections.verl.baremetal.plugins.module_utils.images import commit
from ansible_collections.verl.baremetal.plugins.module_utils.images.engine import Engine, EngineError, Tick

try:
    import zstandard
except ImportError:
    zstandard = None  # type: ignore[assignment]

_CHUNK = 1 << 20
MAGIC = b"\x28\xb5\x2f\xfd"
ENGINE_READS_ZSTD = 23  # major version


class ArchiveError(Exception):
    """An archive cannot be written or is not what it should be; the text says what was found and what to do."""


class _Sink:
    """A file that is being written, with the digest of what was written."""

    def __init__(self, path: str) -> None:
        self.handle = open(path, "wb")
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.handle.write(data)
        self.digest.update(data)
        self.size += len(data)
        return len(data)

    def finish(self) -> None:
        self.handle.flush()
        os.fsync(self.handle.fileno())
        self.handle.close()


def info_path(path: str) -> str:
    """The file beside an archive that says which image it holds."""
    return path + ".json"


def read_info(path: str) -> Dict[str, Any]:
    """What is known of an archive, {} when nothing is."""
    try:
        with open(info_path(path), encoding="utf-8") as handle:
            data = json.load(handle)
        return data if isinstance(data, dict) else {}
    except (OSError, ValueError):
        return {}


def intact(path: str, image_id: str) -> bool:
    """Whether the archive of an image is there already; its digest is compared when it is loaded."""
    info = read_info(path)
    return (
        info.get("image_id") == image_id
        and os.path.isfile(path)
        and os.path.getsize(path) == info.get("size")
        and os.path.isfile(path + ".sha256")
    )


def export(engine: Engine, tag: str, path: str, level: int, tick: Tick) -> Dict[str, Any]:
    """Write the archive of an image under a temporary name, and give it its own when it is whole."""
    image = commit.describe(engine, tag)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    for leftover in glob.glob(glob.escape(path) + ".*.part"):
        os.unlink(leftover)
    temporary = f"{path}.{os.getpid()}.part"
    try:
        sink = _Sink(temporary)
        total = image["size"] // 1000000
        # Docker gathers all layers on its disk before it says a word.
        tick(f"Docker gathers {tag}", None, None)

        def counted() -> Iterator[bytes]:
            done = 0
            for piece in engine.chunks(engine.save([tag])):
                done += len(piece)
                tick(f"exporting {tag}, in MB", min(done // 1000000, total), total)
                yield piece

        compress(counted(), sink, level)
        sink.finish()
        digest = sink.digest.hexdigest()
        for name in (info_path(path), path + ".sha256"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
        os.replace(temporary, path)
        _write(path + ".sha256", f"{digest}  {os.path.basename(path)}\n")
        info = {**image, "image": tag, "image_size": image["size"], "sha256": digest, "size": sink.size}
        _write(info_path(path), json.dumps(info, indent=1, sort_keys=True) + "\n")
        return info
    except OSError as error:
        if error.errno == errno.ENOSPC:
            free = shutil.disk_usage(os.path.dirname(path)).free
            raise ArchiveError(
                f"{os.path.dirname(path)} is full ({free / 1e9:.1f} GB free): the archive of {tag} was not written and "
                f"nothing is left of it. It may need {image['size'] / 1e9:.1f} GB. Make room, or set image_folder."
            ) from error
        raise ArchiveError(f"{path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _write(path: str, text: str) -> None:
    temporary = f"{path}.{os.getpid()}.part"
    with open(temporary, "w", encoding="utf-8") as handle:
        handle.write(text)
    os.replace(temporary, path)


def compress(pieces: Iterable[bytes], sink: Any, level: int) -> None:
    """zstd on all cores: the Python library, or the program."""
    if zstandard is not None:
        packer = zstandard.ZstdCompressor(level=level, threads=-1).compressobj()
        for piece in pieces:
            data = packer.compress(piece)
            if data:
                sink.write(data)
        sink.write(packer.flush())
        return
    _through([_program(), "-q", "-T0", f"-{level}", "-c"], pieces, sink.write)


def decompress(stream: IO[bytes]) -> Iterator[bytes]:
    """The content of a zstd stream, piece by piece; of anything else, itself."""
    head = stream.read(len(MAGIC))
    stream.seek(0)
    if head != MAGIC:
        while True:
            piece = stream.read(_CHUNK)
            if not piece:
                return
            yield piece
    elif zstandard is not None:
        reader = zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True)
        while True:
            piece = reader.read(_CHUNK)
            if not piece:
                return
            yield piece
    else:
        os.lseek(stream.fileno(), 0, os.SEEK_SET)  # the program sees the descriptor, not what was read ahead
        with subprocess.Popen([_program(), "-q", "-d", "-c"], stdin=stream, stdout=subprocess.PIPE) as process:
            if process.stdout is None:
                raise ArchiveError("zstd gave no output")
            while True:
                piece = process.stdout.read(_CHUNK)
                if not piece:
                    break
                yield piece
        if process.returncode != 0:
            raise ArchiveError(f"zstd ended with {process.returncode}: the archive is damaged")


def can_decompress() -> bool:
    """Whether zstd can be unpacked here."""
    return zstandard is not None or shutil.which("zstd") is not None


def _program() -> str:
    found = shutil.which("zstd")
    if not found:
        raise ArchiveError("zstd is missing: install the package zstd, or python3-zstandard")
    return found


def _through(command: List[str], pieces: Iterable[bytes], write: Any) -> None:
    """Feed a program and hand on what it says."""
    failed: List[BaseException] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        source, result = process.stdin, process.stdout
        if source is None or result is None:
            raise ArchiveError(f"{command[0]} cannot be fed")

        def collect() -> None:
            try:
                while True:
                    data = result.read(_CHUNK)
                    if not data:
                        return
                    write(data)
            except OSError as error:
                failed.append(error)
                process.kill()

        reader = threading.Thread(target=collect, daemon=True)
        reader.start()
        try:
            for piece in pieces:
                source.write(piece)
            source.close()
        except BrokenPipeError:
            process.kill()
        except BaseException:
            process.kill()
            raise
        reader.join()
    if failed:
        raise failed[0]
    if process.returncode != 0:
        raise ArchiveError(f"{command[0]} ended with {process.returncode}")


def expected_digest(path: str, given: str) -> str:
    """The digest that an archive must have: the one given, or the one in the file beside it."""
    if given:
        return given.lower().replace("sha256:", "")
    try:
        with open(path + ".sha256", encoding="ascii") as handle:
            return handle.read().split()[0].lower()
    except (OSError, UnicodeDecodeError, IndexError) as error:
        raise ArchiveError(
            f"{path}: there is no digest to compare it with: neither image_archive_sha256 nor {path}.sha256. "
            f"An archive of unknown origin is not loaded."
        ) from error


def verify(path: str, wanted: str, tick: Tick) -> None:
    """Compare an archive with its digest; ArchiveError when it is another."""
    digest = hashlib.sha256()
    try:
        total = os.path.getsize(path) // 1000000
        done = 0
        with open(path, "rb") as handle:
            while True:
                piece = handle.read(_CHUNK)
                if not piece:
                    break
                digest.update(piece)
                done += len(piece)
                tick(f"verifying {os.path.basename(path)}, in MB", done // 1000000, total)
    except OSError as error:
        raise ArchiveError(f"{path}: {error.strerror or error}. Export the image, or correct image_archive.") from error
    if digest.hexdigest() != wanted:
        raise ArchiveError(
            f"{path} has the sha256 {digest.hexdigest()}, {wanted} is needed: it is damaged or another file, and was "
            f"not loaded. Copy it again."
        )


def load(engine: Engine, path: str, given: str, tick: Tick, check: bool) -> Dict[str, Any]:
    """Load an archive into Docker, unless its image is there; nothing is loaded that does not match its digest."""
    info = read_info(path)
    tag = str(info.get("image", ""))
    there = engine.image(tag) if tag else None
    if there is not None and there["Id"] == info.get("image_id"):
        return dict(commit.describe(engine, tag), changed=False, tag=tag)
    wanted = expected_digest(path, given)
    if check:
        return {"changed": True, "tag": tag, "image_id": str(info.get("image_id", ""))}
    verify(path, wanted, tick)
    tick(f"loading {os.path.basename(path)}", None, None)
    with open(path, "rb") as stream:
        if not can_decompress() and int(engine.version().split(".")[0]) >= ENGINE_READS_ZSTD:
            loaded = engine.load(iter(lambda: stream.read(_CHUNK), b""), tick)
        else:
            loaded = engine.load(decompress(stream), tick)
    if not loaded:
        raise ArchiveError(f"Docker loaded no image from {path}: it is no archive of an image")
    tag = loaded[0]
    found = commit.describe(engine, tag)
    if info.get("image_id") and found["image_id"] != info["image_id"]:
        raise EngineError(f"{path} gave the image {found['image_id']}, {info['image_id']} was exported")
    return dict(found, changed=True, tag=tag)


def read_inside(engine: Engine, tag: str, root: str) -> Dict[str, Any]:
    """The manifest and the list of system packages of an image; its container is made for this and never started."""
    container = engine.create(tag)
    try:
        manifest = commit.read_manifest(engine, container, root)
        try:
            status = engine.file(container, "/var/lib/dpkg/status").decode("utf-8", "replace")
        except EngineError:
            status = ""
    finally:
        engine.remove(container)
    return {"manifest": manifest, "system": system_packages(status)}


def system_packages(status: str) -> Dict[str, str]:
    """name -> version of the installed packages in dpkg's status file."""
    found: Dict[str, str] = {}
    for paragraph in status.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] != " ")
        if fields.get("Status", "").endswith(" installed") and "Package" in fields:
            found[fields["Package"]] = fields.get("Version", "")
    return found


def beside(path: str, manifest: Mapping[str, Any], bom: Optional[str]) -> List[str]:
    """Write the manifest and the bill of materials beside an archive."""
    stem = path[: -len(".tar.zst")] if path.endswith(".tar.zst") else path
    written = [stem + ".manifest.json"]
    _write(written[0], json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    if bom is not None:
        written.append(stem + ".cdx.json")
        _write(written[1], bom)
    return written
