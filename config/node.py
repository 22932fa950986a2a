"""The configuration tree: yacs' CfgNode, made truly read-only when frozen."""

from typing import Any

import yacs.config

from config.grammar import flow


def _guarded(name: str):
    method = getattr(dict, name)

    def guarded(self, *args, **kwargs):
        if self.is_frozen():
            raise AttributeError("the configuration is frozen; change a copy: cfg.clone()")
        return method(self, *args, **kwargs)

    guarded.__name__ = name
    return guarded


class CfgNode(yacs.config.CfgNode):
    """A section of the configuration: a dict whose keys are attributes.

    A frozen tree cannot be changed in any way: lists are tuples and dicts inside
    lists are frozen nodes. `clone()` gives a copy that can be changed.
    """

    def freeze(self) -> None:
        for key, value in self.items():
            dict.__setitem__(self, key, _frozen(value))
        super().freeze()

    def clone(self) -> "CfgNode":
        return CfgNode(plain(self))

    def __reduce__(self):
        return CfgNode, (plain(self),)  # for copy and pickle, which would set the items of a frozen node

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of a section with a NAME: its keys that are not capitals."""
        return {key: value for key, value in self.items() if is_argument(key)}

    def dump(self, marks: dict[str, str] | None = None) -> str:
        """The tree as YAML, one line a key; `marks` maps full keys to end-of-line comments."""
        return "\n".join(_lines(self, (), marks or {})) + "\n"

    __str__ = dump


for _name in ("__setitem__", "__delitem__", "update", "pop", "popitem", "clear", "setdefault", "__ior__"):
    setattr(CfgNode, _name, _guarded(_name))


def is_argument(key: str) -> bool:
    """Arguments of a named thing are in lower case; keys of the project are in capitals."""
    return key != key.upper()


def leaves(node: CfgNode, path: str = "") -> dict[str, Any]:
    """Every full key of a tree, such as SOLVER.BASE_LR, with its plain value."""
    found = {}
    for key, value in node.items():
        full = f"{path}.{key}" if path else key
        if isinstance(value, CfgNode) and not is_argument(key):
            found.update(leaves(value, full))
        else:
            found[full] = plain(value)
    return found


def plain(value: Any) -> Any:
    """A value with plain dicts and lists in place of sections and tuples."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        node = CfgNode(plain(value))
        node.freeze()
        return node
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value


def _lines(node: CfgNode, path: tuple[str, ...], marks: dict[str, str]):
    for key, value in node.items():
        full = (*path, key)
        indent = "  " * len(path)
        if isinstance(value, CfgNode) and not is_argument(key):
            yield f"{indent}{key}:"
            yield from _lines(value, full, marks)
        else:
            mark = marks.get(".".join(full))
            yield f"{indent}{key}: {flow(plain(value))}" + (f"  # {mark}" if mark else "")
