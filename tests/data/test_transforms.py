"""Transforms against torchvision, and their contract for any input."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from data.build import build_eval_loader, build_train_and_val, build_train_loader
from data.image_datasets import ArrayDataset
from data.image_io import EncodedImage
from data.reading import SampleReader
from data.registry import TRANSFORMS
from data.samplers import Draws, Keys
from data.transforms.colour import ColorJitter, GaussianBlur, Grayscale
from data.transforms.geometry import (
    CenterCrop,
    HFlip,
    Letterbox,
    RandomCrop,
    RandomErasing,
    RandomResizedCrop,
    Resize,
    VFlip,
    resize,
)
from data.transforms.policies import RandAugment, TrivialAugmentWide
from data.transforms.warps import Affine, Rotation, affine
from tests.data.conftest import spec_of
from utils.errors import UserError

DOCS = Path(__file__).resolve().parents[2] / "docs/extending.md"


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


@given(*[st.integers(1, 40)] * 4, st.booleans(), st.integers(0, 99))
def test_a_letterbox_shows_the_whole_image(height, width, out_height, out_width, random, seed):
    image = rng(seed).integers(1, 256, (height, width, 3), dtype=np.uint8)
    boxed = Letterbox((out_height, out_width), random=random)(image, rng(seed))
    assert boxed.shape == (out_height, out_width, 3)
    rows, columns = (np.flatnonzero(boxed.any(axis=axis)) for axis in ((1, 2), (0, 2)))
    shown = boxed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert np.array_equal(shown, resize(image, shown.shape[:2]))
    assert shown.shape[0] == out_height or shown.shape[1] == out_width
    ideal = min(out_height / height, out_width / width)
    assert abs(shown.shape[0] - max(height * ideal, 1)) <= 0.5 and abs(shown.shape[1] - max(width * ideal, 1)) <= 0.5
    if not random:
        assert 0 <= out_height - 1 - rows[-1] - rows[0] <= 1 and 0 <= out_width - 1 - columns[-1] - columns[0] <= 1
    edge = Letterbox((out_height, out_width), "edge", random)(image, rng(seed))
    padding = [(rows[0], out_height - 1 - rows[-1]), (columns[0], out_width - 1 - columns[-1]), (0, 0)]
    assert np.array_equal(edge, np.pad(shown, padding, "edge"))


def test_a_letterbox_is_filled_and_placed():
    image, mask = np.full((4, 8, 3), 200, np.uint8), np.full((4, 8), 7)
    boxed, target = Letterbox((8, 8), fill=[10, 20, 30]).joint(image, mask, rng())
    assert boxed[0, 0].tolist() == [10, 20, 30] and boxed[2:6].min() == 200
    assert target[:, 0].tolist() == [0, 0, 7, 7, 7, 7, 0, 0]
    assert (Letterbox((8, 8), fill="edge").joint(image, mask, rng())[1] == 7).all()
    places = {int(Letterbox((8, 8), random=True)(image, rng(seed))[:, 0, 0].argmax()) for seed in range(60)}
    assert places == {0, 1, 2, 3, 4}
    with pytest.raises(ValueError, match="fill: found 'edges', expected edge"):
        Letterbox((8, 8), fill="edges")


@pytest.mark.parametrize("size", [(8, 8), (8, 12)])
@pytest.mark.parametrize("transforms", ["[Resize]", "[HFlip]", "[Resize, CenterCrop]", "[Letterbox]"])
@pytest.mark.parametrize("odd", [None, (8, 12), (12, 8)])
def test_images_that_do_not_fit_are_found_at_start(toy_cfg, size, transforms, odd):
    images = [np.zeros((*size, 1), np.uint8)] * 40
    if odd:
        images[17] = np.zeros((*odd, 1), np.uint8)

    dataset = ArrayDataset(np.zeros((40, *size, 1), np.uint8), np.zeros(40, np.int64), ["a"], "toy", Path())
    dataset.images = images
    cfg = toy_cfg("INPUT.TRAIN_TRANSFORMS", transforms, "INPUT.TEST_TRANSFORMS", transforms)
    fits = "," in transforms or "Letterbox" in transforms or odd in (None, size)
    for build in (build_train_loader, build_eval_loader):
        if fits:
            assert len(next(build(cfg, dataset, spec_of(cfg, size)).batches()))
        else:
            with pytest.raises(UserError, match=r"^toy/00017: .* after the transforms, expected uint8"):
                build(cfg, dataset, spec_of(cfg, size))


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
    "Letterbox": Letterbox((7, 5), fill=9, random=True),
    "RandAugment": RandAugment(3, 20),
    "RandomCrop": RandomCrop((7, 5), padding=6),
    "RandomErasing": RandomErasing(0.9),
    "RandomResizedCrop": RandomResizedCrop((7, 5)),
    "Resize": Resize((7, 5)),
    "Rotation": Rotation(180),
    "TrivialAugmentWide": TrivialAugmentWide(),
    "VFlip": VFlip(),
}


COLOUR = ("ColorJitter", "Grayscale", "RandAugment", "TrivialAugmentWide")


@settings(max_examples=400)
@given(
    st.sampled_from(sorted(EVERY)),
    st.integers(1, 20),
    st.integers(1, 20),
    st.sampled_from([1, 2, 3, 4, 5, 9]),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_every_transform_keeps_its_contract(name, height, width, channels, mirrored, seed):
    if name in COLOUR and channels not in (1, 3):
        with pytest.raises(ValueError, match=f"found an image of {channels} channels, colour transforms take 1 or 3"):
            EVERY[name](np.zeros((height, width, channels), np.uint8), rng(seed))
        return
    pixels = rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    image = pixels[::-1, ::-1] if mirrored else pixels  # a view with negative strides, as a flip leaves it
    before = image.copy()
    result = EVERY[name](image, rng(seed))
    assert result.dtype == np.uint8 and result.ndim == 3 and result.shape[2] == channels
    if name not in ("CenterCrop", "Letterbox", "RandomCrop", "RandomResizedCrop", "Resize"):
        assert result.shape == image.shape
    assert np.array_equal(image, before)
    assert np.array_equal(result, EVERY[name](np.ascontiguousarray(image), rng(seed)))


def test_every_transform_of_the_project_is_tried():
    own = {name for name in TRANSFORMS.names() if TRANSFORMS.get(name, "").__module__.startswith("data.transforms")}
    assert own == set(EVERY)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_lists_that_are_recommended_can_be_used(toy_cfg, channels):
    lists = dict(re.findall(r"^- (light|usual|strong): `(\[.*\])`$", DOCS.read_text(), re.MULTILINE))
    assert set(lists) == {"light", "usual", "strong"}
    for entries in lists.values():
        cfg = toy_cfg("INPUT.TRAIN_TRANSFORMS", entries, "INPUT.CHANNELS", str(channels))
        spec = spec_of(cfg, (16, 12), channels)
        loader = build_train_loader(cfg, build_train_and_val(cfg).train, spec)
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
        build_train_loader(cfg, build_train_and_val(cfg).train, spec_of(cfg))


# Any number of channels, masks, and crops that are planned before decoding.


@given(st.sampled_from(sorted(set(EVERY) - set(COLOUR) - {"RandomErasing"})), st.integers(0, 2**32))
def test_channels_are_treated_alike(name, seed):
    """Each of many channels is what it is alone."""
    image = rng(seed).integers(0, 256, (13, 17, 7), dtype=np.uint8)
    together = EVERY[name](image, rng(seed))
    for channel in range(7):
        alone = EVERY[name](np.ascontiguousarray(image[..., channel : channel + 1]), rng(seed))
        assert np.abs(together[..., channel].astype(int) - alone[..., 0]).max(initial=0) <= (name == "GaussianBlur")


def test_each_channel_has_its_fill():
    image = np.full((9, 9, 7), 200, np.uint8)
    fill = [10 * channel for channel in range(7)]
    assert Rotation([45, 45], fill=fill)(image, rng())[0, 0].tolist() == fill
    assert Affine(0, translate=[1, 1], fill=fill)(image, rng(3))[[0, -1], [0, -1]].tolist().count(fill) >= 1


JOINT = ("CenterCrop", "HFlip", "Letterbox", "RandomCrop", "RandomResizedCrop", "Resize", "VFlip")


@given(st.sampled_from(JOINT), st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32))
def test_masks_move_with_images(name, height, width, seed):
    mask = np.kron(rng(seed).integers(0, 4, (2, 2)), np.ones((height, width), np.int64))
    image = (mask * 80).astype(np.uint8)[..., np.newaxis]
    state, alone = rng(seed), rng(seed)
    moved, target = EVERY[name].joint(image, mask, state)
    assert np.array_equal(moved, EVERY[name](image, alone)) and state.random() == alone.random()  # the same draws
    assert target.shape == moved.shape[:2] and target.dtype == mask.dtype and set(np.unique(target)) <= {0, 1, 2, 3}
    if name in ("HFlip", "VFlip", "CenterCrop", "RandomCrop"):
        assert np.array_equal(target * 80, moved[..., 0])
    several = np.stack([mask, mask + 10], axis=2)  # masks of several channels
    assert np.array_equal(EVERY[name].joint(image, several, rng(seed))[1][..., 0], target)


def test_a_resized_crop_shows_the_same_part_of_image_and_mask():
    ramp = np.broadcast_to(np.arange(0, 240, 2)[:, np.newaxis], (120, 90)).astype(np.uint8)
    crop = RandomResizedCrop((40, 30), scale=(0.2, 0.6))
    for seed in range(50):
        image, mask = crop.joint(ramp[..., np.newaxis], ramp, rng(seed))
        assert np.abs(image[..., 0].astype(int) - mask).max() <= 6  # of 240: three rows


@pytest.mark.parametrize("size", [(30, 24), (7, 5), (90, 48)])
def test_masks_are_resized_as_pillow_does_to_the_nearest(size):
    mask = rng().integers(0, 256, (30, 24), dtype=np.uint8)
    pillows = np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))
    assert np.array_equal(resize(mask, size, nearest=True), pillows)
    assert np.array_equal(resize(mask.astype(np.float32), size, nearest=True), pillows)


@pytest.mark.parametrize("name", sorted(EVERY))
def test_masks_need_joint_transforms(toy_cfg, name):
    entry = f"[{{{name}: {{degrees: 9}}}}]" if name in ("Affine", "Rotation") else f"[{name}]"
    cfg = toy_cfg("INPUT.TRAIN_TRANSFORMS", f"{entry[:-1]}, Resize, CenterCrop]")
    dataset = build_train_and_val(cfg).train
    if name in (*JOINT, "ColorJitter", "GaussianBlur", "Grayscale", "RandomErasing"):
        build_train_loader(cfg, dataset, spec_of(cfg), spatial_targets=True)
    else:
        with pytest.raises(UserError, match=f"^INPUT.TRAIN_TRANSFORMS: {name}: moves pixels and has no `joint`"):
            build_train_loader(cfg, dataset, spec_of(cfg), spatial_targets=True)


class Photos:
    """Six images in files: five channels in .npy, else PNG; targets are masks or classes."""

    classes = ["a", "b"]

    def __init__(self, folder: Path, kind: str):
        self.kind, self.pixels, self.paths = kind, [], []
        for i in range(6):
            self.pixels.append(rng(i).integers(0, 256, (30 + 7 * i, 41 - i, 5 if kind == "npy" else 3), dtype=np.uint8))
            self.paths.append(folder / f"{i}.{'npy' if kind == 'npy' else 'png'}")
            if kind == "npy":
                np.save(self.paths[-1], self.pixels[-1])
            else:
                self.paths[-1].write_bytes(cv2.imencode(".png", self.pixels[-1][..., ::-1])[1].tobytes())

    def __len__(self):
        return 6

    def __getitem__(self, i):
        source = np.load(self.paths[i]) if self.kind == "npy" else EncodedImage.open(self.paths[i])
        return source, self.pixels[i][..., 0] if self.kind == "masks" else i % 2

    def name(self, i):
        return f"photo/{i}"


@pytest.mark.parametrize("kind", ["npy", "png"])
def test_planned_crops_equal_those_of_the_whole_image(tmp_path, kind):
    photos = Photos(tmp_path, kind)
    crop = RandomResizedCrop((8, 6), scale=(0.1, 1))
    reader = SampleReader(photos, [crop, HFlip()], (8, 6), photos.pixels[0].shape[2], seed=3)
    for epoch in range(3):
        result = reader.read(Keys(np.arange(6), epoch, 0))
        assert result.error is None
        draws = Draws(3, Keys(np.arange(6), epoch, 0), width=1)
        for i in range(6):
            expected = HFlip()(crop(photos.pixels[i], draws.generator(i)), draws.row(i))
            assert np.array_equal(result.batch.images[i].permute(1, 2, 0).numpy(), expected)


def test_a_crop_is_planned_before_anything_is_decoded(tmp_path, monkeypatch):
    photos, events = Photos(tmp_path, "png"), []
    crop, decode = RandomResizedCrop((8, 6)), cv2.imdecode
    plan = crop.plan
    monkeypatch.setattr(cv2, "imdecode", lambda *a: (events.append("decode"), decode(*a))[1])
    monkeypatch.setattr(crop, "plan", lambda *a: (events.append("plan"), plan(*a))[1])
    SampleReader(photos, [crop], (8, 6), 3, seed=0).read_sample(0)
    assert events == ["plan", "decode"]


MASK_TRANSFORMS = [[RandomResizedCrop((8, 6)), HFlip(), Grayscale(0.5)], [Resize((8, 6)), CenterCrop((8, 6))]]


@pytest.mark.parametrize("transforms", MASK_TRANSFORMS)
def test_masks_are_read_with_their_images(tmp_path, transforms):
    photos = Photos(tmp_path, "masks")
    reader = SampleReader(photos, transforms, (8, 6), 3, 0, spatial_targets=True)
    result = reader.read(Keys(np.arange(6), 0, 0))
    assert result.error is None and result.batch.targets.shape == (6, 8, 6)
    assert result.batch.targets.dtype == torch.int64
    for i in range(6):
        assert set(result.batch.targets[i].unique().tolist()) <= set(np.unique(photos.pixels[i][..., 0]).tolist())
    photos.pixels[2] = photos.pixels[2][1:]
    message = r"/2\.png: found a target \(43, 39\) for an image \(44, 39, 3\), expected the same size"
    with pytest.raises(UserError, match=message):
        raise reader.read(Keys(np.array([2]), 0, 0)).error


def test_colour_transforms_of_five_channels_are_refused_at_start(toy_cfg):
    cfg = toy_cfg("INPUT.TRAIN_TRANSFORMS", "[{ColorJitter: {brightness: 0.5}}]")
    message = "INPUT.TRAIN_TRANSFORMS: ColorJitter: found an image of 5 channels, colour transforms take 1 or 3"
    with pytest.raises(UserError, match=message):
        build_train_loader(cfg, build_train_and_val(cfg).train, spec_of(cfg, channels=5))


@TRANSFORMS.register()
class BrightCrop(RandomResizedCrop):
    """Changes the call of its base, but not the two halves that reading would use in its place."""

    def __call__(self, image, rng, nearest=False):
        return super().__call__(image, rng, nearest) | np.uint8(1)


def test_a_plan_that_differs_from_the_call_is_refused_at_start(toy_cfg):
    cfg = toy_cfg("INPUT.TRAIN_TRANSFORMS", "[BrightCrop]")
    message = "INPUT.TRAIN_TRANSFORMS: BrightCrop: `finish` of the part from `plan` differs from the call"
    with pytest.raises(UserError, match=message):
        build_train_loader(cfg, build_train_and_val(cfg).train, spec_of(cfg))
