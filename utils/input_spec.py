"""What a network is fed: the size and the normalisation of its images."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class InputSpec:
    """`size` is (height, width) in pixels, `channels` 1 (gray) or 3 (RGB).

    `mean` and `std` have one number for each channel, for pixels in 0..1.
    """

    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def state_dict(self) -> dict[str, Any]:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
