"""Draw what a network is trained on: the first batch, and one of its images under 16 draws of the augmentation."""

from collections.abc import Sequence

import _path  # noqa: F401
from _experiment import COLUMNS, cell_of, first_batch, parse

from utils.cli import run

_DRAWS = 16


def main(argv: Sequence[str]) -> None:
    args, cfg = parse(argv, __doc__, "batch.png", count=32)
    import numpy as np

    from data.build import build_reader, build_train_and_val, native_input
    from data.samplers import SampleKey
    from modeling.build import input_spec
    from utils.annotate import grid, write_png
    from utils.labels import label_text

    spec = input_spec(cfg, native_input(cfg))
    dataset, _ = build_train_and_val(cfg)
    above, batch, index = first_batch(cfg, dataset, spec, args.count)
    # As if the image came first in epochs 0, 1, 2, ...; so the first of these draws is the one in the batch.
    reader = build_reader(cfg, dataset, spec, "TRAIN_TRANSFORMS")
    draws = [reader.read(SampleKey(index, epoch, position=0))[0] for epoch in range(_DRAWS)]
    title = f"{dataset.name(index)} ({label_text(dataset[index][1], dataset.classes)}) under {_DRAWS} draws"
    below = grid(draws, COLUMNS, cell_of(spec.size), f"{title} of the augmentation")
    write_png(args.output, np.concatenate([above, below]))
    shown = min(args.count, len(batch))
    print(f"{args.output}: {shown} images of the first batch, and {_DRAWS} draws of {dataset.name(index)}")


if __name__ == "__main__":
    run(main)
