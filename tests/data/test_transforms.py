"""Transforms against torchvision, and their promises for any input."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as F

from data.build import build_train_loader
from data.transforms.geometry import CenterCrop, HFlip, RandomCrop, RandomResizedCrop, Resize, resize
from utils.errors import UserError
from utils.input_spec import InputSpec


def photo(height: int, width: int, channels: int = 3) -> np.ndarray:
    """A smooth picture, as photographs are; noise would test the filters' taste."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    waves = [127 + 120 * np.sin(5 * x + c) * np.cos(4 * y - c) for c in range(channels)]
    return np.stack(waves, axis=2).astype(np.uint8)


def as_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("size", [(20, 30), (64, 64), (90, 70)])
@pytest.mark.parametrize("channels", [1, 3])
def test_resize_is_close_to_torchvisions(size, channels):
    image = photo(64, 64, channels)
    ours = as_tensor(resize(image, size)).float()
    theirs = F.resize(as_tensor(image), list(size), antialias=True).float()
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 6 and (ours - theirs).abs().mean() <= 1  # of 255


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 24), st.integers(1, 24), st.sampled_from([1, 3]))
def test_resize_then_crop_gives_the_size(height, width, out_height, out_width, channels):
    image = np.zeros((height, width, channels), np.uint8)
    for crop_pct in (1.0, 0.875):
        resized = Resize((out_height, out_width), crop_pct)(image, rng())
        assert CenterCrop((out_height, out_width))(resized, rng()).shape == (out_height, out_width, channels)


@pytest.mark.parametrize(
    ("shape", "kept"), [((2, 301), (4, 66)), ((301, 2), (66, 4)), ((2, 60), (4, 64)), ((2, 9), (4, 18))]
)
def test_resize_enlarges_only_the_middle_of_a_strip(shape, kept):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    crop = CenterCrop((4, 4))
    resized = Resize((4, 4))(image, rng())
    assert resized.shape == (*kept, 3)
    assert np.array_equal(crop(resized, rng()), crop(resize(image, (2 * shape[0], 2 * shape[1])), rng()))


def test_resize_of_a_line_needs_little_memory():
    assert Resize((224, 224), 0.875)(np.zeros((1, 20_000, 3), np.uint8), rng()).shape == (256, 16 * 256, 3)


def test_center_crop_and_flip_equal_torchvisions():
    image = photo(31, 44)
    assert torch.equal(as_tensor(CenterCrop((10, 20))(image, rng())), F.center_crop(as_tensor(image), [10, 20]))
    assert torch.equal(as_tensor(HFlip(1.0)(image, rng())), F.horizontal_flip(as_tensor(image)))
    assert HFlip(0.0)(image, rng()) is image


def test_random_crop_is_one_of_the_crops_of_the_padded_image():
    image = photo(8, 8)
    padded = F.pad(as_tensor(image), [2, 2, 2, 2])
    corners = {}
    for seed in range(200):
        cropped = as_tensor(RandomCrop((8, 8), padding=2)(image, np.random.default_rng(seed)))
        where = [(t, l) for t in range(5) for l in range(5) if torch.equal(cropped, padded[:, t : t + 8, l : l + 8])]
        corners[where[0]] = True
    assert len(corners) == 25  # every place is reached


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 2**32))
def test_random_resized_crop_stays_inside(height, width, seed):
    crop = RandomResizedCrop((7, 9), scale=(0.2, 1.0))
    top, left, box_height, box_width = crop.plan((height, width), np.random.default_rng(seed))
    assert 0 <= top <= top + box_height <= height and 0 <= left <= left + box_width <= width
    assert box_height >= 1 and box_width >= 1
    assert crop(np.zeros((height, width, 3), np.uint8), np.random.default_rng(seed)).shape == (7, 9, 3)


def test_random_resized_crop_has_the_areas_and_ratios_it_was_asked_for():
    crop = RandomResizedCrop((8, 8), scale=(0.25, 0.75), ratio=(0.8, 1.25))
    boxes = np.array([crop.plan((1000, 1000), np.random.default_rng(seed))[2:] for seed in range(2000)])
    areas, ratios = boxes.prod(axis=1) / 1e6, boxes[:, 1] / boxes[:, 0]
    assert areas.min() > 0.249 and areas.max() < 0.751 and abs(areas.mean() - 0.5) < 0.01
    assert ratios.min() > 0.79 and ratios.max() < 1.26 and abs(np.log(ratios).mean()) < 0.01


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("[Hflip]", "INPUT.TRAIN_TRANSFORMS 'Hflip': no such transform; did you mean 'HFlip'?"),
        ("[{HFlip: {q: 1}}]", "TRAIN_TRANSFORMS.q: HFlip takes no such argument; did you mean|known: p"),
        ("[{RandomResizedCrop: {scale: [2, 3]}}]", "RandomResizedCrop: scale"),
        ("[{CenterCrop: {size: 224}}]", "CenterCrop: cannot unpack non-iterable int"),
        ("[{HFlip: {p: often}}]", "HFlip: '<=' not supported"),
        ("[3]", "found 3, expected a name or"),
    ],
)
def test_mistakes_in_a_list_of_transforms(toy_cfg, entry, message):
    cfg = toy_cfg("INPUT.TRAIN_TRANSFORMS", entry)
    with pytest.raises(UserError, match=message):
        build_train_loader(cfg, [], InputSpec((6, 6), 1, (0.5,), (0.5,)))
