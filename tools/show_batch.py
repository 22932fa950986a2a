"""Draw the first training batch, and one of its images under 16 random augmentations."""

from collections.abc import Sequence

from _common import parse_experiment

from utils.cli import run
from utils.errors import printable

_DRAWS = 16


def main(argv: Sequence[str]) -> None:
    cfg, output = parse_experiment(argv, __doc__, output="batch.png")
    import numpy as np

    from data.build import build_reader, build_train_and_val, dataset_defaults
    from data.subset import has_spatial_targets
    from engine.build_report import draw_first_batch
    from modeling.build import build_input_spec
    from utils.drawing import COLUMNS, grid, thumbnail_size, write_png
    from utils.labels import target_text

    spec = build_input_spec(cfg, dataset_defaults(cfg))
    dataset = build_train_and_val(cfg).train
    is_spatial = has_spatial_targets(dataset)
    above, batch, broken = draw_first_batch(cfg, spec, dataset, is_spatial)
    indices = batch.indices.tolist()
    index = next((i for i in indices if i not in broken), indices[0])
    # As if the image came first in epochs 0, 1, 2, ..., so that the first of these draws is the one in the batch.
    reader = build_reader(cfg, dataset, spec, train=True, spatial_targets=is_spatial)
    draws = [reader.read_sample(index, epoch)[0] for epoch in range(_DRAWS)]
    name = printable(dataset.name(index))
    title = f"{name} ({target_text(dataset[index][1], getattr(dataset, 'classes', ()))})"
    below = grid(draws, COLUMNS, thumbnail_size(spec.size), f"{title} under {_DRAWS} augmentations")
    write_png(output, np.concatenate([above, below]))
    print(f"{output}: the first batch, and {_DRAWS} augmentations of {name}")


if __name__ == "__main__":
    run(main)
