"""Show a network: its layers, parameters, multiply-adds, memory, and how fast it is on this machine."""

import fnmatch
import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import _path  # noqa: F401

from config.loader import load_config, split_overrides
from utils.cli import ArgumentParser, run


def main(argv: Sequence[str]) -> None:
    words, overrides = split_overrides(argv)
    args = parse(words)
    if args.list is not None:
        print("\n".join(fnmatch.filter(all_names(), args.list)))
        return
    size = ["INPUT.SIZE", f"[{args.size},{args.size}]"] if args.size else []
    classes = ["MODEL.NUM_CLASSES", str(args.classes)]
    show(load_config(None, ["MODEL.NAME", args.name, *size, *classes, *overrides]), args.batch)


def parse(words: Sequence[str]) -> Namespace:
    parser = ArgumentParser(
        description=__doc__, epilog="KEY VALUE pairs, such as MODEL.HEAD.HIDDEN 256, change any key."
    )
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
    import timm
    import torchvision

    from modeling.registry import MODELS

    theirs = [f"torchvision/{name}" for name in torchvision.models.list_models(module=torchvision.models)]
    return [*MODELS.names(), *theirs, *(f"timm/{name}" for name in timm.list_models())]


def show(cfg: Any, batch_size: int) -> None:
    import torch
    import torchinfo
    from torch.utils.flop_counter import FlopCounterMode

    from modeling.build import build_criterion, build_model, build_normalize, input_spec

    spec = input_spec(cfg, native={})
    model = build_model(cfg, spec, cfg.MODEL.NUM_CLASSES)
    normalize, criterion = build_normalize(cfg, spec), build_criterion(cfg)
    images = torch.randint(0, 256, (batch_size, spec.channels, *spec.size), dtype=torch.uint8)
    batch = SimpleNamespace(targets=torch.arange(batch_size) % cfg.MODEL.NUM_CLASSES, weights=None)
    columns = ("output_size", "num_params", "mult_adds")
    print(torchinfo.summary(model.eval(), input_data=normalize(images[:1]), col_names=columns, depth=6, verbose=0))

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(normalize(images[:1]))
    print(f"multiply-adds of an image, attention too: {counter.get_total_flops() / 2e9:.3g} G")

    def forward() -> None:
        with torch.inference_mode():
            model(normalize(images))

    def training_step() -> None:
        criterion(model(normalize(images)), batch).backward()
        model.zero_grad()

    def report(what: str, function: Callable[[], None]) -> None:
        seconds = median_seconds(function)
        print(
            f"{what}: {1000 * seconds:.1f} ms for {batch_size} images on the CPU, {batch_size / seconds:.1f} images/s"
        )

    report("forward", forward)
    model.train()
    report("forward and backward", training_step)


def median_seconds(function: Callable[[], None], repeats: int = 5) -> float:
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    run(main)
