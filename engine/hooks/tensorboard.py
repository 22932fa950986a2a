"""What was measured, as curves and pictures for TensorBoard."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.hooks.base import Hook
from utils.annotate import confusion_matrix, encode_png, grid, text_width
from utils.labels import label_text
from utils.run_folder import RunFolder


class TensorBoard(Hook):
    """Writes each new `trainer.latest` as curves and each evaluation's `trainer.evidence` as pictures.

    Stands behind the TrainingLog among the hooks. A resumed run goes on where its checkpoint was:
    what was written after it is hidden.
    """

    def __init__(self, run: RunFolder, classes: Sequence[str]):
        self.run = run
        self.classes = classes
        # Measured here, because OpenCV takes its time to load a font.
        self.label_width = min(max(text_width(name) for name in classes), 160)

    def before_train(self, trainer: Any) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What was logged after the checkpoint is hidden. A run stopped during an evaluation
        # repeats it, so that the last step of its epoch goes too.
        purge_step = trainer.step + (not trainer.is_epoch_consumed)
        self.writer = SummaryWriter(self.run.tensorboard, purge_step=purge_step)
        self.written = trainer.latest

    def after_step(self, trainer: Any) -> None:
        if trainer.latest is not self.written:
            self._write(trainer.latest, {})

    def after_epoch(self, trainer: Any) -> None:
        self._write(trainer.latest, self._pictures(trainer.evidence) if trainer.evidence else {})

    def after_train(self, trainer: Any) -> None:
        self.writer.close()

    def _write(self, record: dict[str, Any], pictures: dict[str, np.ndarray]) -> None:
        """As one event; the writer's own methods make one of each value, and cost more."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        self.written = record
        curves = {_tag(record["kind"], name): x for name, x in record.items() if name not in ("kind", "epoch", "step")}
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in curves.items()]
        for tag, picture in pictures.items():
            shape = dict(zip(("height", "width", "colorspace"), picture.shape, strict=True))
            image = Summary.Image(**shape, encoded_image_string=encode_png(picture))
            values.append(Summary.Value(tag=tag, image=image))
        self.writer.file_writer.add_summary(Summary(value=values), record["step"])

    def _pictures(self, evidence: Any) -> dict[str, np.ndarray]:
        images, targets, predictions = evidence.samples()
        words = [[label_text(label, self.classes) for label in labels] for labels in (targets, predictions)]
        height, width = (min(max(length, 64), 96) for length in images.shape[1:3])
        cell = (height, max(width, self.label_width))
        labels = list(zip(*words, strict=True))
        pictures = {"val/samples": grid(images, 8, cell, "each with its target, then its prediction", labels)}
        if (counts := evidence.confusion()) is not None:
            pictures["val/confusion_matrix"] = confusion_matrix(counts, self.classes)
        return pictures


def _tag(kind: str, name: str) -> str:
    """train_loss of a step -> train/loss, of an epoch train_epoch/loss; val_loss -> val/loss; lr -> train/lr."""
    split, _, metric = name.partition("_") if name.startswith(("train_", "val_")) else ("train", "", name)
    return f"{split}_epoch/{metric}" if kind == "epoch" and split == "train" else f"{split}/{metric}"
