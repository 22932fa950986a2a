"""No key that nothing reads, no read of a key that is not there."""

import ast
from pathlib import Path

from config.defaults import default_config
from config.node import leaves

ROOT = Path(__file__).resolve().parents[2]
READERS = [
    *ROOT.glob("*/build*.py"),
    *ROOT.glob("tools/*.py"),
    ROOT / "engine/classifier.py",
    ROOT / "config/loader.py",
]


def attributes(node: ast.AST) -> str:
    """`cfg.MODEL.NAME` as a string."""
    if isinstance(node, ast.Attribute):
        return f"{attributes(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def aliases(tree: ast.AST) -> dict[str, str]:
    """Variable -> section, for every `x = cfg.SECTION` and `x, y = ..., cfg.SECTION` in a file."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            names, values = ([*getattr(part, "elts", [part])] for part in (node.targets[0], node.value))
            found |= {attributes(n): attributes(v) for n, v in zip(names, values, strict=False)}
    return {name: section for name, section in found.items() if "." not in name and section.startswith("cfg.")}


def read_directly() -> set[str]:
    """SECTION.KEY of every `cfg.SECTION.KEY` in the code, also through a variable that holds `cfg.SECTION`."""
    found = set()
    for path in READERS:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        known = aliases(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                root, _, rest = attributes(node).partition(".")
                found.add(f"{known.get(root, root)}.{rest}")
    return {name.removeprefix("cfg.") for name in found if name.startswith("cfg.") and name.split(".")[1].isupper()}


def read_by_name() -> set[str]:
    """SECTION.KEY where a file has `cfg.SECTION[...]` and the string KEY."""
    found = set()
    for path in READERS:
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        strings = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        sections = {attributes(node.value) for node in nodes if isinstance(node, ast.Subscript)}
        found |= {f"{section[4:]}.{string}" for section in sections if section[:4] == "cfg." for string in strings}
    return found


def test_every_key_is_read():
    keys = {key for key in leaves(default_config()) if key.rpartition(".")[2].isupper()}
    assert sorted(keys - read_directly() - read_by_name()) == []


def test_every_key_that_is_read_exists():
    for name in read_directly():
        node = default_config()
        for part in name.split("."):
            if not part.isupper():
                break
            assert part in node, f"cfg.{name} is read, and the defaults have no such key"
            node = node[part]
