"""cfg -> data sets and loaders."""

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import data.datasets
import data.transforms  # noqa: F401  both are imported to be found by name
from config import CfgNode
from data.loaders import Loader, SampleReader
from data.registry import DATASETS, TRANSFORMS, MissingSplit
from data.samplers import stratified_split
from data.subset import Subset, targets_of
from utils.errors import UserError, one_line
from utils.input_spec import InputSpec
from utils.registry import WRONG_VALUE, accepts, call, parse_entry

# What a data set gets that says nothing of itself: the usual treatment of photographs.
_PHOTOS = {
    "train_transforms": [{"RandomResizedCrop": {"scale": [0.35, 1.0]}}, "HFlip"],
    "test_transforms": ["Resize", "CenterCrop"],
}


def native_input(cfg: CfgNode) -> dict[str, Any]:
    """What is known of the data set's images before it is built: size, channels, mean, std, transforms."""
    return _PHOTOS | DATASETS.info(cfg.DATASETS.NAME, "DATASETS.NAME")


def build_split(cfg: CfgNode, split: str, classes: list[str] | None = None) -> Any:
    """The data set's own split: train, val or test. Raises MissingSplit where it has none.

    `classes` are those of the training set, which the other splits must agree with.
    """
    key = "DATASETS"
    factory = DATASETS.get(cfg.DATASETS.NAME, f"{key}.NAME")
    given = {"classes": classes} if classes is not None and accepts(factory, "classes") else {}
    root = Path(os.path.expanduser(cfg.DATASETS.ROOT))
    dataset = call(factory, cfg.DATASETS.arguments(), key, root=root, split=split, **given)
    if classes is not None and list(dataset.classes) != list(classes):
        raise UserError(
            f"DATASETS.NAME {cfg.DATASETS.NAME}: its {split} split has {len(dataset.classes)} classes "
            f"{_shown(dataset.classes)}, expected {len(classes)} {_shown(classes)}; name the data set it was trained on"
        )
    if len(dataset) == 0:
        raise UserError(f"DATASETS.NAME {cfg.DATASETS.NAME}: its {split} split is empty")
    return dataset


def build_train_and_val(cfg: CfgNode) -> tuple[Any, Any | None]:
    """The training set and the validation set: its own, else a stratified part of the training set."""
    train = build_split(cfg, "train")
    val = None
    if cfg.DATASETS.VAL_RATIO > 0:
        try:
            val = build_split(cfg, "val", train.classes)
        except MissingSplit:
            train, val = _hold_out(train, cfg.DATASETS.VAL_RATIO, cfg.SEED)
    if len(train) < 2:
        raise UserError(f"DATASETS.NAME {cfg.DATASETS.NAME}: found {len(train)} training image, expected at least 2")
    return train, val


def _hold_out(dataset: Any, ratio: float, seed: int) -> tuple[Subset, Subset]:
    train_indices, val_indices = stratified_split(targets_of(dataset), ratio, seed)
    if len(val_indices) == 0:
        raise UserError(
            f"DATASETS.VAL_RATIO {ratio} of {len(dataset)} images leaves no validation image: raise it, "
            "or set it to 0 to train without validation"
        )
    return Subset(dataset, train_indices), Subset(dataset, val_indices)


def build_train_loader(cfg: CfgNode, dataset: Any, spec: InputSpec, pin_memory: bool = False) -> Loader:
    """Augmented and shuffled, SOLVER.BATCH_SIZE at a time."""
    reader = build_reader(cfg, dataset, spec, "TRAIN_TRANSFORMS")
    return Loader(reader, cfg.SOLVER.BATCH_SIZE, True, cfg.DATALOADER.NUM_WORKERS, pin_memory)


def build_eval_loader(cfg: CfgNode, dataset: Any, spec: InputSpec, pin_memory: bool = False) -> Loader:
    """In order, TEST.BATCH_SIZE at a time: for validation, testing and inference alike."""
    reader = build_reader(cfg, dataset, spec, "TEST_TRANSFORMS")
    return Loader(reader, cfg.TEST.BATCH_SIZE, False, cfg.DATALOADER.NUM_WORKERS, pin_memory)


def build_reader(cfg: CfgNode, dataset: Any, spec: InputSpec, key: str) -> SampleReader:
    """Samples of a data set under the transforms that INPUT lists in `key`."""
    entries = cfg.INPUT[key] if cfg.INPUT[key] is not None else native_input(cfg)[key.lower()]
    transforms = [_transform(entry, spec, f"INPUT.{key}") for entry in entries]
    return SampleReader(dataset, transforms, spec.size, spec.channels, cfg.SEED)


def _transform(entry: Any, spec: InputSpec, key: str) -> Any:
    """One transform, tried once, so that a value it cannot use is found before the training."""
    name, arguments = parse_entry(entry, key)
    factory = TRANSFORMS.get(name, key)
    if accepts(factory, "size"):
        arguments = {"size": spec.size} | arguments
    transform = call(factory, arguments, key)
    try:
        transform(np.zeros((*spec.size, spec.channels), np.uint8), np.random.default_rng(0))
    except (*WRONG_VALUE, cv2.error) as error:
        raise UserError(f"{key}: {name}: {one_line(error)}") from error
    return transform


def _shown(classes: list[str]) -> str:
    return "(" + ", ".join(classes[:4]) + (", ...)" if len(classes) > 4 else ")")
