"""What is seen is a function of the seed, the epoch and the position, and of nothing else."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.build import build_eval_loader, build_train_and_val, build_train_loader
from data.samplers import SampleKey, batches_of_keys, epoch_order, stratified_split, usable_samples
from utils.errors import UserError
from utils.input_spec import InputSpec

SPEC = InputSpec((6, 6), 1, (0.5,), (0.5,))
TRANSFORMS = ("INPUT.TRAIN_TRANSFORMS", "[{RandomCrop: {padding: 1}}, HFlip]", "INPUT.TEST_TRANSFORMS", "[]")


@pytest.fixture
def loader(toy_cfg):
    loaders = []

    def make(*overrides):
        cfg = toy_cfg(*TRANSFORMS, *overrides)
        loaders.append(build_train_loader(cfg, build_train_and_val(cfg)[0], SPEC))
        return loaders[-1]

    yield make
    for made in loaders:
        made.close()


def seen(batches) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    columns = zip(*[(batch.images, batch.targets, batch.indices) for batch in batches], strict=True)
    return tuple(torch.cat(column) for column in columns)


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_batches(loader):
    made = loader()
    batches = list(made.batches(0))
    assert len(batches) == len(made) == 5 and made.num_samples == 36
    assert [len(batch) for batch in batches] == [8, 8, 8, 8, 4]
    images, targets, indices = seen(batches)
    assert images.dtype == torch.uint8 and images.shape == (36, 1, 6, 6)
    assert sorted(indices.tolist()) == list(range(36))
    assert targets.dtype == torch.int64 and (targets == torch.from_numpy(made.dataset.targets)[indices]).all()
    colour = loader("INPUT.CHANNELS", "3")
    assert next(colour.batches()).images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(loader, workers):
    alone, parallel = loader(), loader("DATALOADER.NUM_WORKERS", str(workers))
    for epoch in (0, 1):
        assert same(seen(alone.batches(epoch)), seen(parallel.batches(epoch)))
    # An epoch that is left, and one that begins within, with workers that stay alive.
    next(parallel.batches(2))
    assert same(seen(alone.batches(3, 16)), seen(parallel.batches(3, 16)))


def test_an_epoch_can_begin_anywhere(loader):
    made = loader()
    whole = seen(made.batches(1))
    for start in range(0, 36, 8):
        assert same(tuple(column[start:] for column in whole), seen(made.batches(1, start)))
    assert list(made.batches(1, 36)) == []


def test_epochs_and_seeds_differ(loader):
    made = loader()
    first, second = seen(made.batches(0)), seen(made.batches(1))
    assert not torch.equal(first[2], second[2])
    unmoved = torch.stack([torch.from_numpy(made.dataset[i][0].copy()).permute(2, 0, 1) for i in first[2].tolist()])
    assert not torch.equal(first[0], unmoved)  # they are augmented
    assert not torch.equal(first[2], seen(loader("SEED", "1").batches(0))[2])


def test_loading_leaves_global_random_state_alone(loader):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(loader().batches(0))
    list(loader("DATALOADER.NUM_WORKERS", "1").batches(0))
    assert torch.equal(torch.get_rng_state(), before[0]) and np.array_equal(np.random.get_state()[1], before[1])


@pytest.mark.parametrize("workers", ["0", "1"])
def test_errors_of_samples_come_through_as_they_are(loader, workers):
    made = loader("INPUT.TRAIN_TRANSFORMS", "[{RandomCrop: {size: [4, 4]}}]", "DATALOADER.NUM_WORKERS", workers)
    with pytest.raises(
        UserError, match=r"^toy/\d+: uint8 \(4, 4, 1\) after the transforms, expected uint8 \(6, 6, 1\)"
    ):
        list(made.batches(0))


def test_evaluation_is_in_order_and_complete(toy_cfg):
    cfg = toy_cfg(*TRANSFORMS, "TEST.BATCH_SIZE", "4")
    dataset = build_train_and_val(cfg)[1]
    images, targets, indices = seen(build_eval_loader(cfg, dataset, SPEC).batches())
    assert indices.tolist() == list(range(9)) and targets.tolist() == dataset.targets.tolist()
    assert torch.equal(images[0, 0], torch.from_numpy(dataset[0][0][..., 0]))


@given(st.integers(0, 200), st.integers(0, 2**63 - 1), st.integers(0, 100))
def test_an_epoch_is_a_permutation(size, seed, epoch):
    order = epoch_order(size, seed, epoch)
    assert sorted(order.tolist()) == list(range(size))
    assert np.array_equal(order, epoch_order(size, seed, epoch))


@given(st.integers(1, 60), st.integers(1, 20), st.data())
def test_resuming_a_sequence_of_batches(size, batch_size, data):
    order = epoch_order(size, 0, 0)
    whole = list(batches_of_keys(order, batch_size, 0))
    done = data.draw(st.integers(0, len(whole)))
    assert whole[done:] == list(batches_of_keys(order, batch_size, 0, done * batch_size))
    assert [key.position for batch in whole for key in batch] == list(range(size))


@given(st.integers(2, 500), st.integers(2, 64))
def test_no_batch_of_one(size, batch_size):
    last = usable_samples(size, batch_size) % batch_size
    assert last != 1 and size - usable_samples(size, batch_size) in (0, 1)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=80), st.floats(0, 0.99), st.integers(0, 5))
def test_a_split_is_stratified(labels, ratio, seed):
    targets = np.array(labels)
    train, val = stratified_split(targets, ratio, seed)
    assert sorted([*train, *val]) == list(range(len(targets)))
    for label in set(labels):
        total, held_out = labels.count(label), (targets[val] == label).sum()
        assert held_out < total and abs(held_out - total * ratio) <= 1


def test_a_split_of_several_labels_goes_by_the_rarest():
    targets = np.zeros((100, 4), np.float32)  # the last class is never seen
    targets[:94, 0] = targets[80:, 1] = targets[90:, 2] = 1
    targets[:90, 2] = -1  # does not count
    train, val = stratified_split(targets, 0.25, 0)
    assert sorted([*train, *val]) == list(range(100))
    assert [len(set(val) & set(part)) for part in (range(80), range(80, 90), range(90, 100))] == [20, 2, 2]


def test_augmentation_depends_on_seed_epoch_and_position_alone(loader):
    reader = loader("INPUT.TRAIN_TRANSFORMS", "[{RandomCrop: {padding: 3}}]")._loader.dataset
    looks = {}
    for epoch in range(4):
        for position in range(8):
            image, _ = reader.read(SampleKey(0, epoch, position))
            assert np.array_equal(image, reader.read(SampleKey(0, epoch, position))[0])
            looks[epoch, position] = image.tobytes()
    for epoch in range(4):
        assert len({looks[epoch, position] for position in range(8)}) > 4  # one sample, drawn at eight positions
        assert len({looks[e, epoch] for e in range(4)}) > 1  # at one position, in four epochs
    other = loader("INPUT.TRAIN_TRANSFORMS", "[{RandomCrop: {padding: 3}}]", "SEED", "1")._loader.dataset
    assert any(other.read(SampleKey(0, 0, p))[0].tobytes() != looks[0, p] for p in range(8))
