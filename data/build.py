"""cfg -> data sets and loaders."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import data.datasets
import data.transforms  # noqa: F401  both are imported to be found by name
from config import CfgNode
from data.loaders import Batch, Loader, SampleReader, Workers
from data.registry import BATCH_TRANSFORMS, DATASETS, TRANSFORMS, MissingSplit
from data.samplers import balanced_subset, stratified_fold, stratified_split
from data.subset import Subset
from data.targets import targets_of, weights_of
from data.transforms.batch import BatchTransforms
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
    if not all(isinstance(name, str) for name in dataset.classes):
        found = _shown(list(map(repr, dataset.classes)))
        raise UserError(f"DATASETS.NAME {cfg.DATASETS.NAME}: found the classes {found}, expected texts")
    if classes is not None and list(dataset.classes) != list(classes):
        raise UserError(
            f"DATASETS.NAME {cfg.DATASETS.NAME}: its {split} split has {len(dataset.classes)} classes "
            f"{_shown(dataset.classes)}, expected {len(classes)} {_shown(classes)}; name the data set it was trained on"
        )
    if len(dataset) == 0:
        raise UserError(f"DATASETS.NAME {cfg.DATASETS.NAME}: its {split} split is empty")
    return dataset


def build_train_and_val(cfg: CfgNode) -> tuple[Any, Any | None]:
    """The training set and the validation set: a fold, the data set's own, or a stratified part of the training set."""
    train, val = build_split(cfg, "train"), None
    if cfg.DATASETS.FOLD:
        train, val = _divide(train, "FOLD", stratified_fold(targets_of(train), *cfg.DATASETS.FOLD, cfg.SEED))
    elif cfg.DATASETS.VAL_RATIO > 0:
        try:
            val = build_split(cfg, "val", train.classes)
        except MissingSplit:
            parts = stratified_split(targets_of(train), cfg.DATASETS.VAL_RATIO, cfg.SEED)
            train, val = _divide(train, "VAL_RATIO", parts)
    count = cfg.DATASETS.TRAIN_ITEMS
    if count > len(train):
        raise UserError(f"DATASETS.TRAIN_ITEMS: found {count}, the training set has {len(train)} images; lower it")
    if count:
        train = Subset(train, balanced_subset(targets_of(train), count, cfg.SEED))
    if len(train) < 2:
        raise UserError(f"DATASETS.NAME {cfg.DATASETS.NAME}: found {len(train)} training image, expected at least 2")
    return train, val


def _divide(dataset: Any, key: str, parts: tuple[np.ndarray, np.ndarray]) -> tuple[Subset, Subset]:
    if min(map(len, parts)) == 0:
        raise UserError(
            f"DATASETS.{key} divides {len(dataset)} images into {len(parts[0])} for training and {len(parts[1])} for "
            "validation: change it, or set VAL_RATIO to 0 to train without validation"
        )
    return Subset(dataset, parts[0]), Subset(dataset, parts[1])


def build_train_loader(cfg: CfgNode, dataset: Any, spec: InputSpec, pin_memory: bool = False) -> Loader:
    """Augmented and shuffled, SOLVER.BATCH_SIZE at a time, drawn as DATASETS.SAMPLER says."""
    draw_weights, loss_weights = None, weights_of(dataset)
    if loss_weights is not None and not loss_weights.any():
        raise UserError(f"DATASETS.NAME {cfg.DATASETS.NAME}: all weights are 0; give some images more, or no weights")
    if cfg.DATASETS.SAMPLER == "balanced":
        targets = targets_of(dataset)
        if targets.ndim > 1:
            raise UserError("DATASETS.SAMPLER balanced: images of several labels have no one class; use weighted")
        draw_weights = 1 / np.bincount(targets)[targets]
    elif cfg.DATASETS.SAMPLER == "weighted":
        if loss_weights is None:
            raise UserError(f"DATASETS.SAMPLER weighted: {cfg.DATASETS.NAME} has no weights; use shuffle or balanced")
        draw_weights, loss_weights = loss_weights.astype(np.float64), None
    if loss_weights is not None:
        loss_weights = loss_weights / loss_weights.mean()  # so that BASE_LR keeps its meaning
    reader = build_reader(cfg, dataset, spec, "TRAIN_TRANSFORMS", loss_weights)
    return _loader(cfg, reader, cfg.SOLVER.BATCH_SIZE, pin_memory, shuffle=True, draw_weights=draw_weights)


def build_eval_loader(cfg: CfgNode, dataset: Any, spec: InputSpec, pin_memory: bool = False) -> Loader:
    """In order, TEST.BATCH_SIZE at a time: for validation, testing and inference alike."""
    return _loader(cfg, build_reader(cfg, dataset, spec, "TEST_TRANSFORMS"), cfg.TEST.BATCH_SIZE, pin_memory)


def _loader(cfg: CfgNode, reader: SampleReader, batch_size: int, pin_memory: bool, **options: Any) -> Loader:
    workers = Workers(cfg.DATALOADER.NUM_WORKERS, cfg.DATALOADER.PREFETCH, cfg.DATALOADER.WORKER_KIND)
    options |= {"workers": workers, "pin_memory": pin_memory, "max_broken": cfg.DATASETS.MAX_SKIPPED}
    return Loader(reader, batch_size, **options)


def build_batch_transforms(cfg: CfgNode, num_classes: int) -> Callable[[Batch, int, int], Batch] | None:
    """What INPUT.BATCH_TRANSFORMS lists, as a function of (batch, epoch, position); None for nothing."""
    key = "INPUT.BATCH_TRANSFORMS"
    entries = [parse_entry(entry, key) for entry in cfg.INPUT.BATCH_TRANSFORMS]
    transforms = [call(BATCH_TRANSFORMS.get(name, key), arguments, key) for name, arguments in entries]
    return BatchTransforms(transforms, num_classes, cfg.SEED, cfg.INPUT.BATCH_TRANSFORMS_UNTIL) if transforms else None


def build_reader(
    cfg: CfgNode, dataset: Any, spec: InputSpec, key: str, weights: np.ndarray | None = None
) -> SampleReader:
    """Samples of a data set under the transforms that INPUT lists in `key`."""
    entries = cfg.INPUT[key] if cfg.INPUT[key] is not None else native_input(cfg)[key.lower()]
    transforms = [_transform(entry, spec, f"INPUT.{key}") for entry in entries]
    skip = "replace" if key == "TRAIN_TRANSFORMS" else "leave_out"  # no image is to count twice in a metric
    return SampleReader(
        dataset,
        transforms,
        spec.size,
        spec.channels,
        cfg.SEED,
        weights,
        on_broken="raise" if cfg.DATASETS.ON_ERROR == "raise" else skip,
        max_pixels=cfg.DATASETS.MAX_PIXELS,
    )


def _transform(entry: Any, spec: InputSpec, key: str) -> Any:
    """One transform, tried a few times, so that a value it cannot use is found before the training."""
    name, arguments = parse_entry(entry, key)
    factory = TRANSFORMS.get(name, key)
    if accepts(factory, "size"):
        arguments = {"size": spec.size} | arguments
    transform = call(factory, arguments, key)
    try:
        for seed in range(8):
            transform(np.zeros((*spec.size, spec.channels), np.uint8), np.random.default_rng(seed))
    except (*WRONG_VALUE, cv2.error) as error:
        raise UserError(f"{key}: {name}: {one_line(error)}") from error
    return transform


def _shown(classes: list[str]) -> str:
    return "(" + ", ".join(classes[:4]) + (", ...)" if len(classes) > 4 else ")")
