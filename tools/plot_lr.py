"""Plot the learning rate of an experiment over its epochs."""

from collections.abc import Sequence

import _path  # noqa: F401
from _common import parse_experiment

from config import CfgNode
from utils.cli import run
from utils.errors import UserError


def main(argv: Sequence[str]) -> None:
    args, cfg = parse_experiment(argv, __doc__, "lr.png", steps_per_epoch=None)
    if args.output.suffix not in (".png", ".pdf", ".svg"):
        raise UserError(f"--output {args.output}: found '{args.output.suffix}', expected a .png, .pdf or .svg file")

    from solver.build import base_lr, schedule_factor
    from utils.plotting import learning_rate, render

    steps = args.steps_per_epoch or steps_per_epoch(cfg)
    factor = schedule_factor(cfg, steps)
    rates = [base_lr(cfg) * factor(step) for step in range(cfg.SOLVER.MAX_EPOCHS * steps)]
    title = f"{cfg.EXPERIMENT.NAME}: {cfg.SOLVER.SCHEDULER.NAME}, {steps} steps per epoch"
    figure = learning_rate([step / steps for step in range(len(rates))], rates, title)
    args.output.write_bytes(render(figure, args.output.suffix[1:]))
    print(f"{args.output}: lowest {min(rates):.6g}, highest {max(rates):.6g}, last {rates[-1]:.6g}")


def steps_per_epoch(cfg: CfgNode) -> int:
    """Returns the number of steps in an epoch of the training set. Raises UserError if it cannot be read."""
    from data.build import build_train_and_val
    from data.samplers import usable_samples

    try:
        train_set = build_train_and_val(cfg).train
    except UserError as error:
        raise UserError(f"{error}; or give --steps-per-epoch, which needs no data") from error
    return -(-usable_samples(len(train_set), cfg.SOLVER.BATCH_SIZE) // cfg.SOLVER.BATCH_SIZE)


if __name__ == "__main__":
    run(main)
