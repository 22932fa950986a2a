"""Colours against torchvision, which computes in float64 here and is rounded by nobody."""

import itertools

import numpy as np
import pytest
from torchvision.transforms.v2 import functional as F

from data.transforms import colour
from data.transforms.colour import ColorJitter, GaussianBlur, Grayscale

# Rounding alone is 0.5. Measured: 0.50 hue, sharpness; 0.53 contrast; 0.74 saturation, which OpenCV computes
# with ten bits and torchvision with 0.2989 of red; 1.4 blurring.
FACTORS = {
    "brightness": (colour.adjust_brightness, F.adjust_brightness, [0, 0.01, 0.5, 1, 1.7, 3], 0.51),
    "contrast": (colour.adjust_contrast, F.adjust_contrast, [0, 0.01, 0.5, 1, 1.7, 3], 0.55),
    "saturation": (colour.adjust_saturation, F.adjust_saturation, [0, 0.01, 0.5, 1, 1.7, 3], 0.8),
    "sharpness": (colour.adjust_sharpness, F.adjust_sharpness, [0, 0.01, 0.5, 1, 1.7, 3], 0.51),
    "hue": (colour.adjust_hue, F.adjust_hue, [-0.5, -0.3, -0.01, 0, 0.1, 0.5], 0.51),
}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("name", FACTORS)
def test_adjustments_are_torchvisions_rounded(name, picture, torchvisions):
    ours, theirs, factors, tolerance = FACTORS[name]
    for factor in factors:
        assert np.abs(ours(picture, factor) - torchvisions(theirs, picture, factor)).max() <= tolerance, factor


def test_a_neutral_adjustment_changes_nothing(picture):
    for name, (adjust, *_) in FACTORS.items():
        assert np.array_equal(adjust(picture, 0 if name == "hue" else 1), picture), name


def test_gray_and_blur_are_torchvisions(picture, torchvisions):
    expected = torchvisions(F.rgb_to_grayscale, picture, picture.shape[2])
    assert np.abs(Grayscale()(picture, rng()) - expected).max() <= 0.6
    for sigma in (0.1, 0.5, 1.0, 2.0):
        kernel = round(6 * sigma + 1) | 1
        blurred = GaussianBlur([sigma, sigma])(picture, rng())
        expected = torchvisions(F.gaussian_blur, picture, [kernel, kernel], [sigma, sigma])
        assert np.abs(blurred - expected).max() <= 1.5, sigma


def test_blur_draws_sigma_from_its_range():
    dot = np.zeros((21, 21, 1), np.uint8)
    dot[10, 10] = 255
    peaks = [int(GaussianBlur([0.6, 1.2])(dot, rng(seed)).max()) for seed in range(300)]
    weakest, strongest = (int(GaussianBlur([sigma, sigma])(dot, rng()).max()) for sigma in (0.6, 1.2))
    assert strongest <= min(peaks) <= strongest + 2 and weakest - 4 <= max(peaks) <= weakest


@pytest.mark.parametrize(("jitter", "low", "high"), [(0.4, 0.6, 1.4), ([0.5, 0.9], 0.5, 0.9), (1.5, 0, 2.5)])
@pytest.mark.parametrize(
    ("name", "pixels"),  # a pair whose distance is multiplied by the factor
    [("brightness", [0, 0, 0, 60, 60, 60]), ("contrast", [97, 97, 97, 157, 157, 157]), ("saturation", [97, 157, 97])],
)
def test_jitter_draws_factors_from_its_range(name, pixels, jitter, low, high):
    image = np.array(pixels, np.uint8).reshape(1, -1, 3)
    seen = [np.ptp(ColorJitter(**{name: jitter})(image, rng(seed)).astype(int)) / 60 for seed in range(400)]
    slack = 0.03 * (high - low) + 1 / 60
    assert low - 1 / 60 <= min(seen) <= low + slack and high - slack <= max(seen) <= high + 1 / 60
    assert abs(np.mean(seen) - (low + high) / 2) < 3 * slack


def test_jitter_draws_hues_to_both_sides():
    red = np.array([[[255, 0, 0]]], np.uint8)
    turned = [ColorJitter(hue=1 / 6)(red, rng(seed))[0, 0] for seed in range(200)]
    assert all(r == 255 and min(g, b) == 0 for r, g, b in turned)  # within a sixth: from magenta to yellow
    assert max(g for _, g, _ in turned) > 230 and max(b for _, _, b in turned) > 230


def test_jitter_applies_all_changes_in_every_order():
    image = rng().integers(0, 256, (9, 9, 3), dtype=np.uint8)
    fixed = {"brightness": 1.5, "contrast": 0.5, "saturation": 1.8, "hue": 0.2}
    jitter = ColorJitter(**{name: [value, value] for name, value in fixed.items()})
    expected = set()
    for order in itertools.permutations(fixed):
        changed = image
        for name in order:
            changed = FACTORS[name][0](changed, fixed[name])
        expected.add(changed.tobytes())
    assert len(expected) > 12 and {jitter(image, rng(seed)).tobytes() for seed in range(400)} == expected
    assert ColorJitter()(image, rng()) is image
