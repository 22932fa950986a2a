"""Odd files, read in one way everywhere."""

import io
import os
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data.image_formats import plain_header
from data.image_io import BrokenImage, EncodedImage, to_pixels
from tests.data.odd_images import Odd, encoded, odd_images, picture, with_orientation
from utils.errors import UserError, printable

ODD = list(odd_images())


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd.name)
@pytest.mark.parametrize("channels", [3, 1])
def test_what_is_read(odd: Odd, channels: int):
    image = EncodedImage(odd.data, odd.name)
    if odd.pixels is None:
        with pytest.raises(BrokenImage, match=odd.name.replace(".", r"\.")) as error:
            image.read(channels)
        assert "\n" not in str(error.value)
        return
    expected = odd.pixels.astype(np.uint8)
    if channels == 1:
        expected = cv2.cvtColor(np.ascontiguousarray(expected), cv2.COLOR_RGB2GRAY)[..., np.newaxis]
    pixels = image.read(channels)
    assert pixels.dtype == np.uint8 and pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= odd.tolerance + (channels == 1)


@pytest.mark.parametrize("odd", [odd for odd in ODD if odd.pixels is not None], ids=lambda odd: odd.name)
def test_the_size_is_known_without_decoding(odd: Odd, monkeypatch):
    for function in ("imdecode", "imdecodemulti"):
        monkeypatch.setattr(cv2, function, lambda *_: pytest.fail("decoded"))
    assert EncodedImage(odd.data, odd.name).size == odd.pixels.shape[:2]


def test_the_size_of_turned_tiffs_and_of_what_is_not_an_image():
    for orientation in range(1, 9):
        for kind in ("TIFF", "WEBP", "PNG"):
            exif = Image.Exif()
            exif[0x0112] = orientation
            stored = Image.fromarray(with_orientation(picture(), orientation))
            image = EncodedImage(encoded(stored, kind, exif=exif), "x")
            assert image.size == image.read(3).shape[:2] == picture().shape[:2], (kind, orientation)
    with pytest.raises(BrokenImage, match="page.jpg: cannot decode the image"):
        _ = EncodedImage(b"<html>", "page.jpg").size


@given(st.data())
def test_a_box_is_a_part_of_the_whole(data):
    odd = data.draw(st.sampled_from([odd for odd in ODD if odd.pixels is not None and odd.pixels.size < 10**5]))
    channels = data.draw(st.sampled_from([1, 3]))
    image = EncodedImage(odd.data, odd.name)
    height, width = image.size
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    box = top, left, data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left))
    whole = image.read(channels)
    part = image.read(channels, box)
    assert np.array_equal(part, whole[top : top + box[2], left : left + box[3]])
    assert np.array_equal(part, to_pixels(whole, channels, box=box))


def test_there_are_at_least_forty_kinds():
    assert len(ODD) >= 40 and len({odd.name for odd in ODD}) == len(ODD)


def test_deep_images_keep_their_order():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    pixels = EncodedImage(encoded(Image.fromarray(values), "PNG"), "deep.png").read(1)[..., 0]
    assert pixels.min() == 0 and pixels.max() == 255
    assert np.abs(pixels - values / 257).max() <= 0.5 + 1e-9


def test_floats_of_any_range_are_scaled_and_nan_is_refused():
    values = np.linspace(-1000, 250, 100, dtype=np.float32).reshape(10, 10)
    pixels = EncodedImage(encoded(Image.fromarray(values), "TIFF"), "f.tif").read(1)[..., 0]
    assert np.abs(pixels - (values + 1000) / 1250 * 255).max() <= 0.51
    values[3, 3] = np.nan
    with pytest.raises(BrokenImage, match=r"f\.tif.*not all finite"):
        EncodedImage(encoded(Image.fromarray(values), "TIFF"), "f.tif").read(1)


@pytest.mark.parametrize(("low", "top"), [(0, 1), (-1, 1), (0, 255), (0, 65535)])
@pytest.mark.parametrize("beyond", [0.02, -0.02, 0.2, -0.2])
def test_what_a_filter_overshoots_does_not_change_the_range_of_floats(low, top, beyond):
    """One pixel above or below: the others stay as they were."""
    values = np.linspace(low, top, 100, dtype=np.float32).reshape(10, 10)
    expected = EncodedImage(encoded(Image.fromarray(values), "TIFF"), "f.tif").read(1)[..., 0].copy()
    assert expected.min() == 0 and expected.max() == 255
    values[3, 3], expected[3, 3] = (top + beyond * top, 255) if beyond > 0 else (low + beyond * top, 0)
    assert np.array_equal(EncodedImage(encoded(Image.fromarray(values), "TIFF"), "f.tif").read(1)[..., 0], expected)


def test_a_jpeg_that_was_cut_short_is_not_plain():
    """OpenCV 4 would fill the rest with gray; the end of a thumbnail before the picture is not the picture's end."""
    thumbnail = encoded(Image.fromarray(picture(8, 8)), "JPEG")
    data = encoded(Image.fromarray(picture()), "JPEG", exif=b"Exif\0\0" + thumbnail)
    assert thumbnail in data and plain_header(data) == (picture().shape[:2], 1)
    for end in (-1, -2, len(data) // 2, data.index(thumbnail) + len(thumbnail) + 40):
        assert plain_header(data[:end]) is None
    png = encoded(Image.fromarray(picture()), "PNG")
    assert plain_header(png) == (picture().shape[:2], 1) and plain_header(png[: len(png) // 2]) is None


def test_a_damaged_header_is_not_believed(monkeypatch):
    """Its size could fill the memory; the checksum tells, and no other decoder is asked."""
    data = bytearray(encoded(Image.fromarray(picture()), "PNG"))
    data[16:24] = (30000).to_bytes(4, "big") * 2
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(BrokenImage, match="x.png: cannot decode the image"):
        EncodedImage(bytes(data), "x.png").read(3)


@pytest.mark.parametrize("value", [-1.0, 0.0, 0.5, 300000.0])
def test_a_constant_image_has_no_range(value):
    data = encoded(Image.fromarray(np.full((4, 4), value, np.float32)), "TIFF")
    assert (EncodedImage(data, "f.tif").read(1) == round(255 * value if 0 <= value <= 1 else 0)).all()


def test_the_limit_of_pixels():
    data = encoded(Image.fromarray(picture(10, 12)), "JPEG")
    assert EncodedImage(data, "a.jpg").read(3, max_pixels=120).shape == (10, 12, 3)
    for kind in ("JPEG", "PNG", "GIF", "TIFF"):
        image = EncodedImage(encoded(Image.fromarray(picture(10, 12)), kind), "a")
        with pytest.raises(BrokenImage, match="12 x 10 pixels are more than DATASETS.MAX_PIXELS 119"):
            image.read(3, max_pixels=119)


HEIC = b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic"  # the beginning of such a file


def test_heic_is_read_with_pillow_heif(monkeypatch):
    """A stand-in for the package reads the PNG behind the beginning."""
    image = EncodedImage(HEIC + encoded(Image.fromarray(picture()), "PNG"), "x.heic")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # not installed
    for read in (lambda: image.read(3), lambda: image.size):
        with pytest.raises(
            BrokenImage, match=r"x\.heic: .*HEIC needs pillow-heif: pip install pillow-heif, or convert"
        ):
            read()

    def register():
        reader = lambda file, name: Image.open(io.BytesIO(file.read()[len(HEIC) :]))  # noqa: E731
        monkeypatch.setitem(Image.OPEN, "HEIC", (reader, lambda start: start.startswith(HEIC[:8])))
        monkeypatch.setattr(Image, "ID", ["HEIC", *Image.ID])

    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=register))
    assert image.size == picture().shape[:2] and np.array_equal(image.read(3), picture())


def test_avif_where_there_is_a_decoder():
    from PIL import features

    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    data = encoded(Image.fromarray(picture()), "AVIF", quality=95)
    assert np.abs(EncodedImage(data, "a.avif").read(3).astype(int) - picture()).max() <= 16


def test_a_file_that_cannot_be_opened(tmp_path):
    with pytest.raises(UserError, match=r"gone\.png: cannot read the image: No such file"):
        EncodedImage.open(tmp_path / "gone.png")
    assert printable(tmp_path / "\udcff.png").endswith("\\xff.png")
    assert printable(tmp_path / "a\nb\t猫.png").endswith("/a\\nb\\t猫.png")


@given(
    st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF", b"II*\0"])
)
def test_any_bytes_give_pixels_or_a_line(data: bytes, magic: bytes):
    try:
        pixels = EncodedImage(magic + data, "any").read(3)
    except BrokenImage as error:
        assert str(error).startswith("any: cannot decode the image: ") and "\n" not in str(error)
    else:
        assert pixels.dtype == np.uint8 and pixels.shape[2] == 3


@given(st.data())
def test_a_damaged_file_gives_pixels_or_a_line(data):
    """A bit that changes pixels cannot be noticed; a crash or a traceback must never be."""
    odd = data.draw(st.sampled_from([odd for odd in ODD if odd.pixels is not None and len(odd.data) < 20000]))
    damaged = bytearray(odd.data)
    for _ in range(3):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = EncodedImage(bytes(damaged), "damaged")
        whole = image.read(3, max_pixels=10**6)
        assert np.array_equal(image.read(3, (0, 0, *image.size), max_pixels=10**6), whole)
    except BrokenImage as error:
        assert "damaged: " in str(error)


def test_the_fast_way_and_pillow_agree():
    """Complete 8-bit files take OpenCV; the pixels are what Pillow gives."""
    for odd in ODD:
        if odd.pixels is not None and odd.name.endswith((".jpg", ".png")) and "exif" not in odd.name:
            with Image.open(io.BytesIO(odd.data)) as image:
                if image.mode in ("RGB", "L") and not image.has_transparency_data:
                    theirs = np.asarray(image.convert("RGB")).astype(int)
                    assert np.abs(EncodedImage(odd.data, odd.name).read(3) - theirs).max() <= 4


def test_what_may_block_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    os.mkfifo("pipe.png")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket.png")
    for path, kind in (("pipe.png", "a named pipe"), ("socket.png", "a socket"), ("/dev/zero", "a device")):
        link = Path(f"{kind}.png")
        link.symlink_to(path)
        for name in (path, link):
            with pytest.raises(BrokenImage, match=f"^{name}: {kind}, expected a regular file"):
                EncodedImage.open(Path(name))
    assert EncodedImage.open(Path("/proc/self/stat")).data  # regular, though its size is 0
