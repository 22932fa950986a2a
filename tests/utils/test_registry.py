"""Names and arguments from a configuration: refusals are a line, bugs in a user's class keep their frames."""

import functools

import pytest
import torch

from utils import cli
from utils.errors import UserCodeError, UserError
from utils.registry import accepts, call, is_library, parse_entry


class Thing:
    def __init__(self, given: int, *, size: int = 1):
        if size < 0:
            raise ValueError(f"size: found {size}, expected at least 0")
        self.size = [given][size]  # a bug for sizes above 0
        self.table = {"a": 1}[given]


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"size": -1}, UserError, "KEY: Thing: size: found -1, expected at least 0"),
        ({"sise": 1}, UserError, "KEY.sise: Thing takes no such argument; did you mean 'size'?"),
        ({"given": 1}, UserError, "KEY.given: set automatically; remove it"),
        ({"size": "big"}, UserError, "KEY: Thing: '<' not supported between instances of 'str' and 'int'"),
        ({"size": 3}, UserCodeError, "KEY: Thing: list index out of range"),
        ({"size": 0}, UserCodeError, "KEY: Thing: KeyError 7"),
    ],
)
def test_what_a_constructor_raises(arguments, kind, message):
    with pytest.raises(UserError) as caught:
        call(Thing, arguments, "KEY", 7)
    assert type(caught.value) is kind and str(caught.value) == message


def test_a_missing_argument_is_named():
    with pytest.raises(UserError, match="KEY: Thing: missing a required argument: 'given'"):
        call(Thing, {}, "KEY")


def test_what_a_library_raises_is_a_line():
    with pytest.raises(UserError, match="KEY: Conv2d: ") as caught:
        call(torch.nn.Conv2d, {"kernel_size": None}, "KEY", 1, 1)
    assert type(caught.value) is UserError
    assert is_library(torch.nn.Conv2d) and is_library(functools.partial(torch.nn.Linear, 1)) and is_library(len)
    assert not is_library(Thing) and not is_library(functools.partial(Thing, 1)) and is_library(torch.nn.Linear(1, 1))


def test_further_positional_arguments_are_not_those_of_a_configuration():
    class Step:
        def __init__(self, *parts, rho: float = 0.05):
            self.parts, self.rho = parts, rho

    assert call(Step, {"rho": 0.1}, "KEY", 1, 2, 3).rho == 0.1
    with pytest.raises(UserError, match="KEY.row: Step takes no such argument; did you mean 'rho'"):
        call(Step, {"row": 1}, "KEY", 1, 2, 3)


def test_a_bug_in_a_users_class_shows_its_own_frames(capfd):
    with pytest.raises(SystemExit) as end:
        cli.run(lambda argv: call(Thing, {"size": 3}, "KEY", 7))
    lines = capfd.readouterr().err.splitlines()
    assert end.value.code == 2 and lines[0] == "error: KEY: Thing: list index out of range"
    assert "test_registry.py" in lines[1] and "[given][size]" in lines[2]
    assert lines[-1] == "IndexError: list index out of range"
    assert not any("registry.py" in line and "test_registry" not in line for line in lines)


def test_names_are_found_in_a_package(tmp_path, monkeypatch):
    """Its modules are imported at the first lookup."""
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf/one.py").write_text(
        "from shelf_registry import SHELF\n@SHELF.register(weight=3)\ndef book(): ...\n"
    )
    (tmp_path / "shelf_registry.py").write_text(
        "from utils.registry import Registry\nSHELF = Registry('book', 'shelf')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from shelf_registry import SHELF

    assert SHELF.names() == ["book"] and SHELF.info("book", "KEY") == {"weight": 3}
    with pytest.raises(UserError, match="KEY 'bok': no such book; did you mean 'book'"):
        SHELF.get("bok", "KEY")
    with pytest.raises(ValueError, match="book 'book' is registered twice"):
        SHELF.register("book")(len)


def test_entries_of_a_list():
    assert parse_entry("HFlip", "KEY") == ("HFlip", {})
    assert parse_entry({"Crop": {"padding": 1}}, "KEY") == ("Crop", {"padding": 1})
    assert parse_entry({"Crop": None}, "KEY") == ("Crop", {})
    for entry in ({"a": 1}, {"a": {}, "b": {}}, 3):
        with pytest.raises(UserError, match="KEY: found .*, expected a name or"):
            parse_entry(entry, "KEY")


def test_accepts():
    assert accepts(Thing, "size") and not accepts(Thing, "length") and accepts(lambda **anything: 0, "length")
