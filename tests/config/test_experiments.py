"""Every experiment in configs/ is one that can be built, up to the data, which are not here."""

from pathlib import Path

import numpy as np
import pytest
import torch

from config import load_config
from data.build import build_reader, dataset_defaults
from data.registry import DATASETS
from data.samplers import Keys
from modeling.build import build_criterion, build_input_spec, build_model, loss_task
from solver.build import build_optimizer, build_schedule
from utils.registry import check_arguments

FILES = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yml"))


class StandIn:
    """A data set of one image of the data set's size."""

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
    spec = build_input_spec(cfg, dataset_defaults(cfg))
    with torch.device("meta"):
        model = build_model(cfg, spec, 10)
    criterion = build_criterion(cfg, cfg.LOSS.NAME or "cross_entropy", num_outputs=10)
    assert loss_task(cfg) in (None, "classification", "multilabel")
    assert build_schedule(cfg, build_optimizer(cfg, model, others=criterion), 10).factor(0) > 0


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_its_transforms_give_the_size_of_its_input(file):
    cfg = load_config(file)
    defaults = dataset_defaults(cfg)
    check_arguments(DATASETS.get(cfg.DATASETS.NAME, ""), cfg.DATASETS.arguments(), "DATASETS", root=Path(), split="val")
    spec = build_input_spec(cfg, defaults)
    dataset = StandIn(defaults.get("size", (300, 400)), defaults.get("channels", 3))
    for train in (True, False):
        result = build_reader(cfg, dataset, spec, train).read(Keys(np.arange(1), 0, 0))
        assert result.batch.images.shape == (1, spec.channels, *spec.size)
