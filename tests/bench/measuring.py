"""Contenders that run by turns, and tables of how they compare."""

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from utils.cli import print_table
from utils.errors import UserError

Run = Callable[[], tuple[int, float]]  # runs once: number of things done, seconds


@dataclass(frozen=True)
class Contender:
    """`prepare(cleanup)` returns what is run once in each round; it may raise UserError, to be left out."""

    name: str
    prepare: Callable[[ExitStack], Run]


@dataclass(frozen=True)
class Scale:
    """How seconds for each thing are shown: as a speed, things in a second, or as time, `factor` times the seconds."""

    unit: str
    is_speed: bool = True
    factor: float = 1.0

    def show(self, seconds: float) -> str:
        value = 1 / seconds if self.is_speed else seconds * self.factor
        return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"

    def ratio(self, seconds: float, reference: float) -> float:
        """Returns how many times the speed, or the time, of the reference it is."""
        return reference / seconds if self.is_speed else seconds / reference


@dataclass
class Result:
    """The seconds for each thing that every contender took, round by round, and why others were left out."""

    title: str
    scale: Scale
    references: Sequence[str]
    seconds: dict[str, list[float]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def ratio(self, name: str, reference: str) -> float:
        """Returns the median of the ratios of all rounds; that of two medians would mix rounds."""
        pairs = zip(self.seconds[name], self.seconds[reference], strict=True)
        return statistics.median(self.scale.ratio(*pair) for pair in pairs)

    def difference(self, name: str, reference: str) -> float:
        pairs = zip(self.seconds[name], self.seconds[reference], strict=True)
        return statistics.median(own - other for own, other in pairs) * self.scale.factor

    def print(self) -> None:
        """Prints the table, what was left out, and notes."""
        references = [name for name in self.references if name in self.seconds]
        header = [self.title, self.scale.unit, *(f"x {name}" for name in references)]
        if not self.scale.is_speed:
            header += [f"more than {name}" for name in references]
        rows = [header]
        for name, seconds in self.seconds.items():
            row = [name, self.scale.show(statistics.median(seconds))]
            row += [f"{self.ratio(name, reference):.3f}" for reference in references]
            if not self.scale.is_speed:
                row += [f"{self.difference(name, reference):+.2f}" for reference in references]
            rows.append(row)
        print_table(rows)
        for name, reason in self.skipped.items():
            print(f"  left out: {name}: {reason}")
        for note in self.notes:
            print(f"  {note}")
        print("", end="\n" if self.skipped or self.notes else "", flush=True)

    def to_dict(self) -> dict[str, Any]:
        references = [name for name in self.references if name in self.seconds]
        contenders = {
            name: {
                "seconds": seconds,
                "shown": self.scale.show(statistics.median(seconds)),
                "ratios": {reference: self.ratio(name, reference) for reference in references},
            }
            for name, seconds in self.seconds.items()
        }
        return {
            "title": self.title,
            "unit": self.scale.unit,
            "contenders": contenders,
            "skipped": self.skipped,
            "notes": self.notes,
        }


def compare(
    title: str, scale: Scale, references: Sequence[str], contenders: Sequence[Contender], rounds: int
) -> Result:
    """Runs every contender once to warm up, then once in each round, in an order that rotates."""
    result = Result(title, scale, references)
    runs: dict[str, Run] = {}
    with ExitStack() as cleanup:
        for contender in contenders:
            try:
                run = contender.prepare(cleanup)
                run()
            except UserError as error:
                result.skipped[contender.name] = str(error)
            else:
                runs[contender.name], result.seconds[contender.name] = run, []
        names = list(runs)
        for i in range(rounds):
            for name in rotated(names, i):
                gc.collect()
                count, seconds = runs[name]()
                result.seconds[name].append(seconds / count)
    return result


def rotated(names: list[str], turn: int) -> list[str]:
    """Returns the names in the order of a round: each round starts with the next one."""
    first = turn % max(len(names), 1)
    return names[first:] + names[:first]


def timed(batches: Callable[[], Iterable[Any]]) -> Run:
    """Returns what reads every batch once, and counts the images."""

    def run() -> tuple[int, float]:
        started, count = time.perf_counter(), 0
        for batch in batches():
            count += len(batch)
        return count, time.perf_counter() - started

    return run
