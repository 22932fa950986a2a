"""The configuration tree: yacs' CfgNode, with the project's rules about names and YAML."""

from collections.abc import Iterator
from typing import Any

import yacs.config

from config.grammar import flow


class CfgNode(yacs.config.CfgNode):
    """A section of the configuration: a dict whose keys are attributes, which cannot be set once it is frozen."""

    def clone(self) -> "CfgNode":
        """A deep copy that can be changed."""
        return CfgNode(plain(self))

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of a section with a NAME: copies of its values whose keys are not in capitals."""
        return {key: plain(value) for key, value in self.items() if is_argument(key)}

    def dump(self, marks: dict[str, str] | None = None) -> str:
        """The tree as YAML, one line per key; `marks` maps full keys to end-of-line comments."""
        return "\n".join(_lines(self, "", marks or {})) + "\n"

    __str__ = dump


def is_argument(key: str) -> bool:
    """Whether a key is an argument of a named class or function, in lower case; the project's keys are in capitals."""
    return key != key.upper()


def leaves(node: CfgNode, prefix: str = "") -> dict[str, Any]:
    """Full key, such as SOLVER.BASE_LR -> plain value, for the whole tree."""
    found = {}
    for key, value in node.items():
        if isinstance(value, CfgNode) and not is_argument(key):
            found.update(leaves(value, f"{prefix}{key}."))
        else:
            found[prefix + key] = plain(value)
    return found


def differences(old: CfgNode, new: CfgNode) -> dict[str, tuple[str, str]]:
    """Full key -> its (old, new) value as YAML or "unset", for each key that differs, sorted."""
    before, after = leaves(old), leaves(new)
    pairs = {key: (before.get(key, "unset"), after.get(key, "unset")) for key in sorted(before.keys() | after.keys())}
    return {key: (flow(old), flow(new)) for key, (old, new) in pairs.items() if old != new}


def plain(value: Any) -> Any:
    """A deep copy with plain dicts and lists in place of sections and tuples."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _lines(node: CfgNode, prefix: str, marks: dict[str, str]) -> Iterator[str]:
    indent = "  " * prefix.count(".")
    for key, value in node.items():
        if isinstance(value, CfgNode) and not is_argument(key):
            yield f"{indent}{key}:"
            yield from _lines(value, f"{prefix}{key}.", marks)
        else:
            mark = f"  # {marks[prefix + key]}" if prefix + key in marks else ""
            yield f"{indent}{key}: {flow(plain(value))}{mark}"
