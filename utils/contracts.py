"""Types that several layers share: what a data set offers, a batch of it, what a network is fed, its learning rates."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np
import torch

# One entry of a list of transforms in the configuration: `Name`, or {Name: {argument: value}}.
Entry = Any


class Dataset(Protocol):
    """A numbered collection of samples.

    A sample is (source, target): the source a uint8 array (H, W, C) or an encoded image, the target a class
    index, a vector (outputs,), or whatever else the task understands. `classes`, a list of names, `targets`,
    one array (n, ...) of all targets, `weights` (n,) and `thread_safe` are optional attributes.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> tuple[Any, Any]: ...
    def name(self, index: int, /) -> str:
        """Name of a sample in messages and tables.

        Its path relative to the root of the data set, as it is on the disk and never escaped; `split/index` for arrays
        in memory.
        """
        ...


def class_names(dataset: Dataset) -> list[str]:
    """Names of the classes; empty for a data set without classes."""
    return list(getattr(dataset, "classes", ()))


def output_names(dataset: Dataset) -> list[str]:
    """Names of the classes, or else of the numbers to predict (`target_names`); empty where neither is given."""
    return class_names(dataset) or list(getattr(dataset, "target_names", ()))


def targets_of(dataset: Dataset) -> np.ndarray:
    """Targets (n, ...) of all samples: the data set's `targets`, or else read one by one."""
    targets = getattr(dataset, "targets", None)
    return np.array([dataset[i][1] for i in range(len(dataset))]) if targets is None else np.asarray(targets)


def is_soft(targets: np.ndarray) -> bool:
    """Tests if targets are class probabilities (n, classes) rather than several labels."""
    return bool(targets.ndim == 2 and (targets >= 0).all() and np.allclose(targets.sum(axis=1), 1))


@dataclass(frozen=True, eq=False)
class SplitRecord:
    """The part of each sample of a run, uint8 (n,), beside hashes of its name, int64 (n,), and target, int32 (n,).

    A sample's index in the run is its place among those of its part.
    """

    names: np.ndarray
    fingerprints: np.ndarray
    parts: np.ndarray

    # Trained on; held out of the training split; in the data set's own validation split; left out by TRAIN_SUBSET.
    TRAIN: ClassVar = 0
    VAL: ClassVar = 1
    OWN_VAL: ClassVar = 2
    UNUSED: ClassVar = 3

    def to_dict(self) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(column) for name, column in vars(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, torch.Tensor]) -> "SplitRecord":
        return cls(**{name: tensor.numpy() for name, tensor in values.items()})


@dataclass(frozen=True)
class InputSpec:
    """Size, normalisation and transforms of the images that a network is fed.

    `size` is (height, width) in pixels, `mean` and `std` have one number per channel, for pixels in 0..1.
    """

    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train_transforms: tuple[Entry, ...] = ()
    test_transforms: tuple[Entry, ...] = ()

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "InputSpec":
        """The inverse of `asdict`; older checkpoints have lists in place of tuples."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**fields)


@dataclass(frozen=True)
class Batch:
    """Images uint8 (N, C, H, W) in channels-last memory, and what belongs to each.

    `targets` are int64 (N,), float32 (N, outputs), or stacked arrays of another shape; `indices` int64 (N,)
    say which samples of the data set these are; `weights` float32 (N,) multiply the samples' losses, None if all
    count the same. The images of a batch are valid until the loader is asked for the next one. The gradients of several
    processes are averaged: `share` is this one's share of the samples of all, times the number of processes.
    """

    images: torch.Tensor
    targets: torch.Tensor
    indices: torch.Tensor
    weights: torch.Tensor | None = None
    share: float = 1.0

    def __len__(self) -> int:
        return self.images.shape[0]  # sooner than by Tensor.__len__

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor)}

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device, copied asynchronously where the memory is pinned."""
        non_blocking = device.type == "cuda"  # elsewhere the memory, which is used again, might be copied too late
        return self if self.images.device == device else self._map(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        return self._map(torch.Tensor.pin_memory)

    def split(self, parts: int) -> "list[Batch]":
        """Micro-batches of nearly equal size; fewer than `parts` where one would hold a single sample."""
        parts = max(min(parts, len(self) // 2), 1)  # batch norm needs two samples
        if parts == 1:
            return [self]
        columns = {key: tensor.tensor_split(parts) for key, tensor in self.tensors.items()}
        batches: list[dict[str, Any]] = [{key: pieces[i] for key, pieces in columns.items()} for i in range(parts)]
        return [replace(self, **batch) for batch in batches]

    def _map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        moved: dict[str, Any] = {key: function(tensor) for key, tensor in self.tensors.items()}
        return replace(self, **moved)


class Loader(Protocol):
    """The batches of a split, epoch by epoch; see data/loaders.py. `broken` maps corrupt samples to the reason."""

    broken: dict[int, str]
    batch_size: int

    @property
    def dataset(self) -> Dataset: ...
    @property
    def num_samples(self) -> int: ...
    def __len__(self) -> int: ...
    def batches(self, epoch: int = 0, start: int = 0, poll: Callable[[], None] = ...) -> Iterator[Batch]: ...
    def image(self, index: int) -> np.ndarray: ...
    def close(self) -> None: ...


class Transform(Protocol):
    """An image transform: uint8 (H, W, C) in, uint8 out; `rng` is its only source of randomness."""

    def __call__(self, image: Any, rng: Any, /) -> Any: ...


class Schedule:
    """Sets the learning rate of each parameter group: its initial rate * `factor(step)` * `scale`.

    Steps from `total_steps` on keep the last rate. `scale_lr` lowers `scale`; `shift` is added to the step, for a run
    that continues with other steps per epoch; both are in the state. `lr` is the rate of a group without multipliers.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, factor: Callable[[int], float], total_steps: int):
        self.optimizer, self.factor, self.total_steps = optimizer, factor, total_steps
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]
        self.scale, self.shift = 1.0, 0
        self.set_step(0)

    def set_step(self, step: int) -> None:
        """Sets the rates for optimizer step number `step`, counted from 0."""
        self.step = step
        factor = self.factor(min(step + self.shift, self.total_steps - 1)) * self.scale
        self.lr = self.optimizer.defaults["lr"] * factor
        for group, base_lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base_lr * factor

    def scale_lr(self, factor: float, min_lr: float) -> None:
        """Multiplies all rates by `factor` from now on, but does not take `lr` below `min_lr`."""
        if self.lr > 0:
            self.scale *= min(max(factor, min_lr / self.lr), 1.0)
        self.set_step(self.step)

    def state_dict(self) -> dict[str, float]:
        return {"scale": self.scale, "shift": self.shift}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restores scale and shift; `set_step` then applies them."""
        self.scale, self.shift = state["scale"], int(state["shift"])
