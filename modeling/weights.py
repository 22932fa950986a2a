"""Initial weights from a file: reading, and loading the tensors that match."""

import re
import zipfile
from argparse import Namespace
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from utils.atomic_file import check_archive
from utils.errors import UserError, one_line
from utils.logger import get_logger
from utils.run_folder import RunFolder

# Prefixes that training wrappers add to the names of parameters.
_PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")
# Plain values that others save beside the weights: arguments, paths, NumPy's numbers and arrays, by old and new names.
_PLAIN_GLOBALS: list[Any] = [Namespace, PosixPath, np.ndarray, np.dtype, *map(type, map(np.dtype, np.typecodes["All"]))]
_function: Any
for _function in (np.float64().__reduce__()[0], np.zeros(0).__reduce__()[0]):
    _PLAIN_GLOBALS += [(_function, f"numpy.{core}.multiarray.{_function.__name__}") for core in ("core", "_core")]


class NoRandomInit(TorchFunctionMode):
    """Context manager that skips random initialisation, most of the time of building, where weights are loaded next."""

    # Methods of tensors, and those functions of torch.nn.init that are dispatched before they call one.
    _FILLING = (
        *(torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.erfinv_),
        *(nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_),
    )

    def __torch_function__(
        self, function: Callable, types: object, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        kwargs = kwargs or {}
        return (args or tuple(kwargs.values()))[0] if function in self._FILLING else function(*args, **kwargs)


def read_weights(path: str, own: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns the state dict in a file that fits a network's `own` best, on the CPU, without executing code from it.

    The file is a checkpoint of this or another project, a bare state dict, or safetensors; a run stands for its
    best checkpoint. Raises UserError for a file that is missing or corrupt, or has no weights.
    """
    file = Path(path).expanduser()
    if RunFolder(file).has_weights:
        file = RunFolder(file).best_weights
    if not file.is_file():
        raise UserError(f"MODEL.WEIGHTS: {file}: no such file")
    try:
        if file.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            state: object = load_file(file)
        else:
            if zipfile.is_zipfile(file):  # files of old torch versions are not archives
                check_archive(file)
            with torch.serialization.safe_globals(_PLAIN_GLOBALS):
                state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # each reader raises its own kinds
        if kind := re.search(r"GLOBAL (\S+)", str(error)):
            problem = f"it contains {kind[1]}, expected tensors and plain values; save its state dict alone"
        else:
            problem = one_line(error).rpartition("WeightsUnpickler error: ")[2][:200]
        raise UserError(f"MODEL.WEIGHTS: {file}: cannot read weights: {problem}") from error
    if candidates := list(_state_dicts(state)):
        return max(candidates, key=lambda tensors: len(_matching(_renamed(tensors, own), own)))  # the first of equals
    raise UserError(f"MODEL.WEIGHTS: {file}: the file has no weights; name a checkpoint or a state dict")


def _state_dicts(state: object) -> Iterator[dict[str, torch.Tensor]]:
    """Yields each dict's tensors: the state itself, then what is in its entries ema, model, state_dict, and others."""
    if isinstance(state, dict):
        if tensors := {k: v for k, v in state.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}:
            yield tensors
        for entry in (*map(state.get, ("ema", "model", "state_dict")), *state.values()):
            yield from _state_dicts(entry)


def _matching(state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns the tensors that match a network's `own` by name and shape."""
    return {name: tensor for name, tensor in state.items() if name in own and own[name].shape == tensor.shape}


def load_matching(model: nn.Module, state: dict[str, torch.Tensor], source: str, min_match: float) -> None:
    """Loads the tensors that match by name and shape, in place, and logs the others.

    Prefixes of wrappers are removed; the first convolution of an RGB network is summed over its colours for a gray one.
    Raises UserError if less than the share `min_match` of the network's tensors match.
    """
    own = model.state_dict()
    named = _renamed(state, own)
    first = next((name for name, tensor in own.items() if tensor.ndim == 4), None)
    if first in named and own[first].shape[1] == 1 and named[first].ndim == 4 and named[first].shape[1] == 3:
        named[first] = named[first].sum(dim=1, keepdim=True)
    matching = _matching(named, own)
    if len(matching) < min_match * len(own):
        raise UserError(
            f"{source}: {len(matching)} of {len(own)} tensors match the network, less than MODEL.WEIGHTS_MIN_MATCH "
            f"{min_match}; name the network of these weights in MODEL.NAME, or lower the key"
        )
    log = get_logger("weights")
    log.info("%s: %d of %d tensors loaded", source, len(matching), len(own))
    for name in [name for name in named if name in own and name not in matching][:4]:
        log.warning("skipped %s: found %s, expected %s", name, list(named[name].shape), list(own[name].shape))
    for kind, names in (("missing", own.keys() - named.keys()), ("unexpected", named.keys() - own.keys())):
        if names:
            log.warning("%s: %d, such as %s", kind, len(names), min(names))
    own.update(matching)  # the whole state dict, with the version numbers that some networks keep in it
    model.load_state_dict(own)


def _renamed(state: Mapping[str, torch.Tensor], own: Collection[str]) -> dict[str, torch.Tensor]:
    """Returns a state dict without the prefixes that a network's `own` names do not have."""

    def rename(name: str) -> str:
        while name not in own and name.startswith(_PREFIXES):
            name = name.partition(".")[2]
        return name

    return {rename(name): tensor for name, tensor in state.items()}
