"""Where pixels go: resizing, cropping, flipping, turning, erasing."""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from data.registry import TRANSFORMS
from data.transforms.arguments import POSITIVE, Numbers, Pair, interval, one_each, probability

Size = Sequence[int]  # (height, width) in pixels
Box = tuple[int, int, int, int]  # (top, left, height, width) in pixels


def resize(image: np.ndarray, size: Size) -> np.ndarray:
    """Resize to (height, width): by area when shrinking, else bilinear."""
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    shrinks = height * width < image.shape[0] * image.shape[1]
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return resized.reshape(height, width, image.shape[2])  # OpenCV drops the axis of a single channel


def random_box(size: Size, scale: Pair, log_ratio: Pair, rng: np.random.Generator) -> Box | None:
    """A random box with a share of the area within `scale`; None when ten in a row do not fit into `size`."""
    full_height, full_width = size
    for _ in range(10):
        area = full_height * full_width * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(*log_ratio))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= full_width and 0 < height <= full_height:
            top = int(rng.integers(full_height - height + 1))
            left = int(rng.integers(full_width - width + 1))
            return top, left, height, width
    return None


def affine(
    image: np.ndarray, angle: float, shift: Pair = (0, 0), scale: float = 1, shear: float = 0, fill: Numbers = 0
) -> np.ndarray:
    """Shear the rows and turn clockwise, in degrees, and scale, all around the middle; shift by (x, y) pixels."""
    turn, lean = np.deg2rad([angle, shear])
    turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    inverse = np.linalg.inv(scale * turned @ [[1, -np.tan(lean)], [0, 1]])
    middle = np.array(image.shape[1::-1]) / 2
    return warp(image, np.column_stack([inverse, middle - inverse @ (middle + shift)]), fill)


def warp(image: np.ndarray, inverse: np.ndarray | Sequence[Sequence[float]], fill: Numbers) -> np.ndarray:
    """Take each pixel (x, y) from `inverse` @ (x, y, 1), bilinear; `fill` lies around the image.

    Coordinates begin at the image's corner: the middle of its first pixel is (0.5, 0.5).
    """
    matrix = np.array(inverse, np.float64)  # (2, 3)
    matrix[:, 2] += matrix[:, :2].sum(axis=1) / 2 - 0.5  # OpenCV begins in the middle of the first pixel
    height, width, channels = image.shape
    flags, fill = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, one_each("fill", fill, channels, 255)
    return cv2.warpAffine(image, matrix, (width, height), flags=flags, borderValue=fill).reshape(image.shape)


@TRANSFORMS.register()
class Resize:
    """Scale, keeping the aspect ratio, until the image just covers `size / crop_pct`.

    With the default crop_pct of 1 the CenterCrop after it keeps all of the shorter side;
    0.875 is the usual value for ImageNet (resize to 256, crop 224). What would be longer than 16
    times its part of `size` is cut evenly at both ends first: a strip of 1 by 20,000 pixels
    would become gigabytes, of which the crop keeps a square.
    """

    def __init__(self, size: Size, crop_pct: float = 1.0):
        if not 0.1 <= crop_pct <= 1:
            raise ValueError(f"crop_pct: found {crop_pct}, expected a share from 0.1 to 1")
        self.height, self.width = (math.floor(side / crop_pct) for side in size)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width = image.shape[:2]
        scale = max(self.height / height, self.width / width)
        top = max(height - math.ceil(16 * self.height / scale), 0) // 2
        left = max(width - math.ceil(16 * self.width / scale), 0) // 2
        image = image[top : height - top, left : width - left]
        height, width = image.shape[:2]
        return resize(image, (max(round(height * scale), self.height), max(round(width * scale), self.width)))


@TRANSFORMS.register()
class CenterCrop:
    """The middle `size` of an image at least as large."""

    def __init__(self, size: Size):
        self.height, self.width = size

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        top = (image.shape[0] - self.height) // 2
        left = (image.shape[1] - self.width) // 2
        return image[max(top, 0) : max(top, 0) + self.height, max(left, 0) : max(left, 0) + self.width]


@TRANSFORMS.register()
class RandomCrop:
    """Pad each side by `padding` zero pixels, then crop `size` at a random place."""

    def __init__(self, size: Size, padding: int = 0):
        self.height, self.width = size
        if padding < 0:
            raise ValueError(f"padding: found {padding}, expected 0 pixels or more")
        self.padding = padding

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width, channels = image.shape
        pad = self.padding
        canvas = np.zeros((height + 2 * pad, width + 2 * pad, channels), np.uint8)
        canvas[pad : pad + height, pad : pad + width] = image
        top = rng.integers(max(canvas.shape[0] - self.height, 0) + 1)
        left = rng.integers(max(canvas.shape[1] - self.width, 0) + 1)
        return canvas[top : top + self.height, left : left + self.width]


@TRANSFORMS.register()
class RandomResizedCrop:
    """A random part of the image, by share of its area and by aspect ratio, resized to `size`.

    C. Szegedy et al., Going deeper with convolutions, 2014, arXiv:1409.4842; the sampling is
    torchvision's, with its fall-back to a centre crop after ten misses.
    """

    def __init__(self, size: Size, scale: Pair = (0.08, 1.0), ratio: Pair = (3 / 4, 4 / 3)):
        self.size = size
        self.scale = interval("scale", scale, POSITIVE, 1)
        self.log_ratio = tuple(map(math.log, interval("ratio", ratio, POSITIVE)))

    def plan(self, size: Size, rng: np.random.Generator) -> Box:
        """(top, left, height, width) of the part to keep of an image of `size`."""
        box = random_box(size, self.scale, self.log_ratio, rng)
        if box:
            return box
        full_height, full_width = size
        low, high = map(math.exp, self.log_ratio)
        width = min(full_width, max(round(full_height * high), 1))
        height = min(full_height, max(round(full_width / low), 1))
        return (full_height - height) // 2, (full_width - width) // 2, height, width

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        top, left, height, width = self.plan(image.shape[:2], rng)
        return resize(np.ascontiguousarray(image[top : top + height, left : left + width]), self.size)


@TRANSFORMS.register()
class HFlip:
    """Mirror left and right with probability `p`."""

    def __init__(self, p: float = 0.5):
        self.p = probability(p)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return image[:, ::-1] if rng.random() < self.p else image


@TRANSFORMS.register()
class VFlip:
    """Mirror top and bottom with probability `p`."""

    def __init__(self, p: float = 0.5):
        self.p = probability(p)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return image[::-1] if rng.random() < self.p else image


@TRANSFORMS.register()
class Rotation:
    """Turn around the middle by a random angle: counter-clockwise, `degrees` is a number or [low, high].

    The image keeps its size; `fill` (0..255, a number or one for each channel) goes where nothing is left.
    """

    def __init__(self, degrees: Numbers, fill: Numbers = 0):
        self.degrees, self.fill = interval("degrees", degrees, -360, 360, center=0), fill

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return affine(image, -rng.uniform(*self.degrees), fill=self.fill)


@TRANSFORMS.register()
class Affine:
    """Shear, scale, turn and shift at random, with the arguments of torchvision's RandomAffine.

    `degrees` (clockwise here) and `shear` (of the rows, in degrees) are a number or [low, high],
    `translate` is the longest shift (x, y) in shares of width and height, `scale` is [low, high],
    `fill` as in Rotation.
    """

    def __init__(
        self, degrees: Numbers, translate: Numbers = 0, scale: Pair = (1, 1), shear: Numbers = 0, fill: Numbers = 0
    ):
        self.degrees = interval("degrees", degrees, -360, 360, center=0)
        self.translate = one_each("translate", translate, 2, 1)
        self.scale = interval("scale", scale, POSITIVE)
        self.shear = interval("shear", shear, -89, 89, center=0)
        self.fill = fill

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width = image.shape[:2]
        x, y = rng.uniform(-1, 1, 2) * self.translate
        angle, scale, shear = (rng.uniform(*limits) for limits in (self.degrees, self.scale, self.shear))
        return affine(image, angle, (round(x * width), round(y * height)), scale, shear, self.fill)


@TRANSFORMS.register()
class RandomErasing:
    """With probability `p`, fill a random rectangle with noise or with a `value`.

    `scale` is its share of the image's area, `ratio` its width over its height. Like the
    paper's, it is filled with "random" pixels unless `value` gives 0..255, one number or
    one for each channel. Where none of ten rectangles fits, the image stays as it is.
    Z. Zhong et al., Random Erasing Data Augmentation, 2017, arXiv:1708.04896.
    """

    def __init__(
        self, p: float = 0.5, scale: Pair = (0.02, 0.33), ratio: Pair = (0.3, 3.3), value: Numbers | str = "random"
    ):
        self.p = probability(p)
        self.scale = interval("scale", scale, POSITIVE, 1)
        self.log_ratio = tuple(map(math.log, interval("ratio", ratio, POSITIVE)))
        self.value = value

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        channels = image.shape[2]
        # Before the chance is taken, so that a wrong number of values is found at once.
        value = None if self.value == "random" else one_each("value", self.value, channels, 255)
        box = random_box(image.shape[:2], self.scale, self.log_ratio, rng) if rng.random() < self.p else None
        if box is None:
            return image
        top, left, height, width = box
        pixels = rng.integers(0, 256, (height, width, channels), np.uint8) if value is None else value
        erased = image.copy()
        erased[top : top + height, left : left + width] = pixels
        return erased
