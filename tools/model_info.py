"""Describe a network: its layers, their outputs and parameters, multiply-adds, and memory.

Without INPUT.SIZE and MODEL.NUM_CLASSES, for images of the network's own size and 1000 classes. --list PATTERN: list
the values of MODEL.NAME that match, such as '*resnet*'.
"""

import fnmatch
from collections.abc import Sequence

from _common import parse_experiment

from utils.cli import run


def main(argv: Sequence[str]) -> None:
    cfg, pattern = parse_experiment(argv, __doc__, list="")
    if pattern:
        print("\n".join(fnmatch.filter(all_names(), pattern)))
        return
    import torch
    import torchinfo
    from torch.utils.flop_counter import FlopCounterMode

    from modeling.build import build_input_spec, build_model

    spec = build_input_spec(cfg, defaults={})
    model = build_model(cfg, spec, cfg.MODEL.NUM_CLASSES or 1000).eval()
    image = torch.zeros(1, spec.channels, *spec.size)
    columns = ("output_size", "num_params", "mult_adds")
    print(torchinfo.summary(model, input_data=image, col_names=columns, depth=6, verbose=0))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    print(f"multiply-adds per image, attention included: {counter.get_total_flops() / 2e9:.3g} G")


def all_names() -> list[str]:
    """Returns every value that MODEL.NAME accepts."""
    import timm

    from modeling.libraries import torchvision_names
    from modeling.registry import MODELS

    libraries = {"torchvision": torchvision_names(), "timm": timm.list_models()}
    return [*MODELS.names(), *(f"{library}/{name}" for library, names in libraries.items() for name in names)]


if __name__ == "__main__":
    run(main)
