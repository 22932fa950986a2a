"""RandAugment and TrivialAugment: what each operation does, and how often and how strongly."""

import math
from collections import Counter

import numpy as np
import pytest
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from data.transforms.policies import RAND, WIDE, RandAugment, TrivialAugmentWide, choose, operations

BILINEAR = {"interpolation": InterpolationMode.BILINEAR}


def shear(image, x, y):
    angles = [math.degrees(math.atan(x)), math.degrees(math.atan(y))]
    return F.affine(image, 0, [0, 0], 1, angles, center=[0, 0], **BILINEAR)


def shift(image, x, y):
    return F.affine(image, 0, [int(x), int(y)], 1, [0, 0])


# What the papers' operations are in torchvision, and how far ours may be: of what is rounded, 0.5 and what
# test_colour.py says; of bilinear warps 7, since OpenCV before 5 rounds places to 1/32 of a pixel
# (measured on noise: at most 0.51, on average 0.25 with 5.0; 6.3 and 1.02 with 4.10).
TORCHVISIONS = {
    "Identity": (lambda image, m: image, 0),
    "ShearX": (lambda image, m: shear(image, m, 0), 7),
    "ShearY": (lambda image, m: shear(image, 0, m), 7),
    "TranslateX": (lambda image, m: shift(image, m, 0), 0),
    "TranslateY": (lambda image, m: shift(image, 0, m), 0),
    "Rotate": (lambda image, m: F.rotate(image, m, **BILINEAR), 7),
    "Brightness": (lambda image, m: F.adjust_brightness(image, 1 + m), 0.8),
    "Color": (lambda image, m: F.adjust_saturation(image, 1 + m), 0.8),
    "Contrast": (lambda image, m: F.adjust_contrast(image, 1 + m), 0.8),
    "Sharpness": (lambda image, m: F.adjust_sharpness(image, 1 + m), 0.8),
    "Posterize": (lambda image, m: F.posterize(image, round(m)), 0),
    "Solarize": (F.solarize, 0),
    "AutoContrast": (lambda image, m: F.autocontrast(image), 1),
    "Equalize": (lambda image, m: F.equalize(image), 0),
}
# The magnitudes of the papers, for an image of 100 by 200; shares of 331 pixels in RandAugment's.
SIGNED = {
    "ShearX": (0.3, 0.99),
    "ShearY": (0.3, 0.99),
    "TranslateX": (200 * 150 / 331, 32),
    "TranslateY": (100 * 150 / 331, 32),
    "Rotate": (30, 135),
    "Brightness": (0.9, 0.99),
    "Color": (0.9, 0.99),
    "Contrast": (0.9, 0.99),
    "Sharpness": (0.9, 0.99),
}


def test_operations_are_torchvisions(picture, torchvisions):
    assert list(operations(picture.shape[:2])) == list(TORCHVISIONS)
    for name, (apply, lowest, *highest) in operations(picture.shape[:2]).items():
        expected, tolerance = TORCHVISIONS[name]
        for end in (*highest, *(-h for h in highest if lowest == 0)):
            for magnitude in (lowest, lowest + 0.3 * (end - lowest), end):
                theirs = torchvisions(expected, picture, magnitude, exact=tolerance == 0)
                difference = np.abs(apply(picture, magnitude, 0) - theirs)
                assert difference.max() <= tolerance and difference.mean() < 1.5, (name, magnitude)


def test_warps_are_filled():
    image = np.full((40, 50, 3), 200, np.uint8)
    for name, magnitude, corner in (("Rotate", 30, (0, 0)), ("TranslateX", -20, (-1, -1)), ("ShearY", 0.5, (-1, -1))):
        warped = operations((40, 50))[name][0](image, magnitude, (1, 2, 3))
        assert warped[corner].tolist() == [1, 2, 3] and warped[20, 20].tolist() == [200] * 3, name


@pytest.mark.parametrize(("policy", "level"), [(RAND, 9), (RAND, 30), (WIDE, None)])
def test_choices_and_magnitudes_are_the_papers(policy, level):
    rng = np.random.default_rng(0)
    chosen = {name: [] for name in TORCHVISIONS}
    for _ in range(10_000):
        name, magnitude = choose((100, 200), policy, rng.integers(31) if level is None else level, rng)
        chosen[name].append(magnitude)
    counts = [len(magnitudes) for magnitudes in chosen.values()]
    assert abs(np.array(counts) - 10_000 / 14).max() < 110  # four standard deviations
    share = (level or 30) / 30
    for name, highest in SIGNED.items():
        magnitudes, most = np.array(chosen[name]), highest[policy == WIDE] * share
        assert magnitudes.max() == pytest.approx(most) and magnitudes.min() == pytest.approx(-most), name
        assert 0.4 < (magnitudes > 0).mean() < 0.6
        assert len({round(abs(m), 9) for m in magnitudes}) == (31 if level is None else 1)
    bits, thresholds = chosen["Posterize"], chosen["Solarize"]
    assert round(min(bits)) == {WIDE: 2, RAND: round(8 - 4 * share)}[policy]
    assert min(thresholds) == pytest.approx(255 * (1 - share))
    assert level is not None or (max(bits), max(thresholds)) == (8, 255)


def results(transform, seeds: int = 300) -> Counter:
    image = np.random.default_rng(1).integers(30, 200, (40, 40, 3), dtype=np.uint8)
    return Counter(transform(image, np.random.default_rng(seed)).tobytes() == image.tobytes() for seed in range(seeds))


def test_rand_augment_applies_num_ops_operations():
    image = np.zeros((5, 5, 3), np.uint8)
    assert RandAugment(num_ops=0)(image, np.random.default_rng(0)) is image
    # Nothing changes when all are Identity, or Posterize to 7 bits finds even values, and so on.
    unchanged = [results(RandAugment(num_ops))[True] / 300 for num_ops in (1, 2, 4)]
    assert 0.03 < unchanged[0] < 0.2 and unchanged[2] < unchanged[1] < unchanged[0]


def test_rand_augment_changes_more_with_a_higher_magnitude():
    image = np.random.default_rng(1).integers(30, 200, (40, 40, 3), dtype=np.uint8)

    def change(magnitude: float) -> float:
        transform = RandAugment(1, magnitude)
        pairs = [(transform(image, np.random.default_rng(seed)), image) for seed in range(200)]
        return float(np.mean([np.abs(a.astype(int) - b).mean() for a, b in pairs]))

    assert change(0) < change(10) < change(30)


def test_trivial_augment_draws_its_level():
    assert results(TrivialAugmentWide())[True] < 60
    image = np.full((1, 1, 1), 100, np.uint8)
    seen = {int(TrivialAugmentWide()(image, np.random.default_rng(seed))[0, 0, 0]) for seed in range(3000)}
    assert len(seen) > 40  # brightness has 61 levels
