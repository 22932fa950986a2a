"""Reading fast changes nothing: reduced decoding, data in memory, threads, buffers that are used again."""

import gc
import os
import threading
import time
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_sample_images

from data.build import build_eval_loader, build_reader, build_train_and_val, build_train_loader
from data.executors import Threads
from data.image_datasets import ArrayDataset
from data.image_io import EncodedImage
from data.loaders import Loader
from data.processes import Processes
from data.reading import ResidentReader, SampleReader, resident
from data.registry import TRANSFORMS
from data.samplers import Keys, batches_of_keys
from data.subset import Subset
from data.transforms.arguments import ThreadSafe
from data.transforms.colour import ColorJitter
from data.transforms.geometry import (
    CenterCrop,
    HFlip,
    Letterbox,
    RandomCrop,
    RandomErasing,
    RandomResizedCrop,
    Resize,
    VFlip,
    resize,
)
from data.workers import choose_workers, usable_cpus
from tests.data.conftest import spec_of
from utils.errors import UserError

CPU = torch.device("cpu")


# Decoding no more than a crop needs ----------------------------------------------------------------------------------


def encoded(height: int, width: int, number: int = 0) -> EncodedImage:
    """A photograph that scikit-learn carries, as a JPEG of this size."""
    photo = resize(load_sample_images().images[number], (height, width))
    return EncodedImage(cv2.imencode(".jpg", photo[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes(), "photo")


@given(st.integers(1, 400), st.integers(1, 600), st.integers(1, 90), st.integers(1, 90), st.data())
def test_reduced_decoding_never_enlarges(height, width, least_height, least_width, data):
    image = EncodedImage(cv2.imencode(".jpg", np.zeros((height, width, 3), np.uint8))[1].tobytes(), "black")
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    box = top, left, data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left))
    found = image.read(3, box, (least_height, least_width)).shape[:2]
    if found != box[2:]:
        assert found[0] >= least_height and found[1] >= least_width
        scale = next(s for s in (8, 4, 2) if box[2] >= s * least_height and box[3] >= s * least_width)
        assert abs(found[0] * scale - box[2]) <= scale and abs(found[1] * scale - box[3]) <= scale
    else:
        assert box[2] < 2 * least_height or box[3] < 2 * least_width


@pytest.mark.parametrize(("size", "limit"), [((375, 500), 3.0), ((1500, 2000), 4.0)])
def test_reduced_decoding_is_near_full_decoding_and_area(size, limit):
    crop, differences, shifts = RandomResizedCrop((224, 224), scale=(0.08, 1)), [], []
    for number in (0, 1):
        image = encoded(*size, number)
        whole = image.read(3)
        for seed in range(8):
            top, left, height, width = box = crop.plan(size, np.random.default_rng(seed))
            found = crop.finish(image.read(3, box, crop.size)).astype(np.float32)
            expected = resize(whole[top : top + height, left : left + width], crop.size).astype(np.float32)
            differences.append(np.abs(found - expected).mean())
            grays = [pixels.mean(axis=2) for pixels in (found, expected)]
            shifts.append(np.subtract(*(cv2.phaseCorrelate(gray, grays[1])[0] for gray in grays)))
    assert np.mean(differences) < limit and max(differences) < 2 * limit
    assert np.abs(np.mean(shifts, axis=0)).max() < 0.2 and np.abs(shifts).max() < 0.5  # in pixels of the result


@pytest.mark.parametrize("orientation", range(1, 9))
def test_reduced_decoding_of_a_turned_photograph(orientation):
    stored = encoded(320, 480).data
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0" + bytes([orientation]) + b"\0\0\0\0\0\0\0"
    image = EncodedImage(stored[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + stored[2:], "turned")
    height, width = image.size
    box = height // 8, width // 4, height // 2, width // 2
    found, expected = image.read(3, box, (40, 40)), image.read(3, box)
    assert found.shape[0] in (height // 4, height // 8) and expected.shape[:2] == box[2:]
    assert np.abs(found.astype(int) - resize(expected, found.shape[:2])).mean() < 4


# Data sets in memory -------------------------------------------------------------------------------------------------


class Arrays(ArrayDataset):
    def __init__(self, size=(9, 11), channels=1, count=50):
        rng = np.random.default_rng(0)
        images, targets = rng.integers(0, 256, (count, *size, channels), np.uint8), rng.integers(3, size=count)
        super().__init__(images, targets, ["a", "b", "c"], "train", Path("arrays"))


CHAINS = [
    [RandomCrop((9, 11), padding=2), HFlip()],
    [HFlip(0.3), VFlip(), RandomCrop((9, 11), padding=1), RandomErasing(), HFlip()],
    [RandomErasing(), HFlip(), ColorJitter(0.3), VFlip()],
    [Resize((12, 14)), CenterCrop((10, 12)), RandomCrop((9, 11)), HFlip()],
    [Resize((9, 11)), CenterCrop((9, 11))],
    [Letterbox((9, 11), random=True)],
    [RandomResizedCrop((9, 11)), HFlip()],
    [],
]


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("is_part", [False, True])
def test_data_in_memory_have_the_same_pixels(chain, channels, is_part):
    if channels == 5 and any(isinstance(transform, ColorJitter) for transform in chain):
        pytest.skip("colours of five channels")
    dataset = Subset(Arrays(channels=channels), np.arange(49, 0, -2)) if is_part else Arrays(channels=channels)
    weights = np.linspace(0, 1, len(dataset))
    alone = SampleReader(dataset, chain, (9, 11), channels, seed=5, weights=weights)
    whole = resident(SampleReader(dataset, chain, (9, 11), channels, seed=5, weights=weights), 2**20)
    assert type(whole) is ResidentReader
    for epoch, size, start in ((0, 7, 0), (1, 16, 0), (0, 5, 9), (3, 50, 0)):
        order = np.random.default_rng(epoch).integers(len(dataset), size=len(dataset))
        for keys in batches_of_keys(order, size, epoch, start):
            one, other = alone.read(keys).batch, whole.read(keys).batch
            for name in ("images", "targets", "indices", "weights"):
                assert torch.equal(getattr(one, name), getattr(other, name)), name
            assert other.images.is_contiguous(memory_format=torch.channels_last) or channels == 1
    original = Arrays(channels=channels).images
    assert np.array_equal((dataset.dataset if is_part else dataset).images, original)  # nothing is augmented twice


def test_files_of_any_size_are_kept_once_resized(tmp_path):
    for i in range(6):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.random.default_rng(i).integers(0, 256, (20 + i, 30, 3), np.uint8))

    class Files(Arrays):
        opened = 0

        def __getitem__(self, i):
            self.opened += 1
            return EncodedImage.open(tmp_path / f"{i}.png"), int(self.targets[i])

    files = Files(count=6)
    chain = [Resize((8, 8)), CenterCrop((8, 8)), HFlip()]
    reader, alone = (
        make(SampleReader(files, chain, (8, 8), 3, 0)) for make in (lambda r: resident(r, 2**20), lambda r: r)
    )
    for epoch in range(3):
        keys = Keys(np.arange(6), epoch, 0)
        assert torch.equal(reader.read(keys).batch.images, alone.read(keys).batch.images)
    assert files.opened == 6 + 3 * 6
    (tmp_path / "3.png").unlink()  # it is in memory
    assert reader.read(Keys(np.arange(6), 4, 0)).error is None


@pytest.mark.parametrize(
    ("chain", "limit", "kept"),
    [
        ([Resize((8, 8)), CenterCrop((8, 8))], 50 * 192, True),
        ([Resize((8, 8)), CenterCrop((8, 8))], 50 * 192 - 1, False),
        ([Resize((8, 8))], 2**30, False),  # photographs would come in two sizes
        ([RandomResizedCrop((8, 8))], 2**30, False),
    ],
)
def test_what_is_kept_in_memory(chain, limit, kept):
    class Files(Arrays):
        __getitem__ = None

    assert isinstance(resident(SampleReader(Files(), chain, (8, 8), 3, 0), limit), ResidentReader) == kept


def test_an_error_in_memory_names_the_sample_as_elsewhere():
    class Fails(HFlip):
        def batch(self, images, uniforms):
            raise KeyError("of the batch")

        def __call__(self, image, rng, nearest=False):
            raise KeyError("of the sample")

    dataset, keys = Arrays(), Keys(np.arange(3), 0, 0)
    result = resident(SampleReader(dataset, [Fails()], (9, 11), 1, 0), 0).read(keys)
    assert str(result.error).startswith("train/00000: ") and "of the sample" in str(result.error)
    result = resident(SampleReader(dataset, [CenterCrop((4, 4))], (9, 11), 1, 0), 2**20).read(keys)
    assert "after the transforms" in str(result.error)


class Halves(ThreadSafe):
    """Darkens an image with probability a half; `batch` is meant to differ if `wrong`."""

    draws = 1

    def __init__(self, wrong: bool = False):
        self.wrong = wrong

    def __call__(self, image, rng):
        return image // 2 if rng.random() < 0.5 else image

    def batch(self, images, uniforms):
        chosen = uniforms[:, 0] >= 0.5 if self.wrong else uniforms[:, 0] < 0.5
        images[chosen] //= 2
        return images


def test_a_batch_form_is_compared_with_the_call_at_start(toy_cfg, monkeypatch):
    TRANSFORMS.names()
    monkeypatch.setitem(TRANSFORMS._table, "Halves", (Halves, {}))
    for wrong in (False, True):
        cfg = toy_cfg("INPUT.TRAIN_TRANSFORMS", f"[{{Halves: {{wrong: {wrong}}}}}]")
        if wrong:
            with pytest.raises(UserError, match="Halves: `batch` differs from the call with the same draws"):
                build_reader(cfg, build_train_and_val(cfg).train, spec_of(cfg), train=True)
        else:
            build_reader(cfg, build_train_and_val(cfg).train, spec_of(cfg), train=True)


# Threads -------------------------------------------------------------------------------------------------------------


class Unsafe:
    def __call__(self, image, rng):
        return image


def test_threads_are_for_what_they_may_share():
    def kind(dataset, transforms=(), workers="2", kind="auto"):
        reader = SampleReader(dataset, transforms, (9, 11), 1, 0)
        return choose_workers(reader, 4, workers, kind, 2, 0, False)[1]

    unsafe = Arrays()
    unsafe.thread_safe = False
    assert type(kind(Arrays(), [HFlip()])) is Threads and kind(Arrays(), workers="auto").count == usable_cpus()
    assert type(kind(unsafe)) is Processes and type(kind(Arrays(), [Unsafe()])) is Processes
    assert type(kind(Arrays(), kind="fork")) is Processes
    for executor in (kind(unsafe, workers="0"), kind(unsafe, kind="inline")):
        assert type(executor) is Threads and executor.count == 1 and executor.lock is Threads._read_lock
    with pytest.raises(UserError, match=r"^DATALOADER.WORKER_KIND threads: Unsafe is not thread_safe; set it to auto"):
        kind(Arrays(), [Unsafe()], kind="threads")
    every = [transform for name in TRANSFORMS.names() if (transform := TRANSFORMS.get(name, ""))]
    assert all(transform.thread_safe for transform in every if transform.__module__.startswith("data."))


@pytest.mark.parametrize(("quota", "count"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", None)])
def test_a_containers_quota_limits_the_workers(monkeypatch, quota, count):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(64), raising=False)
    monkeypatch.setattr(Path, "read_text", lambda self: quota)
    assert usable_cpus() == (count or 64)


def test_nothing_is_left_after_a_hundred_interrupted_epochs():
    reader = SampleReader(Arrays(count=64), [HFlip()], (9, 11), 1, 0)
    loader = Loader(reader, Threads(3, 2, 4), 4, CPU)
    gc.collect()
    before, files = threading.active_count(), len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    begin = time.monotonic()
    for epoch in range(100):
        with closing(loader.batches(epoch)) as batches:
            for _ in range(epoch % 5):
                next(batches)
    assert time.monotonic() - begin < 60  # closing does not wait
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before
    assert not files or len(os.listdir("/proc/self/fd")) <= files
    assert not [array for array in gc.get_objects() if isinstance(array, np.ndarray) and array.shape == (4, 9, 11, 1)]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("leave", [False, True])
def test_no_batch_is_overwritten_while_it_is_in_use(count, leave):
    """Two loaders are read in turn, an epoch is left by an exception, and readers have time to run ahead."""
    dataset = Arrays(count=80)
    train, val = (
        Loader(SampleReader(dataset, [Pixels()], (9, 11), 1, 0), Threads(count, 2, 8), 8, CPU) for _ in range(2)
    )
    for epoch in range(2):
        try:
            for number, batch in enumerate(train.batches(epoch)):
                for seen in val.batches():
                    time.sleep(0.001)
                    assert torch.equal(seen.images, expected(dataset, seen.indices))
                time.sleep(0.005)
                assert torch.equal(batch.images, expected(dataset, batch.indices))
                if leave and number == 4:
                    raise RuntimeError
        except RuntimeError:
            assert torch.equal(batch.images, expected(dataset, batch.indices))


class Pixels(ThreadSafe):
    """Changes nothing and has no batch form: pixels are written into buffers."""

    def __call__(self, image, rng):
        return image


def expected(dataset, indices) -> torch.Tensor:
    return torch.from_numpy(dataset.images[indices.numpy()]).permute(0, 3, 1, 2)


def test_validation_and_training_share_one_setting(toy_cfg):
    cfg = toy_cfg("DATALOADER.RESIDENT_MIB", "0", "INPUT.TEST_TRANSFORMS", "[Resize, CenterCrop]")
    splits = build_train_and_val(cfg)
    loaders = build_train_loader(cfg, splits.train, spec_of(cfg)), build_eval_loader(cfg, splits.val, spec_of(cfg))
    assert all(type(loader.reader) is SampleReader and type(loader.executor) is Threads for loader in loaders)
    cfg = toy_cfg("DATALOADER.RESIDENT_MIB", "1", "INPUT.TEST_TRANSFORMS", "[Resize, CenterCrop]")
    assert type(build_eval_loader(cfg, splits.val, spec_of(cfg)).reader) is ResidentReader


def test_memory_is_used_again_in_later_epochs_but_not_what_a_thread_may_still_write_into():
    loader = Loader(SampleReader(Arrays(count=64), [Pixels()], (9, 11), 1, 0), Threads(2, 1, 4), 4, CPU)
    first, second = ({batch.images.data_ptr() for batch in loader.batches(epoch)} for epoch in (0, 1))
    assert first == second and len(first) == 2 + 1 + 1
    batches = loader.batches(2)
    held = next(batches).images
    batches.close()
    assert loader.executor._buffers == [] and held.data_ptr() in first
    assert held.data_ptr() not in {batch.images.data_ptr() for batch in loader.batches(3)}
    loader.close()
    assert loader.executor._buffers == []
