"""cfg -> data sets, readers and loaders."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from config import CfgNode
from data.loaders import Loader
from data.mixing import BatchTransforms
from data.packed import Packed
from data.reading import OnBroken, SampleReader, Weights
from data.registry import BATCH_TRANSFORMS, DATASETS, TRANSFORMS, MissingSplit, check_contract
from data.samplers import sampling_weights
from data.splits import SplitOptions, Splits, divide, is_column
from data.subset import class_gap
from data.transforms.arguments import try_out
from data.workers import choose_workers
from utils import distributed
from utils.contracts import Dataset, Entry, InputSpec, SplitRecord, Transform, output_names
from utils.errors import UserError
from utils.logger import get_logger
from utils.registry import accepts, call, parse_entry

_CPU = torch.device("cpu")
# The usual treatment of photographs, for data sets that register no transforms of their own.
_PHOTOS = {
    "train_transforms": [{"RandomResizedCrop": {"scale": [0.35, 1.0]}}, "HFlip"],
    "test_transforms": ["Resize", "CenterCrop"],
}


def dataset_defaults(cfg: CfgNode) -> dict[str, Any]:
    """The data set's defaults of the INPUT keys: size, channels, mean, std, train_transforms, test_transforms."""
    return _PHOTOS | DATASETS.info(cfg.DATASETS.NAME, "DATASETS.NAME")


def image_channels(cfg: CfgNode) -> int:
    """The number of channels of INPUT.CHANNELS, or else of the data set."""
    return cfg.INPUT.CHANNELS or dataset_defaults(cfg).get("channels", 3)


def build_split(cfg: CfgNode, split: str, classes: list[str] | None = None) -> Dataset:
    """Builds the data set's own split: train, val or test; `classes` are the output names that it must have.

    Its images come from DATASETS.PACKED, if given. Raises MissingSplit if there is no such split.
    """
    data, where = cfg.DATASETS, f"DATASETS.NAME {cfg.DATASETS.NAME}"
    factory = DATASETS.get(data.NAME, "DATASETS.NAME")
    given: dict[str, Any] = {"classes": classes} if classes and accepts(factory, "classes") else {}
    if is_column(data.GROUP) and accepts(factory, "group"):
        given["group"] = data.GROUP
    root = Path(os.path.expanduser(data.ROOT))
    dataset = call(factory, data.arguments(), "DATASETS", root=root, split=split, **given)
    check_contract(dataset, split, where, classes)
    return Packed(dataset, data.PACKED, split, image_channels(cfg)) if data.PACKED else dataset


def build_train_and_val(cfg: CfgNode, record: SplitRecord | None = None, classes: list[str] | None = None) -> Splits:
    """Builds the training set and the validation set: a fold, the data set's own, or a part of the training set.

    With the `record` and the output names of a run they are those of the run. Raises UserError for fewer than 2
    training images.
    """
    source: Dataset = build_split(cfg, "train", classes)
    own_val: Dataset | None = None
    data = cfg.DATASETS
    if (data.VAL_RATIO > 0 and not data.FOLD) if record is None else (record.parts == record.OWN_VAL).any():
        with suppress(MissingSplit):
            own_val = build_split(cfg, "val", output_names(source))
    options = SplitOptions(data.SPLIT_SEED, data.VAL_RATIO, data.FOLD, data.GROUP, data.TRAIN_SUBSET)
    splits = divide(source, own_val, options, record)
    if splits.val is not None and own_val is None and (warning := class_gap(splits.val)):
        get_logger("data").warning("DATASETS.NAME %s: its validation part has %s", data.NAME, warning)
    if len(splits.train) < 2:
        raise UserError(f"DATASETS.NAME {data.NAME}: training images: found {len(splits.train)}, expected at least 2")
    return splits


def build_train_loader(
    cfg: CfgNode, dataset: Dataset, spec: InputSpec, device: torch.device = _CPU, spatial_targets: bool = False
) -> Loader:
    """Builds the loader of augmented training batches on a device, drawn by DATASETS.SAMPLER."""
    draw_weights, loss_weights = sampling_weights(dataset, cfg.DATASETS.SAMPLER, cfg.DATASETS.NAME)
    reader = build_reader(cfg, dataset, spec, True, loss_weights, spatial_targets)
    return _build_loader(cfg, reader, cfg.SOLVER.BATCH_SIZE, device, shuffle=True, draw_weights=draw_weights)


def build_eval_loader(
    cfg: CfgNode, dataset: Dataset, spec: InputSpec, device: torch.device = _CPU, spatial_targets: bool = False
) -> Loader:
    """Builds the loader for validation, testing and inference: in order, TEST.BATCH_SIZE at a time."""
    reader = build_reader(cfg, dataset, spec, train=False, spatial_targets=spatial_targets)
    return _build_loader(cfg, reader, cfg.TEST.BATCH_SIZE, device)


def _build_loader(cfg: CfgNode, reader: SampleReader, batch_size: int, device: torch.device, **order: Any) -> Loader:
    loading = cfg.DATALOADER
    workers = loading.NUM_WORKERS, loading.WORKER_KIND, loading.PREFETCH
    # The most that one process reads of a training batch; the last batch of an epoch may have an odd sample.
    own = min(2 * -(-batch_size // (2 * distributed.world_size())) + 1, batch_size) if order else batch_size
    found = choose_workers(reader, own, *workers, loading.RESIDENT_MIB * 2**20, device.type == "cuda")
    order |= {"rank": distributed.rank(), "world_size": distributed.world_size()}
    return Loader(*found, batch_size, device, cfg.DATASETS.MAX_SKIPPED, **order)


def build_reader(
    cfg: CfgNode, dataset: Dataset, spec: InputSpec, train: bool, weights: Weights = None, spatial_targets: bool = False
) -> SampleReader:
    """Builds the reader of a data set under the spec's transforms for training or testing."""
    key, entries = ("TRAIN", spec.train_transforms) if train else ("TEST", spec.test_transforms)
    transforms = [_build_transform(entry, spec, f"INPUT.{key}_TRANSFORMS", spatial_targets) for entry in entries]
    # No image is scored twice: in testing a corrupt one is left out.
    on_broken: OnBroken = "raise" if cfg.DATASETS.ON_ERROR == "raise" else "replace" if train else "skip"
    if on_broken == "raise" and (missing := getattr(dataset, "missing", ())):
        found = f"{len(missing)} files do not exist: {'; '.join(missing[:3])}{'; ...' if len(missing) > 3 else ''}"
        raise UserError(f"{found}: correct the paths (DATASETS.suffix adds an ending), or set DATASETS.ON_ERROR skip")
    options = (cfg.SEED, weights, on_broken, cfg.DATASETS.MAX_PIXELS, spatial_targets)
    return SampleReader(dataset, transforms, spec.size, spec.channels, *options)


def _build_transform(entry: Entry, spec: InputSpec, key: str, spatial_targets: bool) -> Transform:
    name, arguments = parse_entry(entry, key)
    factory = TRANSFORMS.get(name, key)
    if accepts(factory, "size"):
        arguments = {"size": spec.size} | arguments
    transform = call(factory, arguments, key)
    try_out(transform, spec.size, spec.channels, f"{key}: {name}", spatial_targets)
    return transform


def build_batch_transforms(cfg: CfgNode, num_outputs: int) -> BatchTransforms | None:
    """Builds INPUT.BATCH_TRANSFORMS as one function of (batch, epoch, samples_seen); None if the list is empty."""
    key = "INPUT.BATCH_TRANSFORMS"
    entries = [parse_entry(entry, key) for entry in cfg.INPUT.BATCH_TRANSFORMS]
    transforms = [call(BATCH_TRANSFORMS.get(name, key), arguments, key) for name, arguments in entries]
    return BatchTransforms(transforms, num_outputs, cfg.SEED, cfg.INPUT.MIXUP_OFF_EPOCH) if transforms else None
