"""Atomic, durable file writes, and checksums when reading."""

import csv
import errno
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_TEMPORARY = ".tmp"
# What file systems without such a function answer, network and shared folders among them.
_UNSUPPORTED = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EPERM}


@contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Opens a file for writing that replaces `path` when the block ends.

    If the block raises, `path` stays as it was. On return data and name are on the disk. Raises OSError.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY}")  # two processes may write the same file
    encoding = None if "b" in mode else "utf-8"
    try:
        errors = None if encoding is None else "surrogateescape"  # file names need not be valid text
        with open(temporary, mode, encoding=encoding, errors=errors, newline=None if encoding is None else "") as file:
            yield file
            file.flush()
            with _where_supported():
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # ENOSPC from a write carries no file name
        raise
    _sync_folder(path.parent)


def write_file(path: Path, content: str | bytes) -> None:
    """Writes a file atomically."""
    with atomic_write(path, "wb" if isinstance(content, bytes) else "w") as file:
        file.write(content)


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Writes a CSV table atomically."""
    with atomic_write(path) as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def link_over(source: Path, target: Path) -> None:
    """Atomically replaces `target` by a hard link to `source`, or by a copy where there are no hard links."""
    temporary = target.with_name(f".{target.name}{_TEMPORARY}")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:  # a file system without hard links
        write_file(target, source.read_bytes())
        return
    os.replace(temporary, target)
    temporary.unlink(missing_ok=True)  # os.replace does nothing if both are links to one file
    _sync_folder(target.parent)


def check_archive(path: Path) -> None:
    """Raises BadZipFile for an archive whose content does not match its CRCs, which torch.load does not check."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"the CRC of '{damaged}' does not match")


def remove_leftovers(folder: Path) -> None:
    """Deletes the half-written files that a killed process left in a run's folder."""
    for path in folder.glob(f".*{_TEMPORARY}"):
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    with _where_supported():
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _where_supported() -> Iterator[None]:
    """Ignores the answer of a file system that cannot do it, not a failure such as EIO."""
    try:
        yield
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
