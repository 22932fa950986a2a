"""The registries behind DATASETS.NAME and the lists of transforms in INPUT."""

from collections.abc import Callable

import numpy as np
import torch

from data.subset import class_gap
from utils.contracts import Dataset, Transform, output_names
from utils.errors import UserError
from utils.labels import nfc
from utils.logger import get_logger
from utils.registry import Registry

# docs/extending.md has the contracts of all three, each with an example. Facts that `register` is given about a data
# set are the defaults of the INPUT keys: size, channels, mean, std, train_transforms, test_transforms.
DATASETS = Registry[Dataset]("data set", "data.datasets")
TRANSFORMS = Registry[Transform]("transform", "data.transforms")
Mixed = tuple[torch.Tensor, torch.Tensor]  # images (N, C, H, W) and targets (N, outputs)
BatchTransform = Callable[[torch.Tensor, torch.Tensor, np.random.Generator], Mixed]
BATCH_TRANSFORMS = Registry[BatchTransform]("batch transform", "data.transforms")


class MissingSplit(UserError):
    """The data set has no such split of its own."""


def check_contract(dataset: Dataset, split: str, where: str, classes: list[str] | None) -> None:
    """Raises UserError about `where` for a data set that is incomplete, empty or of other `classes`; warns of gaps."""
    for member in ("__len__", "__getitem__", "name"):
        if not hasattr(dataset, member):
            raise UserError(f"{where}: {type(dataset).__name__} has no {member}; add it, as docs/extending.md says")
    names = output_names(dataset)
    if not all(isinstance(name, str) for name in names):
        raise UserError(f"{where}: found the classes {_shown(list(map(repr, names)))}, expected strings")
    if classes is not None and [*map(nfc, names)] != [*map(nfc, classes)]:
        found = f"its {split} split has {len(names)} classes {_shown(names)}, expected {len(classes)} {_shown(classes)}"
        raise UserError(f"{where}: {found}; name the data set that the network was trained on")
    if len(dataset) == 0:
        raise UserError(f"{where}: its {split} split is empty")
    if warning := class_gap(dataset):
        get_logger("data").warning("%s: its %s split has %s", where, split, warning)


def _shown(names: list[str]) -> str:
    return "(" + ", ".join(names[:4]) + (", ...)" if len(names) > 4 else ")")
