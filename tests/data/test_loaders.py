"""Batches are a function of the seed, the epoch and the position, and of nothing else."""

import time

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.build import build_eval_loader, build_reader, build_train_and_val, build_train_loader
from data.samplers import Draws, Keys, batches_of_keys, epoch_order, stream, usable_samples
from data.transforms.geometry import CenterCrop
from tests.data.conftest import spec_of
from utils.errors import UserError

TRANSFORMS = ("INPUT.TRAIN_TRANSFORMS", "[{RandomCrop: {padding: 1}}, HFlip]", "INPUT.TEST_TRANSFORMS", "[]")


@pytest.fixture
def loader(toy_cfg):
    loaders = []

    def make(*overrides, channels=1):
        cfg = toy_cfg(*TRANSFORMS, *overrides)
        loaders.append(build_train_loader(cfg, build_train_and_val(cfg).train, spec_of(cfg, channels=channels)))
        return loaders[-1]

    yield make
    for made in loaders:
        made.close()


def read(batches) -> tuple[torch.Tensor, ...]:
    """All images, targets and indices; copied, since a batch's images are valid until the next one."""
    columns = zip(*[(batch.images.clone(), batch.targets, batch.indices) for batch in batches], strict=True)
    return tuple(torch.cat(column) for column in columns)


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_batches(loader):
    made = loader()
    batches = list(made.batches(0))
    assert len(batches) == len(made) == 5 and made.num_samples == 36
    assert [len(batch) for batch in batches] == [8, 8, 8, 8, 4]
    images, targets, indices = read(batches)
    assert images.dtype == torch.uint8 and images.shape == (36, 1, 6, 6)
    assert sorted(indices.tolist()) == list(range(36))
    assert targets.dtype == torch.int64 and (targets == torch.from_numpy(made.dataset.targets)[indices]).all()
    for workers in "01":
        colour = loader("INPUT.CHANNELS", "3", "DATALOADER.NUM_WORKERS", workers, channels=3)
        images = next(colour.batches()).images
        assert images.shape == (8, 3, 6, 6) and images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("workers", "prefetch"), [(1, 1), (2, 2), (3, 1)])
def test_workers_change_nothing(loader, workers, prefetch):
    keys = ("DATALOADER.NUM_WORKERS", str(workers), "DATALOADER.PREFETCH", str(prefetch))
    alone, parallel = loader(), loader(*keys)
    for epoch in (0, 1):
        assert same(read(alone.batches(epoch)), read(parallel.batches(epoch)))
    # An epoch that is left, and one that begins within, with workers that stay alive.
    next(parallel.batches(2))
    assert same(read(alone.batches(3, 16)), read(parallel.batches(3, 16)))
    parallel.close()
    assert same(read(alone.batches(4)), read(parallel.batches(4)))


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_batch_is_valid_until_the_next_is_asked_for(loader, workers):
    made, expected = loader("DATALOADER.NUM_WORKERS", workers), list(loader().batches(0))
    for batch, same_batch in zip(made.batches(0), expected, strict=True):
        time.sleep(0.05)  # for readers that are ahead
        assert torch.equal(batch.images, same_batch.images)


def test_an_epoch_can_begin_anywhere(loader):
    made = loader()
    whole = read(made.batches(1))
    for start in range(0, 36, 8):
        assert same(tuple(column[start:] for column in whole), read(made.batches(1, start)))
    assert list(made.batches(1, 36)) == []


def test_epochs_and_seeds_differ(loader):
    made = loader()
    first, second = read(made.batches(0)), read(made.batches(1))
    assert not torch.equal(first[2], second[2])
    unmoved = torch.stack([torch.from_numpy(made.dataset[i][0].copy()).permute(2, 0, 1) for i in first[2].tolist()])
    assert not torch.equal(first[0], unmoved)  # they are augmented
    for seed in (1, 2**32, 2**63 - 1):
        assert not torch.equal(first[2], read(loader("SEED", str(seed)).batches(0))[2])


def test_loading_leaves_global_state_alone(loader):
    threads = cv2.getNumThreads()
    cv2.setNumThreads(2)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(loader().batches(0))
    list(loader("DATALOADER.NUM_WORKERS", "1").batches(0))
    assert torch.equal(torch.get_rng_state(), before[0]) and np.array_equal(np.random.get_state()[1], before[1])
    assert cv2.getNumThreads() == 2
    cv2.setNumThreads(threads)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_errors_of_samples_come_through_as_they_are(loader, workers):
    made = loader("DATALOADER.NUM_WORKERS", workers)
    made.reader.transforms = [CenterCrop((4, 4))]
    with pytest.raises(
        UserError, match=r"^toy/\d+: uint8 \(4, 4, 1\) after the transforms, expected uint8 \(6, 6, 1\)"
    ):
        list(made.batches(0))


def test_evaluation_is_in_order_and_complete(toy_cfg):
    cfg = toy_cfg(*TRANSFORMS, "TEST.BATCH_SIZE", "4")
    dataset = build_train_and_val(cfg).val
    images, targets, indices = read(build_eval_loader(cfg, dataset, spec_of(cfg)).batches())
    assert indices.tolist() == list(range(9)) and targets.tolist() == dataset.targets.tolist()
    assert torch.equal(images[0, 0], torch.from_numpy(dataset[0][0][..., 0]))


@given(st.integers(0, 200), st.integers(0, 2**63 - 1), st.integers(0, 100))
def test_an_epoch_is_a_permutation(size, seed, epoch):
    order = epoch_order(size, seed, epoch)
    assert sorted(order.tolist()) == list(range(size))
    assert np.array_equal(order, epoch_order(size, seed, epoch))


SEEDS = st.one_of(st.integers(0, 3), st.sampled_from([2**32, 2**32 + 1, 2**33, 2**62]), st.integers(0, 2**63 - 1))
NUMBERS = st.one_of(st.integers(0, 3), st.integers(0, 2**32 - 1))
STREAMS = st.one_of(
    st.tuples(st.just("order"), SEEDS, NUMBERS),
    st.tuples(st.sampled_from(["augmentation", "uniforms", "mixing"]), SEEDS, NUMBERS, NUMBERS),
)


def numbers_of(use: str, seed: int, *numbers: int) -> list[int]:
    """The first numbers of a stream."""
    if use in ("order", "mixing"):
        return stream(use, seed, *numbers).integers(0, 2**63, 2).tolist()
    draws = Draws(seed, Keys(np.arange(1), *numbers), width=2)
    found = draws.generator(0).random(2) if use == "augmentation" else draws.uniforms[0]
    return (found * 2**53).astype(int).tolist()


@given(STREAMS, STREAMS)
def test_no_two_uses_share_a_stream(one, other):
    draws = [numbers_of(*key) for key in (one, other)]
    assert (draws[0] == draws[1]) == (one == other)


def test_every_stream_of_a_small_grid_is_another():
    seeds = [0, 1, 2, 2**32, 2**32 + 1, 2**33, 2**63 - 1]
    keys = [("order", s, e) for s in seeds for e in range(4)]
    uses = "augmentation", "uniforms", "mixing"
    keys += [(use, s, e, p) for use in uses for s in seeds for e in range(4) for p in range(4)]
    assert len({tuple(numbers_of(*key)) for key in keys}) == len(keys)


def test_order_and_first_augmentation_do_not_share_draws():
    """The first draws behind an epoch's order differ from those behind its first sample, for seeds that look alike."""
    for seed in range(20):
        generator = Draws(seed, Keys(np.arange(1), 0, 0), 0).generator(0)
        assert not np.array_equal(epoch_order(50, seed, 0), generator.permutation(50))
        assert not np.array_equal(epoch_order(50, seed, 0), epoch_order(50, seed + 2**32, 0))


@given(st.integers(1, 60), st.integers(1, 20), st.data())
def test_resuming_a_sequence_of_batches(size, batch_size, data):
    order = epoch_order(size, 0, 0)
    whole = list(batches_of_keys(order, batch_size, 0))
    done = data.draw(st.integers(0, len(whole)))
    rest = list(batches_of_keys(order, batch_size, 0, done * batch_size))
    assert [(keys.position, keys.indices.tolist()) for keys in whole[done:]] == [
        (keys.position, keys.indices.tolist()) for keys in rest
    ]
    assert [keys.position + i for keys in whole for i in range(len(keys.indices))] == list(range(size))


@given(st.integers(2, 500), st.integers(2, 64))
def test_no_batch_of_one(size, batch_size):
    last = usable_samples(size, batch_size) % batch_size
    assert last != 1 and size - usable_samples(size, batch_size) in (0, 1)


def test_augmentation_depends_on_seed_epoch_and_position_alone(toy_cfg):
    def make(*overrides):
        cfg = toy_cfg("INPUT.TRAIN_TRANSFORMS", "[{RandomCrop: {padding: 3}}]", *overrides)
        return build_reader(cfg, build_train_and_val(cfg).train, spec_of(cfg), train=True)

    reader, looks = make(), {}
    for epoch in range(4):
        for position in range(8):
            image, _ = reader.read_sample(0, epoch, position)
            assert np.array_equal(image, reader.read_sample(0, epoch, position)[0])
            looks[epoch, position] = image.tobytes()
    for epoch in range(4):
        assert len({looks[epoch, position] for position in range(8)}) > 4  # one sample, drawn at eight positions
        assert len({looks[e, epoch] for e in range(4)}) > 1  # at one position, in four epochs
    other = make("SEED", "1")
    assert any(other.read_sample(0, 0, p)[0].tobytes() != looks[0, p] for p in range(8))
