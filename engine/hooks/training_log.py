"""The training log: lines of text, and records in metrics.jsonl."""

import math
import resource
import shlex
import sys
import time
from typing import IO

import numpy as np
import torch
from torch import nn

from engine.checkpoint import State
from engine.hooks.base import Hook
from engine.report.tables import to_json
from engine.trainer import Trainer
from utils.distributed import all_reduce_sum, is_main, world_size
from utils.errors import UserError
from utils.logger import get_logger
from utils.run_folder import RunFolder

log = get_logger("train")
Record = dict[str, float | str]
TOLERATED_WAIT = 0.2  # data_wait above which the log says what may help


class TrainingLog(Hook):
    """Logs loss, metrics, learning rate and speed every `period` steps and at the end of each epoch.

    `trainer.last_record` is the newest record: `grad_norm` is the L2 norm of all gradients before clipping, `data_wait`
    the share of the time spent waiting for batches, of that since the last line or of the epoch's steps, as far as this
    process made them, `memory_mib` the peak; of several processes these two are the main one's. Metrics of mixed
    images, which count their dominant class, have names of their own: top1_mixed. Nothing is fetched from the device at
    other steps. A resumed run removes later records.
    """

    def __init__(self, run: RunFolder, period: int):
        self.run = run
        self.period = period
        self.sums: dict[str, float] = {}  # of the epoch's loss and metrics over samples, and `samples`
        self.line_sums: dict[str, float] = {}  # what they were at the last line
        self.pending: list[tuple[int, int, dict[str, torch.Tensor]]] = []  # step, samples, values still on the device
        self.step_values: dict[str, float] = {}  # of the step to be logged, from before its update
        self.file: IO[str] | None = None  # metrics.jsonl
        self.size: int | None = None  # of metrics.jsonl, when the state was saved
        self.seconds_before, self.started = 0.0, time.perf_counter()
        self.line_start, self.line_samples = (self.started, 0.0), 0  # the time, and the wait for data until then
        self.epoch_wait: dict[str, float] = {}  # data_wait, if this process has made a step
        self.advised = False

    def before_train(self, trainer: Trainer) -> None:
        if not is_main():
            return
        self.file = open(self.run.metrics, "a", encoding="utf-8")
        if self.size is not None and self.size < self.file.tell():
            self.file.truncate(self.size)
            self.file.seek(self.size)
        self.size = self.file.tell()

    def before_epoch(self, trainer: Trainer) -> None:
        self._start_line(trainer)
        self.epoch_start, self.epoch_wait, self.first_step = self.line_start, {}, trainer.step

    def after_backward(self, trainer: Trainer) -> None:
        if (trainer.step + 1) % self.period == 0:
            parameters = trainer.train_step.parameters_with_gradients()
            norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            self.step_values = {"grad_norm": norm.item() / trainer.train_step.precision.scaler.get_scale()}
            # Groups that share a rate, such as those with and without decay, have one curve.
            rates = dict(zip(trainer.schedule.base_lrs, (g["lr"] for g in trainer.optimizer.param_groups), strict=True))
            if len(rates) > 1:
                self.step_values |= {f"lr_group{i}": rate for i, rate in enumerate(rates.values())}

    def after_step(self, trainer: Trainer) -> None:
        result = trainer.result
        assert result is not None
        found = trainer.task.train_metrics(result).items()
        metrics = {f"{name}_mixed" if trainer.is_mixed else name: value for name, value in found}
        for name, value in metrics.items():
            if value.shape != (len(result),):
                expected = f"a number per sample, [{len(result)}]"
                raise UserError(f"TASK.NAME: train_metrics {name}: found {list(value.shape)}, expected {expected}")
        self.pending.append((trainer.step, len(result), {"loss": result.loss, **metrics}))
        self.line_samples += len(result)
        if result.updated and trainer.step % self.period == 0:
            self._write_line(trainer, result.lr)

    def before_evaluate(self, trainer: Trainer) -> None:
        if trainer.step > self.first_step:
            self.epoch_wait = {"data_wait": _waited(trainer, self.epoch_start)}

    def after_epoch(self, trainer: Trainer) -> None:
        averages = self._averages({})
        record: Record = {"kind": "epoch", "epoch": trainer.epoch, "step": trainer.step}
        record |= {f"train_{name}": value for name, value in averages.items()}
        record |= {f"val_{name}": value for name, value in trainer.metrics.items()} | self.epoch_wait
        self.sums, self.line_sums = {}, {}
        self._write(record, trainer)
        train, val = (_listed(numbers) for numbers in (averages, trainer.metrics))
        end = "".join(f"  waited for data {100 * wait:.0f} %" for wait in self.epoch_wait.values())
        end += "  best so far" if trainer.is_best and trainer.metrics else ""
        log.info("epoch %d/%d  train: %s  val: %s%s", trainer.epoch, trainer.max_epochs, train, val or "none", end)
        is_long = trainer.data_seconds - self.epoch_start[1] > 2  # seconds; shorter ones are not worth a change
        if is_long and not self.advised and self.epoch_wait.get("data_wait", 0.0) > TOLERATED_WAIT:
            self.advised = True
            hint = "pack the data set, or set more DATALOADER.NUM_WORKERS; to find the cause: python tools/benchmark.py"
            log.info("waiting for data: %s --config-file %s", hint, shlex.quote(str(self.run.config)))

    def after_train(self, trainer: Trainer) -> None:
        if self.file is not None:
            self.file.close()

    def state_dict(self) -> State:
        self._flush()
        sums = {"sums": dict(self.sums), "line_sums": dict(self.line_sums)}
        return sums | {"size": self.size, "seconds": self._seconds()}

    def load_state_dict(self, state: State) -> None:
        self.sums, self.line_sums = dict(state["sums"]), dict(state["line_sums"])
        self.size, self.seconds_before = state["size"], state["seconds"]

    def _flush(self) -> None:
        """Adds what the steps left on the device to the sums. Raises UserError for a loss that is NaN or Inf.

        Values are added step by step, so that the sums do not depend on when this is called.
        """
        if not self.pending:
            return
        names = list(self.pending[0][2])
        if self.sums.keys() != {*names, "samples"}:  # the first, or mixing changed in a run resumed within an epoch
            self.sums.clear()
            self.line_sums.clear()
        dtype = torch.float32 if self.pending[0][2]["loss"].device.type == "mps" else torch.float64
        columns = [[v[name] for _, _, v in self.pending] for name in names]  # the losses are scalars
        totals = [torch.stack([v.sum(dtype=dtype) if v.ndim else v for v in c]).tolist() for c in columns]
        samples = [count for _, count, _ in self.pending]
        table = np.array([*totals, samples], np.float64)  # (names and samples, steps)
        table[names.index("loss")] *= samples
        for (step, _, _), values in zip(self.pending, all_reduce_sum(table).T.tolist(), strict=True):
            found = dict(zip([*names, "samples"], values, strict=True))
            if not math.isfinite(found["loss"]):
                hint = "lower SOLVER.BASE_LR, add warm-up, or set SOLVER.AMP off"
                note = "existing checkpoints were saved before this step and are unaffected"
                raise UserError(f"the training loss is {found['loss']} at step {step}: {hint}; {note}")
            for name, value in found.items():
                self.sums[name] = self.sums.get(name, 0.0) + value
        self.pending.clear()

    def _averages(self, since: dict[str, float]) -> dict[str, float]:
        """Returns the means over the samples that were added after the sums were `since`."""
        self._flush()
        added = {name: total - since.get(name, 0.0) for name, total in self.sums.items()}
        samples = max(added.pop("samples", 0), 1)
        return {name: total / samples for name, total in added.items()}

    def _start_line(self, trainer: Trainer) -> None:
        self.line_start, self.line_samples = (time.perf_counter(), trainer.data_seconds), 0

    def _write_line(self, trainer: Trainer, lr: float) -> None:
        averages, self.line_sums = self._averages(self.line_sums), dict(self.sums)
        samples = self.line_samples * world_size()
        speed, wait = samples / (time.perf_counter() - self.line_start[0]), _waited(trainer, self.line_start)
        record: Record = {"kind": "step", "epoch": trainer.epochs_done, "step": trainer.step, "lr": lr}
        record |= {f"train_{name}": value for name, value in averages.items()} | self.step_values
        record |= {"images_per_second": speed, "data_wait": wait, "memory_mib": peak_memory(trainer.device)}
        self._start_line(trainer)
        self._write(record, trainer)
        facts = (trainer.epochs_done, trainer.max_epochs, trainer.step, _listed(averages), lr, speed)
        log.info("epoch %.2f/%d  step %d  %s  lr %.5f  %.0f images/s", *facts, extra={"shown_by_bar": True})

    def _write(self, record: Record, trainer: Trainer) -> None:
        trainer.last_record = record
        if self.file is None:
            return
        self.file.write(to_json({**record, "seconds": round(self._seconds(), 3)}) + "\n")
        self.file.flush()
        self.size = self.file.tell()

    def _seconds(self) -> float:
        """Training time of this process and of those that were stopped before it."""
        return self.seconds_before + time.perf_counter() - self.started


def _waited(trainer: Trainer, start: tuple[float, float]) -> float:
    return (trainer.data_seconds - start[1]) / (time.perf_counter() - start[0])


def _listed(numbers: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in numbers.items())


def peak_memory(device: torch.device) -> float:
    """Returns the peak in MiB, of tensors on a GPU or else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
