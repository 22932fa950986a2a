"""RandAugment and TrivialAugment: random operations of random magnitude. Their warps are bilinear."""

from collections.abc import Callable

import numpy as np

from data.image_formats import Size
from data.registry import TRANSFORMS
from data.transforms import colour
from data.transforms.arguments import Numbers, ThreadSafe, colour_channels, one_each
from data.transforms.warps import affine, warp
from utils.errors import require

LEVELS = 30  # magnitudes are linear in a level from 0 to this one
RAND, WIDE = 0, 1  # the two policies' places among the highest magnitudes of the table below
Operation = tuple[Callable[[np.ndarray, float, Numbers], np.ndarray], float, float, float]


def operations(size: Size) -> dict[str, Operation]:
    """Returns name -> (function of (image, magnitude, fill), magnitude at level 0, two at the highest level), for
    images of `size`. Shears keep the upper left corner, shifts are in whole pixels."""
    height, width = size
    return {
        "Identity": (lambda x, m, fill: x, 0, 0, 0),
        "ShearX": (lambda x, m, fill: warp(x, [[1, m, 0], [0, 1, 0]], fill), 0, 0.3, 0.99),
        "ShearY": (lambda x, m, fill: warp(x, [[1, 0, 0], [m, 1, 0]], fill), 0, 0.3, 0.99),
        "TranslateX": (lambda x, m, fill: warp(x, [[1, 0, -int(m)], [0, 1, 0]], fill), 0, width * 150 / 331, 32),
        "TranslateY": (lambda x, m, fill: warp(x, [[1, 0, 0], [0, 1, -int(m)]], fill), 0, height * 150 / 331, 32),
        "Rotate": (lambda x, m, fill: affine(x, -m, fill=fill), 0, 30, 135),
        "Brightness": (lambda x, m, fill: colour.adjust_brightness(x, 1 + m), 0, 0.9, 0.99),
        "Color": (lambda x, m, fill: colour.adjust_saturation(x, 1 + m), 0, 0.9, 0.99),
        "Contrast": (lambda x, m, fill: colour.adjust_contrast(x, 1 + m), 0, 0.9, 0.99),
        "Sharpness": (lambda x, m, fill: colour.adjust_sharpness(x, 1 + m), 0, 0.9, 0.99),
        "Posterize": (lambda x, m, fill: colour.with_pillow(x, "posterize", round(m)), 8, 4, 2),
        "Solarize": (lambda x, m, fill: colour.with_pillow(x, "solarize", m), 255, 0, 0),
        "AutoContrast": (lambda x, m, fill: colour.with_pillow(x, "autocontrast"), 0, 0, 0),
        "Equalize": (lambda x, m, fill: colour.with_pillow(x, "equalize"), 0, 0, 0),
    }


def choose(size: Size, policy: int, level: float, rng: np.random.Generator) -> tuple[str, float]:
    """Draws the name and the magnitude of an operation; a magnitude that is 0 at level 0 has a random sign."""
    table = operations(size)
    name = list(table)[rng.integers(len(table))]
    _, lowest, *highest = table[name]
    magnitude = lowest + (highest[policy] - lowest) * level / LEVELS
    return name, -magnitude if lowest == 0 and rng.random() < 0.5 else magnitude


def _apply_one(image: np.ndarray, policy: int, level: float, fill: Numbers, rng: np.random.Generator) -> np.ndarray:
    fill = one_each("fill", fill, colour_channels(image), 255)  # checked even if this operation does not use it
    name, magnitude = choose(image.shape[:2], policy, level, rng)
    return operations(image.shape[:2])[name][0](image, magnitude, fill)


@TRANSFORMS.register()
class RandAugment(ThreadSafe):
    """Applies `num_ops` random operations of `magnitude` 0..30; `fill` as in Rotation.

    E. Cubuk et al., 2019, arXiv:1909.13719, with torchvision's fourteen operations and magnitudes.
    """

    def __init__(self, num_ops: int = 2, magnitude: float = 9, fill: Numbers = 0):
        require(isinstance(num_ops, int) and num_ops >= 0, "num_ops", num_ops, "0, 1, 2, ...")
        require(0 <= magnitude <= LEVELS, "magnitude", magnitude, f"a number from 0 to {LEVELS}")
        self.num_ops, self.magnitude, self.fill = num_ops, magnitude, fill

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        for _ in range(self.num_ops):
            image = _apply_one(image, RAND, self.magnitude, self.fill, rng)
        return image


@TRANSFORMS.register()
class TrivialAugmentWide(ThreadSafe):
    """Applies one random operation of a random magnitude, up to strong ones; nothing to tune. `fill` as in Rotation.

    Shifts are of up to 32 pixels, which leaves nothing of a smaller image. S. Müller and F. Hutter, 2021,
    arXiv:2103.10158, the wide space.
    """

    def __init__(self, fill: Numbers = 0):
        self.fill = fill

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return _apply_one(image, WIDE, int(rng.integers(LEVELS + 1)), self.fill, rng)
