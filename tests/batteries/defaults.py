"""Whether the default optimizer, learning rate and schedule suit any network: `make test-defaults`, about two hours.

A cell is a network, a number of training images, a batch size and a seed. It is trained with the default settings, and
with 0.1, 0.3, 3 and 10 times the learning rate. Asserted for the defaults: the validation loss is finite and below
1.5 ln(classes) from the third epoch on, and the accuracy on 2,000 test images is within 3 points of the best of the
five rates in nine cells of ten. Each training that has ended is a line in runs/defaults/results.jsonl, where a battery
that was stopped goes on; `python -m tests.batteries.defaults` prints the table.

Data: Fashion-MNIST in RGB, as Debian's dataset-fashion-mnist installs it, and the ImageNet weights of
tests/bench/transfer.py. Networks "pretrained" have learnt the first five classes, and learn the last five.
"""

import json
import math
import multiprocessing
import os
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import torch

from config import CfgNode, load_config
from data.build import build_eval_loader, build_split, dataset_defaults
from data.datasets.idx import FashionMNIST
from data.image_datasets import ArrayDataset
from data.registry import DATASETS
from engine.build import build_trainer
from engine.hooks.base import Hook
from engine.hooks.batch_norm import PreciseBatchNorm
from engine.hooks.evaluation import Evaluation
from engine.inference import evaluate
from engine.registry import METRICS
from engine.trainer import Trainer
from modeling.build import build_input_spec
from modeling.head import find_head
from solver.build import base_lr
from tests.bench.transfer import imagenet_weights
from utils.errors import UserError
from utils.logger import setup_logging
from utils.run_folder import open_run

FOLDER = Path(os.environ.get("DEFAULTS_FOLDER", "runs/defaults"))
RESULTS = FOLDER / "results.jsonl"
RATES = (1.0, 0.1, 0.3, 3.0, 10.0)
LOSS_LIMIT, POINTS, SHARE = 1.5, 3.0, 0.9
VAL_IMAGES, TEST_IMAGES = 500, 2000
VIT = "timm/vit_tiny_patch16_224 MODEL.patch_size 8 MODEL.depth 6"


@dataclass(frozen=True)
class Network:
    """MODEL.NAME with arguments, the size of images in pixels, and what is learnt from what weights."""

    name: str
    size: int
    part: str = "all"  # or first, last: five of them
    weights: str = ""  # of imagenet, or "here": of a training on the first five classes


NETWORKS = {
    "resnet18": Network("resnet18", 64),
    "mobilenet_v3_small": Network("torchvision/mobilenet_v3_small", 64),
    "efficientnet_b0": Network("torchvision/efficientnet_b0", 64),
    "ViT-Tiny, 6 blocks": Network(VIT, 48),
    "EfficientNet-Lite0, ImageNet": Network("timm/tf_efficientnet_lite0", 64, weights="imagenet"),
    "resnet18, pretrained": Network("resnet18", 32, "last", "here"),
    "mobilenet_v3_small, pretrained": Network("torchvision/mobilenet_v3_small", 64, "last", "here"),
}


@dataclass(frozen=True)
class Cell:
    network: str
    images: int
    batch: int
    seed: int


# 28 cells, and the 14 of 200 images a second time, with other images and weights.
CELLS = [Cell(*values, 0) for values in product(NETWORKS, (200, 2000), (16, 128))]
CELLS += [Cell(network, 200, batch, 1) for network, batch in product(NETWORKS, (16, 128))]


@DATASETS.register("fashion_rgb")
class FashionRGB(ArrayDataset):
    """Fashion-MNIST enlarged to RGB images of `size` pixels, with equally many images of each class in every split."""

    def __init__(self, root: Path, split: str, size: int = 32, part: str = "all", images: int = 200, seed: int = 0):
        source = FashionMNIST(root, "test" if split == "test" else "train")
        chosen = {"all": range(10), "first": range(5), "last": range(5, 10)}[part]
        count = {"train": images, "val": VAL_IMAGES, "test": TEST_IMAGES}[split] // len(chosen)
        rng = np.random.default_rng([seed, split == "test"])
        chosen_rows, targets = [], []
        for target, label in enumerate(chosen):
            order = rng.permutation(np.flatnonzero(source.targets == label))
            chosen_rows += list(order[:count] if split != "val" else order[-count:])
            targets += [target] * count
        enlarged = [cv2.resize(np.squeeze(source.images[row]), (size, size)) for row in chosen_rows]
        pixels = np.repeat(np.stack(enlarged)[..., None], 3, axis=-1)
        super().__init__(pixels, np.array(targets), [source.classes[c] for c in chosen], split, root)


class Record(Hook):
    """Keeps the validation loss of each epoch."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def after_epoch(self, trainer: Trainer) -> None:
        self.losses.append(trainer.metrics["loss"])


def build(cell: Cell, rate: float, folder: Path, words: Iterable[str] = ()) -> tuple[Trainer, Record, CfgNode]:
    """Returns a trainer with the default settings times `rate`, which writes nothing but its record."""
    network = NETWORKS[cell.network]
    words = [
        *f"DATASETS.NAME fashion_rgb DATASETS.size {network.size} DATASETS.part {network.part}".split(),
        *f"DATASETS.images {cell.images} DATASETS.seed {cell.seed} SEED {cell.seed}".split(),
        *f"MODEL.NAME {network.name} MODEL.DEVICE cpu INPUT.SIZE [{network.size},{network.size}]".split(),
        *("INPUT.TRAIN_TRANSFORMS", "[{RandomCrop: {padding: 2}}, HFlip]", "INPUT.TEST_TRANSFORMS", "[]"),
        *f"SOLVER.BATCH_SIZE {cell.batch}".split(),
        *words,
    ]
    words += ["SOLVER.BASE_LR", str(rate * base_lr(load_config(None, words)))]
    cfg = load_config(None, words)
    trainer, record = build_trainer(cfg, open_run(folder)), Record()
    trainer.hooks = [hook for hook in trainer.hooks if isinstance(hook, (PreciseBatchNorm, Evaluation))] + [record]
    return trainer, record, cfg


def train(cell: Cell, rate: float) -> dict[str, object]:
    """Trains a cell at a rate. Returns validation losses and the accuracy on the test images, in percent."""
    started = time.monotonic()
    network = NETWORKS[cell.network]
    words = ["MODEL.WEIGHTS", str(weights_file(network)), "MODEL.WEIGHTS_MIN_MATCH", "0.9"] if network.weights else []
    with TemporaryDirectory() as folder:
        trainer, record, cfg = build(cell, rate, Path(folder), words)
        accuracy = 0.0  # of a training that diverges
        try:
            trainer.train()
            task, metrics = trainer.task, {"top1": METRICS.get("top1", "")}
            test = build_split(cfg, "test")
            loader = build_eval_loader(cfg, test, build_input_spec(cfg, dataset_defaults(cfg)))
            accuracy = 100 * evaluate(task, "test", loader, metrics).scores["top1"]
        except UserError as error:
            print(f"{cell} x {rate}: {error}", flush=True)
            record.losses.append(math.inf)
    seconds = round(time.monotonic() - started)
    return asdict(cell) | {"rate": rate, "losses": record.losses, "accuracy": accuracy, "seconds": seconds}


def weights_file(network: Network) -> Path:
    return FOLDER / f"{network.weights}-{network.name.replace('/', '-')}.pth"


def prepare(name: str) -> None:
    """Writes the initial weights of a network."""
    network, path = NETWORKS[name], weights_file(NETWORKS[name])
    if network.weights == "imagenet":
        state = imagenet_weights()
    else:
        NETWORKS["before"] = Network(network.name, network.size, "first")
        with TemporaryDirectory() as folder:
            trainer, record, _ = build(Cell("before", 10000, 64, 0), 1.0, Path(folder), ["SOLVER.MAX_EPOCHS", "5"])
            trainer.train()
        print(f"{name}: validation losses {[round(loss, 3) for loss in record.losses]}", flush=True)
        state = trainer.task.model.state_dict()
        head = find_head(trainer.task.model, 5)
        state = {key: tensor for key, tensor in state.items() if not key.startswith(f"{head}.")}
    torch.save(state, path)


def setup() -> None:
    torch.set_num_threads(1)
    setup_logging("ERROR")


def results() -> dict[tuple[Cell, float], dict]:
    """What has been measured so far."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    rows = [json.loads(line) for line in lines]
    return {(Cell(*(row[name] for name in ("network", "images", "batch", "seed"))), row["rate"]): row for row in rows}


def measure() -> None:
    """Trains what has not been trained, the shortest trainings first."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    done = results()
    todo = [(cell, rate) for cell in CELLS for rate in RATES if (cell, rate) not in done]
    todo.sort(key=lambda job: (job[0].images, job[0].seed, RATES.index(job[1])))
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn"), setup) as pool:
        names = [name for name, network in NETWORKS.items() if network.weights and not weights_file(network).exists()]
        list(pool.map(prepare, names))
        for future in as_completed([pool.submit(train, cell, rate) for cell, rate in todo]):
            with RESULTS.open("a") as file:
                file.write(json.dumps(future.result()) + "\n")


@dataclass(frozen=True)
class Row:
    """What the defaults reach in a cell: the highest validation loss from the third epoch on, in units of
    ln(classes), and the accuracy on the test images beside that of the best rate."""

    cell: Cell
    loss: float
    accuracy: float
    best: float
    best_rate: float

    @property
    def is_near(self) -> bool:
        return self.accuracy >= self.best - POINTS


def rows() -> list[Row]:
    """The cells of which every rate has been measured."""
    done, found = results(), []
    for cell in CELLS:
        runs = [done[cell, rate] for rate in RATES if (cell, rate) in done]
        if len(runs) < len(RATES):
            continue
        losses = [math.inf if math.isnan(loss) else loss for loss in runs[0]["losses"]]
        classes = 10 if NETWORKS[cell.network].part == "all" else 5
        best = max(runs, key=lambda run: run["accuracy"])
        loss = max(losses[2:] or [math.inf]) / math.log(classes)
        found.append(Row(cell, loss, runs[0]["accuracy"], best["accuracy"], best["rate"]))
    return found


def table(found: Iterable[Row]) -> str:
    lines = [
        "| network | images | batch | seed | loss / ln(classes) | accuracy | best of five rates |",
        "|---" * 7 + "|",
    ]
    for row in found:
        cell, best = row.cell, f"{row.best:.1f} (x {row.best_rate:g})" + (" !" if not row.is_near else "")
        values = cell.network, cell.images, cell.batch, cell.seed, f"{row.loss:.2f}", f"{row.accuracy:.1f}", best
        lines.append("| " + " | ".join(map(str, values)) + " |")
    near = sum(row.is_near for row in found)
    return "\n".join([*lines, f"within {POINTS:g} points of the best rate: {near} of {len(found)} cells"])


def test_the_defaults_suit_any_network():
    measure()
    found = rows()
    print(table(found))
    assert len(found) == len(CELLS)
    assert all(row.loss < LOSS_LIMIT for row in found)
    assert sum(row.is_near for row in found) >= SHARE * len(found)


if __name__ == "__main__":
    print(table(rows()))
