"""Compares reading, the loop and the start with torchvision's, timm's and bare ones, side by side: `make bench`.

All run by turns in one process, on the cores at hand, so that what else the machine does slows all alike; tables have
medians of all rounds. Everything ours goes the public way: a configuration and the build functions.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import cv2
import timm
import torch
import torchvision
import yaml

from tests.bench import commands, loops, readers
from tests.bench.measuring import Contender, Result, Scale, compare
from tests.bench.photographs import Photographs
from tests.bench.readers import Reading
from utils.errors import UserError

KINDS = ("threads", "fork", "forkserver", "spawn")
SPEED = Scale("images/s")


@dataclass(frozen=True)
class Bench:
    """The parts of the comparison, by their names on the command line."""

    folder: Path
    rounds: int
    workers: int
    uint8: bool
    quick: bool

    def jpeg(self) -> Result:
        return self._read(self._reading(500, 375, 128 if self.quick else 512, 64))

    def big(self) -> Result:
        return self._read(self._reading(2000, 1500, 32 if self.quick else 96, 16))

    def _reading(self, width: int, height: int, count: int, batch_size: int) -> Reading:
        root = Photographs(width, height, count).make(self.folder)
        return Reading(root, batch_size, self.workers, self.uint8)

    def _read(self, reading: Reading) -> Result:
        contenders = [
            reading.ours(),
            reading.ours("strata, 0 workers", "DATALOADER.NUM_WORKERS", "0"),
            *(reading.with_workers(kind) for kind in KINDS),
            reading.torchvision(),
            reading.torchvision_tensors(),
            reading.timm(),
            reading.decode_alone(),
        ]
        return compare(_title(reading), SPEED, ["timm", "decoding alone"], contenders, self.rounds)

    def packed(self) -> Result:
        reading = self._reading(500, 375, 128 if self.quick else 512, 64)
        with TemporaryDirectory(dir=self.folder) as folder:
            packed = Contender("strata, packed", lambda cleanup: self._packed(reading, Path(folder)).prepare(cleanup))
            contenders = [packed, reading.ours(), reading.timm(), reading.decode_alone()]
            title = f"{_title(reading)}; packed"
            return compare(title, SPEED, ["timm", "decoding alone"], contenders, self.rounds)

    def _packed(self, reading: Reading, folder: Path) -> Contender:
        """Packs the photographs with the tool and its default size. Raises UserError if that fails."""
        tool, output = commands.ROOT / "tools" / "pack_dataset.py", folder / "packed"
        if not tool.exists():
            raise UserError("there is no tools/pack_dataset.py")
        data = {"NAME": "image_folder", "ROOT": str(reading.root), "VAL_RATIO": 0}
        (folder / "photographs.yml").write_text(yaml.safe_dump({"DATASETS": data}))
        words = ["--config-file", str(folder / "photographs.yml"), "--output", str(output)]
        command = [sys.executable, str(tool), *words]
        done = subprocess.run(command, cwd=commands.ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"{tool.name}: {(done.stderr.strip() or 'failed').splitlines()[-1]}")
        return reading.ours("strata, packed", "DATASETS.PACKED", str(output))

    def fashion(self) -> Result:
        batch, count = 128, 2_560 if self.quick else 12_800
        contenders = [
            readers.ours("strata", f"DATASETS.NAME fashion_mnist SOLVER.BATCH_SIZE {batch}".split(), self.uint8),
            *(readers.fashion_of_torchvision(self.folder, workers, batch, count) for workers in (0, self.workers)),
        ]
        references = [contender.name for contender in contenders[1:]]
        return compare("Fashion-MNIST, crop and flip", SPEED, references, contenders, self.rounds)

    def step(self) -> Result:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        steps = loops.Loops(60 if self.quick else 500)
        title = "a step: 7,850 parameters, batch 128, one thread"
        result = compare(title, Scale("us", False, 1e6), ["bare loop"], steps.contenders(), self.rounds)
        torch.set_num_threads(threads)
        result.notes.append(steps.note())
        return result

    def start(self) -> Result:
        title = "from the start to the end of the first step, digits"
        return compare(title, Scale("s", False), ["bare script"], commands.starts(), self.rounds)

    def parts(self) -> dict[str, Callable[[], Result]]:
        parts = (self.jpeg, self.big, self.packed, self.fashion, self.step, self.start)
        return {part.__name__: part for part in parts}


def _title(reading: Reading) -> str:
    return f"{reading.root.name}, {reading.workers} workers"


def machine() -> dict[str, Any]:
    """Describes what the numbers depend on."""
    versions = {module.__name__: module.__version__ for module in (torch, torchvision, timm, cv2)}
    cores = len(os.sched_getaffinity(0))
    return {"cores": cores, "load": os.getloadavg()[0], "python": platform.python_version(), **versions}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.compare_peers", description=__doc__)
    names = "jpeg,big,packed,fashion,step,start"
    parser.add_argument("--only", metavar="PARTS", default=names, help="default: all")
    parser.add_argument("--folder", type=Path, default=Path(gettempdir()) / "strata_bench", help="for the images")
    parser.add_argument("--workers", type=int, default=2, help="workers of every loader that has them; default: 2")
    parser.add_argument("--rounds", type=int, help="default: 5")
    parser.add_argument("--uint8", action="store_true", help="compare loaders without the normalisation")
    parser.add_argument("--quick", action="store_true", help="two rounds of fewer images: to try the comparison itself")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write all numbers too")
    return parser.parse_args()


def main() -> None:
    args = parse()
    cv2.setNumThreads(1)  # as in the tools: the readers are the parallelism
    loops.quiet()
    args.folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(args.folder, args.rounds or (2 if args.quick else 5), args.workers, args.uint8, args.quick)
    parts, chosen = bench.parts(), args.only.split(",")
    if unknown := set(chosen) - set(parts):
        sys.exit(f"--only {','.join(sorted(unknown))}: expected some of {','.join(parts)}")
    found = machine()
    print(", ".join(f"{name} {value}" for name, value in found.items()), end="\n\n")
    results = {}
    for name in chosen:
        try:
            result = parts[name]()
        except UserError as error:
            print(f"left out: {name}: {error}\n")
            continue
        result.print()
        results[name] = result.to_dict()
    if args.json is not None:
        args.json.write_text(json.dumps({"machine": found, "parts": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
