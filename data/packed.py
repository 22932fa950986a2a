"""Packs: the images of a data set, decoded and shrunk, in one file; FILE.index has the recipe and a row per sample."""

import fcntl
import json
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from itertools import chain, islice
from typing import Any

import numpy as np

from data.image_io import BrokenImage, to_pixels
from data.splits import hash_names, sample_names
from data.transforms.geometry import resize
from data.workers import thread_pool
from utils.errors import UserError, printable
from utils.logger import get_logger

VERSION = 1
# What a sample is made from: hashes of split and name, then size and time of its file, or size and CRC of its array.
SOURCE = ["split", "name", "size", "stamp"]
# Its pixels, uint8 (height, width, channels), begin at `offset`; those of an image that cannot be read have no height.
ROW = np.dtype([(key, "<i8") for key in (*SOURCE, "offset", "height", "width", "crc")])


class Packed:
    """A split with its images from a pack, as read-only arrays; all else is that of the data set, `unpacked`."""

    name: Callable[[int], str]

    def __init__(self, dataset: Any, file: str, split: str, channels: int):
        vars(self).update((name, getattr(dataset, name)) for name in dir(dataset) if not name.startswith("_"))
        self._file = file = os.path.abspath(os.path.expanduser(file))
        self.unpacked, self._channels, self.thread_safe = dataset, channels, True
        where, hint = f"DATASETS.PACKED {printable(file)}", "run tools/pack_dataset.py again"
        try:
            with open(f"{file}.index", "rb") as index:
                recipe, table = dict(json.loads(index.readline())), index.read()
            rows, size = np.frombuffer(table, ROW, len(table) // ROW.itemsize), os.path.getsize(file)
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{where}: cannot read it: {error}; {hint}") from error
        end = int((rows["offset"] + rows["height"] * rows["width"] * channels).max(initial=0))
        found = {key: recipe.get(key) for key in ("version", "channels")} | {"images": len(rows), "bytes": size}
        expected = {"version": VERSION, "channels": channels, "images": recipe.get("images"), "bytes": end}
        if wrong := [key for key in found if found[key] != expected[key]]:
            raise UserError(f"{where}: found {found[wrong[0]]} {wrong[0]}, expected {expected[wrong[0]]}; {hint}")
        own, rows = identify(dataset, split), rows[rows["split"] == hash_names([split], 0)]
        order, packed_order = (np.lexsort([table[key] for key in SOURCE]) for table in (own, rows))
        if len(own) != len(rows) or (own[SOURCE][order] != rows[SOURCE][packed_order]).any():
            new = [dataset.name(i) for i in np.flatnonzero(~np.isin(own[SOURCE], rows[SOURCE])).tolist()]
            changes = f", {len(new)} of them new or changed, such as {new[0]}" if new else ""
            problem = f"found {len(own)} images{changes}, expected {len(rows)}"
            raise UserError(f"{where}: {split}: {problem}; restore them, or {hint}")
        own[order] = rows[packed_order]
        self._rows = own

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: int) -> tuple[np.ndarray, Any]:
        *_, offset, height, width, _ = self._rows[i].tolist()
        if not height:
            problem = f"could not be read when {printable(self._file)} was written"
            raise BrokenImage(f"{printable(self.unpacked.name(i))}: {problem}; tools/check_data.py tells why")
        pixels = self._pixels[offset : offset + height * width * self._channels].reshape(height, width, -1)
        target = self.unpacked.targets[i]
        return pixels, target if np.ndim(target) else int(target)

    @cached_property
    def _pixels(self) -> np.ndarray:
        return np.asarray(np.memmap(self._file, np.uint8, "r"))

    def __getstate__(self) -> dict[str, Any]:
        """Returns what another process needs, which maps the file itself."""
        return {name: value for name, value in vars(self).items() if name != "_pixels"}


def identify(dataset: Any, split: str) -> np.ndarray:
    """Returns a row for each sample (n,) with its SOURCE; without `path` and `images` only names tell them apart."""
    rows = np.zeros(len(dataset), ROW)
    rows["split"], rows["name"] = hash_names([split], 0), hash_names(sample_names(dataset), 0)
    path, images = getattr(dataset, "path", None), getattr(dataset, "images", None)
    for i, row in enumerate(rows):
        with suppress(OSError):  # a file that is gone
            if path:
                row["size"], row["stamp"] = (state := os.stat(path(i))).st_size, state.st_mtime_ns
                continue
        if isinstance(images, np.ndarray) and len(images) == len(rows):
            row["size"], row["stamp"] = images[i].nbytes, zlib.crc32(images[i].tobytes())
    return rows


def write_pack(file: str, datasets: list, rows: np.ndarray, recipe: dict, skip: bool) -> Iterator[None]:
    """Writes a pack, fills in a row and yields for each image. What a run that was stopped has in common is kept."""

    def read(sample: tuple[Any, int]) -> np.ndarray:
        dataset, i = sample
        try:
            image = to_pixels(dataset[i][0], recipe["channels"], recipe["max_pixels"])
        except UserError as error:
            name = printable(dataset.name(i))
            if not skip or not isinstance(error, BrokenImage):
                raise UserError(f"{name}: {str(error).split(f'{name}: ', 1)[-1]}") from error
            get_logger("data").warning("skipped %s", error)
            return np.zeros((0, 0, 1), np.uint8)
        scale = min(recipe["short_side"] / min(image.shape[:2]), 1)
        return np.ascontiguousarray(resize(image, (round(image.shape[0] * scale), round(image.shape[1] * scale))))

    header, kept, end = json.dumps(recipe, default=str).encode() + b"\n", 0, 0
    pool = thread_pool(*datasets)
    with pool, open(f"{file}.part", "a+b") as data, open(f"{file}.index.part", "a+b") as journal:
        try:
            fcntl.lockf(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise UserError(f"--output {file}: another process is writing this pack; wait for it") from error
        data.seek(journal.seek(0))
        begun, table = journal.readline(), journal.read()
        for done in np.frombuffer(table, ROW, len(table) // ROW.itemsize if begun == header else 0):
            pixels = data.read(int(done["height"] * done["width"]) * recipe["channels"])
            if done[SOURCE] != rows[kept][SOURCE] or done["offset"] != end or done["crc"] != zlib.crc32(pixels):
                break
            rows[kept], kept, end = done, kept + 1, end + len(pixels)
            yield
        if kept:
            get_logger("data").warning("%s.part: kept %d images, the others are read afresh", file, kept)
        data.truncate(end)
        journal.truncate(0)
        journal.write(header + rows[:kept].tobytes())
        samples = islice(((dataset, i) for dataset in datasets for i in range(len(dataset))), kept, None)
        blocks = iter(lambda: list(islice(samples, 128)), [])  # as many images are in memory at a time
        images = chain.from_iterable(pool.imap(read, block) for block in blocks)
        for row, image in zip(rows[kept:], images, strict=True):
            row["offset"], row["height"], row["width"], row["crc"] = end, *image.shape[:2], zlib.crc32(image.data)
            end += data.write(image.data)
            journal.write(row.tobytes())
            yield
        for written in (data, journal):  # before the names tell that it is complete
            written.flush()
            os.fsync(written.fileno())
    os.replace(f"{file}.part", file)
    os.replace(f"{file}.index.part", f"{file}.index")
