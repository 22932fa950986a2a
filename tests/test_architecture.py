"""Who may know whom, and the sizes that keep the house readable."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("config", "data", "engine", "layers", "modeling", "solver", "tools", "utils")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))

# Folder -> the folders of the project that it may import, beside itself.
MAY_IMPORT = {
    "utils": set(),
    "config": {"utils"},
    "layers": {"utils"},
    "data": {"config", "utils", "layers"},
    "modeling": {"config", "utils", "layers"},
    "solver": {"config", "utils", "layers"},
    "engine": {"utils"},
    "tools": set(FOLDERS),
}
BUILD_MAY_IMPORT = {"engine": {"config", "data", "modeling", "solver", "utils"}}


def imports_of(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows(path: Path):
    folder = path.relative_to(ROOT).parts[0]
    is_build = path.name.startswith("build")
    allowed = {folder} | (BUILD_MAY_IMPORT.get(folder, MAY_IMPORT[folder]) if is_build else MAY_IMPORT[folder])
    used = {name.split(".")[0] for name in imports_of(path)} & {*FOLDERS, "tests"}
    assert used <= allowed, f"{path} imports {sorted(used - allowed)}"
    if folder in ("data", "modeling", "solver") and not is_build:
        assert "config" not in used, f"{path}: cfg stops at build.py"
    if folder == "engine" and not is_build:
        assert not any(name.startswith("engine.build") for name in imports_of(path))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_cfg_stops_at_build(path: Path):
    if path.name.startswith("build") or path.relative_to(ROOT).parts[0] in ("config", "tools"):
        return
    names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
    arguments = {node.arg for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.arg)}
    assert "cfg" not in names | arguments


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sizes_and_safety(path: Path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 350
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.name != "default_config":  # a table
            assert node.end_lineno - node.lineno < 60, f"{path}: {node.name} is too long to read"
    assert "weights_only=False" not in text
    assert not re.search(r"\byaml\.(unsafe_load|load)\(|(?<![.\w])(eval|exec)\(|\bpickle\.", text)
