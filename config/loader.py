"""YAML files, their bases and the command line -> one checked, frozen configuration."""

import functools
import os
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from config import checks, grammar
from config.defaults import default_config
from config.grammar import Setting
from config.node import CfgNode, differences, is_argument, leaves
from utils.errors import UserError, did_you_mean

COMMAND_LINE = "command line"
_CAPITALS = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*")


def load_config(file: str | os.PathLike | None = None, overrides: Sequence[str] = ()) -> CfgNode:
    """Defaults, then `file` with its `_BASE_`s, then KEY VALUE `overrides`; checked and frozen. Raises UserError."""
    sources = [] if file is None else list(_read(Path(file), ()))
    return _build(sources, overrides, "default" if file is None else Path(file).stem)


def load_text(text: str, where: str, overrides: Sequence[str] = ()) -> CfgNode:
    """The configuration that a checkpoint carries as YAML, with KEY VALUE `overrides`. Raises UserError."""
    return _build([grammar.parse(text, where, default_config())], overrides)


def _build(sources: list[list[Setting]], overrides: Sequence[str], name: str = "") -> CfgNode:
    """Defaults, then the sources, then the overrides; checks the result, names the experiment if need be, freezes."""
    cfg = default_config()
    pairs = zip(overrides[::2], overrides[1::2], strict=True)
    from_pairs = [Setting(key, *grammar.parse_value(text), COMMAND_LINE) for key, text in pairs]
    origins: dict[str, str] = {}
    in_files = ([setting for setting in settings if setting.key not in checks.REMOVED] for settings in sources)
    for settings in [*in_files, from_pairs]:
        _merge(cfg, settings)
        origins |= {setting.key: setting.where for setting in settings}
    checks.check(cfg, origins)
    cfg.EXPERIMENT.NAME = cfg.EXPERIMENT.NAME or name
    cfg.freeze()
    return cfg


def _merge(cfg: CfgNode, settings: Sequence[Setting]) -> None:
    """Applies one source. Setting a NAME removes the arguments beside it that earlier sources gave."""
    defaults = leaves(default_config())
    for setting in sorted(settings, key=lambda setting: not setting.key.endswith("NAME")):  # the NAMEs come first
        section, leaf = _section(cfg, setting, defaults), setting.key.rpartition(".")[2]
        if leaf == "NAME":
            for argument in section.arguments():
                del section[argument]
        section[leaf] = setting.value if is_argument(leaf) else checks.coerce(setting, defaults[setting.key])


def _section(cfg: CfgNode, setting: Setting, known: Collection[str]) -> CfgNode:
    """The section of a setting's key. Raises UserError for an unknown key, and for a section as a key."""
    path, _, leaf = setting.key.rpartition(".")
    takes_arguments = f"{path}.NAME" in known and path != "EXPERIMENT"
    if not (takes_arguments if is_argument(leaf) else setting.key in known):
        inner = next((key for key in known if key.startswith(f"{setting.key}.")), None)
        is_section = f"{setting.key} is a section; set a key in it, such as {inner}"
        unknown = f"unknown key {setting.key}; {did_you_mean(setting.key, known)}"
        raise UserError(f"{setting.where}: {is_section if inner else unknown}")
    return functools.reduce(CfgNode.__getitem__, path.split(".") if path else (), cfg)


def split_overrides(argv: Sequence[str], options: Collection[str] = ()) -> tuple[list[str], list[str]]:
    """A command line -> (words for argparse, KEY VALUE pairs as a flat list). Raises UserError.

    A pair starts at a word of capitals and dots that is not an existing path, anywhere in the line, or at
    `SECTION.argument` for a section of the defaults. The word after one of `options` is that option's value.
    """
    defaults = default_config()
    sections, known = tuple(f"{name}." for name in defaults), leaves(defaults)
    words, pairs, rest = list[str](), list[str](), list(argv)
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
            if (value := rest.pop(0)).startswith(("[", "{")) and not value.rstrip().endswith(("]", "}")):
                raise UserError(f'{COMMAND_LINE}: {word} {value}: the list does not end; quote it: {word} "[a, b]"')
            pairs += [word, value]
    return words, pairs


def dump_overrides(cfg: CfgNode) -> str:
    """The differences from the defaults, as a YAML file that loads as `cfg`."""
    changed = differences(default_config(), cfg)
    # One argument that differs brings all of them and the NAME, because setting a NAME replaces them all.
    renewed = {key.rpartition(".")[0] for key in changed if key.endswith(".NAME") or is_argument(key)}
    tree = CfgNode()
    for key, value in leaves(cfg).items():
        path, _, leaf = key.rpartition(".")
        if key in changed or (path in renewed and (leaf == "NAME" or is_argument(leaf))):
            names = path.split(".") if path else ()
            functools.reduce(lambda node, name: node.setdefault(name, CfgNode()), names, tree)[leaf] = value
    return tree.dump() if tree else ""


def dump_marked(cfg: CfgNode) -> str:
    """The whole configuration as YAML, with a comment on each value that differs from its default."""
    return cfg.dump({key: f"default: {default}" for key, (default, _) in differences(default_config(), cfg).items()})


def _read(file: Path, including: tuple[Path, ...]) -> Iterator[list[Setting]]:
    """The settings of a file, preceded by those of its bases. `including` are the files that lead here."""
    if file.suffix not in (".yml", ".yaml"):
        raise UserError(f"{file}: found a '{file.suffix}' file, expected a configuration ending in .yml or .yaml")
    if file.resolve() in including:
        raise UserError(f"{file}: _BASE_ leads back to this file; remove one of the links")
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{file}: cannot read the configuration: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 (byte {error.start}); save it as UTF-8") from error
    settings = grammar.parse(text, str(file), default_config())
    for setting in settings:
        if setting.key == "_BASE_":
            bases = [setting.value] if isinstance(setting.value, str) else setting.value
            if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
                raise UserError(f"{setting.where}: _BASE_: found {setting.value!r}, expected a path or a list of paths")
            for base in bases:
                yield from _read(file.parent / os.path.expanduser(base), (*including, file.resolve()))
    yield [setting for setting in settings if setting.key != "_BASE_"]
