"""Pack a data set: decode and shrink each image once, into a file for DATASETS.PACKED that is read without decoding.

--size N: the shorter side of its images, 256 by default. The same command continues a pack that was stopped.
"""

import time
from collections.abc import Sequence

from _common import build_own_splits, parse_experiment

from utils.cli import progress_bar, run
from utils.errors import UserError


def main(argv: Sequence[str]) -> None:
    cfg, output, size = parse_experiment(argv, __doc__, output="dataset.pack", size=256)
    if size < 1:
        raise UserError(f"--size: found {size}, expected at least 1 pixel")
    import numpy as np

    from data.build import build_reader, dataset_defaults, image_channels
    from data.packed import VERSION, Packed, identify, write_pack
    from data.workers import thread_pool
    from modeling.build import build_input_spec
    from utils.contracts import output_names

    channels, datasets, data = image_channels(cfg), build_own_splits(cfg), cfg.DATASETS
    train, spec = datasets["train"], build_input_spec(cfg, dataset_defaults(cfg))
    if any(np.ndim(getattr(dataset, "targets", 0)) not in (1, 2) for dataset in datasets.values()):
        raise UserError(f"DATASETS.NAME {data.NAME}: expected `targets` (n,) or (n, outputs); masks cannot be packed")
    rows = np.concatenate([identify(dataset, split) for split, dataset in datasets.items()])
    recipe = {"version": VERSION, "short_side": size, "channels": channels, "max_pixels": data.MAX_PIXELS}
    recipe |= {"dataset": [data.NAME, data.arguments()], "images": len(rows), "classes": output_names(train)}
    print(f"{data.NAME}: {len(rows):,} images, {rows['size'].sum():,} bytes")
    output.parent.mkdir(parents=True, exist_ok=True)
    written = write_pack(str(output), list(datasets.values()), rows, recipe, data.ON_ERROR == "skip")
    list(progress_bar(written, len(rows)))
    readable = rows["height"] > 0
    print(f"{output}: {readable.sum():,} images, {output.stat().st_size:,} bytes; {(~readable).sum():,} were skipped")
    timed = np.flatnonzero(readable[: len(train)])[:: -(-len(train) // 400)].tolist()
    for name, dataset in ((data.NAME, train), (output, Packed(train, str(output), "train", channels))):
        reader = build_reader(cfg, dataset, spec, train=True)
        with thread_pool(dataset) as pool:
            start = time.perf_counter()
            pool.map(reader.read_sample, timed, 8)
            print(f"{name}: {len(timed) / (time.perf_counter() - start):,.0f} training images/s")


if __name__ == "__main__":
    run(main)
