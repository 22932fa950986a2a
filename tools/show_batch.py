"""Draw the first training batch, and one of its images under 16 random augmentations."""

from collections.abc import Sequence

from _common import parse_experiment

from utils.cli import run
from utils.errors import printable

_SAMPLES, _DRAWS = 32, 16  # images of the batch shown at most; augmentations of one


def main(argv: Sequence[str]) -> None:
    cfg, output = parse_experiment(argv, __doc__, output="batch.png")
    import numpy as np

    from data.build import build_batch_transforms, build_train_and_val, build_train_loader, dataset_defaults
    from data.subset import has_spatial_targets
    from modeling.build import build_input_spec
    from utils.contracts import class_names
    from utils.drawing import COLUMNS, grid, thumbnail_size, write_png
    from utils.labels import target_text

    cfg = cfg.clone()
    cfg.DATALOADER.NUM_WORKERS = "0"  # for a single batch
    spec, dataset = build_input_spec(cfg, dataset_defaults(cfg)), build_train_and_val(cfg).train
    classes, cell = class_names(dataset), thumbnail_size(spec.size)
    loader = build_train_loader(cfg, dataset, spec, spatial_targets=has_spatial_targets(dataset))
    batch = next(loader.batches())
    if mix := build_batch_transforms(cfg, len(classes)):
        batch = mix(batch, 0, 0)
    images = batch.images.byte().permute(0, 2, 3, 1).numpy()[:_SAMPLES]  # (N, C, H, W) -> (N, H, W, C)
    labels = [target_text(target, classes) for target in batch.targets.numpy()[:_SAMPLES]]
    title = f"{cfg.DATASETS.NAME}: {len(images)} of {len(batch)} images of the first batch, {spec.size}"
    above = grid(images, COLUMNS, cell, title, labels)
    indices = batch.indices.tolist()
    index = next((i for i in indices if i not in loader.broken), indices[0])
    # As if the image came first in epochs 0, 1, 2, ..., so that the first of these draws is the one in the batch.
    draws = [loader.reader.read_sample(index, epoch)[0] for epoch in range(_DRAWS)]
    loader.close()
    name = printable(dataset.name(index))
    title = f"{name} ({target_text(dataset[index][1], classes)}) under {_DRAWS} augmentations"
    below = grid(draws, COLUMNS, cell, title)
    write_png(output, np.concatenate([above, below]))
    print(f"{output}: the first batch, and {_DRAWS} augmentations of {name}")


if __name__ == "__main__":
    run(main)
