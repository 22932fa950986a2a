"""The type checker of `make lint` finds a misspelt attribute."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_architecture import FOLDERS, ROOT

# File -> what is misspelt in it, at its first occurrence.
MISSPELT = {
    "engine/hooks/training_log.py": ("trainer.step", "trainer.stepp"),
    "modeling/losses.py": ("batch.targets", "batch.image"),
    "data/build.py": ("spec.size", "spec.sizes"),
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project, with what the type checker remembers of the libraries."""
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "pyproject.toml", tmp_path)
    if (ROOT / ".mypy_cache").is_dir():
        shutil.copytree(ROOT / ".mypy_cache", tmp_path / ".mypy_cache")
    return tmp_path


def check_types(project: Path) -> list[str]:
    """Returns the type checker's errors, one a line."""
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--hide-error-context", "--no-pretty"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert not done.stderr
    return done.stdout.splitlines()


def test_misspelt_attributes_are_found(project: Path):
    before = set(check_types(project))  # none with the newest torch; older ones have other annotations
    for file, (name, misspelt) in MISSPELT.items():
        text, count = re.subn(
            rf"\b{re.escape(name)}\b", misspelt, (project / file).read_text(encoding="utf-8"), count=1
        )
        assert count == 1, f"{file} does not use {name}"
        (project / file).write_text(text, encoding="utf-8")
    errors = sorted(set(check_types(project)) - before)
    for file, (_, misspelt) in MISSPELT.items():
        attribute = f'has no attribute "{misspelt.partition(".")[2]}"'
        assert [line for line in errors if line.startswith(f"{file}:") and attribute in line], f"{file}: {errors}"
    assert {line.partition(":")[0] for line in errors} == set(MISSPELT)
