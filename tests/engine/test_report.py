"""The page and its pictures, from answers that are known."""

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from engine.report.folder import Results, facts_of, write_report
from engine.report.page import Page, render
from engine.report.pictures import galleries, read_history, thumbnail, training_pictures, worst_pairs
from engine.scores import Predictions, score
from utils.run_folder import RunFolder

NAMES = ["<i>thin</i>", "a & b", 'quo"te', "$x_1$", "猫", "a name that is much longer than others are", "g", "h"]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Answers:
    """A data set that knows nothing but names and images."""

    def __init__(self, classes):
        self.classes = classes

    def name(self, i):
        return f"photos/{self.classes[i % len(self.classes)]}/{i}.png"


def results(classes: list[str], samples: int = 200, multilabel: bool = False) -> Results:
    rng = np.random.default_rng(0)
    n = len(classes)
    if multilabel:
        targets = (rng.random((samples, n)) < 0.3).astype(np.float32)
        probabilities = 1 / (1 + np.exp(-rng.normal(size=(samples, n)) - 2 * targets + 1))
    else:
        targets = rng.integers(n, size=samples)
        probabilities = np.exp(rng.normal(size=(samples, n)) + 3 * np.eye(n)[targets])
        probabilities /= probabilities.sum(1, keepdims=True)
    predictions = Predictions(np.arange(samples)[::-1], targets, probabilities, multilabel)
    scores = score(predictions)
    summary = {"checkpoint": "x.pth", "split": "test", "count": samples, "loss": 0.5, **scores.summary}

    def read(i):
        return np.full((20 + 300 * (i % 2), 30, 3), i % 256, np.uint8)

    return Results(summary, predictions, scores, Answers(classes), read)


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
        self.tags, self.images, self.links, self.text = set(), [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag == "img":
            self.images.append(dict(attributes)["src"])
        if tag == "a":
            self.links.append(dict(attributes)["href"])

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "report"
    facts = {"command": "train <fast>"}
    write_report(path, "net on <photos>", results(NAMES), training_pictures(history(), 2), facts, "A: {b: '<c>'}\n")
    return path


def test_the_page_holds_all_of_it(folder):
    page = Tags((folder / "index.html").read_text(encoding="utf-8"))
    for text in (*NAMES, "net on <photos>", "200 images of the test split", "train <fast>", "A: {b: '<c>'}"):
        assert text in page.text, text
    assert all(column in page.text for column in ("of the class", "support", "average_precision"))
    known = "html head meta title style body h1 h2 p div b span figure img figcaption br table thead tbody tr th td"
    assert page.tags <= {*known.split(), "pre", "a"}
    pictures = [base64.b64decode(source.partition("base64,")[2]) for source in page.images]
    assert all(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None for data in pictures)
    files = {path.stem: path.read_bytes() for path in (folder / "pictures").iterdir()}
    assert set(files.values()) <= set(pictures)
    assert {"confusion_matrix", "confusion_matrix_normalised", "reliability", "precision_recall"} < files.keys()
    assert {"per_class", "learning_curves", "learning_rate"} < files.keys()
    assert len(page.links) == 3 and all((folder / link).is_file() for link in page.links)
    assert not re.search(r"(src|href)=.?(http|//|/)|url\(|<script", (folder / "index.html").read_text())


def test_numbers_as_files(folder):
    lines = (folder / "per_class.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "class,support,precision,recall,f1,roc_auc,average_precision" and len(lines) == 1 + len(NAMES)
    lines = (folder / "predictions.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "file,target,prediction,probability,top_k" and lines[1].startswith("photos/h/199.png,")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["count"] == 200 and 0 < metrics["f1_macro"] < 1


@pytest.mark.parametrize(("count", "multilabel"), [(1, False), (1, True), (2, False), (30, True), (257, False)])
def test_any_number_of_classes_can_be_drawn(tmp_path, count, multilabel):
    classes = [f"class \udc80 {i}" for i in range(count)]  # a folder whose name is no text
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/of_before.png").write_bytes(b"")
    write_report(tmp_path, "title", results(classes, 300, multilabel), [], {}, "")
    page = Tags((tmp_path / "index.html").read_text(encoding="utf-8", errors="surrogateescape"))
    assert ("The most frequent mistakes" in page.text) == (not multilabel and count > 1)
    assert all(name in page.text for name in classes[:40]) == (count <= 50)
    assert ("50 classes with the least F1, of 257" in page.text) == (count == 257)
    names = {path.stem for path in (tmp_path / "pictures").iterdir()}
    assert ("confusion_matrix" in names) == (not multilabel) and "of_before" not in names
    assert {"per_class", "precision_recall"} <= names


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
    assert loaded == all_ > 40 and width <= 500  # the least that a headless window takes
    assert "CONSOLE" not in done.stderr, done.stderr


def test_galleries_show_the_worst_first():
    probabilities = np.array([[0.6, 0.4], [0.1, 0.9], [0.55, 0.45], [0.2, 0.8], [0.99, 0.01]])
    predictions = Predictions(np.array([7, 8, 9, 10, 11]), np.array([0, 0, 0, 1, 1]), probabilities, False)
    shown = galleries(predictions, ["cat", "dog"], "photo {}".format, lambda i: np.zeros((4, 4, 1), np.uint8))
    mistakes, unsure = shown["The most confident mistakes"], shown["The least certain right answers"]
    assert [picture.name for picture in mistakes] == ["photo 11", "photo 8"]
    assert [picture.caption for picture in mistakes] == ["dog, taken for cat: 0.990", "cat, taken for dog: 0.900"]
    assert [picture.name for picture in unsure] == ["photo 9", "photo 7", "photo 10"]
    none_wrong = predictions._replace(targets=np.array([0, 1, 0, 1, 0]))
    assert list(galleries(none_wrong, ["cat", "dog"], str, lambda i: np.zeros((4, 4, 1), np.uint8))) == list(shown)[1:]


def test_the_most_frequent_mistakes():
    confusion = np.array([[8, 2, 0], [5, 5, 0], [1, 0, 0]])
    assert worst_pairs(confusion, "abc") == [
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
    assert set(facts_of(None, [])) == set(facts_of(run, [])) == {"reported"}
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
    facts = facts_of(run, read_history(run.metrics))
    assert facts["command"] == "train it" and facts["commit"] == "abc, with the changes in code/dirty.diff"
    assert facts["trained"] == "4 epochs, 36 steps in 1 day, 1:00:00" and "host" not in facts
    assert facts_of(run, [{"kind": "step", "epoch": 0.5, "step": 9}])["trained"] == "0.5 epochs, 9 steps"


def test_an_empty_page_is_a_page():
    assert "<h1>t</h1>" in render(Page("t", ""))
    assert training_pictures([], None) == []


def test_the_chosen_epoch_is_marked():
    (marked, rate), (plain, same) = training_pictures(history(), 2), training_pictures(history(), None)
    assert marked.data != plain.data and rate == same
