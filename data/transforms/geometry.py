"""Resizing, cropping, flipping, rotating, erasing. All transforms here take any number of channels."""

import copy
import math
from collections.abc import Callable

import cv2
import numpy as np

from data.image_formats import Size
from data.image_io import Box, crop
from data.registry import TRANSFORMS
from data.transforms.arguments import POSITIVE, Numbers, Pair, ThreadSafe, interval, one_each, probability
from utils.errors import require


def resize(image: np.ndarray, size: Size, nearest: bool = False, area_from: float = 1) -> np.ndarray:
    """Resizes (H, W, C) to (height, width): bilinear, or by area if it has more than `area_from` times the pixels.

    Masks (H, W, ...) are resized by `nearest`.
    """
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    if nearest:
        rows, columns = ((np.arange(n) + 0.5) * old / n for n, old in zip(size, image.shape[:2], strict=True))
        return image[rows.astype(np.int64)[:, np.newaxis], columns.astype(np.int64)]
    shrinks = height * width * area_from < image.shape[0] * image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return by_fours(lambda part, _: cv2.resize(part, (width, height), interpolation=method), image)


def by_fours(function: Callable[[np.ndarray, int], np.ndarray], image: np.ndarray) -> np.ndarray:
    """Applies a function of (channels, number of the first) to four channels at a time, the most OpenCV takes."""
    firsts = range(0, image.shape[2], 4)
    parts = [function(np.ascontiguousarray(image[..., c : c + 4]) if len(firsts) > 1 else image, c) for c in firsts]
    # OpenCV drops the axis of a single channel.
    return np.concatenate([np.atleast_3d(part) for part in parts], axis=2) if len(parts) > 1 else np.atleast_3d(*parts)


def random_box(size: Size, scale: Pair, ratio: Pair, rng: np.random.Generator) -> Box | None:
    """Draws a box by its share of the area and its aspect ratio; None if ten draws in a row exceed `size`."""
    full_height, full_width = size
    low, high = map(math.log, ratio)
    for _ in range(10):
        area = full_height * full_width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(low, high))
        width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < width <= full_width and 0 < height <= full_height:
            top = int(rng.integers(full_height - height + 1))
            left = int(rng.integers(full_width - width + 1))
            return top, left, height, width
    return None


class SpatialTransform(ThreadSafe):
    """A transform whose `__call__(image, rng, nearest=False)` moves masks (H, W, ...) too, `nearest` if it resizes."""

    def __call__(self, image: np.ndarray, rng: np.random.Generator, nearest: bool = False) -> np.ndarray:
        raise NotImplementedError

    def joint(self, image: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Moves an image (H, W, C) and its mask (H, W, ...) alike, with the same draws as `__call__`."""
        return self(image, copy.deepcopy(rng)), self(target, rng, nearest=True)


@TRANSFORMS.register()
class Resize(SpatialTransform):
    """Resizes, keeping the aspect ratio, until the image just covers `size / crop_pct`.

    A CenterCrop after it keeps all of the shorter side for a crop_pct of 1; ImageNet's usual one is 0.875 (resize to
    256, crop 224). An image longer than 16 times its side of `size` is first cut evenly at both ends: a strip of 1 by
    20,000 pixels would become gigabytes.
    """

    draws = 0

    def __init__(self, size: Size, crop_pct: float = 1.0):
        require(0.1 <= crop_pct <= 1, "crop_pct", crop_pct, "a share from 0.1 to 1")
        self.height, self.width = (math.floor(side / crop_pct) for side in size)

    def __call__(self, image: np.ndarray, rng: np.random.Generator, nearest: bool = False) -> np.ndarray:
        height, width = image.shape[:2]
        scale = max(self.height / height, self.width / width)
        top = max(height - math.ceil(16 * self.height / scale), 0) // 2
        left = max(width - math.ceil(16 * self.width / scale), 0) // 2
        image = image[top : height - top, left : width - left]
        height, width = image.shape[:2]
        size = max(round(height * scale), self.height), max(round(width * scale), self.width)
        return resize(image, size, nearest)


@TRANSFORMS.register()
class CenterCrop(SpatialTransform):
    """Crops the central `size` of an image at least as large."""

    draws = 0

    def __init__(self, size: Size):
        self.height, self.width = size

    def __call__(self, image: np.ndarray, rng: np.random.Generator, nearest: bool = False) -> np.ndarray:
        top, left = (image.shape[0] - self.height) // 2, (image.shape[1] - self.width) // 2
        return crop(image, (max(top, 0), max(left, 0), self.height, self.width))


@TRANSFORMS.register()
class Letterbox(SpatialTransform):
    """Resizes the whole image to fit into `size`, and fills the rest: in the middle, or at a `random` place.

    `fill` is the value of the rest, 0..255, a number or one for each channel, or "edge": that of the nearest pixel.
    Masks are filled with 0 unless it is "edge".
    """

    def __init__(self, size: Size, fill: Numbers | str = 0, random: bool = False):
        require(not isinstance(fill, str) or fill == "edge", "fill", repr(fill), "edge, a number, or one each channel")
        self.size, self.fill, self.random = size, fill, random
        self.draws = None if random else 0

    def __call__(self, image: np.ndarray, rng: np.random.Generator, nearest: bool = False) -> np.ndarray:
        scale = min(full / side for full, side in zip(self.size, image.shape, strict=False))
        height, width = (max(round(side * scale), 1) for side in image.shape[:2])
        gaps = self.size[0] - height, self.size[1] - width
        top, left = (int(rng.integers(gap + 1)) if self.random else gap // 2 for gap in gaps)
        image = resize(image, (height, width), nearest)
        if isinstance(self.fill, str):
            rows, columns = (np.arange(n) - start for n, start in zip(self.size, (top, left), strict=True))
            return image[rows.clip(0, height - 1)[:, np.newaxis], columns.clip(0, width - 1)]
        fill = 0 if nearest else one_each("fill", self.fill, image.shape[2], 255)
        canvas = np.full((*self.size, *image.shape[2:]), fill, image.dtype)
        canvas[top : top + height, left : left + width] = image
        return canvas


@TRANSFORMS.register()
class RandomCrop(SpatialTransform):
    """Pads each side by `padding` zero pixels, then crops `size` at a random place."""

    draws = 2

    def __init__(self, size: Size, padding: int = 0):
        require(padding >= 0, "padding", padding, "0 pixels or more")
        self.size, self.padding = size, padding

    def __call__(self, image: np.ndarray, rng: np.random.Generator, nearest: bool = False) -> np.ndarray:
        canvas = self._padded(image[np.newaxis])[0]
        gaps = (max(full - part, 0) for full, part in zip(canvas.shape, self.size, strict=False))
        top, left = (int(rng.random() * (gap + 1)) for gap in gaps)
        return crop(canvas, (top, left, *self.size))

    def batch(self, images: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        canvas = self._padded(images)
        sizes = [min(full, part) for full, part in zip(canvas.shape[1:], self.size, strict=False)]
        counts = np.subtract(canvas.shape[1:3], sizes) + 1  # of places for the crop
        n, y, x, c = canvas.strides
        shape = len(images), *counts, *sizes, canvas.shape[3]
        windows = np.lib.stride_tricks.as_strided(canvas, shape, (n, y, x, y, x, c))
        tops, lefts = (uniforms * counts).astype(np.int64).T
        return windows[np.arange(len(images)), tops, lefts]

    def _padded(self, images: np.ndarray) -> np.ndarray:
        count, height, width, *rest = images.shape
        pad = self.padding
        canvas = np.zeros((count, height + 2 * pad, width + 2 * pad, *rest), images.dtype)
        canvas[:, pad : pad + height, pad : pad + width] = images
        return canvas


@TRANSFORMS.register()
class RandomResizedCrop(SpatialTransform):
    """Resizes a random part of the image, by share of its area and by aspect ratio, to `size`.

    C. Szegedy et al., 2014, arXiv:1409.4842; the sampling is torchvision's, with a centre crop after ten misses.
    """

    def __init__(self, size: Size, scale: Pair = (0.08, 1.0), ratio: Pair = (3 / 4, 4 / 3)):
        self.size = size
        self.scale, self.ratio = interval("scale", scale, POSITIVE, 1), interval("ratio", ratio, POSITIVE)

    def plan(self, size: Size, rng: np.random.Generator) -> Box:
        """Draws the (top, left, height, width) to keep of an image of `size`."""
        if box := random_box(size, self.scale, self.ratio, rng):
            return box
        full_height, full_width = size
        width = min(full_width, max(round(full_height * self.ratio[1]), 1))
        height = min(full_height, max(round(full_width / self.ratio[0]), 1))
        return (full_height - height) // 2, (full_width - width) // 2, height, width

    def finish(self, pixels: np.ndarray, nearest: bool = False) -> np.ndarray:
        """Resizes the planned part (h, w, C) of an image to (H, W, C), by area only if it is far larger."""
        return resize(pixels, self.size, nearest, area_from=4)

    def __call__(self, image: np.ndarray, rng: np.random.Generator, nearest: bool = False) -> np.ndarray:
        return self.finish(crop(image, self.plan(image.shape[:2], rng)), nearest)


@TRANSFORMS.register()
class HFlip(SpatialTransform):
    """Mirrors left and right with probability `p`."""

    draws = 1
    axis = 1  # of an image

    def __init__(self, p: float = 0.5):
        self.p = probability(p)

    def __call__(self, image: np.ndarray, rng: np.random.Generator, nearest: bool = False) -> np.ndarray:
        if rng.random() >= self.p:
            return image
        if image.dtype != np.uint8 or image.ndim != 3:
            return np.flip(image, self.axis)
        # NumPy would only make a view, and copying it takes fifty times as long.
        return by_fours(lambda part, _: cv2.flip(part, self.axis), image)

    def batch(self, images: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        chosen = uniforms[:, 0] < self.p
        images[chosen] = np.flip(images[chosen], self.axis + 1)
        return images


@TRANSFORMS.register()
class VFlip(HFlip):
    """Mirrors top and bottom with probability `p`."""

    axis = 0


@TRANSFORMS.register()
class RandomErasing(ThreadSafe):
    """With probability `p`, fills a random rectangle with noise or with a `value`.

    `scale` is its share of the image's area, `ratio` its width over its height. Pixels are "random" unless `value`
    gives 0..255, one number or one for each channel. If ten rectangles in a row exceed the image, it is returned
    unchanged. Z. Zhong et al., 2017, arXiv:1708.04896.
    """

    moves_pixels = False

    def __init__(
        self, p: float = 0.5, scale: Pair = (0.02, 0.33), ratio: Pair = (0.3, 3.3), value: Numbers | str = "random"
    ):
        self.p = probability(p)
        self.scale, self.ratio = interval("scale", scale, POSITIVE, 1), interval("ratio", ratio, POSITIVE)
        is_valid = not isinstance(value, str) or value == "random"
        require(is_valid, "value", repr(value), "random, a number, or one for each channel")
        self.value = value

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        # Checked before the chance is drawn, so that an incorrect number of values is found at start.
        value = None if isinstance(self.value, str) else one_each("value", self.value, image.shape[2], 255)
        box = random_box(image.shape[:2], self.scale, self.ratio, rng) if rng.random() < self.p else None
        if box is None:
            return image
        erased = image.copy()
        part = crop(erased, box)
        part[:] = rng.integers(0, 256, part.shape, np.uint8) if value is None else value
        return erased
