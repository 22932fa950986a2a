"""Initial weights from a file: reading, and loading the tensors that match."""

import math
import re
import zipfile
from argparse import Namespace
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import torch
from torch import nn

from utils.atomic_file import check_archive
from utils.errors import UserError, one_line
from utils.labels import nfc
from utils.logger import get_logger
from utils.run_folder import RunFolder

# Prefixes that training wrappers add to the names of parameters.
_PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")
# Plain values that others save beside the weights: arguments, paths, NumPy's numbers and arrays, by old and new names.
_PLAIN_GLOBALS: list[Any] = [Namespace, PosixPath, np.ndarray, np.dtype, *map(type, map(np.dtype, np.typecodes["All"]))]
_function: Any
for _function in (np.float64().__reduce__()[0], np.zeros(0).__reduce__()[0]):
    _PLAIN_GLOBALS += [(_function, f"numpy.{core}.multiarray.{_function.__name__}") for core in ("core", "_core")]


def read_weights(path: str, own: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Returns the state dict in a file that fits a network's `own` best, and the names of its outputs, if the file has
    them. It is on the CPU and without the prefixes of wrappers. Executes no code from the file.

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
    if candidates := [_renamed(tensors, own) for tensors in _state_dicts(state)]:
        best = max(candidates, key=lambda tensors: len(_matching(tensors, own)))  # the first of equals
        return best, _output_names(state)
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


def _output_names(state: object) -> list[str]:
    entries = state if isinstance(state, dict) else {}
    resolved = entries.get("resolved")
    names = resolved.get("names") if isinstance(resolved, dict) else None
    return names if isinstance(names, list) else []


def match_head(
    state: dict[str, torch.Tensor], head: Mapping[str, torch.Tensor], saved: list[str], names: list[str], source: str
) -> None:
    """Leaves, in `state`, only those rows of a head that belong to outputs of the same name, and logs how many.

    `head` are the tensors with a fresh row for each of the `names`; those in `state` have one for each of `saved`.
    """
    places = {nfc(name): place for place, name in enumerate(saved)}
    common = {row: places[nfc(name)] for row, name in enumerate(names) if nfc(name) in places}
    for key, fresh in head.items():
        old = state.pop(key, None)
        if common and old is not None and old.shape == (len(saved), *fresh.shape[1:]):
            state[key] = fresh.clone()
            state[key][list(common)] = old[list(common.values())].to(fresh.dtype)
    kept = "no row is kept"
    if head.keys() & state.keys():
        kept = f"{len(common)} of {len(names)} rows are kept, such as {names[min(common)]}"
    get_logger("weights").warning("%s: a head of other classes: %s; the rest starts fresh", source, kept)


def load_matching(model: nn.Module, state: dict[str, torch.Tensor], source: str, min_match: float) -> None:
    """Loads the tensors that match by name and shape, in place, and logs the others.

    The first convolution is summed or repeated for other input channels.
    Raises UserError if less than the share `min_match` of the network's tensors match.
    """
    own, log = model.state_dict(), get_logger("weights")
    named = dict(state)
    first = next((name for name, tensor in own.items() if tensor.ndim == 4), None)
    if first in named and named[first].ndim == 4:
        found, expected = named[first].shape[1], own[first].shape[1]
        if found != expected and found in (1, 3):  # gray or RGB, as in timm: gray stays what it was for the network
            repeated = named[first].repeat(1, math.ceil(expected / found), 1, 1)[:, :expected] * (found / expected)
            named[first] = named[first].sum(dim=1, keepdim=True) if expected == 1 else repeated
            log.warning("%s: %s of %d input channels, converted to %d", source, first, found, expected)
    matching = _matching(named, own)
    if len(matching) < min_match * len(own):
        problem = f"{len(matching)} of {len(own)} tensors match the network"
        hint = "name the network of these weights in MODEL.NAME, or lower the key"
        raise UserError(f"{source}: {problem}, less than MODEL.WEIGHTS_MIN_MATCH {min_match}; {hint}")
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
