"""Names in a YAML file -> Python callables, with their arguments checked before anything is built."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

from utils.errors import UserError, did_you_mean, one_line

# What a factory raises for a value that it cannot use; anything else is a bug, with a traceback.
WRONG_VALUE = (TypeError, ValueError, AssertionError, ArithmeticError, LookupError, RuntimeError, MemoryError)


class Registry:
    """A table of named factories of one kind, filled by a decorator where each is defined.

    `kind` is the word used in messages ("model", "transform"). Keyword arguments given to
    `register` are facts about the factory that are known without calling it; see `info`.
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._table: dict[str, tuple[Callable, dict[str, Any]]] = {}

    def register(self, name: str | None = None, **info: Any) -> Callable[[Callable], Callable]:
        """Decorator: make a class or function known, by its own name unless one is given."""

        def decorator(factory: Callable) -> Callable:
            key = name or factory.__name__
            if key in self._table:
                raise ValueError(f"{self.kind} '{key}' is registered twice")
            self._table[key] = factory, info
            return factory

        return decorator

    def names(self) -> list[str]:
        return sorted(self._table)

    def get(self, name: str, key: str) -> Callable:
        """The factory called `name`; `key` is the configuration key that an error names."""
        return self._entry(name, key)[0]

    def info(self, name: str, key: str) -> dict[str, Any]:
        """What was said of `name` when it was registered."""
        return self._entry(name, key)[1]

    def _entry(self, name: str, key: str) -> tuple[Callable, dict[str, Any]]:
        if name not in self._table:
            raise UserError(f"{key} '{name}': no such {self.kind}; {did_you_mean(name, self._table)}")
        return self._table[name]


def import_submodules(package: str, path: list[str]) -> None:
    """Import every module of a package, so that adding a file is enough to register its content."""
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")


def accepts(factory: Callable, name: str) -> bool:
    """Whether a factory takes a keyword argument of that name."""
    parameters = inspect.signature(factory).parameters.values()
    return any(p.name == name or p.kind is p.VAR_KEYWORD for p in parameters)


def call(factory: Callable, arguments: Mapping[str, Any], key: str, /, *positional: Any, **given: Any) -> Any:
    """Call `factory(*positional, **given, **arguments)`, where `arguments` come from the key `key`.

    Raises UserError for an argument that is unknown, missing, or that the program sets
    itself, and for a value that the factory refuses or stumbles over.
    """
    check_arguments(factory, arguments, key, *positional, **given)
    try:
        return factory(*positional, **given, **arguments)
    except WRONG_VALUE as error:
        raise UserError(f"{key}: {_name(factory)}: {one_line(error)}") from error


def check_arguments(
    factory: Callable, arguments: Mapping[str, Any], key: str, /, *positional: Any, **given: Any
) -> None:
    """Raise UserError unless `factory(*positional, **given, **arguments)` fits its signature."""
    signature = inspect.signature(factory)
    parameters = list(signature.parameters.values())
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    free = {p.name for p in parameters[len(positional) :] if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    taken = set(given) | {p.name for p in parameters[: len(positional)]}
    for name in arguments:
        if name in taken:
            raise UserError(f"{key}.{name}: this argument is set by the program; remove it")
        if name not in free and not open_ended:
            raise UserError(
                f"{key}.{name}: {_name(factory)} takes no such argument; {did_you_mean(name, free - taken)}"
            )
    try:
        signature.bind(*positional, **given, **arguments)
    except TypeError as error:
        raise UserError(f"{key}: {_name(factory)}: {one_line(error)}") from error


def _name(factory: Callable) -> str:
    return getattr(getattr(factory, "func", factory), "__name__", repr(factory))


def parse_entry(entry: Any, key: str) -> tuple[str, dict[str, Any]]:
    """One entry of a list in a YAML file, `Name` or `{Name: {argument: value}}`, as (name, arguments)."""
    if isinstance(entry, str):
        return entry, {}
    if isinstance(entry, Mapping) and len(entry) == 1:
        ((name, arguments),) = entry.items()
        if arguments is None or isinstance(arguments, Mapping):
            return str(name), dict(arguments or {})
    raise UserError(f"{key}: found {entry!r}, expected a name or {{Name: {{argument: value}}}}")
