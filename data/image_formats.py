"""Headers of JPEG and PNG files, and decoding with Pillow for every other format."""

import io
import struct
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

Size = tuple[int, int]  # (height, width) in pixels
JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
# JPEG's "start of frame" markers: all of C0..CF but tables (C4), reserved (C8) and arithmetic coding (CC).
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ORIENTATION = 0x0112  # the EXIF tag


def plain_header(data: bytes) -> tuple[Size, int] | None:
    """Size as stored and EXIF orientation (1..8) of a complete, opaque 8-bit JPEG or PNG in gray or RGB, else None."""
    if data.startswith(JPEG):
        return _jpeg_header(data)
    if data.startswith(PNG):
        return _png_header(data)
    return None


def _jpeg_header(data: bytes) -> tuple[Size, int] | None:
    at, exif = 2, b""
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker, length = struct.unpack_from(">BH", data, at + 1)
        if marker == 0xFF:  # padding
            at += 1
        elif marker in _FRAMES:
            bits, height, width, components = struct.unpack_from(">BHHB", data, at + 4)
            # Searched after the frame's header, since a thumbnail before it has an end marker too. Some decoders, such
            # as OpenCV 4, fill the missing part of a truncated file with gray and do not report it.
            is_complete = data.rfind(b"\xff\xd9", at) >= 0
            is_plain = is_complete and bits == 8 and components in (1, 3)
            return ((height, width), _exif_orientation(exif)) if is_plain else None
        else:
            segment = data[at + 4 : at + 2 + length]
            if marker == 0xE1 and not exif and segment.startswith(b"Exif\0\0"):
                exif = segment[6:]
            at += 2 + length
    return None


def _png_header(data: bytes) -> tuple[Size, int] | None:
    if data[12:16] != b"IHDR" or len(data) < 33:
        return None
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    kinds, at = set(), len(PNG)
    while at + 12 <= len(data) and b"IEND" not in kinds:  # a decoder would allocate what a damaged length asks for
        length, kind = struct.unpack_from(">I4s", data, at)
        kinds.add(kind)
        at += 12 + length
    is_complete = b"IEND" in kinds and at <= len(data) and not kinds & {b"tRNS", b"acTL", b"eXIf"}
    is_opaque = colour == 3 or (colour in (0, 2) and bits == 8)  # palette, gray, RGB
    return ((height, width), 1) if is_opaque and is_complete else None


def _exif_orientation(tiff: bytes) -> int:
    """The orientation 1..8 in an EXIF block; 1 if there is none or the block is damaged."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    try:
        (first,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, first)
        for at in range(first + 2, first + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, at)
            if tag == _ORIENTATION:
                return value if value in range(1, 9) else 1
    except struct.error:
        pass
    return 1


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """A view of a stored image (H, W, C) as EXIF `orientation` 1..8 displays it."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    return image[:: -1 if orientation in (3, 4, 7, 8) else 1, :: -1 if orientation in (2, 3, 6, 7) else 1]


def _open(data: bytes) -> "ImageFile":
    """Opens an image with Pillow, HEIC with pillow-heif. Raises what Pillow raises, ValueError for other formats."""
    from PIL import Image, UnidentifiedImageError

    if data[4:8] == b"ftyp" and b"hei" in data[8:40]:
        try:
            import_module("pillow_heif").register_heif_opener()
        except ImportError as error:
            raise ValueError("HEIC needs pillow-heif: pip install pillow-heif, or convert the image") from error
    try:
        return Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        raise ValueError("not an image in a known format") from error


def size_with_pillow(data: bytes) -> Size:
    """(height, width) of the upright image, from the header. Raises what Pillow raises."""
    with _open(data) as image:
        tags = getattr(image, "tag_v2", None)  # a TIFF's size may be upright already, depending on Pillow's version
        height, width = (tags[257], tags[256]) if tags else (image.height, image.width)
        try:
            orientation = image.getexif().get(_ORIENTATION, 1)
        except Exception:  # as when decoding
            orientation = 1
        return (width, height) if orientation in (5, 6, 7, 8) else (height, width)


def decode_with_pillow(data: bytes, check_size: Callable[[Size], None]) -> np.ndarray:
    """Decodes the first frame to uint8 (H, W, 1 or 3), upright; `check_size` may refuse its size before that.

    Raises what Pillow raises.
    """
    from PIL import Image, ImageChops, ImageOps

    with _open(data) as image:
        check_size((image.height, image.width))
        image.load()
        try:
            frame = ImageOps.exif_transpose(image)
        except Exception:  # a damaged EXIF block does not affect the pixels
            frame = image
        if (image.format, image.mode) == ("JPEG", "CMYK") and "adobe" not in image.info:
            frame = ImageChops.invert(frame)  # Pillow assumes Adobe's convention, which stores inverted values
        if frame.has_transparency_data:
            frame = frame.convert("RGBA")
            frame = Image.alpha_composite(Image.new("RGBA", frame.size, "white"), frame)
        if frame.mode in ("F", "I") or frame.mode.startswith("I;16"):
            return _scaled(np.asarray(frame), frame.mode)
        pixels = np.asarray(frame.convert("L" if frame.mode in ("1", "L") else "RGB"))
        return pixels.reshape(*pixels.shape[:2], -1)


def _scaled(values: np.ndarray, mode: str) -> np.ndarray:
    """Gray values of more than 8 bits (H, W) -> uint8 (H, W, 1).

    16-bit images and integers are scaled by 0..65535; floats by 0..1, -1..1, 0..255 or 0..65535, the first that holds
    them but for what a filter overshoots, which is clipped. Values in none of these are scaled by their own range.
    """
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("its floating-point values are not all finite")
    ranges, slack = ([(0, 1), (-1, 1), (0, 255), (0, 65535)], 0.25) if mode == "F" else ([(0, 65535)], 0)
    held = ((a, b) for a, b in ranges if low >= a - slack * min(b, max(high, 1)) and high <= b + slack * b)
    bottom, top = next(held, (low, high))
    levels = (values.astype(np.float64) - bottom) * (255 / ((top - bottom) or 1))
    return np.rint(levels.clip(0, 255)).astype(np.uint8)[..., np.newaxis]
