"""Names in a YAML file -> Python callables, with their arguments checked before anything is built."""

import functools
import importlib
import inspect
import pkgutil
import sysconfig
from collections.abc import Callable, Mapping
from typing import Any, Generic, NoReturn, TypeVar

from utils.errors import UserCodeError, UserError, did_you_mean, one_line

T = TypeVar("T")
# What a constructor raises for a value that it refuses, rather than for a bug in its body.
_REFUSALS = (ValueError, AssertionError, ArithmeticError)
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib")})


class Registry(Generic[T]):
    """A table of named factories of one kind, filled by a decorator where each is defined.

    `kind` is the word used in messages ("model", "transform"). The modules of `package` are imported on the
    first lookup, so that adding a file there is enough. Keyword arguments given to `register` are facts about
    a factory that are known without calling it; see `info`.
    """

    def __init__(self, kind: str, package: str):
        self.kind = kind
        self.package = package
        self._table: dict[str, tuple[Callable[..., T], dict[str, Any]]] = {}
        self._is_complete = False

    def register(self, name: str | None = None, **info: Any) -> Callable[[Callable], Callable]:
        """Decorator: registers a class or function by `name`, by default its own."""

        def decorator(factory: Callable) -> Callable:
            key = name or factory.__name__
            if key in self._table:
                raise ValueError(f"{self.kind} '{key}' is registered twice")
            self._table[key] = factory, info
            return factory

        return decorator

    def names(self) -> list[str]:
        self._import_package()
        return sorted(self._table)

    def get(self, name: str, key: str) -> Callable[..., T]:
        """The factory called `name`. Raises UserError about the configuration key `key` for an unknown name."""
        self._import_package()
        if name not in self._table:
            raise UserError(f"{key} '{name}': no such {self.kind}; {did_you_mean(name, self._table)}")
        return self._table[name][0]

    def info(self, name: str, key: str) -> dict[str, Any]:
        """The facts given when `name` was registered; raises like `get`."""
        self.get(name, key)
        return self._table[name][1]

    def _import_package(self) -> None:
        if not self._is_complete:
            self._is_complete = True
            for module in pkgutil.iter_modules(importlib.import_module(self.package).__path__):
                importlib.import_module(f"{self.package}.{module.name}")


def accepts(factory: Callable, name: str) -> bool:
    """Whether a factory takes a keyword argument of that name."""
    parameters = inspect.signature(factory).parameters.values()
    return any(p.name == name or p.kind is p.VAR_KEYWORD for p in parameters)


def call(factory: Callable[..., T], arguments: Mapping[str, Any], key: str, /, *positional: Any, **given: Any) -> T:
    """Calls `factory(*positional, **given, **arguments)`, where `arguments` come from the configuration key `key`.

    Raises UserError for an argument that is unknown, missing or set automatically, and for a value that the
    factory refuses; UserCodeError for any other exception from the body of a class outside the libraries.
    """
    check_arguments(factory, arguments, key, *positional, **given)
    try:
        return factory(*positional, **given, **arguments)
    except Exception as error:
        refused = isinstance(error, _REFUSALS) or (isinstance(error, TypeError) and bool(arguments))
        translate(error, f"{key}: {_name(factory)}", is_refusal=refused or is_library(factory))


def translate(error: Exception, where: str, is_refusal: bool) -> NoReturn:
    """Raises an exception as one line that begins with `where`: UserError if it is a refusal, else UserCodeError."""
    if isinstance(error, UserError):
        raise error
    raise (UserError if is_refusal else UserCodeError)(f"{where}: {one_line(error)}") from error


def is_library(thing: object) -> bool:
    """Whether a class, function or object of a class is defined in an installed package, not in a project."""
    while isinstance(thing, functools.partial):
        thing = thing.func
    defined = thing if callable(thing) and hasattr(thing, "__name__") else type(thing)
    try:
        return inspect.getfile(defined).startswith(_LIBRARIES)
    except (TypeError, OSError):  # built in
        return True


def check_arguments(
    factory: Callable, arguments: Mapping[str, Any], key: str, /, *positional: Any, **given: Any
) -> None:
    """Raises UserError unless `factory(*positional, **given, **arguments)` fits its signature."""
    signature = inspect.signature(factory)
    try:
        taken = set(given) | signature.bind_partial(*positional, **given).arguments.keys()
        parameters = signature.parameters.values()
        free = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)} - taken
        for name in arguments:
            if name in taken:
                raise UserError(f"{key}.{name}: set automatically; remove it")
            if name not in free and not accepts(factory, name):
                raise UserError(f"{key}.{name}: {_name(factory)} takes no such argument; {did_you_mean(name, free)}")
        signature.bind(*positional, **given, **arguments)
    except TypeError as error:
        raise UserError(f"{key}: {_name(factory)}: {one_line(error)}") from error


def _name(factory: Callable) -> str:
    return getattr(getattr(factory, "func", factory), "__name__", repr(factory))


def parse_entry(entry: Any, key: str) -> tuple[str, dict[str, Any]]:
    """(name, arguments) of an entry of a list: `Name` or `{Name: {argument: value}}`. Raises UserError for others."""
    if isinstance(entry, str):
        return entry, {}
    if isinstance(entry, Mapping) and len(entry) == 1:
        ((name, arguments),) = entry.items()
        if arguments is None or isinstance(arguments, Mapping):
            return str(name), dict(arguments or {})
    raise UserError(f"{key}: found {entry!r}, expected a name or {{Name: {{argument: value}}}}")
