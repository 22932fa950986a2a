"""Files that matter: written whole, on disk, or not at all, and checked when read."""

import csv
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_TEMPORARY = ".tmp"


@contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A file to write to that takes the place of `path` when the block ends.

    Until then, and if the block raises, `path` is left as it was. Afterwards the data
    have reached the disk, and so has the name. Raises OSError as writing does.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY}")  # two processes may write the same file
    encoding = None if "b" in mode else "utf-8"
    try:
        errors = None if encoding is None else "surrogateescape"  # a file's name need not be text
        with open(temporary, mode, encoding=encoding, errors=errors, newline=None if encoding is None else "") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # writing to a full disk does not say where
        raise
    _sync_folder(path.parent)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table, as carefully."""
    with atomic_write(path) as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def link_over(source: Path, target: Path) -> None:
    """Make `target` another name of the file `source`, in place of what it was before."""
    temporary = target.with_name(f".{target.name}{_TEMPORARY}")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:  # a file system without hard links: a copy, as carefully written
        with atomic_write(target, "wb") as file:
            file.write(source.read_bytes())
        return
    os.replace(temporary, target)
    temporary.unlink(missing_ok=True)  # it stays where both were names of one file already
    _sync_folder(target.parent)


def check_archive(path: Path) -> None:
    """Raise BadZipFile for an archive whose content does not fit its CRCs.

    torch.load does not notice flipped bits in the archives that it reads.
    """
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"the CRC of '{damaged}' does not fit")


def remove_leftovers(folder: Path) -> None:
    """Delete what a killed process left half-written in a folder of ours."""
    for path in folder.glob(f".*{_TEMPORARY}"):
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
