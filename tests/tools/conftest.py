"""Running the tools, in this process or in one of their own."""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from utils import cli

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@dataclass
class Result:
    code: int
    out: str
    err: str

    def error(self) -> str:
        """The one line that a user's mistake ends in; log lines may stand before it."""
        assert self.code == 2, (self.code, self.err)
        lines = [line for line in self.err.splitlines() if not re.match(r"\d{4}-\d\d-\d\d ", line)]
        assert len(lines) == 1 and lines[0].startswith("error: "), self.err
        return lines[0]


@pytest.fixture
def tool(tmp_path: Path, monkeypatch, capfd) -> Callable[..., Result]:
    """tool("train_net", "SEED", "1") -> its result; it runs in an empty folder, in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(TOOLS)

    def run(name: str, *words: str) -> Result:
        spec = importlib.util.spec_from_file_location(f"tool_{name}", TOOLS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(sys, "argv", [str(TOOLS / f"{name}.py"), *map(str, words)])
        with pytest.raises(SystemExit) as exit_:
            cli.run(module.main)
        return Result(exit_.value.code, *capfd.readouterr())

    return run


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen]:
    """start("train_net", "SEED", "1") -> the process, in an empty folder, on one thread."""
    processes = []

    def start(name: str, *words: str) -> subprocess.Popen:
        processes.append(
            subprocess.Popen(
                [sys.executable, str(TOOLS / f"{name}.py"), *map(str, words)],
                cwd=tmp_path,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()
