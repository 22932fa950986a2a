"""The dialect of YAML that configurations are written in, on the command line too.

It is PyYAML's safe one without its surprises: `1e-3` is a number, `010` and `12:30` are text,
and no tag can build anything but plain values.
"""

import re

import yaml

from utils.errors import UserError

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


class Loader(yaml.SafeLoader):
    """Reads the dialect; every key is a text."""

    yaml_implicit_resolvers: dict = {}

    def construct_mapping(self, node, deep=False):
        return {str(key): value for key, value in super().construct_mapping(node, deep).items()}


class Dumper(yaml.SafeDumper):
    """Writes the dialect: what `Loader` would take for another type is quoted."""

    yaml_implicit_resolvers: dict = {}

    def ignore_aliases(self, data) -> bool:
        return True


for _tag, _pattern, _first in _SCALARS:
    for _class in (Loader, Dumper):
        _class.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), _first)


def _represent_text(dumper: Dumper, text: str) -> yaml.Node:
    style = '"' if set(text) & set("\n\r\x85\u2028\u2029") else None  # escaped, so that it stays on one line
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


Dumper.add_representer(str, _represent_text)


def compose(text: str, where: str) -> tuple[yaml.Node | None, Loader]:
    """The syntax tree of a text, which keeps line numbers, and the loader that `value_of` needs."""
    try:
        loader = Loader(text)
        return loader.get_single_node(), loader
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        raise UserError(_explain(error, f"{where}:{mark.line + 1}" if mark else where)) from error


def value_of(node: yaml.Node, loader: Loader, where: str):
    """The plain value of a node. Raises UserError for tags that would run code; `where` has the line."""
    try:
        return loader.construct_object(node, deep=True)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise UserError(_explain(error, where)) from error


def flatten(node: yaml.MappingNode, loader: Loader, where: str) -> None:
    """Put what `<<` refers to into a mapping."""
    try:
        loader.flatten_mapping(node)
    except yaml.YAMLError as error:
        raise UserError(_explain(error, where)) from error


def flow(value) -> str:
    """A plain value as YAML on one line."""
    text = yaml.dump(
        [value],
        Dumper=Dumper,
        default_flow_style=True,
        width=float("inf"),
        allow_unicode=True,
        sort_keys=False,
    )
    return text.strip()[1:-1]


def _explain(error: Exception, where: str) -> str:
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "nested too deeply"
    if "\\t" in problem:
        problem += " (YAML is indented with spaces, not tabs)"
    return f"{where}: not valid YAML: {problem}"
