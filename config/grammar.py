"""The YAML dialect of configuration files and of values on the command line.

PyYAML's safe loader without its surprises: `1e-3` is a number, `010` and `12:30` are strings.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import yaml

from utils.errors import UserError, one_line

_SCALARS = (
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE|yes|Yes|no|No|on|On|off|Off", list("tTfFyYnNoO")),
    ("tag:yaml.org,2002:int", r"[-+]?(0|[1-9][0-9_]*)|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+0123456789."),
    ),
    ("tag:yaml.org,2002:merge", r"<<", ["<"]),
)
_ERRORS = (yaml.YAMLError, ValueError, TypeError, RecursionError)  # raised for a document that is not valid


@dataclass(frozen=True)
class Setting:
    """A key and the value that a source gives it: `text` is a scalar as written, `where` its file and line."""

    key: str
    value: object
    text: str | None
    where: str


class Loader(yaml.SafeLoader):
    """Reads the dialect; every key is a string."""

    yaml_implicit_resolvers: dict = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, object]:
        return {str(key): value for key, value in super().construct_mapping(node, deep).items()}


class Dumper(yaml.SafeDumper):
    """Writes the dialect: strings that `Loader` would read as another type are quoted."""

    yaml_implicit_resolvers: dict = {}

    def ignore_aliases(self, data: object) -> bool:
        return True


for _tag, _pattern, _first in _SCALARS:
    for _class in (Loader, Dumper):
        _class.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), _first)


def _represent_string(dumper: Dumper, text: str) -> yaml.Node:
    style = '"' if set(text) & set("\n\r\x85\u2028\u2029") else None  # escaped, so that it stays on one line
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


Dumper.add_representer(str, _represent_string)


def parse(text: str, where: str, sections: Mapping[str, object]) -> list[Setting]:
    """The settings of a YAML document, those of the nested mappings named in `sections` included.

    Raises UserError with the line for invalid YAML, a key that is set twice, and tags that would run code.
    """
    try:
        loader = Loader(text)
        root = loader.get_single_node()
        if root is not None and not isinstance(root, yaml.MappingNode):
            raise UserError(f"{where}:{root.start_mark.line + 1}: found a {root.id}, expected KEY: value lines")
        return list(_settings(root, loader, where, "", sections)) if root else []
    except _ERRORS as error:
        raise UserError(_explain(error, where)) from error


def parse_value(text: str) -> tuple[object, str]:
    """One value and the string it was written as; invalid YAML, such as %H:%M, is a string."""
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        value = None if node is None else loader.construct_object(node, deep=True)
    except _ERRORS:
        return text, text
    return value, node.value if isinstance(node, yaml.ScalarNode) else text


def flow(value: object) -> str:
    """A plain value as YAML on one line."""
    options = {"Dumper": Dumper, "default_flow_style": True, "allow_unicode": True, "sort_keys": False}
    return yaml.dump([value], width=float("inf"), **options).strip()[1:-1]


def _settings(
    node: yaml.MappingNode, loader: Loader, where: str, prefix: str, sections: Mapping[str, object]
) -> Iterator[Setting]:
    loader.flatten_mapping(node)  # merges what `<<` refers to
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        if key in lines:
            raise UserError(f"{where}:{line}: {prefix}{key} is set twice, first in line {lines[key]}; remove one")
        lines[key] = line
        section = sections.get(key)
        if isinstance(section, Mapping) and isinstance(value_node, yaml.MappingNode):
            yield from _settings(value_node, loader, where, f"{prefix}{key}.", section)
        else:
            text = value_node.value if isinstance(value_node, yaml.ScalarNode) else None
            value = loader.construct_object(value_node, deep=True)
            yield Setting(prefix + key, value, text, f"{where}:{line}")


def _explain(error: Exception, where: str) -> str:
    if mark := getattr(error, "problem_mark", None):
        where = f"{where}:{mark.line + 1}"
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or one_line(error)
    problem = "nested too deeply" if isinstance(error, RecursionError) else problem
    if "\\t" in problem:
        problem += " (YAML is indented with spaces, not tabs)"
    return f"{where}: not valid YAML: {problem}"
