"""Trains on Fashion-MNIST to the end, ours and as others write it, by turns: time of each command and test accuracy.

`python -m tests.bench.records` runs `configs/fashion_mnist_fast.yml`, `configs/fashion_mnist.yml`, and the same network
as the latter in a bare loop, in the manner of timm and in Lightning (tests/bench/trainings.py), once for each seed:
about 12 minutes a seed on two cores. The time is from the command to its end, ours with its report. The test accuracy
is of the weights that each has saved, in float32; ours is that of tools/test_net.py.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

import torch
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from modeling.resnet9 import ResNet9
from tests.bench.commands import ROOT, run_to_end
from tests.bench.measuring import Result, Scale, rotated
from tests.bench.readers import idx_folder
from tests.bench.trainings import STYLES, USUAL

Training = Callable[[int, Path], tuple[float, float]]  # (seed, empty folder) -> seconds, test accuracy


def ours(config: str, seed: int, folder: Path) -> tuple[float, float]:
    run = folder / "run"
    words = ["--config-file", str(ROOT / "configs" / config), "--run-dir", str(run), "SEED", str(seed)]
    seconds = run_to_end("tools/train_net.py", *words, "MODEL.DEVICE", "cpu")
    run_to_end("tools/test_net.py", str(run), "--split", "test")
    return seconds, float(json.loads((run / "report" / "test" / "metrics.json").read_text())["top1"])


def theirs(style: str, root: str, seed: int, folder: Path) -> tuple[float, float]:
    weights = folder / "weights.pth"
    seconds = run_to_end("-m", "tests.bench.trainings", style, root, str(seed), str(weights))
    model = ResNet9(10, 1).eval()
    model.load_state_dict(torch.load(weights))
    test_set = datasets.FashionMNIST(root, train=False, transform=transforms.Compose(USUAL))
    with torch.inference_mode():
        correct = sum(int((model(x).argmax(1) == y).sum()) for x, y in DataLoader(test_set, 500))
    return seconds, correct / len(test_set)


def contenders(root: str) -> dict[str, Training]:
    found: dict[str, Training] = {
        f"configs/{config}": partial(ours, config) for config in ("fashion_mnist_fast.yml", "fashion_mnist.yml")
    }
    for style in STYLES:
        if style == "bare" or find_spec(style) is not None:
            found[style] = partial(theirs, style, root)
        else:
            print(f"left out: {style}: not installed: pip install {style}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.records", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--folder", type=Path, default=Path(gettempdir()) / "strata_bench", help="for the data")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run these alone")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    trainings = contenders(str(idx_folder(args.folder).resolve()))
    trainings = {name: training for name, training in trainings.items() if args.only is None or name in args.only}
    result = Result("Fashion-MNIST", Scale("s", False), ["bare"], {name: [] for name in trainings})
    accuracies: dict[str, list[float]] = {name: [] for name in trainings}
    for i, seed in enumerate(args.seeds):
        for name in rotated(list(trainings), i):
            with TemporaryDirectory() as folder:
                seconds, accuracy = trainings[name](seed, Path(folder))
            result.seconds[name].append(seconds)
            accuracies[name].append(accuracy)
            print(f"{name}, seed {seed}: {accuracy:.4f} in {seconds:.1f} s", flush=True)
    for name, scores in accuracies.items():
        each = " ".join(f"{score:.4f}" for score in scores)
        result.notes.append(f"test accuracy of {name}: mean {statistics.mean(scores):.4f}, of the seeds {each}")
    result.print()


if __name__ == "__main__":
    main()
