"""Checks of the arguments that several transforms share; each raises ValueError, which becomes one line."""

import math
from collections.abc import Sequence

POSITIVE = 1e-6  # the least of what must be above zero
Numbers = float | Sequence[float]
Pair = tuple[float, float]


def probability(p: float) -> float:
    if not 0 <= p <= 1:
        raise ValueError(f"p: found {p}, expected a probability from 0 to 1")
    return p


def interval(name: str, value: Numbers, least: float, most: float = math.inf, center: float | None = None) -> Pair:
    """[low, high] within least..most; where there is a `center`, a number means as far to both sides of it."""
    from_center = center is not None and not isinstance(value, Sequence)
    pair = (max(center - value, least), center + value) if from_center else value
    if not (isinstance(pair, Sequence) and len(pair) == 2 and least <= pair[0] <= pair[1] <= most):
        expected = "[low, high]" if center is None else "a number or [low, high]"
        raise ValueError(f"{name}: found {value}, expected {expected} within {least:g}..{most:g}")
    return float(pair[0]), float(pair[1])


def one_each(name: str, value: Numbers, count: int, most: float) -> tuple[float, ...]:
    """A number for all, or `count` numbers -> `count` numbers, each within 0..most."""
    values = tuple(value) if isinstance(value, Sequence) else (value,) * count
    if len(values) != count or not all(0 <= number <= most for number in values):
        raise ValueError(f"{name}: found {value}, expected a number or a list of {count} within 0..{most:g}")
    return values
