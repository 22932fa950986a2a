"""Every metric of a report, against scikit-learn asked in another way, or computed by hand."""

import dataclasses
import json
import math
import tracemalloc
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from data.build import build_split
from engine.build_inference import build_metrics, prepare_checkpoint, task_metrics
from engine.build_report import score_checkpoint
from engine.checkpoint import load_checkpoint
from engine.metrics.labels import calibration_bins
from engine.predictions import MultiLabel, NumberPredictions, Predictions, SingleLabel
from engine.report.parts.classes import confused_pairs
from engine.tasks.base import StepResult
from engine.tasks.classification import Classification
from engine.tasks.multilabel import MultiLabelClassification
from utils.errors import UserError

NAMES = ["cat", "hot dog", "a.b", "café", "猫", *(f"{i}" for i in range(95))]


def single(samples: int, classes: int, seed: int = 0, skill: float = 2.0) -> SingleLabel:
    """Predictions that are better than chance."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(classes, size=samples)
    logits = rng.normal(size=(samples, classes)) + skill * np.eye(classes)[targets]
    return SingleLabel(np.arange(samples), targets, logits.astype(np.float32), NAMES[:classes])


def several(samples: int, classes: int, seed: int = 0) -> MultiLabel:
    rng = np.random.default_rng(seed)
    targets = (rng.random((samples, classes)) < 0.3).astype(np.float32)
    logits = rng.normal(size=(samples, classes)) + 2 * targets - 1
    return MultiLabel(np.arange(samples), targets, logits.astype(np.float32), NAMES[:classes])


def numbers(samples: int, outputs: int) -> NumberPredictions:
    rng = np.random.default_rng(0)
    targets = rng.normal(size=(samples, outputs)).astype(np.float32)
    values = (targets + rng.normal(size=(samples, outputs))).astype(np.float32)
    return NumberPredictions(np.arange(samples), targets[:, 0] if outputs == 1 else targets, values, NAMES[:outputs])


def change(predictions: Predictions, **changes: object) -> Predictions:
    return dataclasses.replace(predictions, **changes)


def only(predictions: SingleLabel, *classes: int) -> SingleLabel:
    """The samples of some classes."""
    rows = np.isin(predictions.targets, classes)
    columns = (predictions.indices, predictions.targets, predictions.outputs)
    return SingleLabel(*(column[rows] for column in columns), predictions.names)


def without(predictions: SingleLabel, label: int) -> SingleLabel:
    """The same, but for a class that is never predicted."""
    outputs = predictions.outputs.copy()
    outputs[:, label] -= 20
    return change(predictions, outputs=outputs)


def with_unknown_and_empty(predictions: MultiLabel) -> MultiLabel:
    """A fifth of the labels unknown, some images with nothing known or present, a label on none, one on all."""
    targets = predictions.targets.copy()
    targets[:, 1], targets[:, 2] = 0, 1
    targets[np.random.default_rng(1).random(targets.shape) < 0.2] = -1
    targets[:5], targets[5:10] = -1, 0
    return change(predictions, targets=targets)


def task_of(predictions: Predictions) -> str:
    kinds = {SingleLabel: "classification", MultiLabel: "multilabel", NumberPredictions: "regression"}
    return kinds[type(predictions)]


def summary(predictions: Predictions) -> dict[str, float]:
    found = {name: metric(predictions) for name, metric in task_metrics(task_of(predictions)).items()}
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


def scores_of_classes(truth: np.ndarray, known: np.ndarray, p: np.ndarray, guess: np.ndarray) -> dict[str, np.ndarray]:
    """Column -> (classes,), from tables (N, classes), class by class."""
    rows = []
    for label in range(truth.shape[1]):
        seen = known[:, label]
        true, guessed, scores = truth[seen, label], guess[seen, label], p[seen, label]
        hits, predicted, support = (true & guessed).sum(), guessed.sum(), true.sum()
        precision = hits / predicted if predicted else math.nan
        recall = hits / support if support else math.nan
        f1 = 2 * hits / (predicted + support) if predicted + support else math.nan
        auc = metrics.roc_auc_score(true, scores) if 0 < support < len(true) else math.nan
        average = metrics.average_precision_score(true, scores) if support else math.nan
        rows.append((support, precision, recall, f1, auc, average))
    columns = ("support", "precision", "recall", "f1", "roc_auc", "average_precision")
    return dict(zip(columns, np.array(rows, float).T, strict=True))


def averages(columns: dict[str, np.ndarray]) -> dict[str, float]:
    """Those that every report on classes has: NaN counts as 0 for a class that occurs or is predicted."""
    support = columns["support"]
    occurs = (support > 0) | np.isfinite(columns["precision"])
    found = {}
    for name in ("precision", "recall", "f1"):
        values = np.where(np.isnan(columns[name]), 0, columns[name])
        found[f"{name}_macro"] = values[occurs].mean() if occurs.any() else math.nan
        found[f"{name}_weighted"] = np.average(values, weights=support) if support.any() else math.nan
    for name, column in (("roc_auc_macro", "roc_auc"), ("mean_average_precision", "average_precision")):
        defined = columns[column][np.isfinite(columns[column])]
        found[name] = defined.mean() if len(defined) else math.nan
    return found


def scores_of_single_labels(p: SingleLabel) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    logits = p.outputs.astype(np.float64)
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    targets = p.targets if p.targets.ndim == 1 else p.targets.argmax(axis=1)
    guesses, classes = logits.argmax(axis=1), np.arange(logits.shape[1])
    truth = targets[:, np.newaxis] == classes
    columns = scores_of_classes(truth, np.ones_like(truth), probabilities, guesses[:, np.newaxis] == classes)
    confidence, right, error = probabilities.max(axis=1), guesses == targets, 0.0
    for low in np.arange(15) / 15:
        members = (confidence > low) & (confidence <= low + 1 / 15)
        error += abs(right[members].sum() - confidence[members].sum()) / len(right)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # some predictions are of a class that does not occur
        balanced = metrics.balanced_accuracy_score(targets, guesses)
    ranks = (logits > logits[np.arange(len(targets)), targets][:, np.newaxis]).sum(axis=1)
    scores = {"top1": metrics.accuracy_score(targets, guesses), "top5": (ranks < 5).mean()}
    scores |= {"balanced_accuracy": balanced, "expected_calibration_error": error}
    return columns, scores | averages(columns)


def scores_of_several_labels(p: MultiLabel) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    probabilities = 1 / (1 + np.exp(-p.outputs.astype(np.float64)))
    table = p.targets if p.targets.ndim == 2 else np.eye(p.outputs.shape[1])[p.targets]
    truth, known, guess = table > 0, table >= 0, probabilities >= 0.5
    columns = scores_of_classes(truth, known, probabilities, guess)
    exact = [(t == g)[k].all() for t, g, k in zip(truth, guess, known, strict=True)]
    return columns, {"exact_match": np.mean(exact), **averages(columns)}


def scores_of_numbers(p: NumberPredictions) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    true, found = p.targets.reshape(p.outputs.shape).astype(np.float64), p.outputs.astype(np.float64)
    kinds = {"mae": metrics.mean_absolute_error, "rmse": metrics.root_mean_squared_error}
    columns = {name: score(true, found, multioutput="raw_values") for name, score in kinds.items()}
    columns["bias"] = found.mean(axis=0) - true.mean(axis=0)
    scores = {name: score(true, found) for name, score in kinds.items()}
    return columns, {**scores, "r2": metrics.r2_score(true, found)}


SITUATIONS = {
    "a class each": single(500, 10),
    "a class that does not occur": only(single(200, 5), 0, 1, 3, 4),
    "a class that occurs alone": only(single(60, 4), 2),
    "a class that is never predicted": change(
        single(200, 4), outputs=single(200, 4).outputs - np.float32([0, 9, 0, 0])
    ),
    "one class": single(9, 1),
    "more classes than images": single(40, 100),
    "many images of many classes": single(900, 90),
    "certain": single(300, 5, skill=60.0),
    "probabilities": change(single(60, 4), targets=(0.9 * np.eye(4)[single(60, 4).targets] + 0.025)),
    "several labels": several(300, 6),
    "some unknown, some without any": with_unknown_and_empty(several(300, 6)),
    "a label": several(50, 1),
    "more labels than images": several(20, 90),
    "a label each": MultiLabel(*vars(single(90, 5)).values()),
    "a number": numbers(50, 1),
    "several numbers": numbers(50, 3),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_every_number_of_a_report(situation, toy_cfg):
    """Against scikit-learn and float64 arithmetic on the raw outputs; each can be monitored, also of one class."""
    p = dataclasses.replace(SITUATIONS[situation])  # nothing is computed yet
    kinds = {SingleLabel: scores_of_single_labels, MultiLabel: scores_of_several_labels}
    columns, scores = kinds.get(type(p), scores_of_numbers)(p)
    assert columns.keys() == p.columns.keys() and scores.keys() == task_metrics(task_of(p)).keys()
    wanted = {f"{column}.{name}": columns[column][i] for column in columns for i, name in enumerate(p.names)} | scores
    cfg = toy_cfg("TEST.METRICS", json.dumps(list(wanted), ensure_ascii=False))
    resolved = SimpleNamespace(task=task_of(p), monitor=f"max {next(iter(wanted))}", names=p.names)
    found = {name: metric(p) for name, metric in build_metrics(cfg, resolved).items()}
    assert found == pytest.approx(wanted, rel=1e-9, abs=1e-12, nan_ok=True)


def test_names_are_the_same_in_composed_and_decomposed_letters(toy_cfg):
    p = single(50, 5)
    for name in ("recall.caf\u00e9", "recall.cafe\u0301"):
        resolved = SimpleNamespace(task="classification", monitor=f"max {name}", names=p.names)
        assert build_metrics(toy_cfg(), resolved)[name](p) == p.per_class["recall"][3]


def test_memory_grows_with_images_and_classes():
    """Not with the square of the classes."""
    rng = np.random.default_rng(0)
    targets, outputs = rng.integers(2000, size=50), rng.normal(size=(50, 2000)).astype(np.float32)
    p = SingleLabel(np.arange(50), targets, outputs, [f"{i}" for i in range(2000)])
    summary(single(9, 2))  # imports what is needed
    tracemalloc.start()
    try:
        assert summary(p) and confused_pairs(p) and p.predicted_text(0) and (p.labels.sum(axis=1) == 1).all()
        assert tracemalloc.get_traced_memory()[1] < 2000**2
    finally:
        tracemalloc.stop()


def test_soft_targets_are_reduced_to_their_highest():
    hard = single(60, 4)
    soft = SingleLabel(
        hard.indices, (0.9 * np.eye(4)[hard.targets] + 0.025).astype(np.float32), hard.outputs, hard.names
    )
    assert summary(soft) == summary(hard)


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
    evaluator = task(None, None, None, "abc").evaluator(task_metrics("classification"))
    columns = (torch.from_numpy(column) for column in (p.outputs, p.targets, p.indices))
    evaluator.add(StepResult(torch.tensor(math.nan), *columns))
    assert all(math.isnan(value) for value in evaluator.result().values())


def test_a_training_that_diverged_is_named(make_trainer, tmp_path):
    make_trainer("SOLVER.MAX_EPOCHS", "1").train()
    checkpoint, cfg = prepare_checkpoint(load_checkpoint(tmp_path / "run/weights/last.pth"))
    checkpoint.weights["fc.bias"][1] = math.nan
    with pytest.raises(UserError, match="the loss of the test split is nan: the training diverged; train again with a"):
        score_checkpoint(checkpoint, cfg, "test", build_split(cfg, "test"))


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
