"""Which samples are trained on, validated on, and drawn how often."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.build import build_train_and_val, build_train_loader
from data.registry import DATASETS
from data.samplers import epoch_order
from data.splits import balanced_subset, hash_names
from data.subset import Subset, class_counts, strata_of, weights_of
from utils.contracts import InputSpec, targets_of
from utils.errors import UserError

SPEC = InputSpec((6, 6), 1, (0.5,), (0.5,))


@DATASETS.register("uneven", size=(6, 6), channels=1)
class Uneven:
    """40 images of class 0, 8 of class 1, 2 of class 2, with weights 1, 2 and 4."""

    classes = ("a", "b", "c")

    def __init__(self, root, split):
        self.targets = np.repeat([0, 1, 2], [40, 8, 2])
        self.weights = np.repeat([1.0, 2.0, 4.0], [40, 8, 2]).astype(np.float32)

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, i):
        return np.zeros((6, 6, 1), np.uint8), int(self.targets[i])

    def name(self, i):
        return f"uneven/{i}"


def uneven(toy_cfg, *overrides):
    return toy_cfg("DATASETS.NAME", "uneven", "DATASETS.VAL_RATIO", "0", *overrides)


class Labelled:
    """Samples without images, whose targets are these."""

    def __init__(self, targets, has_array: bool = True, **attributes):
        self.values = np.asarray(targets)
        vars(self).update({"targets": self.values} if has_array else {}, **attributes)

    def __len__(self):
        return len(self.values)

    def __getitem__(self, i):
        return None, self.values[i]

    def name(self, i):
        return f"sample/{i}"


def test_several_labels_belong_to_the_stratum_of_one_of_them():
    """Which one does not depend on the other samples; those without a label have a stratum too."""
    targets = np.array([[1, 1, 0, 0], [1, -1, 0, 0], [0, 1, 1, 1], [0, 0, 0, -1], [1, 1, 0, 0]], np.float32)
    strata = strata_of(Labelled(targets, classes=list("abcd")))
    assert strata[1] == 0 and strata[3] == 4 and targets[range(3), strata[:3]].tolist() == [1, 1, 1]
    for part in ([0, 1], [2, 3, 4], [4, 0]):
        assert strata_of(Labelled(targets[part], classes=list("abcd"))).tolist() == strata[part].tolist()


def test_soft_targets_belong_to_the_stratum_of_their_highest_class():
    hard = np.repeat([0, 1, 2], [6, 3, 1])
    soft = np.full((10, 3), 0.2, np.float32)
    soft[np.arange(10), hard] = 0.6
    for has_array in (True, False):
        assert strata_of(Labelled(soft, has_array, classes=list("abc"))).tolist() == hard.tolist()


def test_one_stratum_without_classes_or_with_masks(monkeypatch):
    assert strata_of(Labelled(np.random.default_rng(0).random((9, 2)))).tolist() == [0] * 9
    masks = Labelled(np.zeros((9, 4, 4)), has_array=False, classes=["road", "car"])
    read = []
    monkeypatch.setattr(Labelled, "__getitem__", lambda self, i: (read.append(i), self.values[i]))
    assert strata_of(Subset(masks, np.arange(5))).tolist() == [0] * 5 and read == [0]  # no mask but the first is read
    assert strata_of(Labelled([0, 1, 0], strata=[4, 4, 5], classes=["a", "b"])).tolist() == [4, 4, 5]


def test_facts_about_all_samples():
    several = Labelled(np.array([[1, 0, -1], [1, 1, 0]], np.float32), classes=list("abc"), weights=[1, 2])
    assert class_counts(several).tolist() == [2, 1, 0] and weights_of(several).tolist() == [1, 2]
    part = Subset(several, np.array([1]))
    assert class_counts(part).tolist() == [1, 1, 0] and part.weights.tolist() == [2] and part.name(0) == "sample/1"
    assert class_counts(Labelled([0, 0, 2], classes=list("abcd"))).tolist() == [2, 0, 1, 0]
    assert class_counts(Labelled(np.array([[0.9, 0.1], [0.2, 0.8]]), classes=list("ab"))).tolist() == [1, 1]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=50), st.data())
def test_a_balanced_subset(targets, data):
    targets = np.array(targets)
    count = data.draw(st.integers(1, len(targets)))
    names = hash_names(map(str, range(len(targets))), 0)
    chosen = balanced_subset(names, targets, count)
    assert len(set(chosen)) == count and list(chosen) == sorted(chosen)
    taken, there = np.bincount(targets[chosen], minlength=4), np.bincount(targets, minlength=4)
    for label in range(4):  # a class gives fewer than another only when it has no more, or for the odd ones
        assert taken[label] == there[label] or taken[label] >= taken.max() - 1


def test_the_keys(toy_cfg):
    splits = build_train_and_val(toy_cfg("DATASETS.FOLD", "[2, 5]"))
    train, val = splits.train, splits.val
    assert (len(train), len(val)) == (36, 9) and np.bincount(val.targets).tolist() == [3, 3, 3]
    splits = build_train_and_val(toy_cfg("DATASETS.TRAIN_SUBSET", "6"))
    train, val = splits.train, splits.val
    assert np.bincount(train.targets).tolist() == [2, 2, 2] and len(val) == 9
    with pytest.raises(UserError, match="DATASETS.TRAIN_SUBSET: found 37, the training set has 36 images"):
        build_train_and_val(toy_cfg("DATASETS.TRAIN_SUBSET", "37"))
    with pytest.raises(UserError, match=r"DATASETS.FOLD: found \[3, 2\], expected \[k, n\] with 1 <= k <= n"):
        toy_cfg("DATASETS.FOLD", "[3, 2]")
    with pytest.raises(UserError, match=r"DATASETS.FOLD \[50, 50\]: found 45 different names or groups; lower n"):
        build_train_and_val(toy_cfg("DATASETS.FOLD", "[50, 50]"))


@pytest.mark.parametrize(
    ("sampler", "shares"), [("balanced", (1 / 3, 1 / 3, 1 / 3)), ("weighted", (0.625, 0.25, 0.125))]
)
def test_what_is_drawn(toy_cfg, sampler, shares):
    cfg = uneven(toy_cfg, "DATASETS.SAMPLER", sampler)
    loader = build_train_loader(cfg, build_train_and_val(cfg).train, SPEC)
    drawn = torch.cat([batch.targets for epoch in range(80) for batch in loader.batches(epoch)])
    assert len(drawn) == 80 * 50
    assert torch.bincount(drawn).double().div(len(drawn)).numpy() == pytest.approx(shares, abs=0.03)
    if sampler == "weighted":  # those who are drawn more often do not count more too
        assert next(loader.batches()).weights is None


def test_draws_follow_from_the_seed_and_can_begin_anywhere(toy_cfg):
    cfg = uneven(toy_cfg, "DATASETS.SAMPLER", "balanced")
    loader = build_train_loader(cfg, build_train_and_val(cfg).train, SPEC)
    whole = torch.cat([batch.indices for batch in loader.batches(3)])
    rest = torch.cat([batch.indices for batch in loader.batches(3, 16)])
    assert torch.equal(whole[16:], rest)
    assert not np.array_equal(epoch_order(50, 0, 0, np.ones(50)), epoch_order(50, 1, 0, np.ones(50)))


def test_weights_reach_the_loss_with_mean_one(toy_cfg):
    cfg = uneven(toy_cfg)
    loader = build_train_loader(cfg, build_train_and_val(cfg).train, SPEC)
    batches = list(loader.batches())
    weights, targets = torch.cat([b.weights for b in batches]), torch.cat([b.targets for b in batches])
    assert weights.mean().item() == pytest.approx(1) and torch.allclose(
        weights, 2.0**targets / weights.new_tensor(1.28)
    )


def test_mistakes_in_sampling(toy_cfg):
    cfg = uneven(toy_cfg)
    train = build_train_and_val(cfg).train
    train.weights[:] = 0
    with pytest.raises(UserError, match="DATASETS.NAME uneven: all weights are 0; raise some of them"):
        build_train_loader(cfg, train, SPEC)
    cfg = toy_cfg("DATASETS.SAMPLER", "weighted")
    with pytest.raises(UserError, match="DATASETS.SAMPLER weighted: toy has no weights; use shuffle or balanced"):
        build_train_loader(cfg, build_train_and_val(cfg).train, SPEC)
    regression = Labelled(np.random.default_rng(0).random((9, 2)))
    with pytest.raises(UserError, match="DATASETS.SAMPLER balanced: the images of toy have no class each; use shuffle"):
        build_train_loader(toy_cfg("DATASETS.SAMPLER", "balanced"), regression, SPEC)


def test_targets_of_a_data_set_without_an_array():
    assert targets_of(Labelled([2, 0, 1], has_array=False)).tolist() == [2, 0, 1]
