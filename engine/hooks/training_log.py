"""What was measured: lines of text, metrics.jsonl, TensorBoard."""

import json
import math
import time
from typing import IO, Any

import torch

from engine.hooks.base import Hook
from engine.inference import sum_dtype
from engine.metrics.accuracy import top1
from utils.errors import UserError
from utils.logger import get_logger
from utils.run_folder import RunFolder

log = get_logger("train")


class TrainingLog(Hook):
    """Averages the training loss and accuracy over samples, on the device, and writes them down.

    Values are fetched every `period` steps and at the end of an epoch, and nowhere else;
    a loss that is not finite stops the run there with a UserError. `trainer.latest` is the
    newest record. A resumed run goes on where its checkpoint was: what was written after it is removed.
    """

    def __init__(self, run: RunFolder, period: int):
        self.run = run
        self.period = period
        self.size: int | None = None  # of metrics.jsonl when the state was captured
        # loss * samples, right answers, samples: of the epoch, and of it until the last line.
        self.epoch_sums: torch.Tensor | None = None
        self.sums_at_line: torch.Tensor | None = None
        self.file: IO[str] | None = None  # metrics.jsonl
        self.started = self.line_time = time.perf_counter()
        self.line_samples = 0

    def before_train(self, trainer: Any) -> None:
        if self.epoch_sums is None:
            self.epoch_sums = torch.zeros(3, dtype=sum_dtype(trainer.device))
            self.sums_at_line = self.epoch_sums.clone()
        self.epoch_sums = self.epoch_sums.to(trainer.device)
        self.sums_at_line = self.sums_at_line.to(trainer.device)
        self.file = open(self.run.metrics, "a", encoding="utf-8")
        if self.size is not None and self.size < self.file.tell():
            self.file.truncate(self.size)
            self.file.seek(self.size)
        self.writer = self._open_tensorboard(trainer)

    def before_epoch(self, trainer: Any) -> None:
        self.line_time, self.line_samples = time.perf_counter(), 0

    def after_step(self, trainer: Any) -> None:
        count = len(trainer.batch)
        right = top1(trainer.logits, trainer.batch.targets).sum()
        self.epoch_sums += torch.stack([trainer.loss * count, right, torch.full_like(right, count)])
        self.line_samples += count
        if trainer.updated and trainer.step % self.period == 0:
            self._write_line(trainer)

    def after_epoch(self, trainer: Any) -> None:
        record = {"kind": "epoch", "epoch": trainer.epoch, "step": trainer.step}
        record |= self._averages(self.epoch_sums, "train", trainer)
        record |= {f"val_{name}": value for name, value in trainer.metrics.items()}
        self.epoch_sums.zero_()
        self.sums_at_line.zero_()
        self._write(record)
        train = "  ".join(f"{name} {record[f'train_{name}']:.4f}" for name in ("loss", "top1"))
        val = "  ".join(f"{name} {value:.4f}" for name, value in trainer.metrics.items())
        best = "  best so far" if trainer.is_best and trainer.metrics else ""
        log.info("epoch %d/%d  train: %s  val: %s%s", trainer.epoch, trainer.max_epochs, train, val or "none", best)

    def after_train(self, trainer: Any) -> None:
        self.file.close()
        self.writer.close()

    def state_dict(self) -> dict[str, Any]:
        sums = {"epoch_sums": self.epoch_sums.cpu().clone(), "sums_at_line": self.sums_at_line.cpu().clone()}
        return sums | {"size": self.file.tell()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch_sums, self.sums_at_line = state["epoch_sums"].clone(), state["sums_at_line"].clone()
        self.size = state["size"]

    def _write_line(self, trainer: Any) -> None:
        record = {"kind": "step", "epoch": trainer.progress, "step": trainer.step, "lr": trainer.lr}
        record |= self._averages(self.epoch_sums - self.sums_at_line, "train", trainer)
        self.sums_at_line.copy_(self.epoch_sums)
        now = time.perf_counter()
        record["images_per_second"] = self.line_samples / (now - self.line_time)
        self.line_time, self.line_samples = now, 0
        self._write(record)
        trainer.latest = record
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

    def _averages(self, sums: torch.Tensor, prefix: str, trainer: Any) -> dict[str, float]:
        loss, right, count = sums.tolist()
        if not math.isfinite(loss):
            raise UserError(
                f"the training loss is {loss} at epoch {trainer.progress:.2f}, step {trainer.step}: "
                "lower SOLVER.BASE_LR, add warm-up, or set SOLVER.AMP off; the checkpoints are of before"
            )
        return {f"{prefix}_loss": loss / max(count, 1), f"{prefix}_top1": right / max(count, 1)}

    def _write(self, record: dict[str, Any]) -> None:
        self.file.write(json.dumps({**record, "process_seconds": round(time.perf_counter() - self.started, 3)}) + "\n")
        self.file.flush()
        for name, value in record.items():
            if name not in ("kind", "epoch", "step"):
                split, _, metric = name.partition("_") if name.startswith(("train_", "val_")) else ("train", "", name)
                tag = (
                    f"{split}_epoch/{metric}" if record["kind"] == "epoch" and split == "train" else f"{split}/{metric}"
                )
                self.writer.add_scalar(tag, value, record["step"])

    def _open_tensorboard(self, trainer: Any):
        from torch.utils.tensorboard import SummaryWriter

        # What was logged after the checkpoint is hidden. A run stopped during an evaluation
        # repeats it, so that the last step of its epoch goes too.
        purge_step = trainer.step + (not trainer.is_epoch_consumed)
        return SummaryWriter(self.run.tensorboard, purge_step=purge_step)
