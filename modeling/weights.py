"""Weights from elsewhere into a network that they need not fit entirely."""

import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from utils.atomic_file import check_archive
from utils.errors import UserError, one_line
from utils.logger import get_logger
from utils.run_folder import RunFolder

# What training wrappers put before the names of parameters.
_PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")


class NoRandomInit(TorchFunctionMode):
    """Between `with` and its end no tensor is filled with random numbers, for a network that gets its weights next.

    That is most of the time a network takes to build, and on torch's meta device it takes longer.
    """

    # The methods, and those functions of torch.nn.init that come here before they call one.
    _FILLING = (
        *(torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.erfinv_),
        *(nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_),
    )

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        return (args or tuple(kwargs.values()))[0] if function in self._FILLING else function(*args, **kwargs)


def read_weights(path: str) -> dict[str, torch.Tensor]:
    """The state dict in a file, on the CPU: a run or checkpoint of ours, others', a bare one, or safetensors.

    Raises UserError for a file that is missing, damaged, or has no weights; nothing in it can run code.
    """
    path = os.path.expanduser(path)
    if RunFolder(Path(path)).has_weights:
        path = str(RunFolder(Path(path)).best_weights)
    if not Path(path).is_file():
        raise UserError(f"MODEL.WEIGHTS: {path}: no such file")
    try:
        if path.lower().endswith(".safetensors"):
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            if zipfile.is_zipfile(path):  # files of old versions are not archives
                check_archive(Path(path))
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each reader has its own kinds
        raise UserError(f"MODEL.WEIGHTS: {path}: cannot read weights: {one_line(error)[:200]}") from error
    tensors = _tensors(state)
    if not tensors:
        raise UserError(f"MODEL.WEIGHTS: {path}: there are no weights in it")
    return tensors


def _tensors(state: Any) -> dict[str, torch.Tensor]:
    """The first dict that has tensors: the state itself, what it calls ema, model or state_dict, or anything else."""
    if not isinstance(state, dict):
        return {}
    inner = [state.get(key) for key in ("ema", "model", "state_dict")] + list(state.values())
    for candidate in [state, *(value for value in inner if isinstance(value, dict))]:
        tensors = {name: value for name, value in candidate.items() if isinstance(value, torch.Tensor)}
        if tensors:
            return tensors
    return {}


def load_matching(model: nn.Module, state: dict[str, torch.Tensor], source: str, min_match: float) -> None:
    """Load what fits by name and shape, and log what did not.

    Prefixes of wrappers are taken off; the first convolution of an RGB network is summed over
    its colours for a gray one. Raises UserError when less than `min_match` of the tensors fit.
    """
    own = model.state_dict()
    named = {_without_prefixes(name, own): tensor for name, tensor in state.items()}
    first = next((name for name, tensor in own.items() if tensor.ndim == 4), None)
    if first in named and own[first].shape[1] == 1 and named[first].ndim == 4 and named[first].shape[1] == 3:
        named[first] = named[first].sum(dim=1, keepdim=True)
    fitting = {name: tensor for name, tensor in named.items() if name in own and own[name].shape == tensor.shape}
    others = [name for name in named if name in own and name not in fitting]
    if len(fitting) < min_match * len(own):
        raise UserError(
            f"{source}: {len(fitting)} of {len(own)} tensors fit the network, less than MODEL.WEIGHTS_MIN_MATCH "
            f"{min_match}: it is of another network; name that one, or lower the key"
        )
    log = get_logger("weights")
    log.info("%s: %d of %d tensors loaded", source, len(fitting), len(own))
    for name in others[:4]:
        log.warning("skipped %s: found %s, expected %s", name, list(named[name].shape), list(own[name].shape))
    for kind, names in (("missing", own.keys() - named.keys()), ("unexpected", named.keys() - own.keys())):
        if names:
            log.warning("%s: %d, such as %s", kind, len(names), min(names))
    own.update(fitting)  # as a whole, which keeps what networks note down in their state dicts
    model.load_state_dict(own)


def _without_prefixes(name: str, own: dict[str, torch.Tensor]) -> str:
    while name not in own:
        prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None)
        if prefix is None:
            break
        name = name.removeprefix(prefix)
    return name
