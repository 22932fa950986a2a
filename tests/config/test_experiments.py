"""Every experiment in configs/ is one that can be built."""

from pathlib import Path

import pytest
import torch

from config import load_config
from data.build import native_input
from modeling.build import build_criterion, build_model, input_spec
from solver.build import build_optimizer, build_schedule

FILES = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_builds(file):
    cfg = load_config(file)
    assert file.stem == cfg.EXPERIMENT.NAME
    with torch.device("meta"):
        model = build_model(cfg, input_spec(cfg, native_input(cfg)), 10)
    assert build_criterion(cfg) is not None
    assert build_schedule(cfg, build_optimizer(cfg, model), 10).factor(0) > 0
