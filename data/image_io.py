"""Bytes -> uint8 pixels, in the same way for training, testing and inference."""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from data.image_formats import JPEG, Size, decode_with_pillow, plain_header, size_with_pillow, upright
from utils.errors import UserError, one_line, printable

# The default of DATASETS.MAX_PIXELS: Pillow's own limit.
MAX_PIXELS = 178_956_970
# What a file may be, by the letter that `ls -l` shows; opening such a one may block for ever.
_SPECIAL = {"p": "a named pipe", "s": "a socket", "c": "a device", "b": "a device", "d": "a folder"}
Box = tuple[int, int, int, int]  # (top, left, height, width) in pixels


class BrokenImage(UserError):
    """One image cannot be read; the others may be fine."""


class EncodedImage:
    """An image file in memory, not decoded yet. `name` is its path as messages show it."""

    def __init__(self, data: bytes, name: str):
        self.data, self.name = data, name

    @classmethod
    def open(cls, path: Path) -> "EncodedImage":
        """Reads a file. Raises BrokenImage if that fails; anything but a regular file is not even opened."""
        name = printable(path)
        try:
            if kind := _SPECIAL.get(stat.filemode(path.stat().st_mode)[0]):
                raise BrokenImage(f"{name}: {kind}, expected a regular file; remove it, or the line that names it")
            return cls(path.read_bytes(), name)
        except OSError as error:
            raise BrokenImage(f"{name}: cannot read the image: {error.strerror}") from error

    @cached_property
    def size(self) -> Size:
        """(height, width) of the upright image, from its header. Raises BrokenImage."""
        with self._decoding():
            if header := plain_header(self.data):
                (height, width), orientation = header
                return (height, width) if orientation < 5 else (width, height)
            return size_with_pillow(self.data)

    def read(
        self, channels: int, box: Box | None = None, min_size: Size | None = None, max_pixels: int = MAX_PIXELS
    ) -> np.ndarray:
        """Decodes to uint8 (H, W, channels), upright as EXIF tells; only a `box` of the upright image if given.

        A JPEG's box may be read at a half, a quarter or an eighth of its resolution, but not below `min_size` (height,
        width); its sides then lie on whole pixels of the reduced image. Transparent pixels become white; values of more
        than 8 bits are scaled to 0..255. Raises BrokenImage for a file that is corrupt, truncated or has more than
        `max_pixels`, UserError for a number of channels it does not have.
        """
        scale = 1
        if box and min_size and self.data.startswith(JPEG):
            scale = next((s for s in (8, 4, 2) if box[2] >= s * min_size[0] and box[3] >= s * min_size[1]), 1)
        with self._decoding():
            image = self._decode(channels, max_pixels, scale)
            scale = 1 if image.shape[:2] == self.size else scale
            if box and image.shape[:2] != tuple(-(-side // scale) for side in self.size):
                raise ValueError(f"header {self.size} and pixels {image.shape[:2]} differ in size")
        return with_channels(crop(image, box and _reduced(box, scale)), channels)

    @contextmanager
    def _decoding(self) -> Iterator[None]:
        """Turns whatever a decoder raises for arbitrary bytes into BrokenImage."""
        try:
            yield
        except Exception as error:
            found = f"{len(self.data)} bytes, begins with {self.data[:8]!r}" if self.data else "the file is empty"
            problem = f"cannot decode the image: {one_line(error)} ({found})"
            raise BrokenImage(f"{self.name}: {problem}; replace or remove the file") from error

    def _decode(self, channels: int, max_pixels: int, scale: int) -> np.ndarray:
        """Decodes plain files with OpenCV, which is faster and may reduce them by `scale`, others with Pillow."""
        if header := plain_header(self.data):
            size, orientation = header
            _check_pixels(size, max_pixels)
            flag = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR
            flag |= {1: 0, 2: 16, 4: 32, 8: 64}[scale]  # cv2.IMREAD_REDUCED_COLOR_2 = 16 | cv2.IMREAD_COLOR, and so on
            image = cv2.imdecode(np.frombuffer(self.data, np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION)
            if image is not None:
                image = image[..., np.newaxis] if channels == 1 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
                return upright(image, orientation)
        return decode_with_pillow(self.data, lambda size: _check_pixels(size, max_pixels))


Source = np.ndarray | EncodedImage  # the first half of a sample


def to_pixels(
    source: Source, channels: int, max_pixels: int = MAX_PIXELS, box: Box | None = None, min_size: Size | None = None
) -> np.ndarray:
    """Returns a source, or its `box`, as uint8 (H, W, channels); `min_size` as in `EncodedImage.read`.

    Raises BrokenImage, or UserError for another array.
    """
    if isinstance(source, EncodedImage):
        return source.read(channels, box, min_size, max_pixels)
    size_of(source)
    return with_channels(crop(source.reshape(*source.shape[:2], -1), box), channels)


def size_of(source: Source) -> Size:
    """(height, width) of a source without decoding it. Raises as `to_pixels`."""
    if isinstance(source, EncodedImage):
        return source.size
    if source.dtype != np.uint8 or source.ndim not in (2, 3) or 0 in source.shape:
        expected = "uint8 (H, W) or (H, W, C), none of them 0"
        raise UserError(f"found an array {source.dtype} {source.shape}, expected {expected}")
    return source.shape[0], source.shape[1]


def crop(image: np.ndarray, box: Box | None) -> np.ndarray:
    """A view of the part of an image (H, W, C) within a box."""
    top, left, height, width = box or (0, 0, *image.shape[:2])
    return image[top : top + height, left : left + width]


def _reduced(box: Box, scale: int) -> Box:
    """A box in an image of `scale` times fewer rows and columns, on whole pixels: none is less than its full size."""
    top, bottom, left, right = ((n + scale // 2) // scale for n in (box[0], box[0] + box[2], box[1], box[1] + box[3]))
    return top, left, bottom - top, right - left


def with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Converts uint8 (H, W, C) between gray and RGB (ITU-R BT.601). Raises UserError if other channels are needed."""
    found = image.shape[2]
    if found == channels:
        return image
    if {found, channels} != {1, 3}:
        expected = f"INPUT.CHANNELS is {channels}; to train on such images, set it to {found}"
        raise UserError(f"found an image of {found} channels, {expected}")
    if channels == 3:
        return np.repeat(image, 3, axis=2)
    return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)[..., np.newaxis]


def _check_pixels(size: Size, max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise ValueError(f"{size[1]} x {size[0]} pixels are more than DATASETS.MAX_PIXELS {max_pixels}")
