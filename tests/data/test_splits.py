"""Who is held out is a function of names: edits of a data set, copies, groups, folds, records."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from data.image_io import EncodedImage
from data.splits import SplitOptions, divide, group_names, hash_names, held_out, in_fold
from utils.contracts import SplitRecord
from utils.errors import UserError


class Named:
    """Samples with these names and class indices."""

    classes = ("a", "b", "c", "d")

    def __init__(self, names, targets, **attributes):
        self.names, self.targets = list(names), np.asarray(targets)
        vars(self).update(attributes)

    def __len__(self):
        return len(self.names)

    def __getitem__(self, i):
        return np.full((2, 2), i, np.uint8), int(self.targets[i])

    def name(self, i):
        return self.names[i]


samples = st.dictionaries(st.integers(0, 10**6), st.integers(0, 3), min_size=8, max_size=60)
HOLD_OUT = SplitOptions(val_ratio=0.3)


def named(samples: dict) -> Named:
    return Named([f"{target}/{number}.png" for number, target in samples.items()], list(samples.values()))


def names_of(dataset) -> list[str]:
    return [dataset.name(i) for i in range(len(dataset))]


def held_names(samples: dict, share: float = 0.3, seed: int = 0) -> set[str]:
    data = named(samples)
    is_val = held_out(hash_names(data.names, seed), data.targets, share)
    return {name for name, held in zip(data.names, is_val, strict=True) if held}


@given(samples, st.floats(0.01, 0.99), st.integers(0, 2**63 - 1))
def test_a_stratum_gives_its_share(samples, share, seed):
    data = named(samples)
    is_val = held_out(hash_names(data.names, seed), data.targets, share)
    for label in set(samples.values()):
        total, held = (data.targets == label).sum(), is_val[data.targets == label].sum()
        assert held == min(max(round(total * share), 1), total - 1)


@given(samples, st.data())
def test_an_edit_of_some_samples_moves_at_most_as_many_others(samples, data):
    gone = data.draw(st.sets(st.sampled_from(sorted(samples)), max_size=len(samples) // 3))
    new = data.draw(st.dictionaries(st.integers(10**6 + 1, 10**7), st.integers(0, 3), max_size=10))
    after = {number: target for number, target in samples.items() if number not in gone} | new
    after = dict(data.draw(st.permutations(list(after.items()))))
    changed = held_names(samples) ^ held_names(after)
    common = {f"{target}/{number}.png" for number, target in samples.items() if number not in gone}
    assert len(changed & common) <= len(gone) + len(new)


def test_another_seed_holds_out_others():
    samples = {number: number % 2 for number in range(200)}
    assert len(held_names(samples, 0.2) & held_names(samples, 0.2, seed=1)) < 20
    assert held_names(samples, 0.2, seed=2**63 - 1) != held_names(samples, 0.2)


@given(samples, st.integers(2, 5), st.integers(0, 5))
def test_folds_part_the_samples(samples, folds, seed):
    data = named(samples)
    units = hash_names(data.names, seed)
    parts = [in_fold(units, data.targets, [fold, folds]) for fold in range(1, folds + 1)]
    assert (np.sum(parts, axis=0) == 1).all()
    for label in set(samples.values()):
        sizes = [part[data.targets == label].sum() for part in parts]
        assert max(sizes) - min(sizes) <= 1


def test_folds_are_as_even_as_scikit_learns():
    targets = np.repeat([0, 1, 2], [31, 17, 9])
    theirs = StratifiedKFold(5, shuffle=True, random_state=0).split(targets, targets)
    even = sorted(tuple(np.bincount(targets[val])) for _, val in theirs)
    units = hash_names(map(str, range(57)), 0)
    ours = sorted(tuple(np.bincount(targets[in_fold(units, targets, [k, 5])])) for k in range(1, 6))
    assert np.abs(np.array(even) - ours).max() <= 1


def test_groups_in_folds_are_about_as_even_as_scikit_learns():
    rng = np.random.default_rng(0)
    groups, targets = rng.integers(0, 60, 600), rng.integers(0, 3, 600)
    theirs = StratifiedGroupKFold(4, shuffle=True, random_state=0).split(targets, targets, groups)
    spread = max(len(val) for _, val in theirs)
    units = hash_names(map(str, groups), 0)
    parts = [in_fold(units, targets, [k, 4]) for k in range(1, 5)]
    assert all(not set(groups[part]) & set(groups[~part]) for part in parts)
    assert max(part.sum() for part in parts) <= 1.3 * spread


@pytest.mark.parametrize("fold", [None, [1, 3]])
def test_copies_stay_together_however_their_path_is_written(fold):
    """A row repeated to oversample it is held out with its copies."""
    names = [f"café/{i % 30}.png" for i in range(90)]
    names[30:60] = [f"./café//{i}.png" for i in range(30)]
    names[60:] = [unicodedata.normalize("NFD", name) for name in names[60:]]
    data = Named(names, np.arange(90) % 30 % 2)
    splits = divide(data, None, SplitOptions(0, 0.3, fold), None)
    train, val = (set(np.array(part.indices) % 30) for part in (splits.train, splits.val))
    assert not train & val and len(train | val) == 30 and len(splits.val) == 3 * len(val)


def test_one_of_a_few_images_of_a_class_is_held_out():
    data = Named(map(str, range(127)), np.repeat(np.arange(6), [100, 5, 5, 5, 11, 1]), classes=tuple("abcdef"))
    val = divide(data, None, SplitOptions(val_ratio=0.1), None).val
    assert np.bincount(val.targets, minlength=6).tolist() == [10, 1, 1, 1, 1, 0]


# Edits of a data set after a training, each (samples, numbers of samples to edit) -> samples.
def deleted(samples, numbers):
    return {number: target for number, target in samples.items() if number not in numbers}


def added(samples, numbers):
    return samples | {number + 10**7: target for number, target in deleted(samples, set(samples) - numbers).items()}


def renamed(samples, numbers):
    return {number + 10**7 * (number in numbers): target for number, target in samples.items()}


@given(samples, st.data())
def test_what_was_trained_on_is_never_validated_on(samples, data):
    """Whatever is done to the data: the count that is validated on is the record's less what is gone."""
    record = divide(named(samples), None, HOLD_OUT, None).record
    trained = set(names_of(divide(named(samples), None, HOLD_OUT, record).train))
    held = set(names_of(divide(named(samples), None, HOLD_OUT, record).val))
    after = samples
    for edit in data.draw(st.lists(st.sampled_from([deleted, added, renamed]), max_size=3)):
        most = max(len(samples) // 5, 1)
        after = edit(after, data.draw(st.sets(st.sampled_from(sorted(after)), max_size=most)))
    items = list(after.items()) + [pair for pair in after.items() if data.draw(st.booleans())]  # copies
    items = data.draw(st.permutations(items))
    source = Named([f"{target}/{number}.png" for number, target in items], [target for _, target in items])
    splits = divide(source, None, HOLD_OUT, record)
    present = set(source.names)
    assert sorted(names_of(splits.val)) == sorted(held & present) and not set(names_of(splits.val)) & trained
    assert sorted(names_of(splits.train)) == sorted(trained & present)
    assert splits.missing == len(trained - present) and not splits.relabelled


@given(st.lists(st.integers(0, 5), min_size=8, max_size=30), st.data())
def test_a_reordered_data_set_gives_the_same_samples_in_the_same_order(numbers, data):
    """Copies with different labels among them."""
    pairs = [(f"{number}.png", i % 2) for i, number in enumerate([*numbers, 6, 7, 8])]
    shuffled = data.draw(st.permutations(pairs))
    before, after = (Named(*zip(*table, strict=True)) for table in (pairs, shuffled))
    options = SplitOptions(val_ratio=0.3, subset=2)
    first = divide(before, None, options, None)
    again = divide(after, None, options, first.record)
    for one, other in ((first.train, again.train), (first.val, again.val)):
        assert names_of(one) == names_of(other) and one.targets.tolist() == other.targets.tolist()
    assert len(again.train) == 2 and not again.missing and not again.relabelled


def test_other_labels_and_weights_of_training_images_are_noticed():
    data = Named([f"{i}.png" for i in range(20)], np.arange(20) % 2, weights=np.ones(20))
    record = divide(data, None, HOLD_OUT, None).record
    is_train = record.parts == SplitRecord.TRAIN
    for column in (data.targets, data.weights):
        column[:] = 3 - column
        changed = divide(data, None, HOLD_OUT, record).relabelled
        assert sorted(changed) == sorted(np.array(data.names)[is_train])
        column[:] = 3 - column
    assert not divide(data, None, HOLD_OUT, record).relabelled


def test_the_validation_set_of_a_data_set_itself_is_recorded_too(caplog):
    train, val = (Named([f"{i}.png" for i in range(n)], np.arange(n) % 2) for n in (20, 8))
    record = divide(train, val, HOLD_OUT, None).record
    val.names = val.names[:0:-1]  # one is gone, the others are reversed
    val.targets = val.targets[:0:-1]
    splits = divide(train, val, HOLD_OUT, record)
    assert names_of(splits.val) == [f"{i}.png" for i in range(1, 8)] and len(splits.train) == 20
    assert "left out 1 of 8 validation images, which are missing" in caplog.text


def test_a_record_keeps_its_parts_in_a_dictionary_of_tensors():
    record = divide(Named(map(str, range(20)), np.arange(20) % 2), None, HOLD_OUT, None).record
    again = SplitRecord.from_dict(record.to_dict())
    assert all(np.array_equal(column, vars(again)[name]) for name, column in vars(record).items())
    with pytest.raises(UserError, match="none of the run's 20 images are in the data set"):
        divide(Named(["other"], [0]), None, HOLD_OUT, record)


def test_a_group_is_a_pattern_on_the_name(caplog):
    names = [f"scan/patient{i // 4:02d}_{i % 4}.png" for i in range(80)]
    data = Named(names, np.arange(80) % 2)
    splits = divide(data, None, SplitOptions(val_ratio=0.25, group=r"(?P<group>patient\d+)_"), None)
    train, val = ({name[:14] for name in names_of(part)} for part in (splits.train, splits.val))
    assert not train & val and len(splits.val) == 20
    assert group_names(Named(["a_1", "b"], [0, 1]), "(?P<group>.)_") == ["a", "b"]
    for pattern, problem in (
        ("(?P<group>x)", "matches no name; correct it for names such as scan/"),
        ("(?P<group>(", ""),
    ):
        with pytest.raises(UserError, match=f"DATASETS.GROUP .*{problem}"):
            group_names(data, pattern)
    with pytest.raises(UserError, match="DATASETS.GROUP patient: expected content, a pattern"):
        group_names(data, "patient")
    assert group_names(data, "(?P<group>patient0[0-3])_")[-1] == names[-1]
    assert "does not match 64 of 80 names, such as scan/patient04_0.png; each of them is a group" in caplog.text
    with pytest.raises(UserError, match=r"DATASETS.FOLD \[1, 21\]: found 20 different names or groups; lower n"):
        divide(data, None, SplitOptions(fold=[1, 21], group=r"(?P<group>patient\d+)_"), None)
    data.groups = [name[:14] for name in names]
    assert list(group_names(data, "")) == data.groups


def test_groups_by_content_read_only_files_of_equal_size(tmp_path):
    contents = [b"same", b"same", b"five5", b"diff", b"seven77", b"same"]
    for i, content in enumerate(contents):
        (tmp_path / f"{i}").write_bytes(content)
    read = []

    class Files(Named):
        def path(self, i) -> Path:
            return tmp_path / self.names[i]

        def __getitem__(self, i):
            read.append(i)
            return EncodedImage.open(self.path(i)), 0

    data = Files(["0", "1", "2", "3", "4", "5", "gone"], [0] * 7)
    assert group_names(data, "content") == ["0", "0", "2", "3", "4", "0", "gone"]
    assert sorted(read) == [0, 1, 3, 5]
    arrays = Named(["a", "b"], [0, 0])
    assert group_names(arrays, "content") == ["a", "b"]


def test_names_are_strings():
    with pytest.raises(UserError, match="Named.name: returned int, expected a string"):
        divide(Named([1, 2, 3], [0, 1, 0]), None, HOLD_OUT, None)


def test_one_name_for_all_images_cannot_be_divided():
    with pytest.raises(
        UserError, match=r"VAL_RATIO divides 9 images \(1 different names or groups\) into 9 for training and 0"
    ):
        divide(Named(["image"] * 9, [0] * 9), None, HOLD_OUT, None)


def test_a_validation_set_of_its_own_may_be_the_larger_one():
    source, own = Named("abc", [0, 1, 2]), Named("defghij", [0, 1, 2, 3, 0, 1, 2])
    splits = divide(source, own, HOLD_OUT, None)
    assert names_of(splits.train) == list("abc") and names_of(splits.val) == list("defghij")
    source.targets = np.array([0, 1, 3])
    assert divide(source, own, HOLD_OUT, splits.record).relabelled == ["c"]


def test_a_copy_that_is_gone_is_missing():
    """Also where its name's hash is the last."""
    for name in "abcdefgh":
        data = Named([*"ijklmnop", name, name], [0, 1] * 5)
        record = divide(data, None, SplitOptions(), None).record
        splits = divide(Named(data.names[:-1], data.targets[:-1]), None, SplitOptions(), record)
        assert len(splits.train) == 9 and splits.missing == 1


def test_a_column_that_does_not_exist_is_reported_with_a_validation_set_of_its_own():
    with pytest.raises(UserError, match=r"DATASETS.GROUP patient: expected content, a pattern"):
        divide(Named("ab", [0, 1]), Named("c", [0]), SplitOptions(group="patient"), None)
