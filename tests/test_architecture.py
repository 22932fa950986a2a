"""Which folder may import which, what is a leaf, and the sizes that keep the project readable.

`python -m tests.test_architecture` prints the sizes.
"""

import ast
import copy
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("config", "data", "engine", "layers", "modeling", "solver", "tools", "utils")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
# The files that tell how a training is built and run, in the order in which they are read.
READING_PATH = [
    ROOT / name
    for name in (
        "tools/train_net.py",
        "config/defaults.py",
        "engine/build.py",
        "data/build.py",
        "modeling/build.py",
        "solver/build.py",
        "data/loaders.py",
        "engine/trainer.py",
        "engine/steps/standard.py",
        "engine/tasks/classification.py",
    )
]

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
# What is counted -> the most there may be.
LIMITS = {
    "lines": 11652,
    "lines of the reading path": 1350,
    "lines that say Any": 80,
    "files of 30 lines or fewer": 12,
}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@functools.cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(tree: ast.Module) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


def is_builder(path: Path) -> bool:
    """Whether a file may know the configuration and the builders: build*.py, and the Python API."""
    return path.name.startswith("build") or path.name == "classifier.py"


def functions_of(path: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(parse(path)) if isinstance(node, ast.FunctionDef)]


def sizes() -> dict[str, int]:
    """Counts what LIMITS limits, and the files."""
    lines = {path: path.read_text(encoding="utf-8").splitlines() for path in FILES}
    return {
        "lines": sum(map(len, lines.values())),
        "lines of the reading path": sum(len(lines[path]) for path in READING_PATH),
        "lines that say Any": sum(bool(re.search(r"\bAny\b", line)) for text in lines.values() for line in text),
        "files of 30 lines or fewer": sum(len(text) <= 30 for text in lines.values()),
        "files": len(lines),
    }


# What is a leaf ------------------------------------------------------------------------------------------------------


@functools.cache
def used_files(path: Path) -> set[Path]:
    """Returns the files of the project that a file imports when it runs, also within functions; not for types alone."""
    tree = copy.deepcopy(parse(path))
    for node in list(ast.walk(tree)):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    names = imports_of(tree)
    places = [ROOT, path.parent] if path.parent == ROOT / "tools" else [ROOT]  # a tool imports those beside it
    return {place / f"{name.replace('.', '/')}.py" for name in names for place in places} & set(FILES)


def registered_names(path: Path) -> set[str]:
    """Returns the names under which a file registers something; "" stands for one that is computed."""
    names = set()
    for node in ast.walk(parse(path)):
        decorators = getattr(node, "decorator_list", [])
        for call in [*decorators, node]:
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "register":
                own = getattr(node, "name", "")
                names.add(call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else own)
    return names


def default_names() -> set[str]:
    """Returns the strings in the defaults, in the default data set, and in the defaults of the task classification."""
    nodes: list[ast.AST] = [parse(ROOT / "config/defaults.py"), parse(ROOT / "data/datasets/digits.py")]
    for node in ast.walk(parse(ROOT / "engine/tasks/classification.py")):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).startswith("default_"):
            nodes.append(node.value)
    constants = [node for tree in nodes for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return {node.value for node in constants if isinstance(node.value, str)} - {""}


def find_leaves() -> dict[Path, frozenset[Path]]:
    """Returns each leaf with all that goes with it: the leaves that import it.

    A leaf is found through a registry and not named by a default, or a tool other than train_net, or a file that
    leaves alone import.
    """
    defaults = default_names()
    kept = {*READING_PATH, *(path for path in FILES if registered_names(path) & defaults)}
    registered = {path for path in FILES if registered_names(path)}
    leaves = (registered | set((ROOT / "tools").glob("[!_]*.py"))) - kept
    users = {path: {user for user in FILES if path in used_files(user)} for path in FILES}
    while helpers := {path for path in set(FILES) - leaves - kept if users[path] and users[path] <= leaves}:
        leaves |= helpers
    groups = {}
    for leaf in sorted(leaves):
        group = {leaf}
        while more := {user for path in group for user in users[path] & leaves} - group:
            group |= more
        groups[leaf] = frozenset(group)
    return groups


LEAVES = find_leaves()


# The tests -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_arrows(path: Path):
    folder = path.relative_to(ROOT).parts[0]
    allowed = {folder} | (BUILD_MAY_IMPORT.get(folder, MAY_IMPORT[folder]) if is_builder(path) else MAY_IMPORT[folder])
    imports = imports_of(parse(path))
    used = {name.split(".")[0] for name in imports} & {*FOLDERS, "tests"}
    assert used <= allowed, f"{path} imports {sorted(used - allowed)}"
    if folder in ("data", "modeling", "solver") and not is_builder(path):
        assert "config" not in used, f"{path}: cfg stops at build.py"
    if folder == "engine" and not is_builder(path):
        assert not any(name.startswith(("engine.build", "engine.classifier")) for name in imports)


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_cfg_stops_at_build(path: Path):
    if is_builder(path) or path.relative_to(ROOT).parts[0] in ("config", "tools"):
        return
    annotations = {ast.unparse(a.annotation) for f in functions_of(path) for a in f.args.args if a.annotation}
    names = {node.id for node in ast.walk(parse(path)) if isinstance(node, ast.Name)}
    assert "CfgNode" not in names and not any("CfgNode" in annotation for annotation in annotations)
    assert "cfg" not in names | {a.arg for function in functions_of(path) for a in function.args.args}


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_sizes_and_safety(path: Path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 300
    for function in functions_of(path):
        if function.name == "default_config":  # a table
            continue
        assert function.end_lineno - function.lineno < 50, f"{path}: {function.name} is too long to read"
        parameters = [a.arg for a in (*function.args.args, *function.args.kwonlyargs) if a.arg not in ("self", "cls")]
        assert len(parameters) <= 8 or function.name == "__init__", f"{path}: {function.name} has too many parameters"
    assert "weights_only=False" not in text
    assert not re.search(r"\byaml\.(unsafe_load|load)\(|(?<![.\w])(eval|exec)\(|\bpickle\.", text)


@pytest.mark.parametrize("name", LIMITS)
def test_size_of_the_project(name: str):
    assert sizes()[name] <= LIMITS[name]


@pytest.mark.parametrize("leaf", LEAVES, ids=relative)
def test_leaves_are_unknown_to_all_else(leaf: Path):
    users = {relative(path) for path in FILES if path not in LEAVES and leaf in used_files(path)}
    assert not users, f"{relative(leaf)} cannot be deleted: {', '.join(sorted(users))}"


def test_every_file_is_used():
    used = {file for path in FILES for file in used_files(path)}
    found_by_name = {path for path in FILES if registered_names(path)} | set((ROOT / "tools").glob("*.py"))
    entries = {ROOT / "engine/classifier.py"} | {path for path in FILES if path.name == "__init__.py"}
    assert {relative(path) for path in set(FILES) - used - found_by_name - entries} == set()


if __name__ == "__main__":
    for _name, _count in sizes().items():
        print(f"{_name:<28}{_count:>6,}" + (f"  of {LIMITS[_name]:,}" if _name in LIMITS else ""))
