"""The page, its figures and its files, from predictions that are known."""

import base64
import csv
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from engine.build_inference import task_metrics
from engine.inference import SplitResult
from engine.predictions import MultiLabel, NumberPredictions, Predictions, SingleLabel
from engine.report.page import Page, render
from engine.report.parts.classes import confused_pairs
from engine.report.parts.galleries import galleries, thumbnail
from engine.report.training import read_history, run_metadata, training_images
from engine.report.writer import write_index, write_split_report
from utils.run_folder import RunFolder

NAMES = ["<i>thin</i>", "a & b", 'quo"te', "$x_1$", "猫", "a name that is much longer than others are", "g", "h"]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Answers:
    """A data set that knows nothing but names and images."""

    def __init__(self, classes):
        self.classes = classes

    def name(self, i):
        return f"photos/{self.classes[i % len(self.classes)]}/{i}.png"


def read(i: int) -> np.ndarray:
    return np.full((20 + 300 * (i % 2), 30, 3), i % 256, np.uint8)


def result_of(task: str, predictions: Predictions) -> SplitResult:
    scores = {"loss": 0.5, **{name: metric(predictions) for name, metric in task_metrics(task).items()}}
    names, samples = list(predictions.names), len(predictions.indices)
    return SplitResult(task, "test", scores, predictions, names, Answers(names), read, samples)


def results(classes: list[str], samples: int = 200, multilabel: bool = False) -> SplitResult:
    rng = np.random.default_rng(0)
    n, indices = len(classes), np.arange(samples)[::-1]
    if multilabel:
        targets = (rng.random((samples, n)) < 0.3).astype(np.float32)
        logits = (rng.normal(size=(samples, n)) + 2 * targets - 1).astype(np.float32)
        return result_of("multilabel", MultiLabel(indices, targets, logits, classes))
    targets = rng.integers(n, size=samples)
    logits = (rng.normal(size=(samples, n)) + 3 * np.eye(n)[targets]).astype(np.float32)
    return result_of("classification", SingleLabel(indices, targets, logits, classes))


def regression(outputs: int, samples: int = 40) -> SplitResult:
    rng = np.random.default_rng(0)
    targets = rng.normal(size=(samples, outputs)).astype(np.float32)
    predicted = targets + rng.normal(scale=0.1, size=(samples, outputs)).astype(np.float32)
    names = [f"quantity {i}" for i in range(outputs)]
    return result_of("regression", NumberPredictions(np.arange(samples), targets, predicted, names))


def history(epochs: int = 3) -> list[dict]:
    steps = [{"kind": "step", "epoch": e / 2, "step": e, "lr": 0.1 / e} for e in range(1, 2 * epochs)]
    ends = [
        {"kind": "epoch", "epoch": e, "step": 2 * e, "train_loss": 1 / e, "train_top1": 0.5, "val_loss": 2 / e}
        for e in range(1, epochs + 1)
    ]
    return steps + ends


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.images, self.captions, self.links, self.text = set(), [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag == "img":
            self.images.append(dict(attributes)["src"])
            self.captions.append(dict(attributes)["alt"])
        if tag == "a":
            self.links.append(dict(attributes)["href"])

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "report" / "test"
    facts = {"command": "train <fast>"}
    write_split_report(path, "net on <photos>", results(NAMES), Path("x.pth"), facts)
    index = Page("net on <photos>", images=training_images(history(), 2), facts=facts, config="A: {b: '<c>'}\n")
    write_index(path.parent, index)
    return path


def test_the_page_holds_all_of_it(folder):
    page = Tags((folder / "index.html").read_text(encoding="utf-8"))
    for text in (*NAMES, "net on <photos>", "200 images of the test split", "train <fast>"):
        assert text in page.text, text
    assert all(column in page.text for column in ("share of target", "support", "average_precision"))
    known = "html head meta title style body h1 h2 p div b span figure img figcaption br table thead tbody tr th td"
    assert page.tags <= {*known.split(), "pre", "a"}
    images = [base64.b64decode(source.partition("base64,")[2]) for source in page.images]
    assert all(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None for data in images)
    figures = ["Confusion matrix", "Reliability diagram: accuracy by confidence", "Precision-recall curves"]
    assert page.captions[:3] == figures and len(set(images[:3])) == 3
    assert len(page.links) == 4 and all((folder / link).is_file() for link in page.links)
    assert not re.search(r"(src|href)=.?(http|//|/)|url\(|<script", (folder / "index.html").read_text())


def test_the_index_leads_to_all_reports(folder):
    page = Tags((folder.parent / "index.html").read_text(encoding="utf-8"))
    assert page.links == ["test/index.html"] and "A: {b: '<c>'}" in page.text
    assert page.captions == ["Learning curves; the chosen epoch is dotted"]


def test_numbers_as_files(folder):
    lines = (folder / "per_class.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "class,support,precision,recall,f1,roc_auc,average_precision" and len(lines) == 1 + len(NAMES)
    lines = (folder / "predictions.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "file,target,prediction,probability,top_k" and lines[1].startswith("photos/h/199.png,")
    numbers = json.loads((folder / "metrics.json").read_text())
    assert numbers["num_samples"] == 200 and numbers["task"] == "classification" and 0 < numbers["f1_macro"] < 1
    saved, wanted = np.load(folder / "outputs.npz"), results(NAMES).predictions
    assert np.array_equal(saved["outputs"], wanted.outputs) and np.array_equal(saved["targets"], wanted.targets)
    assert saved["outputs"].dtype == np.float32 and saved["names"].tolist() == NAMES
    assert saved["samples"][0] == "photos/h/199.png" and len(saved["samples"]) == 200


def test_of_very_many_outputs_the_highest_are_saved(tmp_path, monkeypatch):
    monkeypatch.setattr("engine.report.tables._MAX_VALUES", 1000)
    result = results([f"{i}" for i in range(30)], 50)
    write_split_report(tmp_path, "t", result, Path("x.pth"), {})
    saved, outputs = np.load(tmp_path / "outputs.npz"), result.predictions.outputs
    assert "outputs" not in saved and saved["top_values"].shape == (50, 20)
    assert np.array_equal(saved["top_values"], -np.sort(-outputs, axis=1)[:, :20])
    assert np.array_equal(np.take_along_axis(outputs, saved["top_indices"], 1), saved["top_values"])
    assert np.allclose(saved["logsumexp"], np.log(np.exp(outputs.astype(float)).sum(1)), atol=1e-5)


@pytest.mark.parametrize(("count", "multilabel"), [(1, False), (1, True), (2, False), (30, True), (257, False)])
def test_any_number_of_classes_can_be_drawn(tmp_path, count, multilabel):
    classes = [f"class \udc80 {i}" for i in range(count)]  # a folder whose name is not valid text
    write_split_report(tmp_path, "title", results(classes, 300, multilabel), Path("x.pth"), {})
    page = Tags((tmp_path / "index.html").read_text(encoding="utf-8", errors="surrogateescape"))
    assert ("Most frequent confusions" in page.text) == (not multilabel and count > 1)
    assert all(name in page.text for name in classes[:40]) == (count <= 50)
    assert ("50 classes with the lowest F1, of 257" in page.text) == (count == 257)
    assert ("Confusion matrix" in page.captions) == (not multilabel)
    assert "Precision-recall curves" in page.captions


@pytest.mark.parametrize("outputs", [1, 3])
def test_regression_is_a_scatter_plot_and_a_table(tmp_path, outputs):
    result = regression(outputs)
    write_split_report(tmp_path, "title", result, Path("x.pth"), {})
    page = Tags((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert [caption for caption in page.captions if caption.endswith(": predicted against true")] == [
        f"quantity {i}: predicted against true" for i in range(outputs)
    ]
    assert "Largest errors" in page.text and "bias" in page.text and "quantity 0" in page.text
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    found = [[float(row[f"{kind} quantity 0"]) for row in rows] for kind in ("target", "predicted")]
    assert np.allclose(found, [result.predictions.targets[:, 0], result.predictions.outputs[:, 0]], atol=1e-6)
    order = np.abs(result.predictions.values - result.predictions.targets) / result.predictions.targets.std(axis=0)
    assert page.text.index(f"/{order.max(1).argmax()}.png") < page.text.index(f"/{order.max(1).argsort()[-2]}.png")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")
def test_a_browser_shows_it_without_an_error(folder, tmp_path):
    """Every picture is loaded, nothing is wider than a phone, nothing is complained about."""
    page = (folder / "index.html").read_text(encoding="utf-8")
    look = "<script>onload = () => document.title = [...document.images].filter(i => i.naturalWidth > 0).length"
    look += " + ' of ' + document.images.length + ', ' + document.documentElement.scrollWidth</script>"
    assert page.count("default-src 'none';") == page.count("</head>") == 1
    page = page.replace("default-src 'none';", "default-src 'none'; script-src 'unsafe-inline';")
    (tmp_path / "page.html").write_text(page.replace("</head>", f"{look}</head>"), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=5000"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=390,800", "--dump-dom"]
    command = [CHROMIUM, *options, (tmp_path / "page.html").as_uri()]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    loaded, all_, width = map(int, re.search(r"<title>(\d+) of (\d+), (\d+)</title>", done.stdout).groups())
    assert loaded == all_ > 30 and width <= 500  # the least that a headless window takes
    assert "CONSOLE" not in done.stderr, done.stderr


def test_galleries_show_the_worst_first():
    probabilities = np.array([[0.6, 0.4], [0.1, 0.9], [0.55, 0.45], [0.2, 0.8], [0.99, 0.01]])

    def shown(targets: list[int]) -> dict:
        outputs, page = np.log(probabilities).astype(np.float32), Page("t")
        p = SingleLabel(np.array([7, 8, 9, 10, 11]), np.array(targets), outputs, ["cat", "dog"])
        galleries(result_of("classification", p), page)
        return page.galleries

    mistakes, unsure = shown([0, 0, 0, 1, 1]).values()
    assert [image.name.rpartition("/")[2] for image in mistakes] == ["11.png", "8.png"]
    assert [image.caption for image in mistakes] == ["dog, predicted cat: 0.990", "cat, predicted dog: 0.900"]
    assert [image.name.rpartition("/")[2] for image in unsure] == ["9.png", "7.png", "10.png"]
    assert list(shown([0, 1, 0, 1, 0])) == ["Least confident correct predictions"]


def test_the_most_frequent_confusions():
    confusion = np.array([[8, 2, 0], [5, 5, 0], [1, 0, 0]])
    pairs = np.repeat([divmod(i, 3) for i in range(9)], confusion.ravel(), axis=0)
    p = SingleLabel(np.arange(len(pairs)), pairs[:, 0], np.eye(3, dtype=np.float32)[pairs[:, 1]], "abc")
    assert (p.confusion == confusion).all() and confused_pairs(p) == [
        ("b", "a", "5", "50.0%"),
        ("a", "b", "2", "20.0%"),
        ("c", "a", "1", "100.0%"),
    ]


def test_small_images_keep_their_pixels_and_large_ones_shrink():
    image = np.random.default_rng(0).integers(0, 256, (64, 20, 3), dtype=np.uint8)
    decoded = cv2.imdecode(np.frombuffer(thumbnail(image), np.uint8), cv2.IMREAD_COLOR)
    assert (cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB) == image).all()
    for shape, expected in (((300, 600, 3), (80, 160)), ((65, 2, 1), (65, 2)), ((5000, 3, 1), (160, 1))):
        decoded = cv2.imdecode(np.frombuffer(thumbnail(np.zeros(shape, np.uint8)), np.uint8), cv2.IMREAD_COLOR)
        assert decoded.shape[:2] == expected


def test_what_is_known_of_a_run(tmp_path):
    run = RunFolder(tmp_path)
    assert set(run_metadata(None, [])) == set(run_metadata(run, [])) == {"reported"}
    run.environment.write_text("command: train it\nhost: mine\ndevice: cpu\n\nnumpy==1\n")
    run.code.mkdir()
    (run.code / "commit.txt").write_text("abc\n")
    (run.code / "dirty.diff").write_text("+1\n")
    records = [
        {"kind": "epoch", "epoch": epoch, "step": 9 * epoch, "seconds": 22500.0 * epoch} for epoch in (1, 2, 3, 4)
    ]
    run.metrics.write_text(
        "".join(json.dumps(record) + '\n{"kind": 1\n{}\n' for record in records) + '{"epoch": 5, "st'
    )
    assert read_history(run.metrics) == records and read_history(run.path / "nowhere") == []
    facts = run_metadata(run, read_history(run.metrics))
    assert facts["command"] == "train it" and facts["commit"] == "abc, with the changes in code/dirty.diff"
    assert facts["trained"] == "4 epochs, 36 steps in 1 day, 1:00:00" and "host" not in facts
    assert run_metadata(run, [{"kind": "step", "epoch": 0.5, "step": 9}])["trained"] == "0.5 epochs, 9 steps"


def test_an_empty_page_is_a_page():
    assert "<h1>t</h1>" in render(Page("t"))
    assert training_images([], None) == []


def test_the_chosen_epoch_is_marked():
    (marked,), (plain,) = training_images(history(), 2), training_images(history(), None)
    assert marked.data != plain.data


def test_the_learning_rate_is_below_the_curves(monkeypatch):
    drawn = []
    monkeypatch.setattr("utils.plotting.learning_curves", lambda curves, chosen: drawn.append(curves) or Figure())
    training_images(history(), 2)
    ((*_, (title, named)),) = (curves.items() for curves in drawn)
    assert (title, named) == ("learning rate", {"lr": ([0.5, 1.0, 1.5, 2.0, 2.5], [0.1 / e for e in range(1, 6)])})
