"""The training loop."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import torch

from engine.checkpoint import Checkpointables, OptimizerState, RngState, State
from engine.inference import SplitResult
from engine.steps.standard import StandardStep
from engine.tasks.base import StepResult
from utils.contracts import Batch, Loader
from utils.distributed import SharedPoll, from_main, is_main

if TYPE_CHECKING:
    from engine.hooks.base import Hook


@dataclass
class Progress:
    """Progress of a run: `step` counts updates, `samples_seen` the samples used of epoch `epoch`, both from 0."""

    epoch: int = 0
    samples_seen: int = 0
    step: int = 0
    best: float | None = None  # the best value of the monitored metric
    best_loss: float = math.inf  # the validation loss of that epoch, which decides a tie; inf while unknown
    epochs_since_best: int = 0  # 0 if the newest evaluation was the best one
    stop_reason: str = ""  # why the training ended early, empty if it did not
    dataset_size: int = 0

    def state_dict(self) -> State:
        return asdict(self)

    def load_state_dict(self, state: State) -> None:
        """Restores the counters; whether to stop early is decided anew, as the hooks may have changed."""
        vars(self).update({**state, "stop_reason": ""})


@dataclass(eq=False)
class Trainer:
    """Trains a task for `max_epochs`, one `train_step` after the other; hooks do everything else.

    It can be stopped between any two steps and resumed bit for bit. `poll` is called where stopping is safe,
    and may raise. `batch_transform(batch, epoch, samples_seen)` mixes batches on the device.
    """

    train_step: StandardStep
    train_loader: Loader
    device: torch.device
    max_epochs: int
    batch_transform: Callable[[Batch, int, int], Batch] | None = None
    hooks: list["Hook"] = field(default_factory=list)
    poll: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.task = self.train_step.task
        self.optimizer = self.train_step.optimizer
        self.schedule = self.train_step.schedule
        self.progress = Progress(dataset_size=len(self.train_loader.dataset))
        self.at_step_boundary = True  # whether the state is exact, and may be saved
        self.result: StepResult | None = None  # of the newest step
        self.is_mixed = False  # whether the images of that step were mixed
        self.evaluation: SplitResult | None = None  # the newest one of the validation set
        self.last_record: dict[str, float | str] = {}  # the newest record of the training log
        self.data_seconds = 0.0  # time this process has waited for batches
        self.train_step.after_backward = lambda: self._call("after_backward")
        self._own_poll, self.poll = self.poll, SharedPoll(self.poll)
        self.is_main = is_main()  # whether this process calls the hooks that are `main_only`

    def train(self) -> None:
        """Runs the loop, which shows the order in which hooks are called."""
        with ExitStack() as cleanup:
            cleanup.callback(self.train_loader.close)
            opened: list[Hook] = []
            try:
                for hook in self._called_hooks():
                    opened.append(hook)
                    cleanup.callback(hook.after_train, self)
                    hook.before_train(self)
                while not self.is_complete:
                    self.task.train()
                    self._call("before_epoch")
                    for batch in self.timed_batches():
                        self.at_step_boundary = False
                        self.run_step(batch)
                        self._call("after_step")
                        self.at_step_boundary = True
                        self.poll()
                    self._call("before_evaluate")
                    self._call("evaluate")
                    self.at_step_boundary = False
                    self.progress.epoch, self.progress.samples_seen = self.epoch + 1, 0
                    self._call("after_epoch")
                    self.progress.stop_reason = from_main(lambda: self.progress.stop_reason)
                    self.at_step_boundary = True
                    self.poll()
            except BaseException as error:
                for hook in opened:
                    hook.on_failure(self, error)
                self._own_poll()  # a reader process may have died of the signal that is to stop us
                raise

    def run_step(self, batch: Batch) -> None:
        """Mixes a batch, if asked to, and updates the weights with it."""
        mix = self.batch_transform
        mixed = batch if mix is None else mix(batch, self.epoch, self.progress.samples_seen)
        self.is_mixed = mixed is not batch
        self.result = self.train_step(mixed)
        next_batch = self.progress.samples_seen + self.train_loader.batch_size
        self.progress.samples_seen = min(next_batch, self.train_loader.num_samples)
        self.progress.step += self.result.updated

    @property
    def metrics(self) -> dict[str, float]:
        """Loss and metrics of the newest evaluation; empty before the first."""
        return self.evaluation.scores if self.evaluation else {}

    def stop(self, reason: str) -> None:
        """Ends the training after this epoch."""
        self.progress.stop_reason = reason

    @property
    def epoch(self) -> int:
        """Completed epochs."""
        return self.progress.epoch

    @property
    def step(self) -> int:
        """Completed updates of the weights."""
        return self.progress.step

    @property
    def is_best(self) -> bool:
        """Whether the newest evaluation is the best so far; True if there has been none."""
        return self.progress.epochs_since_best == 0

    @property
    def is_complete(self) -> bool:
        return self.epoch >= self.max_epochs or bool(self.progress.stop_reason)

    @property
    def epochs_done(self) -> float:
        """Completed epochs, including the fraction of the current one."""
        return self.epoch + self.progress.samples_seen / self.train_loader.num_samples

    @property
    def checkpointables(self) -> Checkpointables:
        """Everything that the rest of the training depends on."""
        return Checkpointables(
            model=self.task.model,
            ema=self.train_step.ema and self.train_step.ema.module,
            task=self.task.with_model(None),  # the parameters and buffers of the criterion, and its own
            step=self.train_step,
            optimizer=OptimizerState(self.optimizer),
            scaler=self.train_step.precision.scaler,
            schedule=self.schedule,
            progress=self.progress,
            hooks=Checkpointables(**_by_name(self.hooks)),
            rng=RngState(),
        )

    def load_state_dict(self, state: State) -> None:
        """Continues from what `checkpointables` saved."""
        self.checkpointables.load_state_dict(state)
        self.schedule.set_step(self.step)
        if self.train_step.ema is not None:
            self.train_step.ema.set_step(self.step)

    def timed_batches(self) -> Iterator[Batch]:
        """The rest of the epoch's batches; `data_seconds` adds up the wait for them."""
        batches = self.train_loader.batches(self.epoch, self.progress.samples_seen, self.poll)
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            self.data_seconds += time.perf_counter() - started
            if batch is None:
                return
            yield batch

    def _call(self, name: str) -> None:
        for hook in self._called_hooks():
            getattr(hook, name)(self)

    def _called_hooks(self) -> list["Hook"]:
        return self.hooks if self.is_main else [hook for hook in self.hooks if not hook.main_only]


def _by_name(hooks: Sequence["Hook"]) -> dict[str, "Hook"]:
    """Hooks by class name, numbered where there are several of a kind."""
    names = [type(hook).__name__ for hook in hooks]
    keys = [f"{name}-{names[: i + 1].count(name)}" if names.count(name) > 1 else name for i, name in enumerate(names)]
    return dict(zip(keys, hooks, strict=True))
