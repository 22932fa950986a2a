"""Checks of transforms and their arguments. Argument checks raise ValueError, which becomes one line."""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from data.image_formats import Size
from data.image_io import crop
from data.samplers import Row
from utils.contracts import Transform
from utils.errors import UserError, require
from utils.registry import is_library, translate

POSITIVE = 1e-6  # the least value of an argument that must be above zero
Numbers = float | Sequence[float]
Pair = tuple[float, float]


class ThreadSafe:
    """A transform that changes nothing in itself when it is called, so that threads may share it."""

    thread_safe = True


def probability(p: float) -> float:
    require(0 <= p <= 1, "p", p, "a probability from 0 to 1")
    return p


def interval(name: str, value: Numbers, least: float, most: float = math.inf, center: float | None = None) -> Pair:
    """Returns [low, high] within least..most; with a `center`, one number is the distance to either side of it."""
    expected = f"{'' if center is None else 'a number or '}[low, high] within {least:g}..{most:g}"
    pair = value
    if center is not None and not isinstance(value, Sequence):
        pair = max(center - value, least), center + value
    if isinstance(pair, Sequence) and len(pair) == 2 and least <= pair[0] <= pair[1] <= most:
        return float(pair[0]), float(pair[1])
    raise ValueError(f"{name}: found {value}, expected {expected}")


def one_each(name: str, value: Numbers, count: int, most: float) -> tuple[float, ...]:
    """Returns `count` numbers within 0..most, given as a list or as one number for all."""
    values = tuple(value) if isinstance(value, Sequence) else (value,) * count
    is_valid = len(values) == count and all(0 <= number <= most for number in values)
    require(is_valid, name, value, f"a number or a list of {count} within 0..{most:g}")
    return values


def colour_channels(image: np.ndarray) -> int:
    """Returns the number of channels of an image (H, W, C), 1 or 3. Raises UserError for others."""
    if image.shape[2] not in (1, 3):
        raise ValueError(f"found an image of {image.shape[2]} channels, colour transforms take 1 or 3; remove it")
    return image.shape[2]


def try_out(transform: Transform, size: Size, channels: int, where: str, spatial_targets: bool) -> None:
    """Applies a transform to noise several times, so that an unusable value is found before training.

    With spatial targets it must move masks too, or leave pixels in place. Raises UserError, which begins with `where`,
    also for a `plan` and `finish`, or a `batch`, that do not equal the call.
    """
    if spatial_targets and getattr(transform, "moves_pixels", True) and not hasattr(transform, "joint"):
        hint = "remove it, or add `joint`, or `moves_pixels = False` if it leaves pixels in place"
        raise UserError(f"{where}: moves pixels and has no `joint`, which moves a mask alike; {hint}")
    plan, finish, batch = (getattr(transform, name, None) for name in ("plan", "finish", "batch"))
    try:
        images = np.random.default_rng(0).integers(0, 256, (8, *size, channels), np.uint8)
        for seed, image in enumerate(images):
            result = transform(image, np.random.default_rng(seed))
            if plan and finish:
                planned = finish(crop(image, plan(size, np.random.default_rng(seed))))
                if not np.array_equal(planned, result):
                    raise ValueError("`finish` of the part from `plan` differs from the call; define all three alike")
        if batch:
            uniforms = np.random.default_rng(0).random((8, getattr(transform, "draws", 0)))
            alone = [transform(image, Row(row)) for image, row in zip(images, uniforms, strict=True)]
            if not np.array_equal(batch(images.copy(), uniforms), alone):
                raise ValueError("`batch` differs from the call with the same draws; define both alike")
    except Exception as error:
        is_value = isinstance(error, (ValueError, AssertionError, ArithmeticError, cv2.error))
        translate(error, where, is_refusal=is_value or is_library(type(transform)))
