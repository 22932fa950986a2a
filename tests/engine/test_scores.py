"""Every number of a report, against scikit-learn asked in another way, or counted by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from engine.metrics.average_precision import mean_average_precision
from engine.scores import Predictions, calibrate, precision_recall, score
from utils.errors import UserError


def single(samples: int, classes: int, seed: int = 0, skill: float = 2.0) -> Predictions:
    """Answers that are better than chance."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(classes, size=samples)
    logits = rng.normal(size=(samples, classes)) + skill * np.eye(classes)[targets]
    exp = np.exp(logits)
    return Predictions(np.arange(samples), targets, exp / exp.sum(1, keepdims=True), multilabel=False)


def several(samples: int, classes: int, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    targets = (rng.random((samples, classes)) < 0.3).astype(np.float32)
    logits = rng.normal(size=(samples, classes)) + 2 * targets - 1
    return Predictions(np.arange(samples), targets, 1 / (1 + np.exp(-logits)), multilabel=True)


@pytest.mark.parametrize("average", ["macro", "weighted"])
@pytest.mark.parametrize(("samples", "classes"), [(500, 10), (90, 40), (40, 60)])
def test_precision_recall_and_f1_over_classes(samples, classes, average):
    """Also where some classes never occur and others are never predicted."""
    p = single(samples, classes)
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        p.targets, p.probabilities.argmax(1), average=average, zero_division=0
    )
    found = score(p).summary
    for name, value in (("precision", precision), ("recall", recall), ("f1", f1)):
        assert found[f"{name}_{average}"] == pytest.approx(value, abs=1e-12)


def test_the_other_numbers_of_one_class_each():
    p = single(500, 10)
    found = score(p)
    answers = p.probabilities.argmax(1)
    assert found.summary["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(p.targets, answers))
    assert found.summary["roc_auc_macro"] == pytest.approx(
        metrics.roc_auc_score(p.targets, p.probabilities, multi_class="ovr")
    )
    precision = metrics.average_precision_score(np.eye(10)[p.targets], p.probabilities)
    assert found.summary["mean_average_precision"] == pytest.approx(precision)
    logits, targets = torch.from_numpy(p.probabilities).log(), torch.from_numpy(p.targets)
    assert mean_average_precision(logits, targets) == pytest.approx(precision)
    expected = np.zeros((10, 10), int)
    for target, answer in zip(p.targets, answers, strict=True):
        expected[target, answer] += 1
    assert (found.confusion == expected).all()
    assert (found.per_class["support"] == np.bincount(p.targets, minlength=10)).all()


def test_a_class_that_does_not_occur_is_left_out_and_left_empty():
    p = single(200, 5)
    seen = p.targets != 2
    p = Predictions(p.indices[seen], p.targets[seen], p.probabilities[seen], False)
    found = score(p)
    assert np.isnan([found.per_class[name][2] for name in ("recall", "roc_auc", "average_precision")]).all()
    answers = p.probabilities.argmax(1)
    recalls = [(answers[p.targets == label] == label).mean() for label in (0, 1, 3, 4)]
    assert found.summary["balanced_accuracy"] == pytest.approx(np.mean(recalls))


def test_all_images_of_one_class():
    p = Predictions(np.arange(3), np.array([1, 1, 1]), np.eye(2)[[1, 1, 0]], False)
    summary = score(p).summary
    assert "roc_auc_macro" not in summary and summary["balanced_accuracy"] == pytest.approx(2 / 3)


def test_soft_targets_count_as_their_highest():
    hard = single(60, 4)
    soft = hard._replace(targets=(0.9 * np.eye(4)[hard.targets] + 0.025).astype(np.float32))
    assert score(soft).summary == score(hard).summary


def test_several_labels():
    p = several(300, 6)
    answers = p.probabilities >= 0.5
    found = score(p)
    precision, recall, f1, support = metrics.precision_recall_fscore_support(p.targets, answers)
    for name, values in {"precision": precision, "recall": recall, "f1": f1, "support": support}.items():
        assert found.per_class[name] == pytest.approx(values)
    assert found.summary["f1_macro"] == pytest.approx(metrics.f1_score(p.targets, answers, average="macro"))
    expected = metrics.average_precision_score(p.targets, p.probabilities)
    assert found.summary["mean_average_precision"] == pytest.approx(expected)
    assert found.summary["roc_auc_macro"] == pytest.approx(metrics.roc_auc_score(p.targets, p.probabilities))
    assert found.confusion is None and found.calibration is None


def test_labels_below_zero_do_not_count():
    p = several(300, 4)
    p.targets[np.random.default_rng(1).random(p.targets.shape) < 0.2] = -1
    found = score(p)
    for label in range(4):
        counts = p.targets[:, label] >= 0
        truth, scores = p.targets[counts, label], p.probabilities[counts, label]
        assert found.per_class["f1"][label] == pytest.approx(metrics.f1_score(truth, scores >= 0.5))
        assert found.per_class["average_precision"][label] == pytest.approx(
            metrics.average_precision_score(truth, scores)
        )
        assert found.per_class["roc_auc"][label] == pytest.approx(metrics.roc_auc_score(truth, scores))
        precision, recall = precision_recall(p, label)
        area = -np.sum(np.diff(recall) * precision[:-1])
        assert found.per_class["average_precision"][label] == pytest.approx(area)
    right, _ = p.correct_and_confidence()
    wrong = ((p.probabilities >= 0.5) != (p.targets > 0)) & (p.targets >= 0)
    assert (right == ~wrong.any(axis=1)).all() and 0 < right.sum() < len(right)


def test_how_sure_a_network_was():
    probabilities = np.array([[0.9, 0.4, 0.2], [0.7, 0.6, 0.95]])
    p = Predictions(np.arange(2), np.array([[1, 0, 0], [1, 0, 0]], np.float32), probabilities, True)
    right, sure = p.correct_and_confidence()
    assert right.tolist() == [True, False] and sure.tolist() == [0.6, 0.95]
    p = Predictions(np.arange(2), np.array([0, 0]), np.array([[0.9, 0.1], [0.3, 0.7]]), False)
    right, sure = p.correct_and_confidence()
    assert right.tolist() == [True, False] and sure.tolist() == [0.9, 0.7]


def test_nothing_that_counts():
    found = score(Predictions(np.arange(2), np.full((2, 3), -1, np.float32), np.full((2, 3), 0.7), True))
    assert found.summary == {} and (found.per_class["support"] == 0).all()


@pytest.mark.parametrize("multilabel", [False, True])
def test_what_is_not_finite_is_no_answer(multilabel):
    p = several(9, 3)._replace(multilabel=multilabel)
    p.probabilities[[2, 5], 1] = np.nan
    with pytest.raises(UserError, match="no finite probabilities for 2 of 9 images"):
        score(p)
    assert np.isnan(mean_average_precision(torch.full((2, 3), torch.inf), torch.tensor([0, 1])))


def test_one_class():
    """Not taken for two, whether it is present or absent."""
    probabilities = np.array([[0.9], [0.2], [0.8], [0.1]])
    found = score(Predictions(np.arange(4), np.array([[1], [1], [0], [0]], np.float32), probabilities, True))
    assert {name: values.tolist() for name, values in found.per_class.items()} == {
        "support": [2],
        "precision": [0.5],
        "recall": [0.5],
        "f1": [0.5],
        "roc_auc": [0.75],
        "average_precision": [pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)],
    }
    assert found.summary["f1_macro"] == 0.5


# Shares of 1024 never lie on an edge of the 15 bins but 0 and 1, which floats hold exactly.
@given(st.lists(st.tuples(st.integers(0, 1024).map(lambda n: n / 1024), st.booleans()), min_size=1, max_size=60))
def test_calibration_is_what_its_definition_says(samples):
    confidence, right = (np.array(column, float) for column in zip(*samples, strict=True))
    found = calibrate(right, confidence)
    error = 0.0
    for number in range(15):
        low, high = number / 15, (number + 1) / 15
        members = (confidence > low) & (confidence <= high) | (number == 0) & (confidence == 0)
        assert found.counts[number] == members.sum()
        if members.any():
            error += members.mean() * abs(right[members].mean() - confidence[members].mean())
    assert found.counts.sum() == len(samples) and found.error == pytest.approx(error)
