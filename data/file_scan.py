"""Finding image files in folders."""

import os
from collections.abc import Iterator
from pathlib import Path

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif", ".avif", ".jfif")
_JUNK = {"__macosx", "thumbs.db", "desktop.ini"}


def walk_files(folder: Path, relative: str = "", inside: tuple[str, ...] = ()) -> Iterator[str]:
    """Yields all regular files below a folder, as paths that begin with `relative`; links back to a parent are cut.

    `inside` are the real paths of its parents, worked out for the first folder.
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
            if entry.is_dir():
                yield from walk_files(Path(entry.path), path, (*inside, real))
            elif entry.is_file():
                yield path


def is_image(path: str) -> bool:
    return path.lower().endswith(IMAGE_SUFFIXES)


def is_junk(name: str) -> bool:
    """Recognizes hidden files and those left behind by an operating system."""
    return name.startswith(".") or name.lower() in _JUNK
