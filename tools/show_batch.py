"""Draw what a network is trained on: the first batch, and one of its images under 16 draws of the augmentation."""

import math
from collections.abc import Sequence

import _path  # noqa: F401
from _experiment import parse

from utils.cli import run

_COLUMNS, _DRAWS = 8, 16


def main(argv: Sequence[str]) -> None:
    args, cfg = parse(argv, __doc__, "batch.png", count=32)
    import numpy as np

    from data.build import build_batch_transforms, build_reader, build_train_and_val, build_train_loader, native_input
    from data.samplers import SampleKey
    from data.targets import label_text
    from modeling.build import input_spec
    from utils.annotate import grid, write_png

    spec = input_spec(cfg, native_input(cfg))
    dataset, _ = build_train_and_val(cfg)
    loader = build_train_loader(cfg, dataset, spec)
    batch = next(loader.batches(epoch=0))
    mix = build_batch_transforms(cfg, len(dataset.classes))
    if mix is not None:
        batch = mix(batch, 0, 0)
    loader.close()
    images = batch.images.byte().permute(0, 2, 3, 1).numpy()[: args.count]  # (N, C, H, W) -> (N, H, W, C)
    labels = [label_text(target, dataset.classes) for target in batch.targets.numpy()[: args.count]]

    # As if the image came first in epochs 0, 1, 2, ...; so the first of these draws is the one in the batch.
    index = next((i for i in batch.indices.tolist() if i not in loader.broken), int(batch.indices[0]))
    reader = build_reader(cfg, dataset, spec, "TRAIN_TRANSFORMS")
    draws = [reader.read(SampleKey(index, epoch, position=0))[0] for epoch in range(_DRAWS)]

    side = max(spec.size)  # enlarged or reduced to what can be seen and fits on a screen
    cell = [round(length * min(math.ceil(112 / side), 224 / side)) for length in spec.size]
    title = f"{cfg.DATASETS.NAME}: {len(images)} of {len(batch)} images of the first batch, {spec.size}"
    above = grid(images, _COLUMNS, cell, title, labels)
    below = grid(draws, _COLUMNS, cell, f"{dataset.name(index)} ({labels[0]}) under {_DRAWS} draws of the augmentation")
    write_png(args.output, np.concatenate([above, below]))
    print(f"{args.output}: {len(images)} images of the first batch, and {_DRAWS} draws of {dataset.name(index)}")


if __name__ == "__main__":
    run(main)
