"""Brightness, contrast, colour, sharpness.

The functions take uint8 (H, W, C), C 1 or 3 (RGB), and return the same. A `factor` of 1 changes nothing, 0 leaves
a flat, gray or blurred image, and more than 1 exaggerates. Results are rounded, torchvision truncates them.
"""

import math

import cv2
import numpy as np

from data.registry import TRANSFORMS
from data.transforms.arguments import POSITIVE, Numbers, Pair, ThreadSafe, colour_channels, interval, probability

_GRAY = np.array([0.299, 0.587, 0.114])  # weights of red, green and blue (ITU-R BT.601)


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


def with_pillow(image: np.ndarray, name: str, *arguments: float) -> np.ndarray:
    """Applies a function of PIL.ImageOps."""
    from PIL import Image, ImageOps

    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    return np.asarray(getattr(ImageOps, name)(picture, *arguments)).reshape(image.shape)


def _blend(image: np.ndarray, gray: float, factor: float) -> np.ndarray:
    return cv2.addWeighted(image, factor, image, 0, gray * (1 - factor)).reshape(image.shape)


@TRANSFORMS.register()
class ColorJitter(ThreadSafe):
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
class Grayscale(ThreadSafe):
    """Removes the colours with probability `p`; three channels stay three."""

    moves_pixels = False

    def __init__(self, p: float = 1.0):
        self.p = probability(p)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        colour_channels(image)
        return adjust_saturation(image, 0.0) if rng.random() < self.p else image


@TRANSFORMS.register()
class GaussianBlur(ThreadSafe):
    """Blurs any channels with probability `p` by a `sigma` in pixels within [low, high]; the kernel has three sigma."""

    moves_pixels = False

    def __init__(self, sigma: Pair = (0.1, 2.0), p: float = 1.0):
        self.sigma, self.p = interval("sigma", sigma, POSITIVE), probability(p)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if rng.random() >= self.p:
            return image
        return cv2.GaussianBlur(image, (0, 0), rng.uniform(*self.sigma)).reshape(image.shape)
