"""Images as people have them: forty kinds, each with what reading it must give."""

import io
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops

WIDTH, HEIGHT = 60, 40
ODD_NAMES = (
    *("a # b.png", "100%.png", "naïve café.png", "猫.png", "🐈.png", " space .PNG", "semi;colon,.png"),
    *("quo'te\".png", "-dash.png", "{brace}.png", "$HOME.png", "new\nline.png", f"{'x' * 251}.png", f"{'猫' * 83}.png"),
    # Spaces that look alike, joined emoji, a decomposed letter, and a byte that is not UTF-8.
    *("10.31\u202fPM.png", "a\xa0b.png", "👩\u200d🔬.png", "e\u0301.png", "caf\udce9.png"),
)


class Odd(NamedTuple):
    """A file: its name, its content, and what is expected: pixels within a tolerance, or None for an error."""

    name: str
    data: bytes
    pixels: np.ndarray | None  # uint8 (H, W, 3)
    tolerance: int = 0


def picture(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Smooth, without symmetry, so that a wrong orientation shows."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return (255 * np.stack([x, y, (x + y) / 2], axis=2)).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def with_orientation(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """How a camera that is held so stores a picture that ought to look like `pixels`."""
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    return np.ascontiguousarray(undo[orientation](pixels))


def odd_images() -> Iterator[Odd]:
    rgb = picture()
    image = Image.fromarray(rgb)
    gray = np.asarray(image.convert("L"))
    gray3 = np.repeat(gray[..., np.newaxis], 3, axis=2)
    jpeg, png = encoded(image, "JPEG", quality=95), encoded(image, "PNG")
    yield from _broken(jpeg, png)
    yield from _modes(image, gray, gray3)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = Image.fromarray(with_orientation(rgb, orientation))
        yield Odd(f"exif{orientation}.jpg", encoded(stored, "JPEG", quality=95, subsampling=0, exif=exif), rgb, 8)
    exif = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff broken"
    yield Odd("broken exif.jpg", encoded(image, "JPEG", quality=95, exif=exif), rgb, 8)
    frames = [Image.fromarray(255 - rgb), Image.fromarray(rgb[::-1])]
    yield Odd("animated.gif", encoded(image, "GIF", save_all=True, append_images=frames), rgb, 60)
    for kind in ("PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(image, kind, save_all=True, append_images=frames, **options)
        yield Odd(f"animated.{kind.lower()}", data, rgb)
    yield Odd("one pixel.png", encoded(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG"), np.array([[[1, 2, 3]]]))
    long = picture(1, 20000)
    yield Odd("long.png", encoded(Image.fromarray(long), "PNG"), long)
    yield Odd("high.png", encoded(Image.fromarray(long.transpose(1, 0, 2).copy()), "PNG"), long.transpose(1, 0, 2))
    yield Odd("icc.jpg", encoded(image, "JPEG", quality=95, icc_profile=b"no profile at all"), rgb, 8)
    yield Odd("progressive.jpg", encoded(image, "JPEG", quality=95, progressive=True), rgb, 8)
    yield Odd("a png really.jpg", png, rgb)
    yield Odd("bitmap.bmp", encoded(image, "BMP"), rgb)
    yield Odd("photo.webp", encoded(image, "WEBP", quality=95), rgb, 16)
    for name in ODD_NAMES:
        yield Odd(name, png, rgb)


def _broken(jpeg: bytes, png: bytes) -> Iterator[Odd]:
    for tenths in range(1, 10, 2):
        yield Odd(f"cut {tenths}.jpg", jpeg[: len(jpeg) * tenths // 10], None)
        yield Odd(f"cut {tenths}.png", png[: len(png) * tenths // 10], None)
    yield Odd("empty.jpg", b"", None)
    yield Odd("page.jpg", b"<!DOCTYPE html><html><body>404</body></html>", None)
    yield Odd("no end.jpg", jpeg[:-2], None)
    bomb = bytearray(png)
    bomb[16:24] = (60000).to_bytes(4, "big") * 2  # says 60000 x 60000 pixels
    yield Odd("bomb.png", bytes(bomb), None)


def _modes(image: Image.Image, gray: np.ndarray, gray3: np.ndarray) -> Iterator[Odd]:
    rgb = np.asarray(image)
    yield Odd("gray.png", encoded(Image.fromarray(gray), "PNG"), gray3)
    yield Odd("gray.jpg", encoded(Image.fromarray(gray), "JPEG", quality=95), gray3, 4)
    yield Odd("adobe cmyk.jpg", encoded(image.convert("CMYK"), "JPEG", quality=95), rgb, 12)
    yield Odd("cmyk.tif", encoded(image.convert("CMYK"), "TIFF"), rgb, 2)
    # Pillow writes CMYK as Adobe does, inverted and marked so by a block; others do neither.
    adobe = encoded(ImageChops.invert(image.convert("CMYK")), "JPEG", quality=95)
    block = adobe.index(b"\xff\xee")
    plain = adobe[:block] + adobe[block + 2 + int.from_bytes(adobe[block + 2 : block + 4], "big") :]
    yield Odd("plain cmyk.jpg", plain, rgb, 12)
    yield Odd("deep.png", encoded(Image.fromarray(gray.astype(np.uint16) * 257), "PNG"), gray3)
    yield Odd("deep.tif", encoded(Image.fromarray(gray.astype(np.uint16) * 257), "TIFF"), gray3)
    yield Odd("float.tif", encoded(Image.fromarray(gray.astype(np.float32) / 255), "TIFF"), gray3)
    yield Odd("integers.tif", encoded(Image.fromarray(gray.astype(np.int32) * 257), "TIFF"), gray3)
    bits = (gray > 127).astype(np.uint8) * 255
    yield Odd("one bit.png", encoded(Image.fromarray(bits).convert("1"), "PNG"), np.repeat(bits[..., None], 3, axis=2))
    alpha = np.full((*gray.shape, 1), 255, np.uint8)
    alpha[:20] = 0
    on_white = np.where(alpha == 0, 255, rgb).astype(np.uint8)
    yield Odd("alpha.png", encoded(Image.fromarray(np.concatenate([rgb, alpha], axis=2)), "PNG"), on_white)
    rgba = Image.fromarray(np.concatenate([rgb, alpha], axis=2))
    yield Odd("alpha.webp", encoded(rgba, "WEBP", lossless=True, exact=True), on_white)
    gray_alpha = Image.fromarray(np.concatenate([gray[..., None], alpha], axis=2), "LA")
    yield Odd("gray alpha.png", encoded(gray_alpha, "PNG"), np.where(alpha == 0, 255, gray3).astype(np.uint8))
    palette = Image.fromarray((gray // 64).astype(np.uint8), "P")
    colours = np.array([[0, 0, 0], [200, 0, 0], [0, 200, 0], [0, 0, 200]], np.uint8)
    palette.putpalette(colours.tobytes())
    in_colours = colours[gray // 64]
    yield Odd("palette.png", encoded(palette, "PNG"), in_colours)
    see_through = np.where((gray // 64)[..., None] == 1, 255, in_colours).astype(np.uint8)
    yield Odd("transparent palette.png", encoded(palette, "PNG", transparency=1), see_through)
