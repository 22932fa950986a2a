"""Finding image files in folders."""

import os
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

from utils.errors import printable
from utils.labels import nfc

_HEIC = (".heic", ".heif", ".hif")
IMAGE_SUFFIXES: tuple[str, ...] = tuple(".jpg .jpeg .png .bmp .webp .tif .tiff .ppm .pgm .gif .avif .jfif".split())
IMAGE_SUFFIXES += _HEIC if find_spec("pillow_heif") else ()
# Images that no decoder here reads, those of cameras and of medicine among them.
_UNREADABLE = (
    *_HEIC,
    *".jxl .jp2 .j2k .svg .psd .xcf .exr .hdr .ico .eps .dcm .cr2 .cr3 .nef .arw .dng .orf .rw2".split(),
)
_JUNK = {"__macosx", "thumbs.db", "desktop.ini"}


def walk_files(folder: Path, relative: str = "", inside: tuple[str, ...] = ()) -> Iterator[str]:
    """Yields all files below a folder, as paths that begin with `relative`; links back to a parent are cut.

    Named pipes, and links whose target is gone, are among them: whoever reads one says so. `inside` are the real paths
    of the folder's parents, worked out for the first one.
    """
    real = os.path.realpath(folder)
    inside = inside or tuple(map(str, Path(real).parents))
    if real in inside:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_junk(entry.name):
                continue
            path = os.path.join(relative, entry.name)
            if os.path.isdir(entry.path):  # not entry.is_dir(), which raises for a link to itself
                yield from walk_files(Path(entry.path), path, (*inside, real))
            else:
                yield path


def folders_in(folder: Path) -> list[str]:
    """Returns the names of the folders in a folder, sorted, without hidden ones and other junk."""
    return sorted((name for name in os.listdir(folder) if os.path.isdir(folder / name) and not is_junk(name)), key=nfc)


def is_image(path: str) -> bool:
    return path.lower().endswith(IMAGE_SUFFIXES)


def ignored(paths: Iterable[str]) -> Iterator[str]:
    """Yields what to say about the files among `paths` that are not read: a count and an example of each kind."""
    others = {path for path in paths if not is_image(path)}
    images = {path for path in others if path.lower().endswith(_UNREADABLE)}
    heic = any(path.lower().endswith(_HEIC) for path in images)
    hint = f"{'pip install pillow-heif, or ' if heic else ''}convert them to PNG or JPEG"
    if images:
        yield f"ignored {len(images)} images in formats that cannot be read, such as {printable(min(images))}; {hint}"
    if rest := others - images:
        yield f"ignored {len(rest)} files that are not images, such as {printable(min(rest))}"


def is_junk(name: str) -> bool:
    """Recognizes hidden files and those left behind by an operating system."""
    return name.startswith(".") or name.lower() in _JUNK
