"""Images with text on them."""

import cv2
import numpy as np
import pytest

from utils.drawing import COLUMNS, grid, overlay_cam, thumbnail_size, write_png


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_a_grid_shows_each_image_in_its_place(channels):
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, channels), dtype=np.uint8)
    drawn = grid(images, 3, (8, 12), "title", ["a", "图片", "a label that is far too long", "", "e\nf"])
    assert drawn.shape[1:] == (3 * 16, 3)
    title = len(drawn) - 2 * (8 + 4 + 30)
    for i, image in enumerate(images):
        top, left = title + 30 + 2 + 42 * (i // 3), 2 + 16 * (i % 3)
        rgb = np.repeat(image[..., :1], 3, axis=2) if channels < 3 else image[..., :3]
        enlarged = rgb.repeat(2, axis=0).repeat(2, axis=1)
        shown = drawn[top : top + 8, left : left + 12, ::-1]  # BGR -> RGB
        assert np.array_equal(shown, enlarged)
    assert (drawn[-12:, 2 * 16 :] == 255).all()  # there is no sixth image


def test_images_of_any_shape_fit_into_a_cell():
    shapes = [(1, 1), (1, 3000), (3000, 1), (20, 20), (21, 7), (9, 6)]
    drawn = grid([np.zeros((*shape, 3), np.uint8) for shape in shapes], 6, (20, 20), "")
    cells = drawn[-24:].reshape(24, 6, 24, 3).swapaxes(0, 1)
    dark = [tuple(np.ptp(np.argwhere(cell.max(axis=2) < 128), axis=0) + 1) for cell in cells]
    assert dark == [(20, 20), (1, 20), (20, 1), (20, 20), (20, 7), (18, 12)]


def test_labels_are_written_and_cut_to_their_cell():
    image = np.full((40, 40, 3), 255, np.uint8)
    short, long, none = (grid([image], 1, (40, 100), "", [label]) for label in ("wide", "w" * 300, ""))
    assert short.shape == long.shape == none.shape
    assert (none == 255).all() and (short < 128).any() and (long < 128).any()
    assert (long[:, -4:] == 255).all()  # not cut in the middle of a letter
    accent, mark = (grid([image], 1, (40, 100), label, [label]) for label in "é?")
    assert np.array_equal(accent, mark)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((8, 8), (112, 112)),
        ((28, 14), (112, 56)),
        ((100, 100), (200, 200)),
        ((224, 100), (224, 100)),
        ((448, 224), (224, 112)),
    ],
)
def test_thumbnails_are_large_enough_to_see_and_small_enough_for_a_screen(size, expected):
    assert thumbnail_size(size) == expected


def test_a_batch_is_drawn_eight_in_a_row_at_a_size_that_can_be_seen():
    images = np.random.default_rng(0).integers(0, 256, (9, 16, 8, 3), dtype=np.uint8)
    drawn = grid(images, COLUMNS, thumbnail_size((16, 8)), "title")
    assert drawn.shape == (30 + 2 * (112 + 4), 8 * (56 + 4), 3)
    assert np.array_equal(drawn[30 + 116 + 2 : -2 : 7, 2:58:7, ::-1], images[8])
    labelled = grid(images, COLUMNS, thumbnail_size((16, 8)), "title", ["x"] * 9)
    assert labelled.shape == (30 + 2 * (30 + 112 + 4), 8 * 60, 3)


def test_an_image_is_written_without_loss(tmp_path):
    for channels in (1, 3):
        pixels = np.random.default_rng(1).integers(0, 256, (5, 7, channels), dtype=np.uint8)
        write_png(tmp_path / "new" / "x.png", pixels[..., ::-1])
        read = cv2.imread(str(tmp_path / "new" / "x.png"), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(read.reshape(pixels.shape)[..., ::-1], pixels)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_map_is_blended_into_an_image_red_where_it_is_highest(channels):
    image = np.random.default_rng(2).integers(0, 256, (6, 10, channels), dtype=np.uint8)
    cam = np.linspace(0, 1, 60, dtype=np.float32).reshape(6, 10)
    over = overlay_cam(image, cam)
    assert over.shape == (6, 10, 3) and over.dtype == np.uint8
    colours = overlay_cam(np.zeros_like(image), cam).astype(int)
    assert np.abs(over - colours - image / 2).max() <= 1  # half of the image, in its own colours, and half of the map
    assert colours[0, 0].argmax() == 2 and colours[-1, -1].argmax() == 0  # RGB: blue to red
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) == 60
