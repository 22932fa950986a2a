"""YAML files, their bases and the command line -> one checked, frozen configuration."""

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from config import checks, grammar
from config.defaults import default_config
from config.node import CfgNode, is_argument, leaves, plain
from utils.errors import UserError, did_you_mean

COMMAND_LINE = "command line"
_CAPITALS = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*")


@dataclass(frozen=True)
class Setting:
    """One key with the value somebody gave it: `text` is a scalar as written, `where` its file and line."""

    key: str
    value: Any
    text: str | None
    where: str


def load_config(file: str | os.PathLike | None = None, overrides: Sequence[str] = ()) -> CfgNode:
    """Defaults, then `file` with its `_BASE_`s, then KEY VALUE `overrides`; checked and frozen.

    Raises UserError with the file, the line and the key for anything that is wrong.
    """
    cfg = default_config()
    sources = [] if file is None else list(_read(Path(file), ()))
    sources.append(list(_from_command_line(overrides)))
    origins: dict[str, str] = {}
    for settings in sources:
        merge(cfg, settings)
        origins |= {setting.key: setting.where for setting in settings}
    checks.check(cfg, lambda key: f"{origins[key]}: " if key in origins else "")
    if not cfg.EXPERIMENT.NAME:
        cfg.EXPERIMENT.NAME = Path(file).stem if file else "default"
    cfg.freeze()
    return cfg


def load_text(text: str, where: str, overrides: Sequence[str] = ()) -> CfgNode:
    """A configuration from the text that a checkpoint carries, with KEY VALUE `overrides`."""
    cfg = default_config()
    merge(cfg, list(_from_yaml(text, where)))
    merge(cfg, list(_from_command_line(overrides)))
    checks.check(cfg, lambda key: f"{where}: ")
    cfg.freeze()
    return cfg


def merge_dict(cfg: CfgNode, changes: Mapping[str, Any]) -> CfgNode:
    """A frozen copy of `cfg` with a nested dict of changes, under the same rules as a file."""
    cfg = cfg.clone()
    text = yaml.dump(plain(changes), Dumper=grammar.Dumper, sort_keys=False)
    merge(cfg, list(_from_yaml(text, "changes")))
    checks.check(cfg, lambda key: "changes: ")
    cfg.freeze()
    return cfg


def merge(cfg: CfgNode, settings: Sequence[Setting]) -> None:
    """Apply one source of settings. Whoever sets a NAME replaces the arguments beside it."""
    defaults = default_config()
    for setting in settings:
        if setting.key.endswith(".NAME"):
            section = _section(cfg, setting)
            for argument in section.arguments():
                del section[argument]
    for setting in settings:
        section = _section(cfg, setting)
        leaf = setting.key.rpartition(".")[2]
        if is_argument(leaf):
            section[leaf] = setting.value
        else:
            default = _section(defaults, setting)[leaf]
            try:
                section[leaf] = checks.coerce(setting.value, setting.text, default, setting.key)
            except UserError as error:
                raise UserError(f"{setting.where}: {error}") from None


def split_overrides(argv: Sequence[str], options: Collection[str] = ()) -> tuple[list[str], list[str]]:
    """A command line -> (words for argparse, the KEY VALUE pairs among them).

    A word of capitals and dots that is no path starts a pair, wherever it stands; so does
    `SECTION.argument` for a section of the defaults. What follows one of `options` is its value.
    """
    defaults = default_config()
    sections, known = tuple(f"{name}." for name in defaults), leaves(defaults)
    words, pairs, rest = [], [], list(argv)
    while rest:
        word = rest.pop(0)
        key, equals, _ = word.partition("=")
        is_key = _CAPITALS.fullmatch(key) or key.startswith(sections)
        if not is_key or os.path.exists(word) or (words and words[-1] in options):
            words.append(word)
        elif equals:
            raise UserError(f"{COMMAND_LINE}: found {word}, expected a space: {word.replace('=', ' ', 1)}")
        elif not rest or rest[0].startswith("--") or rest[0] in known:
            raise UserError(f"{COMMAND_LINE}: {word} needs a value: {word} VALUE")
        else:
            pairs += [word, rest.pop(0)]
    return words, pairs


def output_dir(overrides: Sequence[str]) -> str:
    """OUTPUT_DIR as KEY VALUE pairs set it, whatever else they set; else the default."""
    pairs = zip(overrides[::2], overrides[1::2], strict=True)
    return load_config(None, [word for pair in pairs if pair[0] == "OUTPUT_DIR" for word in pair]).OUTPUT_DIR


def dump_overrides(cfg: CfgNode) -> str:
    """What differs from the defaults, as a YAML file that gives `cfg` again."""
    tree = _differing(cfg, default_config())
    return CfgNode(tree).dump() if tree else ""


def _differing(node: CfgNode, default: CfgNode) -> dict[str, Any]:
    # Where an argument differs all of them are listed, because setting a NAME replaces them all.
    renewed = node.get("NAME") != default.get("NAME") or plain(node.arguments()) != default.arguments()
    tree: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(default.get(key), CfgNode):
            below = _differing(value, default[key])
            if below:
                tree[key] = below
        elif plain(value) != default.get(key) or (renewed and (key == "NAME" or is_argument(key))):
            tree[key] = plain(value)
    return tree


def dump_marked(cfg: CfgNode) -> str:
    """The whole configuration as YAML, with the default beside each value that differs from it."""
    values, defaults = leaves(cfg), leaves(default_config())
    changed = [key for key, value in values.items() if key not in defaults or value != defaults[key]]
    return cfg.dump(
        {k: f"default: {grammar.flow(defaults[k])}" if k in defaults else "not in the defaults" for k in changed}
    )


def _section(cfg: CfgNode, setting: Setting) -> CfgNode:
    """The section that holds a key. Raises UserError where there is no such key."""
    *path, leaf = setting.key.split(".")
    section: Any = cfg
    for name in path:
        section = section.get(name) if isinstance(section, CfgNode) else None
    takes_arguments = isinstance(section, CfgNode) and "NAME" in section and path != ["EXPERIMENT"]
    if isinstance(section, CfgNode) and (leaf in section or (is_argument(leaf) and takes_arguments)):
        if isinstance(section.get(leaf), CfgNode) and not is_argument(leaf):
            first = next(iter(section[leaf]))
            raise UserError(
                f"{setting.where}: {setting.key} is a section; set a key in it, such as {setting.key}.{first}"
            )
        return section
    known = leaves(default_config())
    raise UserError(f"{setting.where}: unknown key {setting.key}; {did_you_mean(setting.key, known)}")


def _read(file: Path, inside: tuple[Path, ...]) -> Iterator[list[Setting]]:
    """The settings of a file, those of its bases first."""
    if file.suffix not in (".yml", ".yaml"):
        raise UserError(f"{file}: found a '{file.suffix}' file, expected a configuration ending in .yml or .yaml")
    if file.resolve() in inside:
        raise UserError(f"{file}: _BASE_ comes back to this file; remove one of the links")
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{file}: cannot read the configuration: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not a text in UTF-8 (byte {error.start}); save it as UTF-8") from error
    settings = list(_from_yaml(text, str(file)))
    for setting in settings:
        if setting.key == "_BASE_":
            bases = [setting.value] if isinstance(setting.value, str) else setting.value
            if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
                raise UserError(f"{setting.where}: _BASE_: found {setting.value!r}, expected a path or a list of paths")
            for base in bases:
                yield from _read(file.parent / os.path.expanduser(base), (*inside, file.resolve()))
    yield [setting for setting in settings if setting.key != "_BASE_"]


def _from_yaml(text: str, where: str) -> Iterator[Setting]:
    node, loader = grammar.compose(text, where)
    if node is None:
        return
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{where}:{node.start_mark.line + 1}: found a {node.id}, expected KEY: value lines")
    yield from _from_mapping(node, loader, where, "", default_config())


def _from_mapping(node: yaml.MappingNode, loader, where: str, path: str, defaults: CfgNode) -> Iterator[Setting]:
    grammar.flatten(node, loader, f"{where}:{node.start_mark.line + 1}")
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = str(key_node.value)
        full = f"{path}.{key}" if path else key
        if key in lines:
            raise UserError(f"{where}:{line}: {full} is set twice, first in line {lines[key]}; remove one")
        lines[key] = line
        default = defaults.get(key)
        if isinstance(default, CfgNode) and isinstance(value_node, yaml.MappingNode):
            yield from _from_mapping(value_node, loader, where, full, default)
        else:
            text = value_node.value if isinstance(value_node, yaml.ScalarNode) else None
            yield Setting(full, grammar.value_of(value_node, loader, f"{where}:{line}"), text, f"{where}:{line}")


def _from_command_line(pairs: Iterable[str]) -> Iterator[Setting]:
    pairs = list(pairs)
    for key, text in zip(pairs[::2], pairs[1::2], strict=True):
        try:
            node, loader = grammar.compose(text, COMMAND_LINE)
        except UserError:  # a text such as %H:%M, which a file would have in quotes
            yield Setting(key, text, text, COMMAND_LINE)
            continue
        value = None if node is None else grammar.value_of(node, loader, f"{COMMAND_LINE}: {key}")
        yield Setting(key, value, node.value if isinstance(node, yaml.ScalarNode) else text, COMMAND_LINE)
