"""Describe a network: layers, parameters, multiply-adds, memory, and its speed on this machine's CPU."""

import fnmatch
import statistics
import timeit
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import _path  # noqa: F401

from config import CfgNode, load_config
from config.loader import split_overrides
from utils.cli import ArgumentParser, run

if TYPE_CHECKING:
    from utils.contracts import Batch


def main(argv: Sequence[str]) -> None:
    words, overrides = split_overrides(argv)
    args = parse(words)
    if args.list is not None:
        print("\n".join(fnmatch.filter(all_names(), args.list)))
        return
    size = ["INPUT.SIZE", f"[{args.size},{args.size}]"] if args.size else []
    model = ["MODEL.NAME", args.name, "MODEL.NUM_CLASSES", str(args.classes)]
    describe(load_config(None, [*model, *size, *overrides]), args.batch)


def parse(words: Sequence[str]) -> Namespace:
    epilog = "KEY VALUE pairs, such as MODEL.HEAD.HIDDEN 256, change any key."
    parser = ArgumentParser(description=__doc__, epilog=epilog)
    parser.add_argument("name", metavar="NAME", nargs="?", help="as in MODEL.NAME: resnet18, torchvision/vgg16, ...")
    parser.add_argument("--size", type=int, metavar="S", help="side of the square image; default: the network's own")
    parser.add_argument("--classes", type=int, metavar="C", default=1000, help="number of classes (1000)")
    parser.add_argument("--batch", type=int, metavar="N", default=8, help="images in a batch when it is timed (8)")
    parser.add_argument("--list", metavar="PATTERN", help="list the names that match, such as '*resnet*'")
    args = parser.parse_args(words)
    if (args.name is None) == (args.list is None):
        parser.error("expected a NAME, or --list PATTERN")
    if min(1 if args.size is None else args.size, args.classes) < 1 or args.batch < 2:
        parser.error("--size and --classes are at least 1, --batch at least 2, which batch norm needs")
    return args


def all_names() -> list[str]:
    """Returns every value that MODEL.NAME accepts."""
    import timm
    import torchvision

    from modeling.registry import MODELS

    library = [f"torchvision/{name}" for name in torchvision.models.list_models(module=torchvision.models)]
    return [*MODELS.names(), *library, *(f"timm/{name}" for name in timm.list_models())]


def describe(cfg: CfgNode, batch_size: int) -> None:
    """Prints the layers of a network, its costs, and the time of its passes."""
    import torch
    import torchinfo
    from torch.utils.flop_counter import FlopCounterMode

    from modeling.build import build_criterion, build_input_spec, build_model, build_normalize

    spec = build_input_spec(cfg, defaults={})
    model = build_model(cfg, spec, cfg.MODEL.NUM_CLASSES)
    normalize, criterion = build_normalize(cfg, spec), build_criterion(cfg, cfg.LOSS.NAME or "cross_entropy")
    batch = random_batch(cfg, (batch_size, spec.channels, *spec.size))
    columns = ("output_size", "num_params", "mult_adds")
    image = normalize(batch.images[:1])
    print(torchinfo.summary(model.eval(), input_data=image, col_names=columns, depth=6, verbose=0))

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    print(f"multiply-adds per image, attention included: {counter.get_total_flops() / 2e9:.3g} G")

    def forward() -> None:
        with torch.inference_mode():
            model(normalize(batch.images))

    def training_step() -> None:
        criterion(model(normalize(batch.images)), batch).backward()
        model.zero_grad()

    print_speed("forward", forward, batch_size)
    model.train()
    print_speed("forward and backward", training_step, batch_size)


def random_batch(cfg: CfgNode, shape: Sequence[int]) -> "Batch":
    """Returns random images uint8 of a shape (N, C, H, W) with targets for the loss of the configuration."""
    import torch

    from modeling.build import loss_task
    from utils.contracts import Batch

    targets = torch.arange(shape[0]) % cfg.MODEL.NUM_CLASSES
    if loss_task(cfg) in ("multilabel", "regression"):
        targets = torch.nn.functional.one_hot(targets, cfg.MODEL.NUM_CLASSES).float()
    images = torch.randint(0, 256, tuple(shape), dtype=torch.uint8)
    return Batch(images, targets, torch.arange(shape[0]))


def print_speed(name: str, function: Callable[[], None], batch_size: int) -> None:
    """Prints the duration of a function that processes a batch: the median of five calls, after one to warm up."""
    function()
    seconds = statistics.median(timeit.repeat(function, repeat=5, number=1))
    print(f"{name}: {1000 * seconds:.1f} ms for {batch_size} images on the CPU, {batch_size / seconds:.1f} images/s")


if __name__ == "__main__":
    run(main)
