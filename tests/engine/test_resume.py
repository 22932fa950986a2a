"""A stopped run resumes bit for bit."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data.registry import DATASETS
from engine.checkpoint import Checkpoint, load_checkpoint, load_newest
from engine.hooks.base import Hook
from engine.resume import resume_run
from engine.trainer import Trainer
from tests.conftest import Toy
from utils.errors import Interrupted, UserError
from utils.run_folder import RunFolder

STEPS = 15  # 3 epochs of 5 batches, the last one short


def stop_after(calls: int):
    """A `poll` that asks to stop the n-th time it is called."""
    left = [calls]

    def poll() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Interrupted(2)

    return poll


def train(trainer: Trainer) -> Checkpoint:
    """Trains; the checkpoint at the end, interrupted or not."""
    with contextlib.suppress(Interrupted):
        trainer.train()
    run = next(hook for hook in trainer.hooks if hasattr(hook, "saved_step")).run
    return load_newest(run)


def differences(a, b, path: str = "") -> list[str]:
    """The places where two states differ in a single bit."""
    if isinstance(a, torch.Tensor):
        return [] if torch.equal(a, b) else [path]
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return [f"{path}: {a.keys() ^ b.keys()}"]
        return [place for key in a for place in differences(a[key], b[key], f"{path}/{key}")]
    if isinstance(a, (list, tuple)):
        return [place for i, pair in enumerate(zip(a, b, strict=True)) for place in differences(*pair, f"{path}/{i}")]
    return [] if a == b else [f"{path}: {a!r} != {b!r}"]


def without_clock(checkpoint: Checkpoint) -> dict:
    """The state without the size of the log, whose lines carry times, and the time it took."""
    timed = ("size", "seconds")
    state = checkpoint.state
    hooks = {name: {k: v for k, v in hook.items() if k not in timed} for name, hook in state["hooks"].items()}
    return {**state, "hooks": hooks}


def records(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    clock = ("seconds", "images_per_second", "data_wait", "memory_mib")
    return [{k: v for k, v in line.items() if k not in clock} for line in lines]


VARIANTS = {
    "sgd": ("SOLVER.OPTIMIZER.momentum", "0.9", "SOLVER.OPTIMIZER.nesterov", "true"),
    "adamw": (
        "SOLVER.OPTIMIZER.NAME",
        "AdamW",
        "SOLVER.SCHEDULER.NAME",
        "cosine",
        "SOLVER.SCHEDULER.WARMUP_EPOCHS",
        "0.5",
    ),
    "all at once": (
        *("SOLVER.EMA", "0.9", "SOLVER.CLIP.NORM", "0.5", "SOLVER.CLIP.VALUE", "0.1", "SOLVER.MICRO_BATCHES", "3"),
        *("HOOKS", "[{ReduceLROnPlateau: {patience: 0, factor: 0.5}}]", "TEST.TTA_FLIP", "true"),
        *("INPUT.BATCH_TRANSFORMS", "[MixUp, CutMix]", "INPUT.MIXUP_OFF_EPOCH", "2"),
    ),
    "ranger": (
        *("SOLVER.OPTIMIZER.NAME", "timm/lookahead_radam", "SOLVER.SCHEDULER.NAME", "cosine_restarts"),
        *("SOLVER.SCHEDULER.period", "1", "LOSS.NAME", "focal", "LOSS.class_weights", "balanced"),
    ),
    "bf16": ("SOLVER.AMP", "bf16", "SOLVER.EMA", "0.99", "DATASETS.SAMPLER", "balanced"),
    "frozen": ("SOLVER.FREEZE_EPOCHS", "1", "SOLVER.HEAD_LR_MULT", "2"),
    "workers": ("DATALOADER.NUM_WORKERS", "1"),
    "early": ("HOOKS", "[{EarlyStopping: {patience: 1}}]", "SOLVER.MAX_EPOCHS", "6", "TEST.MONITOR", "min loss"),
}


@pytest.mark.parametrize(
    ("variant", "stops"),
    [
        ("sgd", range(1, 42)),
        ("adamw", range(1, 42, 4)),
        ("all at once", range(1, 42, 4)),
        ("ranger", [4, 9, 16]),
        ("bf16", [3, 14]),
        ("frozen", [2, 7, 12]),
        ("workers", [7]),
        ("early", range(2, 42, 7)),
    ],
)
def test_resume_is_bit_for_bit(make_trainer, tmp_path, monkeypatch, variant, stops):
    """Stopped after every step, before every batch of an evaluation or of batch norm's statistics, between epochs."""
    monkeypatch.setattr("engine.precision.has_native_bf16", lambda device: True)  # slow elsewhere, and as exact
    overrides = VARIANTS[variant]
    whole = train(make_trainer(*overrides, run="whole"))
    assert whole.is_complete(6 if variant == "early" else 3)
    for calls in stops:
        stopped = train(make_trainer(*overrides, run=f"run{calls}", poll=stop_after(calls)))
        state = train(make_trainer(*overrides, run=f"run{calls}", checkpoint=stopped))
        assert differences(without_clock(whole), without_clock(state)) == [], f"stopped at poll {calls}"
        assert records(tmp_path / "whole") == records(tmp_path / f"run{calls}")


def test_a_chain_of_stops(make_trainer, tmp_path):
    whole = train(make_trainer(run="whole"))
    state = None
    for _ in range(40):
        state = train(make_trainer(run="chain", checkpoint=state, poll=stop_after(9)))
        if state.is_complete(3):
            break
    assert differences(without_clock(whole), without_clock(state)) == []
    steps = [(record["kind"], record["step"]) for record in records(tmp_path / "chain")]
    assert len(steps) == len(set(steps)) and records(tmp_path / "chain") == records(tmp_path / "whole")


def test_what_a_kill_leaves_behind_is_repeated_exactly(make_trainer, tmp_path):
    """Without a chance to save, the run goes on from the last file, and its logs have no double steps."""

    class Killed(BaseException):
        pass

    class Kill(Hook):
        def after_step(self, trainer):
            if trainer.step == 9:
                trainer.hooks = []  # nothing gets to know
                raise Killed

    whole = train(make_trainer(run="whole"))
    trainer = make_trainer(run="killed")
    trainer.hooks.append(Kill())
    hooks = list(trainer.hooks)
    with pytest.raises(Killed):
        trainer.train()
    for hook in hooks:
        hook.after_train(trainer)
    state = load_checkpoint(tmp_path / "killed/weights/last.pth")
    assert state.step == 5
    assert [r["step"] for r in records(tmp_path / "killed")][-1] == 8
    again = train(make_trainer(run="killed", checkpoint=state))
    assert differences(without_clock(whole), without_clock(again)) == []
    assert records(tmp_path / "killed") == records(tmp_path / "whole")
    events = EventAccumulator(str(tmp_path / "killed/tensorboard"))
    events.Reload()
    for tag in events.Tags()["scalars"]:
        steps = [event.step for event in events.Scalars(tag)]
        assert steps == sorted(set(steps)), tag
    assert [event.step for event in events.Scalars("train/loss")] == [2, 4, 6, 8, 10, 12, 14]
    assert [event.step for event in events.Scalars("val/top1")] == [5, 10, 15]


def test_a_longer_training_goes_on_from_the_end(make_trainer):
    done = train(make_trainer(run="run"))
    assert make_trainer(run="run", checkpoint=done).is_complete
    longer = train(make_trainer("SOLVER.MAX_EPOCHS", "4", run="run", checkpoint=done))
    assert longer.epoch == 4


def test_a_changed_learning_rate_is_taken_over(make_trainer):
    stopped = train(make_trainer(run="run", poll=stop_after(3)))
    trainer = make_trainer("SOLVER.BASE_LR", "0.5", "SOLVER.WEIGHT_DECAY", "0.1", run="run", checkpoint=stopped)
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * trainer.schedule.factor(3))
    assert [group["weight_decay"] for group in trainer.optimizer.param_groups] == [0.1, 0.0]
    none = make_trainer("SOLVER.WEIGHT_DECAY", "0", run="run", checkpoint=stopped)
    assert [group["weight_decay"] for group in none.optimizer.param_groups] == [0.0, 0.0]
    assert len(none.optimizer.state) == len(stopped.state["optimizer"]["state"])


def test_an_optimizer_with_other_groups_starts_anew_and_says_so(make_trainer, caplog):
    stopped = train(make_trainer(run="run", poll=stop_after(3)))
    with pytest.raises(UserError, match="SOLVER.HEAD_LR_MULT: 1.0 -> 3.0: .*--allow-change"):
        make_trainer("SOLVER.HEAD_LR_MULT", "3", run="run", checkpoint=stopped)
    trainer = make_trainer(
        "SOLVER.HEAD_LR_MULT", "3", run="run", checkpoint=stopped, allow_changes=["SOLVER.HEAD_LR_MULT"]
    )
    assert not trainer.optimizer.state and "the optimizer starts anew" in caplog.text
    assert train(trainer).epoch == 3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["SOLVER.BATCH_SIZE", "4"], "SOLVER.BATCH_SIZE: 8 -> 4: cannot be changed when resuming"),
        (["MODEL.dropout", "0.1"], "MODEL.dropout: unset -> 0.1: .* --allow-change MODEL.dropout"),
    ],
)
def test_another_experiment_is_no_continuation(make_trainer, overrides, message):
    stopped = train(make_trainer(run="run", poll=stop_after(3)))
    with pytest.raises(UserError, match=message):
        make_trainer(*overrides, run="run", checkpoint=stopped)


@DATASETS.register("edited", size=(6, 6), channels=1, train_transforms=[{"RandomCrop": {"padding": 1}}, "HFlip"])
class Edited(Toy):
    """The toy data set, whose training images come in another order, have other labels, or are more, if asked to."""

    order: Sequence[int] = range(45)
    relabelled: Sequence[int] = ()
    size = 45

    def __init__(self, root, split):
        super().__init__(root, split, self.size)
        self.targets[list(self.relabelled)] += 1
        self.targets[self.targets == 3] = 0
        if split == "train":
            self.images, self.targets = self.images[self.order], self.targets[self.order]

    def name(self, i):
        return f"toy/{self.order[i]}"


def test_a_data_set_in_another_order_with_new_images_resumes_bit_for_bit(make_trainer, monkeypatch, caplog):
    words = ["DATASETS.NAME", "edited"]
    whole = train(make_trainer(*words, run="whole"))
    stopped = train(make_trainer(*words, run="run", poll=stop_after(7)))
    monkeypatch.setattr(Edited, "size", 50)
    monkeypatch.setattr(Edited, "order", np.random.default_rng(0).permutation(50))
    resumed = train(make_trainer(*words, run="run", checkpoint=stopped))
    assert differences(without_clock(whole), without_clock(resumed)) == []
    assert "ignored 5 images that were added since, such as toy/" in caplog.text


def test_training_images_that_are_gone_or_relabelled_are_no_continuation(make_trainer, monkeypatch, tmp_path):
    words = ["DATASETS.NAME", "edited"]
    stopped = train(make_trainer(*words, run="run", poll=stop_after(3)))
    held_out = [int(name[4:]) for name in (tmp_path / "run/held_out.csv").read_text().split()[1:]]
    trained = sorted(set(range(45)) - set(held_out))
    assert len(held_out) == 9
    monkeypatch.setattr(Edited, "relabelled", held_out)  # corrected labels to validate on are welcome
    make_trainer(*words, run="run", checkpoint=stopped)
    monkeypatch.setattr(Edited, "relabelled", trained[:2])
    with pytest.raises(UserError, match=f"2 of 36 training images have another label .*, such as toy/{trained[0]}"):
        make_trainer(*words, run="run", checkpoint=stopped)
    monkeypatch.setattr(Edited, "order", [i for i in range(45) if i not in trained[:3]])
    with pytest.raises(UserError, match="3 of the run's 36 training images are missing: restore the data"):
        make_trainer(*words, run="run", checkpoint=stopped)
    monkeypatch.setattr(Edited, "relabelled", ())
    monkeypatch.setattr(Edited, "order", trained)
    with pytest.raises(UserError, match="all validation images of the run are missing: restore the data"):
        make_trainer(*words, run="run", checkpoint=stopped)


def test_mixing_of_batches_may_begin_in_a_resumed_run(make_trainer):
    stopped = train(make_trainer(run="run", poll=stop_after(3)))
    keys = ["INPUT.BATCH_TRANSFORMS", "INPUT.MIXUP_OFF_EPOCH", "INPUT.TRAIN_TRANSFORMS"]
    words = [word for pair in zip(keys, ("[MixUp]", "9", "[HFlip]"), strict=True) for word in pair]
    trainer = make_trainer(*words, run="run", checkpoint=stopped, allow_changes=keys)
    assert trainer.batch_transform is not None
    assert [type(transform).__name__ for transform in trainer.train_loader.reader.transforms] == ["HFlip"]
    assert train(trainer).epoch == 3


def test_what_is_allowed_by_name_may_change(make_trainer):
    stopped = train(make_trainer(run="run", poll=stop_after(3)))
    trainer = make_trainer("MODEL.dropout", "0.1", run="run", checkpoint=stopped, allow_changes=["MODEL.dropout"])
    assert trainer.task.model.dropout.p == 0.1 and trainer.step == 3


def test_a_damaged_last_falls_back_to_previous(make_trainer, tmp_path):
    whole = train(make_trainer(run="run"))
    run = RunFolder(tmp_path / "run")
    data = bytearray(run.last.read_bytes())
    data[data.index(whole.state["model"]["fc.weight"].numpy().tobytes())] ^= 1
    run.last.unlink()  # best is a link to the same file
    run.last.write_bytes(data)
    state = load_newest(run)
    assert state.source == run.previous and state.step == 10
    resume_run(run.path)
    assert load_newest(run).source == run.last  # the damaged file is gone, and cannot become `previous`
    assert differences(without_clock(whole), without_clock(train(make_trainer(run="run", checkpoint=state)))) == []


@pytest.mark.parametrize("size", ["4", "16", "35"])  # 35 of 36 images: a last batch of one is dropped
def test_the_schedule_goes_on_in_epochs_when_the_batch_size_changes(make_trainer, size):
    stopped = train(make_trainer(run="run", poll=stop_after(13)))
    allow = {"allow_changes": ["SOLVER.BATCH_SIZE"]}
    trainer = make_trainer("SOLVER.BATCH_SIZE", size, run="run", checkpoint=stopped, **allow)
    share = trainer.epochs_done / 3
    steps = 3 * len(trainer.train_loader)
    assert trainer.schedule.lr == pytest.approx(0.1 * trainer.schedule.factor(round(share * steps)))
    trainer.train()
    assert trainer.schedule.step + trainer.schedule.shift == pytest.approx(steps, abs=1)


def test_another_measure_has_no_best_yet(make_trainer):
    stopped = train(make_trainer(run="run", poll=stop_after(13)))
    assert stopped.state["progress"]["best"] is not None
    trainer = make_trainer("TEST.MONITOR", "min loss", run="run", checkpoint=stopped, allow_changes=["TEST.MONITOR"])
    assert trainer.progress.best is None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (("SOLVER.OPTIMIZER.NAME", "AdamW"), ("SOLVER.OPTIMIZER.NAME", "AdamW", "SOLVER.OPTIMIZER.amsgrad", "true")),
        (("SOLVER.FREEZE", "[conv.*]"), ("SOLVER.FREEZE", "[fc.*]")),
    ],
)
def test_a_state_that_does_not_fit_is_left(make_trainer, caplog, before, after):
    stopped = train(make_trainer(*before, run="run", poll=stop_after(3)))
    keys = ["SOLVER.OPTIMIZER", "SOLVER.FREEZE"]
    trainer = make_trainer(*after, run="run", checkpoint=stopped, allow_changes=keys)
    assert "the optimizer starts anew" in caplog.text
    assert train(trainer).epoch == 3
