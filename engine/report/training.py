"""Learning curves and metadata of a training, from the files in its run folder."""

import json
import math
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from engine.report.page import Image
from utils.run_folder import RunFolder

_ENVIRONMENT = ("command", "python", "platform", "machine", "device")  # no user or host name on a shared page
Record = dict[str, Any]


def read_history(path: Path) -> list[Record]:
    """Returns the records of metrics.jsonl, without lines that a crash has torn; none if there is no such file."""
    records: list[Record] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        with suppress(ValueError):
            records.append(json.loads(line))
    return [record for record in records if isinstance(record, dict) and record.keys() >= {"kind", "epoch", "step"}]


def training_images(history: Sequence[Record], chosen: float | None) -> list[Image]:
    """Returns the learning curves, the rate below them; `chosen` is the epoch of the best weights."""
    from utils import plotting

    epochs = [record for record in history if record["kind"] == "epoch"]
    steps = [record for record in history if record["kind"] == "step"]
    curves: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for name in dict.fromkeys(key for record in epochs for key in record if key.startswith(("train_", "val_"))):
        split, _, metric = name.partition("_")
        known = {r["epoch"]: math.nan if r[name] is None else r[name] for r in epochs if name in r}
        panel = curves.setdefault("loss" if metric == "loss" else "metrics", {})
        panel[f"{split} {metric}"] = list(known), list(known.values())
    if len(steps) > 1:
        curves["learning rate"] = {"lr": ([r["epoch"] for r in steps], [r["lr"] for r in steps])}
    if not curves:
        return []
    data = plotting.render(plotting.learning_curves(curves, chosen))
    return [Image("Learning curves; the chosen epoch is dotted", data)]


def run_metadata(run: RunFolder | None, history: Sequence[Record]) -> dict[str, str]:
    """Returns command, machine, packages and commit of a run, and how long it was trained."""
    facts = {"reported": f"{time.strftime('%Y-%m-%d %H:%M:%S')} by {shlex.join(['python', *sys.argv])}"}
    if run is None:
        return facts
    if run.environment.is_file():
        head = run.environment.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
        known = dict(line.split(": ", 1) for line in head.splitlines() if ": " in line)
        facts |= {name: known[name] for name in _ENVIRONMENT if name in known}
    commit, changes = run.code / "commit.txt", run.code / "dirty.diff"
    if commit.is_file():
        changed = ", with the changes in code/dirty.diff" if changes.is_file() and changes.stat().st_size else ""
        facts["commit"] = commit.read_text(errors="replace").strip() + changed
    if history:
        last = history[-1]
        duration = f" in {timedelta(seconds=round(last['seconds']))}" if "seconds" in last else ""
        facts["trained"] = f"{last['epoch']:g} epochs, {last['step']:,} steps{duration}"
    return facts
