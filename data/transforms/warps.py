"""Rotating, scaling, shearing and shifting, of any number of channels."""

from collections.abc import Sequence

import cv2
import numpy as np

from data.registry import TRANSFORMS
from data.transforms.arguments import POSITIVE, Numbers, Pair, ThreadSafe, interval, one_each
from data.transforms.geometry import by_fours


def affine(
    image: np.ndarray, angle: float, shift: Pair = (0, 0), scale: float = 1, shear: float = 0, fill: Numbers = 0
) -> np.ndarray:
    """Shears the rows, rotates clockwise (both in degrees) and scales about the centre, then shifts by (x, y)."""
    rotation, shearing = np.deg2rad([angle, shear])
    rotated = np.array([[np.cos(rotation), -np.sin(rotation)], [np.sin(rotation), np.cos(rotation)]])
    inverse = np.linalg.inv(scale * rotated @ [[1, -np.tan(shearing)], [0, 1]])
    centre = np.array(image.shape[1::-1]) / 2
    return warp(image, np.column_stack([inverse, centre - inverse @ (centre + shift)]), fill)


def warp(image: np.ndarray, inverse: np.ndarray | Sequence[Sequence[float]], fill: Numbers) -> np.ndarray:
    """Takes each pixel (x, y) from `inverse` (2, 3) @ (x, y, 1), bilinear; `fill` is the value outside the image.

    The origin is the image's corner: the centre of its first pixel is (0.5, 0.5).
    """
    matrix = np.array(inverse, np.float64)
    matrix[:, 2] += matrix[:, :2].sum(axis=1) / 2 - 0.5  # OpenCV's origin is the centre of the first pixel
    size, flags = image.shape[1::-1], cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    fill = one_each("fill", fill, image.shape[2], 255)
    return by_fours(lambda x, c: cv2.warpAffine(x, matrix, size, flags=flags, borderValue=fill[c : c + 4]), image)


@TRANSFORMS.register()
class Rotation(ThreadSafe):
    """Rotates counter-clockwise about the centre by a random angle within `degrees`, a number or [low, high].

    The image keeps its size; uncovered pixels get the value `fill`, 0..255, a number or one for each channel.
    """

    def __init__(self, degrees: Numbers, fill: Numbers = 0):
        self.degrees, self.fill = interval("degrees", degrees, -360, 360, center=0), fill

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return affine(image, -rng.uniform(*self.degrees), fill=self.fill)


@TRANSFORMS.register()
class Affine(ThreadSafe):
    """Shears, scales, rotates and shifts at random, with the arguments of torchvision's RandomAffine.

    `degrees` (clockwise here) and `shear` (of the rows, in degrees) are a number or [low, high], `translate` is the
    longest shift (x, y) in shares of width and height, `scale` is [low, high], `fill` as in Rotation.
    """

    def __init__(
        self, degrees: Numbers, translate: Numbers = 0, scale: Pair = (1, 1), shear: Numbers = 0, fill: Numbers = 0
    ):
        self.degrees = interval("degrees", degrees, -360, 360, center=0)
        self.translate = one_each("translate", translate, 2, 1)
        self.scale, self.shear = interval("scale", scale, POSITIVE), interval("shear", shear, -89, 89, center=0)
        self.fill = fill

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width = image.shape[:2]
        x, y = rng.uniform(-1, 1, 2) * self.translate
        angle, scale, shear = (rng.uniform(*limits) for limits in (self.degrees, self.scale, self.shear))
        return affine(image, angle, (round(x * width), round(y * height)), scale, shear, self.fill)
