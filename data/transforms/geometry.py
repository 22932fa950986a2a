"""Where pixels go: resizing, cropping, flipping."""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from data.registry import TRANSFORMS

Size = Sequence[int]  # (height, width) in pixels


def resize(image: np.ndarray, size: Size) -> np.ndarray:
    """Resize to (height, width): by area when shrinking, else bilinear."""
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    shrinks = height * width < image.shape[0] * image.shape[1]
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return resized.reshape(height, width, image.shape[2])  # OpenCV drops the axis of a single channel


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

    def __init__(
        self, size: Size, scale: tuple[float, float] = (0.08, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3)
    ):
        if not 0 < scale[0] <= scale[1] <= 1 or not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"scale {tuple(scale)}, ratio {tuple(ratio)}: expected [low, high], scale within 0..1")
        self.size, self.scale = size, scale
        self.log_ratio = (math.log(ratio[0]), math.log(ratio[1]))

    def plan(self, size: Size, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """(top, left, height, width) of the part to keep of an image of `size`."""
        full_height, full_width = size
        for _ in range(10):
            area = full_height * full_width * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(*self.log_ratio))
            width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < width <= full_width and 0 < height <= full_height:
                top = int(rng.integers(full_height - height + 1))
                left = int(rng.integers(full_width - width + 1))
                return top, left, height, width
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
        if not 0 <= p <= 1:
            raise ValueError(f"p: found {p}, expected a probability from 0 to 1")
        self.p = p

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return image[:, ::-1] if rng.random() < self.p else image
