"""Bytes -> uint8 pixels, in one way for training, testing and inference."""

import os
from pathlib import Path

import cv2
import numpy as np

from data.image_formats import SIGNATURES, decode_with_pillow, plain_size
from utils.errors import UserError, one_line

# The default of DATASETS.MAX_PIXELS: Pillow's own limit.
MAX_PIXELS = 178_956_970


class BrokenImage(UserError):
    """One image cannot be read; the others may be fine."""


class EncodedImage:
    """An image file in memory, not decoded yet. `name` is the file, for messages."""

    def __init__(self, data: bytes, name: str):
        self.data = data
        self.name = name

    @classmethod
    def open(cls, path: Path) -> "EncodedImage":
        name = printable(path)
        try:
            return cls(path.read_bytes(), name)
        except OSError as error:
            raise BrokenImage(f"{name}: cannot read the image: {error.strerror}") from error

    def read(self, channels: int, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """The pixels, uint8 (H, W, channels), upright as EXIF says.

        Transparent pixels become white; deeper ones than 8 bits are scaled to 0..255. Raises
        BrokenImage for a file that is damaged, cut short, or has more than `max_pixels`.
        """
        try:
            return self._decode(channels, max_pixels)
        except Exception as error:  # a decoder raises anything for bytes made by anybody
            found = f"{len(self.data)} bytes, begins with {self.data[:8]!r}" if self.data else "the file is empty"
            raise BrokenImage(
                f"{self.name}: cannot decode the image: {one_line(error)} ({found}); replace or remove the file"
            ) from error

    def _decode(self, channels: int, max_pixels: int) -> np.ndarray:
        """With OpenCV what it reads as well as Pillow and faster, with Pillow all else, with OpenCV what is left."""
        size = plain_size(self.data)
        if size is not None:
            _check_pixels(size, max_pixels)
            image = self._decode_with_opencv(channels)
            if image is not None:
                return image
        from PIL import UnidentifiedImageError

        try:
            image = decode_with_pillow(self.data, lambda size: _check_pixels(size, max_pixels))
        except UnidentifiedImageError as error:
            # OpenCV would take the size in a damaged header at its word, and its memory with it.
            image = None if self.data.startswith(SIGNATURES) else self._decode_with_opencv(channels)
            if image is None:
                raise ValueError("not an image in a known format") from error
            _check_pixels(image.shape, max_pixels)
        return with_channels(image, channels)

    def _decode_with_opencv(self, channels: int) -> np.ndarray | None:
        flag = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR
        image = cv2.imdecode(np.frombuffer(self.data, np.uint8), flag) if self.data else None
        if image is None:
            return None
        return image[..., np.newaxis] if channels == 1 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def to_pixels(source: "np.ndarray | EncodedImage", channels: int, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """What a data set gives -> uint8 (H, W, channels)."""
    if isinstance(source, EncodedImage):
        return source.read(channels, max_pixels)
    if source.ndim == 2:
        source = source[..., np.newaxis]
    if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] not in (1, 3):
        raise UserError(
            f"the data set gave an array {source.dtype} {source.shape}, expected uint8 (H, W, 1) or (H, W, 3)"
        )
    return with_channels(source, channels)


def with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """uint8 (H, W, 1 or 3) -> (H, W, channels): gray repeated, or colours weighted as eyes see them."""
    if image.shape[2] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=2)
    return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)[..., np.newaxis]


def printable(path: Path) -> str:
    """A path as one line that any file and terminal takes: what cannot be shown as escapes."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _check_pixels(size: tuple[int, ...], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise ValueError(f"{size[1]} x {size[0]} pixels are more than DATASETS.MAX_PIXELS {max_pixels}")
