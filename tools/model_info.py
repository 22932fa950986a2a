"""Describe a network: its layers, their outputs and parameters, multiply-adds, and memory."""

import fnmatch
from collections.abc import Sequence

import _path  # noqa: F401

from config import CfgNode, load_config
from config.loader import split_overrides
from utils.cli import ArgumentParser, run


def main(argv: Sequence[str]) -> None:
    words, overrides = split_overrides(argv)
    epilog = 'KEY VALUE pairs, such as INPUT.SIZE "[64, 64]" or MODEL.NUM_CLASSES 10 (1000), change any key.'
    parser = ArgumentParser(description=__doc__, epilog=epilog)
    parser.add_argument("name", metavar="NAME", nargs="?", help="as in MODEL.NAME: resnet18, torchvision/vgg16, ...")
    parser.add_argument("--list", metavar="PATTERN", help="list the names that match, such as '*resnet*'")
    args = parser.parse_args(words)
    if (args.name is None) == (args.list is None):
        parser.error("expected a NAME, or --list PATTERN")
    if args.list is None:
        describe(load_config(None, ["MODEL.NAME", args.name, "MODEL.NUM_CLASSES", "1000", *overrides]))
    else:
        print("\n".join(fnmatch.filter(all_names(), args.list)))


def all_names() -> list[str]:
    """Returns every value that MODEL.NAME accepts."""
    import timm

    from modeling.libraries import torchvision_names
    from modeling.registry import MODELS

    libraries = {"torchvision": torchvision_names(), "timm": timm.list_models()}
    return [*MODELS.names(), *(f"{library}/{name}" for library, names in libraries.items() for name in names)]


def describe(cfg: CfgNode) -> None:
    """Prints the layers of a network and its costs."""
    import torch
    import torchinfo
    from torch.utils.flop_counter import FlopCounterMode

    from modeling.build import build_input_spec, build_model

    spec = build_input_spec(cfg, defaults={})
    model = build_model(cfg, spec, cfg.MODEL.NUM_CLASSES).eval()
    image = torch.zeros(1, spec.channels, *spec.size)
    columns = ("output_size", "num_params", "mult_adds")
    print(torchinfo.summary(model, input_data=image, col_names=columns, depth=6, verbose=0))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    print(f"multiply-adds per image, attention included: {counter.get_total_flops() / 2e9:.3g} G")


if __name__ == "__main__":
    run(main)
