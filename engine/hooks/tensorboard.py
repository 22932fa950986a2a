"""Curves, figures and histograms for TensorBoard."""

import time
from typing import TYPE_CHECKING

from engine.hooks.base import Hook
from engine.inference import SplitResult
from engine.predictions import SingleLabel
from engine.registry import HOOKS
from engine.trainer import Trainer
from utils.run_folder import RunFolder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_FIGURE_PERIOD = 60  # seconds between two figures, which take 0.2 s each
_SAMPLES, _MAX_CLASSES = 16, 100  # shown in the figures
_CELL = (96, 128)  # pixels of a sample


@HOOKS.register(always=True)
class TensorBoard(Hook):
    """Writes each record of the training log as curves, and figures of the evaluations, once a minute and at the end.

    Must come after TrainingLog in the list of hooks. With `histograms` it also writes the distribution of each weight
    tensor after each epoch. A resumed run hides what was written after its checkpoint.
    """

    main_only = True

    def __init__(self, run: RunFolder, histograms: bool = False):
        self.run = run
        self.histograms = histograms
        self.writer: SummaryWriter | None = None
        self.written: object = None  # the newest record that was written
        self.drawn_at = time.monotonic()

    def before_train(self, trainer: Trainer) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # A run stopped during an evaluation repeats it, so that the last step of its epoch is hidden too.
        repeats = trainer.progress.samples_seen >= trainer.train_loader.num_samples
        self.writer = SummaryWriter(self.run.tensorboard, purge_step=trainer.step + (not repeats))
        self.written = trainer.last_record

    def after_step(self, trainer: Trainer) -> None:
        if trainer.last_record is not self.written:
            self._write_curves(trainer)

    def after_epoch(self, trainer: Trainer) -> None:
        self._write_curves(trainer)
        if self.histograms and self.writer is not None:
            for name, parameter in trainer.task.model.named_parameters():
                self.writer.add_histogram(f"weights/{name}", parameter.detach().float(), trainer.step)
        is_due = trainer.is_complete or time.monotonic() - self.drawn_at >= _FIGURE_PERIOD
        if trainer.evaluation is not None and is_due:
            self._write_figures(trainer.evaluation, trainer.step)
            self.drawn_at = time.monotonic()

    def after_train(self, trainer: Trainer) -> None:
        if self.writer is not None:
            self.writer.close()

    def _write_curves(self, trainer: Trainer) -> None:
        """Writes the newest record as one event; the writer's own methods make one of each value, and cost more."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        assert self.writer is not None
        self.written = record = trainer.last_record
        curves = {_tag(str(record["kind"]), n): v for n, v in record.items() if n not in ("kind", "epoch", "step")}
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in curves.items()]
        self.writer._get_file_writer().add_summary(Summary(value=values), trainer.step)

    def _write_figures(self, result: SplitResult, step: int) -> None:
        from utils import plotting
        from utils.drawing import COLUMNS, grid

        predictions = result.predictions
        if self.writer is None or predictions is None or predictions.outputs.ndim != 2:
            return
        indices = predictions.indices[:_SAMPLES].tolist()
        texts = (predictions.target_text, predictions.predicted_text)
        words = [[text(row) or "none" for text in texts] for row in range(len(indices))]
        drawn = grid(map(result.read_image, indices), COLUMNS, _CELL, "target, then prediction", words)
        self.writer.add_image("val/samples", drawn[..., ::-1].copy(), step, dataformats="HWC")
        if isinstance(predictions, SingleLabel) and len(result.names) <= _MAX_CLASSES:
            figure = plotting.confusion_matrix(predictions.confusion, result.names)
            self.writer.add_figure("val/confusion_matrix", figure, step)


def _tag(kind: str, name: str) -> str:
    """train_loss of a step -> train/loss, of an epoch train_epoch/loss; val_loss -> val/loss; lr -> train/lr."""
    split, _, metric = name.partition("_") if name.startswith(("train_", "val_")) else ("train", "", name)
    return f"{split}_epoch/{metric}" if kind == "epoch" and split == "train" else f"{split}/{metric}"
