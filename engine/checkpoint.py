"""Checkpoint files: tensors and plain values, written whole, checked when read."""

import zipfile
from pathlib import Path
from typing import Any

import torch

from utils.atomic_file import atomic_write, check_archive
from utils.errors import UserError, one_line
from utils.logger import get_logger
from utils.run_folder import RunFolder

VERSION = 1
_KEYS = {"version", "model", "config", "classes", "input"}


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a state so that `path` holds it whole, or what it held before. Raises OSError."""
    with atomic_write(path, "wb") as file:
        try:
            torch.save({"version": VERSION, **state}, file)
        except RuntimeError as error:  # torch's writer hides the system's error, a full disk for example
            raise error.__context__ if isinstance(error.__context__, OSError) else OSError(str(error)) from error


def load_checkpoint(path: Path, mapped: bool = False) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, after checking the CRC of every part of it.

    With `mapped` its tensors stay in the file until they are used.
    Raises UserError for a file that is missing, damaged, or not one of ours; nothing in the
    file can run code.
    """
    try:
        check_archive(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such checkpoint") from error
    except OSError as error:
        raise UserError(f"{path}: cannot read the checkpoint: {error.strerror or one_line(error)}") from error
    except zipfile.BadZipFile as error:
        size, start = path.stat().st_size, path.read_bytes()[:16]
        raise UserError(
            f"{path}: no checkpoint, or a damaged one ({one_line(error)}; {size} bytes, begins with {start!r}); "
            "use another file"
        ) from error
    except Exception as error:  # torch and zlib raise many kinds for a damaged or foreign file
        raise UserError(f"{path}: no checkpoint, or a damaged one: {one_line(error)[:200]}") from error
    missing = _KEYS - set(state) if isinstance(state, dict) else _KEYS
    if missing:
        raise UserError(f"{path}: not a checkpoint of this project (it has no {', '.join(sorted(missing))})")
    if state["version"] != VERSION:
        raise UserError(
            f"{path}: checkpoint of version {state['version']}, expected {VERSION}; use the code it came with"
        )
    return state


def load_newest(run: RunFolder) -> tuple[Path, dict[str, Any]]:
    """The newest whole checkpoint to resume a run from: `last`, or else `previous`.

    Raises UserError where none can be read.
    """
    if run.last.exists():
        try:
            return run.last, load_checkpoint(run.last)
        except UserError as error:
            if not run.previous.exists():
                raise
            get_logger("resume").warning("%s; falling back to %s", error, run.previous.name)
    return run.previous, load_checkpoint(run.previous)


def first_nonfinite(state: dict[str, torch.Tensor]) -> str | None:
    """The name of a tensor with a NaN or an infinity in it, None where all is well."""
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            return name
    return None


def load_model_state(model: torch.nn.Module, state: dict[str, torch.Tensor], source: str, assign: bool = False) -> None:
    """Load weights into a network they fit exactly, else UserError with what does not fit.

    With `assign` the network takes the tensors themselves, not copies.
    """
    own = model.state_dict()
    for name in own:
        if name in state and own[name].shape != state[name].shape:
            raise UserError(
                f"{source}: {name} has the shape {list(state[name].shape)}, expected {list(own[name].shape)}; "
                "name the model and the data set that it was trained with"
            )
    if own.keys() != state.keys():
        missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        raise UserError(
            f"{source}: {len(missing)} tensors are missing and {len(unexpected)} unexpected "
            f"(such as {(missing + unexpected)[0]}); name the model that it was trained with"
        )
    model.load_state_dict(state, assign=assign)
