"""Checkpoint files: tensors and plain values, written atomically, verified by CRC, loaded without executing code."""

import copy
import random
import re
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import yaml

from utils.atomic_file import atomic_write, check_archive
from utils.contracts import InputSpec, SplitRecord
from utils.distributed import gather, rank, world_size
from utils.errors import UserError, one_line
from utils.labels import nfc
from utils.logger import get_logger
from utils.run_folder import RunFolder

VERSION = 2
_HEADER = ("version", "config", "classes", "resolved", "splits")
_PLAIN = (str, int, float, bool, bytes, type(None))

State = dict[str, Any]


@dataclass(frozen=True)
class Resolved:
    """What the configuration left open, as worked out from the data, the network and the machine.

    A test or a resumed run takes all of it from the checkpoint, but for `device` and `amp`, which are worked out anew.
    """

    task: str
    loss: str
    monitor: str  # "max top1"
    names: list[str]  # of the network's outputs
    num_outputs: int
    input: InputSpec
    class_weights: list[float] | None = None
    teacher: str = ""  # absolute path
    device: str = "cpu"
    amp: str = "off"

    def to_yaml(self) -> str:
        return yaml.safe_dump(asdict(self), sort_keys=False, allow_unicode=True)

    @classmethod
    def from_dict(cls, values: State) -> "Resolved":
        return cls(**{**values, "input": InputSpec.from_dict(values["input"])})


@dataclass(frozen=True)
class Checkpoint:
    """A saved training run: `config` is the YAML text of what was asked for, `classes` those of the data set, if any.

    `splits` tells what was trained on and what was held out.
    `state` is what the `Checkpointables` of the trainer saved, by name.
    """

    config: str
    classes: list[str]
    resolved: Resolved
    state: State
    splits: SplitRecord
    version: int = VERSION
    source: Path = Path("checkpoint")

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The network's state dict to test and predict with: averaged where the training averaged, names -> tensors."""
        return self.state.get("ema") or self.state["model"]

    @property
    def epoch(self) -> int:
        """Completed epochs."""
        return self.state["progress"]["epoch"]

    @property
    def step(self) -> int:
        return self.state["progress"]["step"]

    def check_can_teach(self, resolved: Resolved) -> None:
        """Raises UserError unless this is the checkpoint of a network for the same task, classes and images."""
        own, other = self.resolved, resolved
        for name, found, expected in (
            ("classes", [*map(nfc, own.names)], [*map(nfc, other.names)]),
            ("task", own.task, other.task),
            ("size", list(own.input.size), list(other.input.size)),
            ("channels", own.input.channels, other.input.channels),
        ):
            if found != expected:
                hint = "name a teacher of the same classes and images"
                problem = f"found {name} {found}, expected {expected} as in this training"
                raise UserError(f"LOSS.teacher {self.source}: {problem}; {hint}")

    def is_complete(self, max_epochs: int) -> bool:
        """Whether nothing is left to train."""
        return self.epoch >= max_epochs or bool(self.state["progress"]["stop_reason"])


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint, so that `path` holds all of it, or what it held before.

    Raises OSError, and UserError for a state that could not be loaded again.
    """
    header = {key: getattr(checkpoint, key) for key in _HEADER}
    header |= {"resolved": asdict(checkpoint.resolved), "splits": checkpoint.splits.to_dict()}
    content = _storable({**header, **checkpoint.state}, "")
    with atomic_write(path, "wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # torch's writer hides the system's error, a full disk for example
            raise error.__context__ if isinstance(error.__context__, OSError) else OSError(str(error)) from error


def _storable(value: Any, place: str) -> Any:
    """Returns a state with NumPy's numbers as Python's, where these compute alike.

    Raises UserError for what is not a tensor or a plain value.
    """
    if isinstance(value, dict):
        entries = {_storable(key, f"a key of {place}"): _storable(v, f"{place}/{key}") for key, v in value.items()}
        value = copy.copy(value)  # of the same type, for an OrderedDict with the versions of a network's modules
        value.clear()
        value.update(entries)
        return value
    if isinstance(value, (list, tuple)):
        items = [_storable(item, f"{place}/{i}") for i, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, (np.float64, np.int64, np.bool_)):
        return value.item()
    if isinstance(value, torch.Tensor) or type(value) in _PLAIN:
        return value
    expected = "a tensor, number, string, list or dictionary; convert it in state_dict"
    raise UserError(f"the checkpoint's {place[1:]}: found {type(value).__name__}, expected {expected}")


def load_checkpoint(path: Path, mapped: bool = False) -> Checkpoint:
    """Reads a checkpoint onto the CPU, after checking the CRC of every part of it.

    With `mapped` the tensors stay in the file until they are used. Raises UserError for a file that is missing,
    damaged, or not a checkpoint of this project.
    """
    found = _read(path, mapped)
    content: State = found if isinstance(found, dict) else {}
    if (version := content.get("version", VERSION)) != VERSION:
        raise UserError(f"{path}: checkpoint of version {version}, expected {VERSION}; use the code that saved it")
    if missing := {*_HEADER, "model"} - content.keys():
        raise UserError(f"{path}: not a checkpoint of this project (it has no {', '.join(sorted(missing))})")
    header = {key: content.pop(key) for key in _HEADER}
    header["resolved"] = Resolved.from_dict(header["resolved"])
    header["splits"] = SplitRecord.from_dict(header["splits"])
    return Checkpoint(**header, state=content, source=path)


def _read(path: Path, mapped: bool) -> object:
    try:
        check_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such checkpoint") from error
    except OSError as error:
        raise UserError(f"{path}: cannot read the checkpoint: {error.strerror or one_line(error)}") from error
    except zipfile.BadZipFile as error:
        found = f"{path.stat().st_size} bytes, begins with {path.open('rb').read(16)!r}"
        problem = f"not a checkpoint, or damaged ({one_line(error)}; {found})"
        raise UserError(f"{path}: {problem}; use another file") from error
    except Exception as error:  # torch and zlib raise many kinds for a damaged or foreign file
        if kind := re.search(r"GLOBAL (\S+)", str(error)):
            found = f"it contains {kind[1]}, expected tensors and plain values"
            raise UserError(f"{path}: not a checkpoint of this project: {found}") from error
        raise UserError(f"{path}: not a checkpoint, or damaged: {one_line(error)[:200]}") from error


def load_newest(run: RunFolder) -> Checkpoint:
    """Reads the newest intact checkpoint of a run: `last`, or else `previous`. Raises UserError if there is none."""
    try:
        return load_checkpoint(run.last)
    except UserError as error:
        if not run.previous.exists():
            raise
        get_logger("resume").warning("%s; falling back to %s", error, run.previous.name)
        return load_checkpoint(run.previous)


class Stateful(Protocol):
    """Anything that can be saved and restored: `state_dict` gives tensors and plain values."""

    def state_dict(self) -> Any: ...
    def load_state_dict(self, state: Any, /) -> object: ...


class Checkpointables:
    """Everything in a training run that must survive an interruption, one keyword each; restored in that order."""

    def __init__(self, **objects: Stateful | None):
        self.objects = {name: thing for name, thing in objects.items() if thing is not None}

    def state_dict(self) -> State:
        return {name: thing.state_dict() for name, thing in self.objects.items()}

    def load_state_dict(self, state: State) -> None:
        """Restores what the state has; the rest stays as built. Raises UserError for a module with other tensors."""
        for name, thing in self.objects.items():
            if name in state and isinstance(thing, torch.nn.Module):
                load_model_state(thing, state[name], "the checkpoint")
            elif name in state:
                thing.load_state_dict(state[name])


class OptimizerState:
    """An optimizer as a `Stateful` whose settings stay as they were built: those of the configuration."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        self.optimizer = optimizer

    def state_dict(self) -> State:
        return self.optimizer.state_dict()

    def load_state_dict(self, state: State) -> None:
        """Restores the state of the parameters, if these are as many and in the same groups as they were."""
        groups, saved = self.optimizer.param_groups, state.get("param_groups", [])
        if [len(group["params"]) for group in groups] != [len(group["params"]) for group in saved]:
            get_logger("resume").warning("the optimizer starts anew: its saved state does not match")
            return
        # Settings come first, because where an optimizer keeps its state depends on them.
        merged = [{**old, **new, "params": old["params"]} for old, new in zip(saved, groups, strict=True)]
        self.optimizer.load_state_dict({**state, "param_groups": merged})


class RngState:
    """The global random generators as one thing that can be saved and restored."""

    def state_dict(self) -> State:
        kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
        own = {
            "python": random.getstate(),
            "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss],
            "torch": torch.get_rng_state(),
            "cuda": [torch.cuda.get_rng_state(device) for device in _gpus()],
        }
        return {**own, "others": gather(own)[1:]}

    def load_state_dict(self, state: State) -> None:
        """Restores a state. GPUs and processes that were not there when it was saved keep their own."""
        states = [state, *state.get("others", ())]
        if rank() >= len(states):
            return
        state = states[rank()]
        version, internal, gauss = state["python"]
        random.setstate((version, tuple(internal), gauss))
        kind, keys, *rest = state["numpy"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
        torch.set_rng_state(state["torch"])
        for device, cuda_state in zip(_gpus(), state["cuda"], strict=False):
            torch.cuda.set_rng_state(cuda_state, device)


def _gpus() -> list[int]:
    """The GPUs that this process uses."""
    if not torch.cuda.is_available():
        return []
    return list(range(torch.cuda.device_count())) if world_size() == 1 else [torch.cuda.current_device()]


def seed_everything(seed: int) -> None:
    """Seeds Python's, NumPy's and torch's generators, torch's on every device; `seed` in 0..2**63 - 1."""
    random.seed(seed)
    np.random.seed([seed & 0xFFFFFFFF, seed >> 32])  # a single number is limited to 32 bits
    torch.manual_seed(seed)


def first_nonfinite(state: dict[str, torch.Tensor]) -> str | None:
    """Returns the name of a tensor with a NaN or an infinity in it, None if all are finite."""
    return next((k for k, v in state.items() if v.is_floating_point() and not torch.isfinite(v).all()), None)


def load_model_state(model: torch.nn.Module, state: dict[str, torch.Tensor], source: str, assign: bool = False) -> None:
    """Loads weights that match a network exactly. Raises UserError with the difference if they do not.

    With `assign` the network takes the tensors themselves, not copies.
    """
    try:
        model.load_state_dict(state, assign=assign)
    except RuntimeError as error:
        hint = "name the model and the data set that it was trained with"
        raise UserError(f"{source}: {one_line(error)[:300]}; {hint}") from error
