"""Measure reading, the network and the loop of both, and name the bottleneck of a training. Nothing is saved.

--seconds S: of each measurement. --json FILE: also write the figures as JSON; -: print them as JSON alone.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, cast

from _common import parse_experiment

from utils.cli import print_table, run
from utils.run_folder import RunFolder

if TYPE_CHECKING:
    from config import CfgNode
    from data.loaders import Loader
    from engine.trainer import Trainer


def main(argv: Sequence[str]) -> None:
    cfg, seconds, file = parse_experiment(argv, __doc__, seconds=5.0, json="")
    from engine.build import build_trainer
    from engine.report.tables import to_json

    with TemporaryDirectory() as folder:
        trainer = build_trainer(cfg, RunFolder(Path(folder)))
        loader = cast("Loader", trainer.train_loader)
        figures = measure(trainer, loader, seconds)
    advice = advise(cfg, trainer.device.type == "cuda", loader, figures)
    if file:
        text = to_json({**figures, "advice": advice}) + "\n"
        print(text, end="") if file == "-" else Path(file).write_text(text, encoding="utf-8")
    if file != "-":
        units = {"waiting": "%", "memory": "MiB"}
        print_table([(name, f"{value:,.0f}", units.get(name, "images/s")) for name, value in figures.items()])
        print(advice)


def measure(trainer: "Trainer", loader: "Loader", seconds: float) -> dict[str, float]:
    """Returns images/s of each part alone and of both, how much of its time waits for data in %, and peak memory."""
    import torch

    from data.reading import ResidentReader
    from engine.hooks.training_log import peak_memory

    def train(batches: Callable[[], Iterator]) -> Iterator[int]:
        while True:
            trainer.progress.samples_seen = 0
            for batch in batches():
                trainer.run_step(batch)
                if trainer.device.type != "cpu":  # else the wait for data would be one for the device too
                    torch.accelerator.synchronize(trainer.device)
                yield len(batch)

    def speed(counts: Iterator[int], least: int = 1) -> tuple[float, float]:
        for limit in (seconds / 5, seconds):  # a warm-up comes first
            images, elapsed, waited, started = 0, 1.0, trainer.data_seconds, time.perf_counter()
            for number, count in enumerate(counts, 1):
                images, elapsed = images + count, time.perf_counter() - started
                if elapsed >= limit and number >= least:
                    break
        return images / elapsed, 100 * (trainer.data_seconds - waited) / elapsed

    trainer.hooks.clear()  # they would write
    trainer.task.train()
    # The last two, so that nothing is read ahead; a compiled network has a program for each of their sizes.
    kept = [*map(deepcopy, loader.batches(start=max(len(loader) - 2, 0) * loader.batch_size))]
    for batch in kept:
        trainer.run_step(batch)
    images, is_held = kept[0].images.cpu(), isinstance(loader.reader, ResidentReader)
    # At least one batch of each worker, or an epoch where only the first one decodes.
    least = len(loader) if is_held else loader.executor.count
    epochs = (len(batch) for _ in itertools.count() for batch in loader.batches(epoch=1))  # not the one of `both`
    figures = {"network": speed(train(lambda: iter(kept[:1])))[0]}
    figures["copying"], _ = speed(len(images.clone()) for _ in itertools.count())
    if not is_held and (decoding := speed(decode(loader, kept[0].indices.tolist()))[0]):
        figures["decoding"] = decoding
    figures["reading"], _ = speed(epochs, least)
    figures["both"], waiting = speed(train(trainer.timed_batches), least)
    return figures | {"waiting": waiting, "memory": peak_memory(trainer.device)}


def decode(loader: "Loader", indices: list[int]) -> Iterator[int]:
    """Decodes images in as many threads as workers, again and again; yields 1 for each, nothing for arrays."""
    sources = [loader.dataset[index][0] for index in indices if index not in loader.broken]
    channels, limit = loader.reader.channels, loader.reader.max_pixels
    with ThreadPoolExecutor(loader.executor.count) as pool:
        while sources and hasattr(sources[0], "read"):
            yield from pool.map(lambda source: len(source.read(channels, max_pixels=limit)) > 0, sources)


def advise(cfg: "CfgNode", on_gpu: bool, loader: "Loader", figures: dict[str, float]) -> str:
    """Returns the bottleneck and what to do about it, in a line."""
    from data.workers import usable_cpus
    from engine.hooks.training_log import TOLERATED_WAIT

    waits = f"waits for data {figures['waiting']:.0f} % of the time"
    # On a CPU, reading that is slower may slow down the network in place of letting it wait.
    if figures["waiting"] <= 100 * TOLERATED_WAIT and figures["reading"] > figures["network"]:
        hints = ["SOLVER.AMP auto"] * (cfg.SOLVER.AMP == "off") + ["a smaller network or smaller images"]
        hints += ["MODEL.COMPILE true"] * (on_gpu and not cfg.MODEL.COMPILE) + ["a larger SOLVER.BATCH_SIZE"] * on_gpu
        return f"the network is the limit, and {waits}: try {', '.join(hints)}"
    hints = [f"raise DATALOADER.NUM_WORKERS, now {loader.executor.count}"] * (loader.executor.count < usable_cpus())
    hints += ["make the data set thread_safe"] * (not getattr(loader.dataset, "thread_safe", False))
    if 0 < 0.6 * figures.get("decoding", 0) < figures["reading"]:
        hints.append("reading is limited by decoding: pack the data set with tools/pack_dataset.py")
    else:
        hints.append("decoding is not what limits reading: use cheaper transforms, more workers or faster storage")
    return f"the network {waits}, and is {figures['network'] / figures['both']:.1f} x as fast alone: {'; '.join(hints)}"


if __name__ == "__main__":
    run(main)
