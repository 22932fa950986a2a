"""Checkpoint files: whole or not there, and damage never goes unnoticed."""

import os
import resource
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.checkpoint import first_nonfinite, load_checkpoint, load_model_state, save_checkpoint
from utils.atomic_file import atomic_write, link_over, remove_leftovers
from utils.errors import UserError

STATE = {"model": {"w": torch.arange(5000.0)}, "config": "SEED: 0", "classes": ["a"], "input": {"size": [8, 8]}}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "last.pth"
    save_checkpoint(path, STATE)
    return path


def test_what_is_saved_is_loaded(path):
    state = load_checkpoint(path)
    assert torch.equal(state["model"]["w"], STATE["model"]["w"]) and state["classes"] == ["a"]
    assert torch.load(path, weights_only=True).keys() == {"version", *STATE}


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 0.9999), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed_or_harmless(path, place, bit):
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    damaged = path.with_name("damaged.pth")
    damaged.write_bytes(data)
    try:
        state = load_checkpoint(damaged)
    except UserError as error:
        assert "damaged.pth" in str(error) and "\n" not in str(error)
    else:  # a bit that means nothing, in a time stamp for example
        assert torch.equal(state["model"]["w"], STATE["model"]["w"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "no checkpoint, or a damaged one"),
        (lambda path: path.write_bytes(b""), "no checkpoint, or a damaged one"),
        (lambda path: path.write_text("hello"), "begins with b'hello'"),
        (lambda path: torch.save({"w": torch.zeros(2)}, path), "not a checkpoint of this project"),
        (lambda path: torch.save([1], path), "not a checkpoint of this project"),
        (lambda path: torch.save({**STATE, "version": 99}, path), "version 99, expected 1"),
        (lambda path: torch.save({**STATE, "version": UserError}, path), "no checkpoint, or a damaged one"),
        (lambda path: zipfile.ZipFile(path, "w").close(), "no checkpoint, or a damaged one"),
        (lambda path: path.unlink(), "no such checkpoint"),
        (lambda path: (path.unlink(), path.mkdir()), "cannot read the checkpoint: Is a directory"),
    ],
)
def test_what_is_no_checkpoint_says_so(path, make, message):
    make(path)
    with pytest.raises(UserError) as caught:
        load_checkpoint(path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_write_that_fails_leaves_the_old_file(path):
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt), atomic_write(path, "wb") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_a_full_disk_is_an_os_error_and_leaves_the_old_file(path):
    """A limit on the size of files is what a full disk is, without being root."""
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_checkpoint(path, {**STATE, "classes": ["b"]})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_leftovers_of_a_kill_are_removed(path):
    (path.parent / ".last.pth.tmp").write_bytes(b"half")
    remove_leftovers(path.parent)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("links", [True, False])
def test_link_over(path, links, monkeypatch):
    if not links:

        def no_links(*args):
            raise OSError("not supported")

        monkeypatch.setattr("os.link", no_links)
    other = path.with_name("best.pth")
    other.write_bytes(b"old")
    link_over(path, other)
    link_over(path, other)  # once more, when both are the same file
    assert other.read_bytes() == path.read_bytes()
    assert len(list(path.parent.iterdir())) == 2
    save_checkpoint(path, {**STATE, "classes": ["b"]})
    assert load_checkpoint(other)["classes"] == ["a"]


def test_nonfinite_is_found():
    state = {"a": torch.zeros(3), "n": torch.tensor(1), "b": torch.tensor([0, float("inf")])}
    assert first_nonfinite(state) == "b"
    assert first_nonfinite({"a": torch.zeros(3), "n": torch.tensor(1)}) is None


def test_weights_that_do_not_fit_say_what_does_not():
    model = torch.nn.Linear(3, 2)
    with pytest.raises(UserError, match=r"x.pth: weight has the shape \[4, 3\], expected \[2, 3\]"):
        load_model_state(model, torch.nn.Linear(3, 4).state_dict(), "x.pth")
    with pytest.raises(UserError, match=r"1 tensors are missing and 0 unexpected \(such as bias\)"):
        load_model_state(model, torch.nn.Linear(3, 2, bias=False).state_dict(), "x.pth")


def test_a_write_that_fails_says_where(tmp_path):
    """Writing to a full disk does not, and a file of another process is not in the way."""
    with pytest.raises(OSError, match="No space") as caught, atomic_write(tmp_path / "x.csv"):
        raise OSError(28, "No space left on device")
    assert caught.value.filename == str(tmp_path / "x.csv") and list(tmp_path.iterdir()) == []
    with atomic_write(tmp_path / "x.csv") as one:
        pid = os.getpid()
        assert [path.name for path in tmp_path.iterdir()] == [f".x.csv.{pid}.tmp"]
        one.write("1")
    assert (tmp_path / "x.csv").read_text() == "1"
