"""What is in an image file: headers of the common formats, and Pillow for all the others."""

import io
import struct
from collections.abc import Callable

import numpy as np

Size = tuple[int, int]  # (height, width) in pixels
SIGNATURES = JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
# JPEG's "start of frame" markers: all of C0..CF but tables (C4), reserved (C8) and arithmetic coding (CC).
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def plain_size(data: bytes) -> Size | None:
    """(height, width) of a complete JPEG or PNG of 8 bits in gray or RGB, opaque; None for anything else."""
    if data.startswith(JPEG):
        return _jpeg_size(data)
    if data.startswith(PNG):
        return _png_size(data)
    return None


def _jpeg_size(data: bytes) -> Size | None:
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker, length = struct.unpack_from(">BH", data, at + 1)
        if marker == 0xFF:  # padding
            at += 1
        elif marker in _FRAMES:
            bits, height, width, components = struct.unpack_from(">BHHB", data, at + 4)
            # Behind the frame's header, so that the end of a thumbnail before it does not count. Some decoders fill
            # what is missing of a file that was cut short with gray, OpenCV 4 for one, and say nothing.
            is_complete = data.rfind(b"\xff\xd9", at) >= 0
            return (height, width) if is_complete and bits == 8 and components in (1, 3) else None
        else:
            at += 2 + length
    return None


def _png_size(data: bytes) -> Size | None:
    if data[12:16] != b"IHDR" or len(data) < 33:
        return None
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    pixels_begin = data.find(b"IDAT")
    special = any(data.find(chunk, 0, pixels_begin) >= 0 for chunk in (b"tRNS", b"acTL", b"eXIf"))
    is_opaque = colour == 3 or (colour in (0, 2) and bits == 8)  # palette, gray, RGB
    return (height, width) if is_opaque and not special and data.rfind(b"IEND") >= 0 else None


def decode_with_pillow(data: bytes, check_size: Callable[[Size], None]) -> np.ndarray:
    """The first frame as uint8 (H, W, 1 or 3), upright; `check_size` may refuse it before it is decoded.

    Raises what Pillow raises.
    """
    from PIL import Image, ImageChops, ImageOps

    with Image.open(io.BytesIO(data)) as image:
        check_size((image.height, image.width))
        image.load()
        try:
            upright = ImageOps.exif_transpose(image)
        except Exception:  # a damaged EXIF block says nothing about the pixels
            upright = image
        if (image.format, image.mode) == ("JPEG", "CMYK") and "adobe" not in image.info:
            upright = ImageChops.invert(upright)  # Pillow takes all of them for Adobe's, which are stored inverted
        if upright.has_transparency_data:
            upright = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
        if upright.mode in ("F", "I") or upright.mode.startswith("I;16"):
            return _scaled(np.asarray(upright), upright.mode)
        upright = upright.convert("L" if upright.mode in ("1", "L") else "RGB")
        pixels = np.asarray(upright)
        return pixels.reshape(*pixels.shape[:2], -1)


def _scaled(values: np.ndarray, mode: str) -> np.ndarray:
    """Deep gray values (H, W) -> uint8 (H, W, 1), never clipped.

    16 bits by their full range; integers and floats by 0..1, 0..255 or 0..65535, the first
    that holds them (0..1 for floats only), else by their own range.
    """
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("its floating-point values are not all finite")
    tops = (65535.0,) if mode.startswith("I;16") else (1.0, 255.0, 65535.0) if mode == "F" else (65535.0,)
    top = next((top for top in tops if low >= 0 and high <= top), None)
    if top is None:
        values, top = values.astype(np.float64) - low, (high - low) or 1.0
    return np.rint(values * (255.0 / top)).astype(np.uint8)[..., np.newaxis]
