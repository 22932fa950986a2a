"""Images, torchvision's results for them, and the input that a configuration describes."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from config import CfgNode
from data.build import dataset_defaults
from utils.contracts import InputSpec


def spec_of(cfg: CfgNode, size: tuple[int, int] = (6, 6), channels: int = 1) -> InputSpec:
    """The spec of a configuration, with its transforms or else the data set's."""
    train, test = cfg.INPUT.TRAIN_TRANSFORMS, cfg.INPUT.TEST_TRANSFORMS
    defaults = dataset_defaults(cfg)
    train = defaults["train_transforms"] if train is None else train
    test = defaults["test_transforms"] if test is None else test
    return InputSpec(size, channels, (0.5,) * channels, (0.5,) * channels, tuple(train), tuple(test))


@pytest.fixture(params=["smooth gray", "smooth RGB", "noisy gray", "noisy RGB"])
def picture(request) -> np.ndarray:
    """Odd sides, with flat black and white parts; as smooth as a photograph, or noise."""
    channels = 3 if request.param.endswith("RGB") else 1
    y, x = np.mgrid[0:1:45j, 0:1:37j]
    waves = np.stack([127 + 150 * np.sin(5 * x + c) * np.cos(4 * y - c) for c in range(channels)], axis=2)
    noise = np.random.default_rng(0).integers(-40, 296, waves.shape)
    return np.clip(noise if request.param.startswith("noisy") else waves, 0, 255).astype(np.uint8)


@pytest.fixture
def torchvisions() -> Callable[..., np.ndarray]:
    """(function, image, arguments) -> its result as (H, W, C) in 0..255, computed in float64 unless `exact`.

    From uint8 torchvision computes some things with intermediate results cut to whole numbers,
    which hides the right answer by up to 2; `exact` is for those that it does in uint8.
    """

    def call(function, image: np.ndarray, *args, exact: bool = False, **kwargs) -> np.ndarray:
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
        result = function(pixels if exact else pixels.double() / 255, *args, **kwargs)
        return result.permute(1, 2, 0).numpy() * (1 if exact else 255)

    return call
