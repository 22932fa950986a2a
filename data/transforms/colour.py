"""Brightness, contrast, colour, sharpness.

The functions take uint8 (H, W, C), C 1 or 3 (RGB), and return the same. A `factor` of 1 changes nothing, 0 leaves
a flat, gray or blurred image, and more than 1 exaggerates. Results are rounded, torchvision truncates them.
"""

import math
from collections.abc import Callable

import cv2
import numpy as np

from data.registry import TRANSFORMS
from data.transforms.arguments import POSITIVE, Numbers, Pair, colour_channels, interval, probability

_GRAY = np.array([0.299, 0.587, 0.114])  # weights of red, green and blue (ITU-R BT.601)
_VALUES = np.arange(256)


def adjust_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    return _blend(image, 0.0, factor)


def adjust_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    means = cv2.mean(image)
    return _blend(image, means[0] if image.shape[2] == 1 else float(_GRAY @ means[:3]), factor)


def adjust_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends with gray in three channels; an image of one channel is returned as it is."""
    mixed = factor * np.eye(3) + (1 - factor) * _GRAY  # one row for each colour of the result
    return image if image.shape[2] == 1 else cv2.transform(image, mixed)


def adjust_hue(image: np.ndarray, rotation: float) -> np.ndarray:
    """Rotates the circle of hues; 0.5 gives the complementary colours."""
    if image.shape[2] == 1:
        return image
    hsv = cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2HSV)  # 8 bits for a hue would be too few
    hsv[..., 0] = hsv[..., 0] + np.float32(rotation % 1 * 360)
    return cv2.convertScaleAbs(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def adjust_sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends with a 3 by 3 blur; the outermost pixels stay, as in Pillow and torchvision."""
    kernel = np.full((3, 3), (1 - factor) / 13)
    kernel[1, 1] = factor + (1 - factor) * 5 / 13
    result = image.copy()
    result[1:-1, 1:-1] = cv2.filter2D(image, -1, kernel).reshape(image.shape)[1:-1, 1:-1]
    return result


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    """Keeps the highest `bits` bits."""
    return image & np.uint8(256 - (1 << (8 - bits)))


def solarize(image: np.ndarray, threshold: float) -> np.ndarray:
    """Inverts values from `threshold` on."""
    return _look_up(image, np.where(threshold <= _VALUES, 255 - _VALUES, _VALUES))


def autocontrast(image: np.ndarray) -> np.ndarray:
    """Stretches each channel from its darkest and brightest value to 0 and 255."""

    def stretched(counts: np.ndarray) -> np.ndarray:
        low, high = np.flatnonzero(counts)[[0, -1]]
        scale = np.float32(high - low) * np.float32(1 / 255)
        return _VALUES if low == high else np.clip((_VALUES - low).astype(np.float32) / scale, 0, 255)

    return _by_histogram(image, stretched)


def equalize(image: np.ndarray) -> np.ndarray:
    """Equalizes the histogram of each channel, by Pillow's rule."""

    def equalized(counts: np.ndarray) -> np.ndarray:
        step = (counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
        return _VALUES if step == 0 else np.minimum((counts.cumsum() - counts + step // 2) // step, 255)

    return _by_histogram(image, equalized)


def _blend(image: np.ndarray, gray: float, factor: float) -> np.ndarray:
    return _look_up(image, np.rint(np.clip(_VALUES * factor + gray * (1 - factor), 0, 255)))


def _by_histogram(image: np.ndarray, table_of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Looks values up in a table for each channel, computed from its histogram (256,)."""
    counts = [cv2.calcHist([image], [c], None, [256], [0, 256]).ravel() for c in range(image.shape[2])]
    return _look_up(image, np.stack([table_of(of_channel.astype(int)) for of_channel in counts], axis=1))


def _look_up(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Replaces values by a table (256,) or, for each channel, (256, C)."""
    return cv2.LUT(image, table.astype(np.uint8).reshape(1, 256, -1)).reshape(image.shape)


@TRANSFORMS.register()
class ColorJitter:
    """Changes brightness, contrast, saturation and hue by random factors, in random order.

    A number x means a factor within 1 - x and 1 + x, not below 0, for `hue` within -x and x, at most 0.5, half the
    circle; [low, high] are the limits themselves.
    """

    moves_pixels = False

    def __init__(self, brightness: Numbers = 0, contrast: Numbers = 0, saturation: Numbers = 0, hue: Numbers = 0):
        changes = [
            (adjust_brightness, "brightness", brightness, (0, math.inf, 1)),
            (adjust_contrast, "contrast", contrast, (0, math.inf, 1)),
            (adjust_saturation, "saturation", saturation, (0, math.inf, 1)),
            (adjust_hue, "hue", hue, (-0.5, 0.5, 0)),
        ]
        self.changes = [(adjust, interval(name, value, *limits)) for adjust, name, value, limits in changes if value]

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        colour_channels(image)
        for adjust, limits in [self.changes[i] for i in rng.permutation(len(self.changes))]:
            image = adjust(image, rng.uniform(*limits))
        return image


@TRANSFORMS.register()
class Grayscale:
    """Removes the colours with probability `p`; three channels stay three."""

    moves_pixels = False

    def __init__(self, p: float = 1.0):
        self.p = probability(p)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        colour_channels(image)
        return adjust_saturation(image, 0.0) if rng.random() < self.p else image


@TRANSFORMS.register()
class GaussianBlur:
    """Blurs any channels with probability `p` by a `sigma` in pixels within [low, high]; the kernel has three sigma."""

    moves_pixels = False

    def __init__(self, sigma: Pair = (0.1, 2.0), p: float = 1.0):
        self.sigma, self.p = interval("sigma", sigma, POSITIVE), probability(p)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if rng.random() >= self.p:
            return image
        return cv2.GaussianBlur(image, (0, 0), rng.uniform(*self.sigma)).reshape(image.shape)
