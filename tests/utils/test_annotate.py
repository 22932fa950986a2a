"""Pictures with words on them."""

import cv2
import numpy as np
import pytest

from utils.annotate import annotate, confusion_matrix, grid, heat, write_png


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_shows_each_image_in_its_place(channels):
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, channels), dtype=np.uint8)
    picture = grid(images, 3, (8, 12), "title", ["a", "图片", "a label that is far too long", "", "e\nf"])
    assert picture.shape[1] == 3 * 16
    title = len(picture) - 2 * (8 + 4 + 30)
    for i, image in enumerate(images):
        top, left = title + 30 + 2 + 42 * (i // 3), 2 + 16 * (i % 3)
        enlarged = image.repeat(2, axis=0).repeat(2, axis=1)
        shown = picture[top : top + 8, left : left + 12, ::-1]  # BGR -> RGB
        assert np.array_equal(shown, enlarged)
    assert (picture[-12:, 2 * 16 :] == 255).all()  # there is no sixth image


def test_images_of_any_shape_fit_into_a_cell():
    shapes = [(1, 1), (1, 3000), (3000, 1), (20, 20), (21, 7), (9, 6)]
    picture = grid([np.zeros((*shape, 3), np.uint8) for shape in shapes], 6, (20, 20), "")
    cells = picture[-24:].reshape(24, 6, 24, 3).swapaxes(0, 1)
    dark = [tuple(np.ptp(np.argwhere(cell.max(axis=2) < 128), axis=0) + 1) for cell in cells]
    assert dark == [(20, 20), (1, 20), (20, 1), (20, 20), (20, 7), (18, 12)]


def test_labels_are_written_and_cut_to_their_cell():
    image = np.full((40, 40, 3), 255, np.uint8)
    short, long, none = (grid([image], 1, (40, 100), "", [label]) for label in ("wide", "w" * 300, ""))
    assert short.shape == long.shape == none.shape
    assert (none == 255).all() and (short < 128).any() and (long < 128).any()
    assert (long[:, -4:] == 255).all()  # not cut in the middle of a letter
    assert np.array_equal(annotate(image, ["é"]), annotate(image, ["?"]))


def test_a_picture_is_written_without_loss(tmp_path):
    for channels in (1, 3):
        pixels = np.random.default_rng(1).integers(0, 256, (5, 7, channels), dtype=np.uint8)
        write_png(tmp_path / "new" / "x.png", pixels[..., ::-1])
        read = cv2.imread(str(tmp_path / "new" / "x.png"), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(read.reshape(pixels.shape)[..., ::-1], pixels)


@pytest.mark.parametrize("channels", [1, 3])
def test_heat_lies_over_an_image_red_where_it_is_most(channels):
    image = np.random.default_rng(2).integers(0, 256, (6, 10, channels), dtype=np.uint8)
    cam = np.linspace(0, 1, 60, dtype=np.float32).reshape(6, 10)
    over = heat(image, cam)
    assert over.shape == (6, 10, 3) and over.dtype == np.uint8
    colours = heat(np.zeros_like(image), cam).astype(int)
    assert np.abs(over - colours - image / 2).max() <= 1  # half of the image, in its own colours, and half of the map
    assert colours[0, 0].argmax() == 2 and colours[-1, -1].argmax() == 0  # RGB: blue to red
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) == 60


@pytest.mark.parametrize(("classes", "side"), [(2, 32), (20, 32), (21, 30), (32, 20), (33, 19), (100, 6), (1000, 1)])
def test_the_shade_of_a_cell_is_its_share_of_the_row(classes, side):
    rng = np.random.default_rng(classes)
    counts = rng.integers(0, 9, (classes, classes)) * rng.integers(0, 2, (classes, classes))
    counts[1] = 0  # a class without samples
    picture = confusion_matrix(counts, [f"{i}" for i in range(classes)])
    cells = picture[-side * classes :, -side * classes :, 0]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    assert np.abs(cells[::side, ::side] - 255 * (1 - shares)).max() <= 1
    assert (cells[::side, ::side] == cells[side - 1 :: side, side - 1 :: side]).all()
    contrast = np.ptp(cells.reshape(classes, side, classes, side), axis=(1, 3))
    assert (
        contrast[counts > 0].min() > 100 and not contrast[counts == 0].any() if classes <= 20 else (contrast == 0).all()
    )
    names = picture[-side * classes :, : -side * classes]
    assert bool(names.size) == (classes <= 32) and (names.min(initial=255) < 128) == (classes <= 32)
    assert picture.shape[0] - picture.shape[1] == 30 and picture.shape[2] == 1


@pytest.mark.parametrize(("classes", "side"), [(3, 32), (32, 20)])
def test_names_stand_at_their_rows_and_columns(classes, side):
    names = ["long name " * 9, *[""] * (classes - 1)]
    picture = confusion_matrix(np.zeros((classes, classes), int), names)[30:, :, 0]
    width = len(picture) - classes * side
    rows, columns = np.nonzero(picture < 128)
    assert width == 160 and picture.shape[1] == len(picture)
    beside, above = columns < width, rows < width
    assert beside.any() and above.any() and (beside ^ above).all()
    for places in (rows[beside], columns[above]):
        assert width <= places.min() and places.max() < width + side
        assert abs(places.mean() - width - side / 2) < 4
