"""Bytes -> uint8 pixels, in one way for training, testing and inference."""

from pathlib import Path

import cv2
import numpy as np

from utils.errors import UserError


class EncodedImage:
    """An image file in memory, not decoded yet. `name` is the file, for messages."""

    def __init__(self, data: bytes, name: str):
        self.data = data
        self.name = name

    @classmethod
    def open(cls, path: Path) -> "EncodedImage":
        try:
            return cls(path.read_bytes(), str(path))
        except OSError as error:
            raise UserError(f"{path}: cannot read the image: {error.strerror}") from error

    def read(self, channels: int) -> np.ndarray:
        """The pixels, uint8 (H, W, channels), upright as EXIF says. Raises UserError for a broken file."""
        flag = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR
        try:
            image = cv2.imdecode(np.frombuffer(self.data, np.uint8), flag) if self.data else None
        except cv2.error:
            image = None
        if image is None:
            raise UserError(
                f"{self.name}: cannot decode the image ({len(self.data)} bytes, begins with {self.data[:8]!r}); "
                "replace or remove the file"
            )
        return image[..., np.newaxis] if channels == 1 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def to_pixels(source: "np.ndarray | EncodedImage", channels: int) -> np.ndarray:
    """What a data set gives -> uint8 (H, W, channels)."""
    if isinstance(source, EncodedImage):
        return source.read(channels)
    if source.ndim == 2:
        source = source[..., np.newaxis]
    if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] not in (1, 3):
        raise UserError(
            f"the data set gave an array {source.dtype} {source.shape}, expected uint8 (H, W, 1) or (H, W, 3)"
        )
    if source.shape[2] == channels:
        return source
    if channels == 3:
        return np.repeat(source, 3, axis=2)
    return cv2.cvtColor(np.ascontiguousarray(source), cv2.COLOR_RGB2GRAY)[..., np.newaxis]
