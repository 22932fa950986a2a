"""The training loop."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from engine.checkpoint import load_model_state
from engine.ema import MovingAverage
from engine.hooks.base import Hook
from engine.precision import Precision
from engine.rng import rng_state, set_rng_state
from utils.logger import get_logger


class Trainer:
    """Trains a model for `max_epochs`; everything but the step itself is done by hooks.

    It can be stopped and resumed between any two steps: `step` counts the updates of the
    optimizer, `position` the samples used of the epoch `epoch`, both from 0. `poll` is
    called where stopping is safe, and may raise. A step's batch goes through the network in
    `accumulate` parts; 0 for `clip_norm` or `clip_value` leaves the gradients as they are.
    """

    def __init__(
        self,
        model: nn.Module,
        normalize: nn.Module,
        criterion: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: Any,
        train_loader: Any,
        precision: Precision,
        device: torch.device,
        max_epochs: int,
        batch_transform: Callable[[Any, int, int], Any] | None = None,
        accumulate: int = 1,
        clip_norm: float = 0.0,
        clip_value: float = 0.0,
        ema: MovingAverage | None = None,
        hooks: Sequence[Hook] = (),
        poll: Callable[[], None] = lambda: None,
    ):
        self.model = model
        self.normalize = normalize
        self.criterion = criterion
        self.optimizer = optimizer
        self.schedule = schedule
        self.train_loader = train_loader
        self.precision = precision
        self.device = device
        self.max_epochs = max_epochs
        self.batch_transform = batch_transform
        self.accumulate = accumulate
        self.clip_norm = clip_norm
        self.clip_value = clip_value
        self.ema = ema
        self.hooks = list(hooks)
        self.poll = poll
        self.epoch = self.position = self.step = 0
        self.stop_reason = ""  # why the training ended early, empty if it did not
        self.is_exact = True  # whether the state is that of a step boundary
        self.metrics: dict[str, float] = {}  # of the newest evaluation
        self.epochs_since_best = 0  # 0 where the newest evaluation was the best one
        self.best: float | None = None  # the best value of the metric that chooses
        self.evidence: Any = None  # what pictures of that evaluation show
        self.latest: dict[str, Any] = {}  # the newest record of the training log
        self.data_seconds = 0.0  # how long this process has waited for batches
        # Of the newest step: its batch, loss (scalar), logits (N, classes), learning rate, and whether it counted.
        self.batch: Any = None
        self.loss = self.logits = torch.empty(0)
        self.lr = 0.0
        self.updated = False

    def train(self) -> None:
        """The loop, and the order in which hooks are called."""
        self._call("before_train")
        try:
            while not self.is_complete:
                self.model.train()
                self.criterion.train()
                self._call("before_epoch")
                for batch in self._timed(self.train_loader.batches(self.epoch, self.position)):
                    self.is_exact = False
                    self.run_step(batch.to(self.device))
                    self._call("after_step")
                    self.is_exact = True
                    self.poll()
                self._call("evaluate")
                self.is_exact = False
                self.epoch, self.position = self.epoch + 1, 0
                self._call("after_epoch")
                self.is_exact = True
                self.poll()
        except BaseException as error:
            self._call("on_failure", error)
            self.poll()  # a worker may have died of the signal that is to stop us
            raise
        finally:
            self._call("after_train")
            self.train_loader.close()

    def run_step(self, batch: Any) -> None:
        """One batch: forward, loss, backward, clipping, optimizer, schedule, moving average."""
        if self.batch_transform is not None:
            batch = self.batch_transform(batch, self.epoch, self.position)
        self.lr = self.schedule.lr
        losses, logits = [], []
        for part in batch.split(self.accumulate):
            with self.precision.autocast():
                loss, part_logits = self.forward(part)
            loss = loss * (len(part) / len(batch))  # so that the gradients add up to those of the whole batch
            self.precision.scaler.scale(loss).backward()
            losses.append(loss.detach())
            logits.append(part_logits.detach())
        self._call("after_backward")
        self.updated = self._update_weights()
        self.position += len(batch)
        if self.updated:
            self.step += 1
            self.schedule.set_step(self.step)
            if self.ema is not None:
                self.ema.update(self.model, self.step)
        self.batch, self.loss, self.logits = batch, torch.stack(losses).sum(), torch.cat(logits)

    def _update_weights(self) -> bool:
        """Whether the update counts: the scaler leaves out one whose gradients overflowed."""
        scaler = self.precision.scaler
        scale = scaler.get_scale()
        if self.clip_norm or self.clip_value:
            scaler.unscale_(self.optimizer)
            parameters = self.parameters_with_gradients()
            if self.clip_value:
                nn.utils.clip_grad_value_(parameters, self.clip_value)
            if self.clip_norm:
                nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        scaler.step(self.optimizer)
        scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return scaler.get_scale() >= scale

    def forward(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """(loss, logits (N, classes)) of a batch. The method to override for another kind of training."""
        outputs = self.model(self.normalize(batch.images))
        logits = outputs if isinstance(outputs, torch.Tensor) else outputs[0]  # others are of auxiliary heads
        return self.criterion(outputs, batch), logits

    def parameters_with_gradients(self) -> list[nn.Parameter]:
        """What this step updates."""
        return [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]

    def stop(self, reason: str) -> None:
        """End the training after this epoch."""
        self.stop_reason = reason

    @property
    def is_best(self) -> bool:
        return self.epochs_since_best == 0

    @property
    def is_complete(self) -> bool:
        return self.epoch >= self.max_epochs or bool(self.stop_reason)

    @property
    def is_epoch_consumed(self) -> bool:
        """Whether every sample of the epoch is used, and its evaluation is what comes next."""
        return self.position >= self.train_loader.num_samples

    @property
    def progress(self) -> float:
        """Epochs done, with a fraction."""
        return self.epoch + self.position / self.train_loader.num_samples

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the training depends on: plain values and tensors."""
        counters = {
            "epoch": self.epoch,
            "position": self.position,
            "step": self.step,
            "best": self.best,
            "epochs_since_best": self.epochs_since_best,
            "stop_reason": self.stop_reason,
            "dataset_size": len(self.train_loader.dataset),
        }
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.precision.scaler.state_dict(),
            "hooks": {name: hook.state_dict() for name, hook in self._named_hooks()},
            "counters": counters,
            "rng": rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state. Settings of the optimizer stay as they were built: the configuration's."""
        load_model_state(self.model, state["model"], "the checkpoint")
        if _has_groups(self.optimizer, state["optimizer"]):
            # Settings come first, because where an optimizer keeps its state depends on them.
            settings = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
            groups = [old | new for old, new in zip(state["optimizer"]["param_groups"], settings, strict=True)]
            self.optimizer.load_state_dict({**state["optimizer"], "param_groups": groups})
        else:
            get_logger("resume").warning("the optimizer starts anew: its saved state does not fit")
        self.precision.scaler.load_state_dict(state["scaler"])
        for name, hook in self._named_hooks():
            if name in state["hooks"]:
                hook.load_state_dict(state["hooks"][name])
        counters = state["counters"]
        self.epoch, self.position, self.step = counters["epoch"], counters["position"], counters["step"]
        self.best, self.epochs_since_best = counters["best"], counters["epochs_since_best"]
        if self.ema is not None:
            self.ema.restore(state["ema"] or state["model"], self.step)
        self.schedule.load_state_dict(state["schedule"])
        self.schedule.set_step(self.step)
        set_rng_state(state["rng"])

    def _timed(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The batches; `data_seconds` counts the wait for them."""
        iterator = iter(batches)
        while True:
            started = time.perf_counter()
            batch = next(iterator, None)
            self.data_seconds += time.perf_counter() - started
            if batch is None:
                return
            yield batch

    def _named_hooks(self) -> list[tuple[str, Hook]]:
        return [(type(hook).__name__, hook) for hook in self.hooks]

    def _call(self, name: str, *arguments: Any) -> None:
        for hook in self.hooks:
            getattr(hook, name)(self, *arguments)


def _has_groups(optimizer: torch.optim.Optimizer, state: dict[str, Any] | None) -> bool:
    """Whether an optimizer's saved state is of as many parameters in as many groups."""
    own = [len(group["params"]) for group in optimizer.param_groups]
    return state is not None and own == [len(group["params"]) for group in state["param_groups"]]
