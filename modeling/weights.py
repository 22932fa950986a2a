"""Initial weights from a file: reading, and loading the tensors that match."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from utils.atomic_file import check_archive
from utils.errors import UserError, one_line
from utils.logger import get_logger
from utils.run_folder import RunFolder

# Prefixes that training wrappers add to the names of parameters.
_PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")


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


def read_weights(path: str) -> dict[str, torch.Tensor]:
    """Returns the state dict in a file, on the CPU, without executing code from the file.

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
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # each reader raises its own kinds
        raise UserError(f"MODEL.WEIGHTS: {file}: cannot read weights: {one_line(error)[:200]}") from error
    if tensors := _tensors(state):
        return tensors
    raise UserError(f"MODEL.WEIGHTS: {file}: the file has no weights; name a checkpoint or a state dict")


def _tensors(state: object) -> dict[str, torch.Tensor]:
    """Returns the first dict with tensors: the state itself, its entries ema, model, state_dict, or any other."""
    entries = state if isinstance(state, dict) else {}
    for candidate in (entries, *map(entries.get, ("ema", "model", "state_dict")), *entries.values()):
        items = candidate.items() if isinstance(candidate, dict) else ()
        if tensors := {name: value for name, value in items if isinstance(value, torch.Tensor)}:
            return tensors
    return {}


def load_matching(model: nn.Module, state: dict[str, torch.Tensor], source: str, min_match: float) -> None:
    """Loads the tensors that match by name and shape, in place, and logs the others.

    Prefixes of wrappers are removed; the first convolution of an RGB network is summed over its colours for a gray one.
    Raises UserError if less than the share `min_match` of the network's tensors match.
    """
    own = model.state_dict()
    named = {_without_prefixes(name, own): tensor for name, tensor in state.items()}
    first = next((name for name, tensor in own.items() if tensor.ndim == 4), None)
    if first in named and own[first].shape[1] == 1 and named[first].ndim == 4 and named[first].shape[1] == 3:
        named[first] = named[first].sum(dim=1, keepdim=True)
    matching = {name: tensor for name, tensor in named.items() if name in own and own[name].shape == tensor.shape}
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


def _without_prefixes(name: str, own: dict[str, torch.Tensor]) -> str:
    while name not in own and name.startswith(_PREFIXES):
        name = name.partition(".")[2]
    return name
