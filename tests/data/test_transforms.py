"""Transforms against torchvision, and their promises for any input."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

import data.transforms
from data.build import build_train_and_val, build_train_loader
from data.registry import TRANSFORMS
from data.transforms.colour import ColorJitter, GaussianBlur, Grayscale
from data.transforms.geometry import (
    Affine,
    CenterCrop,
    HFlip,
    RandomCrop,
    RandomErasing,
    RandomResizedCrop,
    Resize,
    Rotation,
    VFlip,
    affine,
    resize,
)
from data.transforms.policies import RandAugment, TrivialAugmentWide
from utils.errors import UserError
from utils.input_spec import InputSpec


def photo(height: int, width: int, channels: int = 3) -> np.ndarray:
    """A smooth picture, as photographs are; noise would test the filters' taste."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    waves = [127 + 120 * np.sin(5 * x + c) * np.cos(4 * y - c) for c in range(channels)]
    return np.stack(waves, axis=2).astype(np.uint8)


def as_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


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


def test_center_crop_and_flips_equal_torchvisions():
    image = photo(31, 44)
    assert torch.equal(as_tensor(CenterCrop((10, 20))(image, rng())), F.center_crop(as_tensor(image), [10, 20]))
    assert torch.equal(as_tensor(HFlip(1.0)(image, rng())), F.horizontal_flip(as_tensor(image)))
    assert torch.equal(as_tensor(VFlip(1.0)(image, rng())), F.vertical_flip(as_tensor(image)))


def test_random_crop_is_one_of_the_crops_of_the_padded_image():
    image = photo(8, 8)
    padded = F.pad(as_tensor(image), [2, 2, 2, 2])
    corners = {}
    for seed in range(200):
        cropped = as_tensor(RandomCrop((8, 8), padding=2)(image, rng(seed)))
        where = [(t, l) for t in range(5) for l in range(5) if torch.equal(cropped, padded[:, t : t + 8, l : l + 8])]
        corners[where[0]] = True
    assert len(corners) == 25  # every place is reached


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 2**32))
def test_random_resized_crop_stays_inside(height, width, seed):
    crop = RandomResizedCrop((7, 9), scale=(0.2, 1.0))
    top, left, box_height, box_width = crop.plan((height, width), rng(seed))
    assert 0 <= top <= top + box_height <= height and 0 <= left <= left + box_width <= width
    assert box_height >= 1 and box_width >= 1
    assert crop(np.zeros((height, width, 3), np.uint8), rng(seed)).shape == (7, 9, 3)


def test_random_resized_crop_has_the_areas_and_ratios_it_was_asked_for():
    crop = RandomResizedCrop((8, 8), scale=(0.25, 0.75), ratio=(0.8, 1.25))
    boxes = np.array([crop.plan((1000, 1000), rng(seed))[2:] for seed in range(2000)])
    areas, ratios = boxes.prod(axis=1) / 1e6, boxes[:, 1] / boxes[:, 0]
    assert areas.min() > 0.249 and areas.max() < 0.751 and abs(areas.mean() - 0.5) < 0.01
    assert ratios.min() > 0.79 and ratios.max() < 1.26 and abs(np.log(ratios).mean()) < 0.01


@pytest.mark.parametrize("angle", [30, -100.5, 180])
@pytest.mark.parametrize(("shift", "scale", "shear"), [((0, 0), 1, 0), ((5, -3), 0.7, 0), ((-2.5, 1), 1.4, 20)])
def test_affine_is_torchvisions(picture, torchvisions, angle, shift, scale, shear):
    expected = torchvisions(
        F.affine, picture, angle, list(shift), scale, [shear, 0.0], interpolation=InterpolationMode.BILINEAR
    )
    difference = np.abs(affine(picture, angle, shift, scale, shear) - expected)
    # Measured on noise: 0.51 and 0.25 with OpenCV 5.0; 6.3 and 1.02 with 4.10, which rounds places to 1/32 pixel.
    assert difference.max() <= 7 and difference.mean() < 1.5


def test_rotation_and_affine_hand_on_what_they_draw(picture):
    square = picture[:37]
    assert np.array_equal(Rotation([90, 90])(square, rng()), np.rot90(square))  # counter-clockwise
    fixed = Affine([10, 10], scale=(1.2, 1.2), shear=[-5, -5], fill=7)
    assert np.array_equal(fixed(picture, rng()), affine(picture, 10, (0, 0), 1.2, -5, 7))
    assert np.array_equal(Affine(0)(picture, rng()), picture)
    corner = Rotation([45, 45], fill=(1, 2, 3))(np.full((9, 9, 3), 200, np.uint8), rng())[0, 0]
    assert corner.tolist() == [1, 2, 3]


def test_affine_draws_from_its_ranges():
    image = np.zeros((21, 41, 1), np.uint8)
    image[10, 20] = 255
    spots = [np.argwhere(Affine(0, translate=(0.25, 0.1))(image, rng(seed)) == 255)[0] for seed in range(600)]
    assert {int(y) for y, _, _ in spots} == set(range(8, 13)) and {int(x) for _, x, _ in spots} == set(range(10, 31))
    white = np.full((60, 60, 1), 255, np.uint8)
    areas = [(Affine(0, scale=(0.5, 0.8))(white, rng(seed)) > 127).mean() for seed in range(200)]
    assert 0.24 < min(areas) < 0.3 and 0.58 < max(areas) < 0.66
    bar = np.zeros((41, 41, 1), np.uint8)
    bar[:, 20] = 255
    tops = [int(Affine(0, shear=20)(bar, rng(seed))[0].argmax()) - 20 for seed in range(200)]
    ends = [int(Rotation(20)(bar, rng(seed))[1].argmax()) - 20 for seed in range(200)]
    assert (min(tops), max(tops)) == (-7, 7) and min(ends) <= -6 and max(ends) >= 6  # 20 tan(20 degrees) is 7.3


@pytest.mark.parametrize("make", [HFlip, VFlip, Grayscale, RandomErasing, lambda p: GaussianBlur((1, 2), p)])
def test_p_is_honoured(make):
    image = rng().integers(0, 256, (8, 8, 3), dtype=np.uint8)
    for p in (0.0, 0.3, 1.0):
        changed = np.mean([not np.array_equal(make(p)(image, rng(seed)), image) for seed in range(1000)])
        assert changed == p if p in (0, 1) else abs(changed - p) < 0.06  # four standard deviations


def test_erasing_fills_one_rectangle():
    black = np.zeros((40, 50, 3), np.uint8)
    erasing = RandomErasing(1.0, scale=(0.1, 0.3), ratio=(0.5, 2), value=[1, 2, 3])
    shares, ratios, edges = [], [], set()
    for seed in range(500):
        erased = erasing(black, rng(seed))
        rows, columns = np.flatnonzero(erased.any(axis=(1, 2))), np.flatnonzero(erased.any(axis=(0, 2)))
        box = erased[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert (box == [1, 2, 3]).all() and erased.any(axis=2).sum() == box[..., 0].size
        shares.append(box[..., 0].size / 2000)
        ratios.append(box.shape[1] / box.shape[0])
        edges |= {
            ("top", rows[0] == 0),
            ("bottom", rows[-1] == 39),
            ("left", columns[0] == 0),
            ("right", columns[-1] == 49),
        }
    assert 0.09 < min(shares) < 0.11 and 0.28 < max(shares) < 0.31 and abs(np.mean(shares) - 0.2) < 0.015
    assert 0.45 < min(ratios) < 0.6 and 1.7 < max(ratios) < 2.2 and len(edges) == 8
    noise = RandomErasing(1.0, scale=(1, 1), ratio=(1.25, 1.25))(black, rng())
    assert noise.min() == 0 and noise.max() == 255 and abs(noise.mean() - 127.5) < 4
    assert RandomErasing(1.0, ratio=(90, 100))(black, rng()) is black  # no such rectangle fits


# Every transform, as it is used; those of no fixed size keep the one of their image.
EVERY = {
    "Affine": Affine(30, 0.2, (0.5, 2), 20, fill=9),
    "CenterCrop": CenterCrop((7, 5)),
    "ColorJitter": ColorJitter(0.4, 0.4, 0.4, 0.2),
    "GaussianBlur": GaussianBlur(),
    "Grayscale": Grayscale(0.5),
    "HFlip": HFlip(),
    "RandAugment": RandAugment(3, 20),
    "RandomCrop": RandomCrop((7, 5), padding=6),
    "RandomErasing": RandomErasing(0.9),
    "RandomResizedCrop": RandomResizedCrop((7, 5)),
    "Resize": Resize((7, 5)),
    "Rotation": Rotation(180),
    "TrivialAugmentWide": TrivialAugmentWide(),
    "VFlip": VFlip(),
}


@settings(max_examples=400)
@given(
    st.sampled_from(sorted(EVERY)),
    st.integers(1, 20),
    st.integers(1, 20),
    st.sampled_from([1, 3]),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_every_transform_keeps_its_promises(name, height, width, channels, mirrored, seed):
    pixels = rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    image = pixels[::-1, ::-1] if mirrored else pixels  # a view with negative strides, as a flip leaves it
    before = image.copy()
    result = EVERY[name](image, rng(seed))
    assert result.dtype == np.uint8 and result.ndim == 3 and result.shape[2] == channels
    if name not in ("CenterCrop", "RandomCrop", "RandomResizedCrop", "Resize"):
        assert result.shape == image.shape
    assert np.array_equal(image, before)
    assert np.array_equal(result, EVERY[name](np.ascontiguousarray(image), rng(seed)))


def test_every_transform_of_the_project_is_tried():
    own = {name for name in TRANSFORMS.names() if TRANSFORMS.get(name, "").__module__.startswith("data.transforms")}
    assert own == set(EVERY)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_lists_that_are_recommended_can_be_used(toy_cfg, channels):
    lists = dict(re.findall(r"^    (\w+): (\[.*\])$", data.transforms.__doc__, re.MULTILINE))
    assert set(lists) == {"light", "usual", "strong"}
    for entries in lists.values():
        cfg = toy_cfg("INPUT.TRAIN_TRANSFORMS", entries, "INPUT.CHANNELS", str(channels))
        spec = InputSpec((16, 12), channels, (0.5,) * channels, (0.5,) * channels)
        loader = build_train_loader(cfg, build_train_and_val(cfg)[0], spec)
        batches = list(loader.batches(0))
        assert sum(map(len, batches)) == 36 and batches[0].images.shape == (8, channels, 16, 12)
        assert not torch.equal(batches[0].images, next(loader.batches(1)).images)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("[Hflip]", "INPUT.TRAIN_TRANSFORMS 'Hflip': no such transform; did you mean 'HFlip'?"),
        ("[{HFlip: {q: 1}}]", "TRAIN_TRANSFORMS.q: HFlip takes no such argument; did you mean|known: p"),
        ("[{RandomResizedCrop: {scale: [2, 3]}}]", "RandomResizedCrop: scale"),
        ("[{CenterCrop: {size: 224}}]", "CenterCrop: cannot unpack non-iterable int"),
        ("[{HFlip: {p: often}}]", "HFlip: '<=' not supported"),
        (
            "[{RandomErasing: {value: [1, 2, 3]}}]",
            "RandomErasing: value: found .*, expected a number or a list of 1 within",
        ),
        ("[{RandomErasing: {scale: [0.5, 0.1]}}]", "scale: found .0.5, 0.1., expected .low, high. within"),
        ("[{ColorJitter: {hue: 0.7}}]", "hue: found 0.7, expected a number or .low, high. within -0.5..0.5"),
        ("[{ColorJitter: {brightness: [0.5]}}]", "brightness: found"),
        ("[{GaussianBlur: {sigma: 0}}]", "sigma: found 0, expected .low, high. within 1e-06..inf"),
        (
            "[{Affine: {degrees: 10, translate: [0.1, 2]}}]",
            "translate: found .0.1, 2., expected a number or a list of 2",
        ),
        ("[{Rotation: {degrees: 10, fill: 300}}]", "fill: found 300, expected a number or a list of 1 within 0..255"),
        ("[Rotation]", "missing a required argument: 'degrees'"),
        ("[{RandAugment: {magnitude: 31}}]", "magnitude: found 31, expected a number from 0 to 30"),
        ("[{RandAugment: {num_ops: -1}}]", "num_ops: found -1"),
        ("[{TrivialAugmentWide: {fill: [1, 2, 3]}}]", "fill: found"),
        ("[{VFlip: {p: 2}}]", "p: found 2, expected a probability"),
        ("[3]", "found 3, expected a name or"),
    ],
)
def test_mistakes_in_a_list_of_transforms(toy_cfg, entry, message):
    cfg = toy_cfg("INPUT.TRAIN_TRANSFORMS", entry)
    with pytest.raises(UserError, match=message):
        build_train_loader(cfg, [], InputSpec((6, 6), 1, (0.5,), (0.5,)))
