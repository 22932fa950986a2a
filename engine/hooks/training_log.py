"""What was measured, as lines of text and in metrics.jsonl."""

import math
import sys
import time
from typing import IO, Any

import torch
from torch import nn

from engine.hooks.base import Hook
from engine.metrics.accuracy import top1
from engine.report.tables import to_json
from utils.errors import UserError
from utils.logger import get_logger
from utils.run_folder import RunFolder

log = get_logger("train")
_NO_SUMS = [0.0, 0.0, 0.0]


class TrainingLog(Hook):
    """Averages the training loss and accuracy over samples and writes them down, with what else there is to watch.

    Values are fetched from the device every `period` steps, at the end of an epoch and in a
    save, and nowhere else; a loss that is not finite stops the run there with a UserError.
    `trainer.latest` is the newest record: `grad_norm` is the L2 norm of all gradients of its step
    before clipping, `data_wait` the share of the time since the last line or the start of the epoch that went
    into waiting for batches, `memory_mib` the peak. A resumed run goes on where its checkpoint was: what was written
    after it is removed.
    """

    def __init__(self, run: RunFolder, period: int):
        self.run = run
        self.period = period
        self.size: int | None = None  # of metrics.jsonl when the state was captured
        # loss * samples, right answers, samples: of the epoch, and of it until the last line.
        self.epoch_sums = self.sums_at_line = _NO_SUMS
        # loss, whether each sample was right, samples, and the number of each step that is not in the sums yet.
        self.unread: list[tuple[torch.Tensor, torch.Tensor, int, int]] = []
        self.step_values: dict[str, float] = {}  # of the step that is to be written, from before its update
        self.file: IO[str] | None = None  # metrics.jsonl
        self.seconds_before, self.started = 0.0, time.perf_counter()
        self.line_time, self.line_wait, self.line_samples = self.started, 0.0, 0

    def before_train(self, trainer: Any) -> None:
        self.file = open(self.run.metrics, "a", encoding="utf-8")
        if self.size is not None and self.size < self.file.tell():
            self.file.truncate(self.size)
            self.file.seek(self.size)

    def before_epoch(self, trainer: Any) -> None:
        self._start_line(trainer)

    def after_backward(self, trainer: Any) -> None:
        if (trainer.step + 1) % self.period == 0:
            norm = nn.utils.get_total_norm([p.grad for p in trainer.parameters_with_gradients()])
            # Groups that share a rate, such as those with and without decay, have one curve.
            rates = dict(zip(trainer.schedule.base_lrs, (g["lr"] for g in trainer.optimizer.param_groups), strict=True))
            self.step_values = {"grad_norm": norm.item() / trainer.precision.scaler.get_scale()}
            if len(rates) > 1:
                self.step_values |= {f"lr_group{i}": rate for i, rate in enumerate(rates.values())}

    def after_step(self, trainer: Any) -> None:
        count = len(trainer.batch)
        self.unread.append((trainer.loss, top1(trainer.logits, trainer.batch.targets), count, trainer.step))
        self.line_samples += count
        if trainer.updated and trainer.step % self.period == 0:
            self._write_line(trainer)

    def after_epoch(self, trainer: Any) -> None:
        self._read()
        record = {"kind": "epoch", "epoch": trainer.epoch, "step": trainer.step}
        record |= self._averages(_NO_SUMS)
        record |= {f"val_{name}": value for name, value in trainer.metrics.items()}
        self.epoch_sums = self.sums_at_line = _NO_SUMS
        self._write(record, trainer)
        train = "  ".join(f"{name} {record[f'train_{name}']:.4f}" for name in ("loss", "top1"))
        val = "  ".join(f"{name} {value:.4f}" for name, value in trainer.metrics.items())
        best = "  best so far" if trainer.is_best and trainer.metrics else ""
        log.info("epoch %d/%d  train: %s  val: %s%s", trainer.epoch, trainer.max_epochs, train, val or "none", best)

    def after_train(self, trainer: Any) -> None:
        self.file.close()

    def state_dict(self) -> dict[str, Any]:
        self._read()
        sums = {"epoch_sums": self.epoch_sums, "sums_at_line": self.sums_at_line}
        return sums | {"size": self.file.tell(), "seconds": self._seconds()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch_sums, self.sums_at_line = list(state["epoch_sums"]), list(state["sums_at_line"])
        self.size, self.seconds_before = state["size"], state.get("seconds", 0.0)

    def _read(self) -> None:
        """Add up what the steps left on the device: one by one, so that the sums are the same whenever it is done."""
        if self.unread:
            losses, rights, counts, steps = zip(*self.unread, strict=True)
            loss, right, count = self.epoch_sums
            for value, samples, step in zip(torch.stack(losses).tolist(), counts, steps, strict=True):
                if not math.isfinite(value):
                    raise UserError(
                        f"the training loss is {value} at step {step}: lower SOLVER.BASE_LR, add warm-up, or set "
                        "SOLVER.AMP off; the checkpoints are of before"
                    )
                loss += value * samples
            self.epoch_sums = [loss, right + torch.cat(rights).sum().item(), count + sum(counts)]
            self.unread.clear()

    def _start_line(self, trainer: Any) -> None:
        self.line_time, self.line_wait, self.line_samples = time.perf_counter(), trainer.data_seconds, 0

    def _write_line(self, trainer: Any) -> None:
        self._read()
        record = {"kind": "step", "epoch": trainer.progress, "step": trainer.step, "lr": trainer.lr}
        record |= self._averages(self.sums_at_line) | self.step_values
        self.sums_at_line = self.epoch_sums
        seconds = time.perf_counter() - self.line_time
        record["images_per_second"] = self.line_samples / seconds
        record["data_wait"] = (trainer.data_seconds - self.line_wait) / seconds
        record |= peak_memory(trainer.device)
        self._start_line(trainer)
        self._write(record, trainer)
        log.info(
            "epoch %.2f/%d  step %d  loss %.4f  top1 %.4f  lr %.5f  %.0f images/s",
            trainer.progress,
            trainer.max_epochs,
            trainer.step,
            record["train_loss"],
            record["train_top1"],
            trainer.lr,
            record["images_per_second"],
            extra={"shown_by_bar": True},
        )

    def _averages(self, before: list[float]) -> dict[str, float]:
        """Of the samples since the sums were those of `before`."""
        loss, right, count = (total - start for total, start in zip(self.epoch_sums, before, strict=True))
        return {"train_loss": loss / max(count, 1), "train_top1": right / max(count, 1)}

    def _write(self, record: dict[str, Any], trainer: Any) -> None:
        trainer.latest = record
        self.file.write(to_json({**record, "seconds": round(self._seconds(), 3)}) + "\n")
        self.file.flush()

    def _seconds(self) -> float:
        """How long it has been trained, by this process and those that were stopped before it."""
        return self.seconds_before + time.perf_counter() - self.started


def peak_memory(device: torch.device) -> dict[str, float]:
    """`memory_mib`: of tensors on a GPU, else of this process; nothing where the system does not say."""
    if device.type == "cuda":
        return {"memory_mib": torch.cuda.max_memory_allocated(device) / 2**20}
    try:
        import resource
    except ImportError:  # not a POSIX system
        return {}
    unit = 1 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux KiB
    return {"memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20}
