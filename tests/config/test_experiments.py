"""Every experiment in configs/ is one that can be built, up to the data, which are not here."""

from pathlib import Path

import numpy as np
import pytest
import torch

from config import load_config
from data.build import build_reader, native_input
from data.registry import DATASETS
from data.samplers import SampleKey
from modeling.build import build_criterion, build_model, input_spec
from solver.build import build_optimizer, build_schedule
from utils.registry import check_arguments

FILES = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yml"))


class StandIn:
    """One image of the size that the data set's have."""

    def __init__(self, size: tuple[int, int], channels: int):
        self.image = np.full((*size, channels), 128, np.uint8)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, i: int):
        return self.image, 0

    def name(self, i: int) -> str:
        return "stand-in"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_builds(file):
    cfg = load_config(file)
    assert file.stem == cfg.EXPERIMENT.NAME
    spec = input_spec(cfg, native_input(cfg))
    with torch.device("meta"):
        model = build_model(cfg, spec, 10)
    assert build_criterion(cfg) is not None
    assert build_schedule(cfg, build_optimizer(cfg, model), 10).factor(0) > 0


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_its_transforms_give_the_size_of_its_input(file):
    cfg = load_config(file)
    native = native_input(cfg)
    check_arguments(DATASETS.get(cfg.DATASETS.NAME, ""), cfg.DATASETS.arguments(), "DATASETS", root=Path(), split="val")
    spec = input_spec(cfg, native)
    dataset = StandIn(native.get("size", (300, 400)), native.get("channels", 3))
    for key in ("TRAIN_TRANSFORMS", "TEST_TRANSFORMS"):
        image, _ = build_reader(cfg, dataset, spec, key).read(SampleKey(0, 0, 0))
        assert image.shape == (*spec.size, spec.channels)
