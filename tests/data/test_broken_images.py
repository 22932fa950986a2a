"""A corrupt file among many: its message, the limit on their number, and its replacement."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from data.build import build_eval_loader, build_train_and_val, build_train_loader
from data.image_io import BrokenImage
from data.reading import SampleReader
from data.samplers import Keys
from tests.data.conftest import spec_of
from tests.data.odd_images import odd_images
from utils.errors import UserError

ODD = list(odd_images())
BROKEN = {odd.name for odd in ODD if odd.pixels is None}
KEYS = [
    *("DATASETS.NAME", "image_folder", "INPUT.SIZE", "[8, 8]", "INPUT.CHANNELS", "3", "DATASETS.VAL_RATIO", "0"),
    *("INPUT.TRAIN_TRANSFORMS", "null"),
]


@pytest.fixture
def folder(tmp_path):
    """All odd images in two classes, the broken ones in both."""
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for odd in ODD:
            (tmp_path / label / odd.name).write_bytes(odd.data)
    return tmp_path


def loader(toy_cfg, folder, *overrides, build=build_train_loader):
    cfg = toy_cfg(*KEYS, "DATASETS.ROOT", str(folder), *overrides)
    return build(cfg, build_train_and_val(cfg).train, spec_of(cfg, (8, 8), 3))


@pytest.mark.parametrize("build", [build_train_loader, build_eval_loader])
def test_odd_images_are_read_and_broken_ones_named(toy_cfg, folder, build):
    """Forty kinds and more, in training as in testing."""
    made = loader(toy_cfg, folder, build=build)
    names = [made.dataset.name(i) for i in range(len(made.dataset))]
    assert len(names) == 2 * len(ODD)
    for i, name in enumerate(names):
        result = made.reader.read(Keys(np.array([i]), 0, i))
        if name.rpartition("/")[2] in BROKEN:
            assert result.batch is None and name in str(result.error) and "\n" not in str(result.error)
        else:
            assert result.error is None and result.batch.images.shape == (1, 3, 8, 8)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_skip_replaces_by_the_same_other_sample_and_reports(toy_cfg, folder, workers, caplog):
    skip = ("DATASETS.ON_ERROR", "skip", "DATASETS.MAX_SKIPPED", "0.5", "DATALOADER.NUM_WORKERS", workers)
    made = loader(toy_cfg, folder, *skip)
    first, second = ([replace(batch, images=batch.images.clone()) for batch in made.batches(0)] for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.images, other.images)
    assert len(made.broken) == 2 * len(BROKEN)
    reasons = [line for line in caplog.messages if line.startswith("replaced by another sample: ")]
    assert len(reasons) == 2 * len(BROKEN)  # once, not once an epoch
    targets = torch.cat([batch.targets for batch in first])
    assert torch.bincount(targets).tolist() == [len(ODD), len(ODD)]
    made.close()


@pytest.fixture
def two_values(tmp_path):
    """Four images of 10 in class a, the last one broken, four of 200 in class b, of which only the last is whole."""
    for label, value in (("a", 10), ("b", 200)):
        (tmp_path / label).mkdir()
        for i in range(4):
            cv2.imwrite(str(tmp_path / label / f"{i}.png"), np.full((8, 8, 3), value, np.uint8))
    for name in ("a/3.png", "b/0.png", "b/1.png", "b/2.png"):
        (tmp_path / name).write_bytes(b"broken")
    return tmp_path


def test_what_stands_in_is_the_next_readable_one_with_its_target(toy_cfg, two_values):
    skip = ("DATASETS.ON_ERROR", "skip", "DATASETS.MAX_SKIPPED", "1")
    made = loader(toy_cfg, two_values, *skip)
    (batch,) = made.batches()
    by_index = sorted(zip(batch.indices.tolist(), batch.images[:, 0, 0, 0].tolist(), strict=True))
    assert by_index == [(0, 10), (1, 10), (2, 10), (3, 200), (4, 200), (5, 200), (6, 200), (7, 200)]
    assert ((batch.images[:, 0, 0, 0] == 200) == (batch.targets == 1)).all()
    (two_values / "b/3.png").write_bytes(b"broken")
    (batch,) = made.batches()
    assert set(batch.images[:, 0, 0, 0].tolist()) == {10}  # from the end it goes on at the beginning
    for name in "012":
        (two_values / f"a/{name}.png").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"[ab]/\d\.png: cannot decode"):
        list(made.batches())


class SomeBroken:
    """Six images, each of its own gray, of which `broken` are corrupt, with a number each."""

    targets = np.linspace(0, 1, 6, dtype=np.float32)[:, np.newaxis]

    def __init__(self, *broken: int):
        self.broken = broken

    def __len__(self):
        return 6

    def __getitem__(self, i):
        if i in self.broken:
            raise BrokenImage(f"{self.name(i)}: cannot decode")
        return np.full((4, 4, 1), i, np.uint8), self.targets[i]

    def name(self, i):
        return f"some_broken/{i}"


@pytest.mark.parametrize(("broken", "expected"), [((4,), 5), ((3, 4), 5), ((4, 5), 0), ((0, 1, 4, 5), 2)])
def test_what_replaces_a_sample_is_the_next_in_order(broken, expected):
    reader = SampleReader(SomeBroken(*broken), [], (4, 4), 1, seed=0, on_broken="replace")
    result = reader.read(Keys(np.array([4]), 0, 0))
    assert result.error is None and list(result.broken) == [4]
    assert result.batch.images[0, 0, 0, 0] == expected and result.batch.indices.tolist() == [4]
    assert np.array_equal(result.batch.targets[0], SomeBroken.targets[expected])  # the target goes with the pixels


@pytest.mark.parametrize("size", ["2", "8"])
def test_an_evaluation_leaves_broken_images_out(toy_cfg, two_values, size, caplog):
    skip = ("DATASETS.ON_ERROR", "skip", "DATASETS.MAX_SKIPPED", "0.5", "TEST.BATCH_SIZE", size)
    batches = list(loader(toy_cfg, two_values, *skip, build=build_eval_loader).batches())
    assert torch.cat([batch.indices for batch in batches]).tolist() == [0, 1, 2, 7]
    assert sum(line.startswith("skipped: ") for line in caplog.messages) == 4


def test_too_many_broken_images_end_it(toy_cfg, folder):
    made = loader(toy_cfg, folder, "DATASETS.ON_ERROR", "skip", "DATASETS.MAX_SKIPPED", "0.05")
    message = (
        rf"ON_ERROR skip: \d+ of {2 * len(ODD)} images are corrupt, more than DATASETS.MAX_SKIPPED 0.05 of them, such"
    )
    with pytest.raises(UserError, match=message):
        list(made.batches())


@pytest.mark.parametrize(("kind", "count", "prefetch"), [("fork", 4, 1), ("forkserver", 1, 4), ("spawn", 1, 1)])
def test_every_kind_of_worker_reads_the_same_pixels(toy_cfg, kind, count, prefetch):
    """`make test-workers` tries them all."""
    assert torch.equal(pixels(toy_cfg), pixels(toy_cfg, kind, count, prefetch))


def pixels(toy_cfg, kind="auto", count=0, prefetch=2):
    keys = ["DATASETS.NAME", "digits", "INPUT.SIZE", "[12, 12]", "SOLVER.BATCH_SIZE", "256", "INPUT.TRAIN_TRANSFORMS"]
    keys += ["[{RandomResizedCrop: {scale: [0.5, 1]}}, HFlip]", "DATALOADER.NUM_WORKERS", str(count)]
    cfg = toy_cfg(*keys, "DATALOADER.WORKER_KIND", kind, "DATALOADER.PREFETCH", str(prefetch))
    made = build_train_loader(cfg, build_train_and_val(cfg).train, spec_of(cfg, (12, 12)))
    images = torch.cat([batch.images.clone() for epoch in (0, 1) for batch in made.batches(epoch)])
    made.close()
    return images
