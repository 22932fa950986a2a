"""Checkpoint files: whole or not there, and damage never goes unnoticed."""

import os
import resource
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.checkpoint import (
    Checkpoint,
    Checkpointables,
    Resolved,
    first_nonfinite,
    load_checkpoint,
    load_model_state,
    save_checkpoint,
)
from utils.atomic_file import atomic_write, link_over, remove_leftovers
from utils.contracts import InputSpec, SplitRecord
from utils.errors import UserError

RESOLVED = Resolved(
    "classification", "cross_entropy", "max top1", ["a"], 1, InputSpec((8, 8), 1, (0.5,), (0.5,), ("HFlip",))
)
SPLITS = SplitRecord(np.zeros(1, np.int64), np.zeros(1, np.int32), np.zeros(1, np.uint8))
SAVED = Checkpoint("SEED: 0", ["a"], RESOLVED, {"model": {"w": torch.arange(5000.0)}}, SPLITS)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "last.pth"
    save_checkpoint(path, SAVED)
    return path


def test_what_is_saved_is_loaded(path):
    checkpoint = load_checkpoint(path)
    assert torch.equal(checkpoint.state["model"]["w"], torch.arange(5000.0)) and checkpoint.classes == ["a"]
    assert checkpoint.resolved == RESOLVED and checkpoint.source == path
    content = torch.load(path, weights_only=True)
    assert content["version"] == 2 and content["model"].keys() == {"w"} and content["config"] == "SEED: 0"


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 0.9999), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed_or_harmless(path, place, bit):
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    damaged = path.with_name("damaged.pth")
    damaged.write_bytes(data)
    try:
        checkpoint = load_checkpoint(damaged)
    except UserError as error:
        assert "damaged.pth" in str(error) and "\n" not in str(error)
    else:  # a bit that means nothing, in a time stamp for example
        assert torch.equal(checkpoint.state["model"]["w"], torch.arange(5000.0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "not a checkpoint, or damaged"),
        (lambda path: path.write_bytes(b""), "not a checkpoint, or damaged"),
        (lambda path: path.write_text("hello"), "begins with b'hello'"),
        (lambda path: torch.save({"w": torch.zeros(2)}, path), "not a checkpoint of this project"),
        (lambda path: torch.save([1], path), "not a checkpoint of this project"),
        (lambda path: torch.save({"version": 99}, path), "version 99, expected 2"),
        (lambda path: torch.save({"version": UserError}, path), "it contains utils.errors.UserError"),
        (lambda path: zipfile.ZipFile(path, "w").close(), "not a checkpoint, or damaged"),
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
            save_checkpoint(path, replace(SAVED, classes=["b"]))
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
    save_checkpoint(path, replace(SAVED, classes=["b"]))
    assert load_checkpoint(other).classes == ["a"]


def test_nonfinite_is_found():
    state = {"a": torch.zeros(3), "n": torch.tensor(1), "b": torch.tensor([0, float("inf")])}
    assert first_nonfinite(state) == "b"
    assert first_nonfinite({"a": torch.zeros(3), "n": torch.tensor(1)}) is None


def test_weights_that_do_not_fit_say_what_does_not():
    model = torch.nn.Linear(3, 2)
    with pytest.raises(UserError, match=r"x.pth: .*size mismatch for weight: .*\[4, 3\].*\[2, 3\].*; name the model"):
        load_model_state(model, torch.nn.Linear(3, 4).state_dict(), "x.pth")
    with pytest.raises(UserError, match=r'x.pth: .*Missing key.*: "bias"\.; name the model'):
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


def test_what_must_survive_is_one_keyword():
    """Saved by name, restored in order; what a file lacks stays as it was built."""

    class Counter:
        def __init__(self, value=0):
            self.value = value

        def state_dict(self):
            return {"value": self.value}

        def load_state_dict(self, state):
            self.value = state["value"]

    saved = Checkpointables(a=Counter(1), b=Counter(2), absent=None).state_dict()
    assert saved == {"a": {"value": 1}, "b": {"value": 2}}
    a, b, new = Counter(), Counter(), Counter(7)
    Checkpointables(a=a, b=b, new=new).load_state_dict(saved)
    assert (a.value, b.value, new.value) == (1, 2, 7)
