"""Every metric of a report, against scikit-learn asked in another way, or computed by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics
from sklearn.metrics import precision_recall_curve

from engine.build_inference import task_metrics
from engine.inference import SplitResult
from engine.metrics.labels import calibration_bins
from engine.predictions import MultiLabel, Predictions, SingleLabel
from engine.report.writer import check_finite
from engine.tasks.base import StepResult
from engine.tasks.classification import Classification
from engine.tasks.multilabel import MultiLabelClassification
from utils.errors import UserError


def single(samples: int, classes: int, seed: int = 0, skill: float = 2.0) -> SingleLabel:
    """Predictions that are better than chance."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(classes, size=samples)
    logits = rng.normal(size=(samples, classes)) + skill * np.eye(classes)[targets]
    return SingleLabel(np.arange(samples), targets, logits.astype(np.float32), [f"{i}" for i in range(classes)])


def several(samples: int, classes: int, seed: int = 0) -> MultiLabel:
    rng = np.random.default_rng(seed)
    targets = (rng.random((samples, classes)) < 0.3).astype(np.float32)
    logits = rng.normal(size=(samples, classes)) + 2 * targets - 1
    return MultiLabel(np.arange(samples), targets, logits.astype(np.float32), [f"{i}" for i in range(classes)])


def summary(predictions: Predictions) -> dict[str, float]:
    task = "multilabel" if isinstance(predictions, MultiLabel) else "classification"
    found = {name: metric(predictions) for name, metric in task_metrics(task).items()}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def logits_of(probabilities: np.ndarray) -> np.ndarray:
    return np.log(probabilities).astype(np.float32)


def labels_logits_of(probabilities: np.ndarray) -> np.ndarray:
    return np.log(probabilities / (1 - probabilities)).astype(np.float32)


@pytest.mark.parametrize("average", ["macro", "weighted"])
@pytest.mark.parametrize(("samples", "classes"), [(500, 10), (90, 40), (40, 60)])
def test_precision_recall_and_f1_over_classes(samples, classes, average):
    """Also where some classes never occur and others are never predicted."""
    p = single(samples, classes)
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        p.targets, p.outputs.argmax(1), average=average, zero_division=0
    )
    found = summary(p)
    for name, value in (("precision", precision), ("recall", recall), ("f1", f1)):
        assert found[f"{name}_{average}"] == pytest.approx(value, abs=1e-12)


def test_the_other_metrics_of_one_class_each():
    p = single(500, 10)
    found, guesses = summary(p), p.outputs.argmax(1)
    assert found["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(p.targets, guesses))
    assert found["top1"] == pytest.approx(metrics.accuracy_score(p.targets, guesses))
    assert found["top5"] == pytest.approx(metrics.top_k_accuracy_score(p.targets, p.outputs, k=5))
    assert found["roc_auc_macro"] == pytest.approx(metrics.roc_auc_score(p.targets, p.values, multi_class="ovr"))
    precision = metrics.average_precision_score(np.eye(10)[p.targets], p.values)
    assert found["mean_average_precision"] == pytest.approx(precision)
    assert np.allclose(p.values, torch.from_numpy(p.outputs).double().softmax(1).numpy())
    assert (p.confusion == metrics.confusion_matrix(p.targets, guesses, labels=range(10))).all()
    assert (p.per_class["support"] == np.bincount(p.targets, minlength=10)).all()


def test_a_class_that_does_not_occur_is_ignored_and_left_empty():
    p = single(200, 5)
    seen = p.targets != 2
    p = SingleLabel(p.indices[seen], p.targets[seen], p.outputs[seen], p.names)
    assert np.isnan([p.per_class[name][2] for name in ("recall", "roc_auc", "average_precision")]).all()
    guesses = p.outputs.argmax(1)
    recalls = [(guesses[p.targets == label] == label).mean() for label in (0, 1, 3, 4)]
    assert summary(p)["balanced_accuracy"] == pytest.approx(np.mean(recalls))


def test_all_images_of_one_class():
    p = SingleLabel(np.arange(3), np.array([1, 1, 1]), np.eye(2, dtype=np.float32)[[1, 1, 0]], ["a", "b"])
    found = summary(p)
    assert "roc_auc_macro" not in found and found["balanced_accuracy"] == pytest.approx(2 / 3)


def test_soft_targets_are_reduced_to_their_highest():
    hard = single(60, 4)
    soft = SingleLabel(
        hard.indices, (0.9 * np.eye(4)[hard.targets] + 0.025).astype(np.float32), hard.outputs, hard.names
    )
    assert summary(soft) == summary(hard)


def test_several_labels():
    p = several(300, 6)
    guesses, found = p.values >= 0.5, summary(p)
    precision, recall, f1, support = metrics.precision_recall_fscore_support(p.targets, guesses)
    for name, values in {"precision": precision, "recall": recall, "f1": f1, "support": support}.items():
        assert p.per_class[name] == pytest.approx(values)
    assert found["f1_macro"] == pytest.approx(metrics.f1_score(p.targets, guesses, average="macro"))
    assert found["exact_match"] == pytest.approx(metrics.accuracy_score(p.targets, guesses))
    assert found["mean_average_precision"] == pytest.approx(metrics.average_precision_score(p.targets, p.values))
    assert found["roc_auc_macro"] == pytest.approx(metrics.roc_auc_score(p.targets, p.values))


def test_labels_below_zero_are_ignored():
    p = several(300, 4)
    p.targets[np.random.default_rng(1).random(p.targets.shape) < 0.2] = -1
    for label in range(4):
        known = p.targets[:, label] >= 0
        truth, scores = p.targets[known, label], p.values[known, label]
        assert p.per_class["f1"][label] == pytest.approx(metrics.f1_score(truth, scores >= 0.5))
        assert p.per_class["average_precision"][label] == pytest.approx(metrics.average_precision_score(truth, scores))
        assert p.per_class["roc_auc"][label] == pytest.approx(metrics.roc_auc_score(truth, scores))
        precision, recall, _ = precision_recall_curve(*p.scores_of(label))
        assert p.per_class["average_precision"][label] == pytest.approx(-np.sum(np.diff(recall) * precision[:-1]))
    wrong = ((p.values >= 0.5) != (p.targets > 0)) & (p.targets >= 0)
    assert (p.correct == ~wrong.any(axis=1)).all() and 0 < p.correct.sum() < len(p.correct)


def test_confidence():
    probabilities = np.array([[0.9, 0.4, 0.2], [0.7, 0.6, 0.95]])
    targets = np.array([[1, 0, 0], [1, 0, 0]], np.float32)
    p = MultiLabel(np.arange(2), targets, labels_logits_of(probabilities), "abc")
    assert p.correct.tolist() == [True, False] and p.confidence == pytest.approx([0.6, 0.95])
    p = SingleLabel(np.arange(2), np.array([0, 0]), logits_of(np.array([[0.9, 0.1], [0.3, 0.7]])), "ab")
    assert p.correct.tolist() == [True, False] and p.confidence == pytest.approx([0.9, 0.7])


def test_nothing_but_unknown_labels():
    p = MultiLabel(np.arange(2), np.full((2, 3), -1, np.float32), np.full((2, 3), 0.7, np.float32), "abc")
    assert summary(p) == {"exact_match": 1.0} and (p.per_class["support"] == 0).all()


@pytest.mark.parametrize(("kind", "task"), [(SingleLabel, Classification), (MultiLabel, MultiLabelClassification)])
def test_outputs_that_are_not_finite(kind, task):
    p = single(9, 3) if kind is SingleLabel else several(9, 3)
    p.outputs[[2, 5], 1] = np.nan
    result = SplitResult("", "test", {}, p, ["a"], None, None, 9)
    with pytest.raises(UserError, match="model outputs are NaN/Inf for 2 of 9 images: the training diverged"):
        check_finite(result)
    evaluator = task(None, None, None, "abc").evaluator(task_metrics("classification"))
    columns = (torch.from_numpy(column) for column in (p.outputs, p.targets, p.indices))
    evaluator.add(StepResult(torch.tensor(math.nan), *columns))
    assert all(math.isnan(value) for value in evaluator.result().values())


def test_one_class():
    """Not treated as two, whether it is present or absent."""
    outputs = labels_logits_of(np.array([[0.9], [0.2], [0.8], [0.1]]))
    p = MultiLabel(np.arange(4), np.array([[1], [1], [0], [0]], np.float32), outputs, "a")
    assert {name: values.tolist() for name, values in p.per_class.items()} == {
        "support": [2],
        "precision": [0.5],
        "recall": [0.5],
        "f1": [0.5],
        "roc_auc": [0.75],
        "average_precision": [pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)],
    }
    assert summary(p)["f1_macro"] == 0.5


@pytest.mark.parametrize("outputs", [1, 3])
def test_regression(outputs):
    rng = np.random.default_rng(0)
    targets = rng.normal(size=(50, outputs) if outputs > 1 else 50).astype(np.float32)
    predicted = (targets.reshape(50, outputs) + rng.normal(size=(50, outputs))).astype(np.float32)
    p = Predictions(np.arange(50), targets, predicted, "abc"[:outputs])
    found = {name: metric(p) for name, metric in task_metrics("regression").items()}
    table = targets.reshape(50, outputs)
    assert found == pytest.approx(
        {
            "mae": metrics.mean_absolute_error(table, predicted),
            "rmse": metrics.root_mean_squared_error(table, predicted),
            "r2": metrics.r2_score(table, predicted),
        },
        rel=1e-6,
    )


# Shares of 1024 never lie on an edge of the 15 bins but 0 and 1, which floats hold exactly.
@given(st.lists(st.tuples(st.integers(0, 1024).map(lambda n: n / 1024), st.booleans()), min_size=1, max_size=60))
def test_calibration_is_what_its_definition_says(samples):
    confidence, right = (np.array(column, float) for column in zip(*samples, strict=True))
    counts, mean_confidence, accuracy = calibration_bins(right, confidence)
    error = 0.0
    for number in range(15):
        low, high = number / 15, (number + 1) / 15
        members = (confidence > low) & (confidence <= high) | (number == 0) & (confidence == 0)
        assert counts[number] == members.sum() and np.isnan(accuracy[number]) == (not members.any())
        if members.any():
            error += members.mean() * abs(right[members].mean() - confidence[members].mean())
    filled = counts > 0
    found = np.abs(mean_confidence - accuracy)[filled] @ counts[filled] / len(samples)
    assert counts.sum() == len(samples) and found == pytest.approx(error)
