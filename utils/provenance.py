"""Provenance of a run: command, machine, packages and source code."""

import importlib.metadata
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from utils.atomic_file import atomic_write, write_csv, write_file
from utils.contracts import SplitRecord
from utils.run_folder import RunFolder

_ROOT = Path(__file__).resolve().parent.parent
SOURCE_DIRS = ("config", "configs", "data", "modeling", "layers", "solver", "engine", "tools", "utils")


def write_run_files(
    run: RunFolder, config: str, overrides: str, resolved: str, device: str, splits: SplitRecord, held_out: list[str]
) -> None:
    """Writes the configuration and what it was resolved to each time, and into a new run what it was made with.

    `held_out` are the names of the validation samples.
    """
    write_file(run.config, config)
    write_file(run.resolved, resolved)
    if not run.code.exists():
        run.overrides.write_text(overrides, encoding="utf-8")
        run.environment.write_text(_environment(device), encoding="utf-8")
        write_csv(run.held_out, [("name",), *((name,) for name in held_out)])
        with atomic_write(run.splits, "wb") as file:
            np.savez_compressed(file, **vars(splits))
        _write_code(run.code)


def _environment(device: str) -> str:
    """The command, the machine and every installed package, one per line."""
    packages = sorted({f"{d.name}=={d.version}" for d in importlib.metadata.distributions()}, key=str.lower)
    facts = {"command": shlex.join(sys.argv), "folder": os.getcwd(), "python": platform.python_version()}
    facts |= {"platform": platform.platform(), "host": platform.node()}
    facts |= {"machine": f"{platform.machine()}, {os.cpu_count()} CPUs", "device": device}
    return "\n".join([*(f"{name}: {fact}" for name, fact in facts.items()), "", *packages, ""])


def _write_code(folder: Path) -> None:
    """Writes the git commit, the uncommitted changes and a copy of the source into a new folder."""
    folder.mkdir()
    (folder / "commit.txt").write_text(_git("rev-parse", "HEAD") or "not a git checkout\n", encoding="utf-8")
    (folder / "dirty.diff").write_text(_git("diff", "HEAD"), encoding="utf-8")
    for name in SOURCE_DIRS:
        for path in (*(_ROOT / name).rglob("*.py"), *(_ROOT / name).rglob("*.yml")):
            target = folder / path.relative_to(_ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(_ROOT), *arguments]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace", timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
