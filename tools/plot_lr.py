"""Draw the learning rate of an experiment over its epochs: SOLVER.BASE_LR times its schedule."""

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import _path  # noqa: F401

from config.loader import load_config, split_overrides
from utils.cli import ArgumentParser, run
from utils.errors import UserError


def main(argv: Sequence[str]) -> None:
    words, overrides = split_overrides(argv, ("--config-file", "--output"))
    args = parse(words)
    cfg = load_config(args.config_file, overrides)

    from solver.build import schedule_factor

    steps = args.steps_per_epoch or steps_per_epoch(cfg)
    factor = schedule_factor(cfg, steps)
    rates = [cfg.SOLVER.BASE_LR * factor(step) for step in range(cfg.SOLVER.MAX_EPOCHS * steps)]
    draw(rates, steps, f"{cfg.EXPERIMENT.NAME}: {cfg.SOLVER.SCHEDULER.NAME}, {steps} steps an epoch", args.output)
    print(f"{args.output}: least {min(rates):.6g}, highest {max(rates):.6g}, last {rates[-1]:.6g}")


def parse(words: Sequence[str]) -> Namespace:
    parser = ArgumentParser(description=__doc__, epilog="KEY VALUE pairs, such as SOLVER.BASE_LR 0.05, change any key.")
    parser.add_argument("--config-file", metavar="FILE", help="the experiment; without it the defaults")
    parser.add_argument("--output", metavar="FILE", default="lr.png", help="a .png, .pdf or .svg file (lr.png)")
    parser.add_argument("--steps-per-epoch", type=int, metavar="N", help="default: counted in the data set")
    args = parser.parse_args(words)
    if not args.output.endswith((".png", ".pdf", ".svg")):
        parser.error(f"--output: found {args.output}, expected a .png, .pdf or .svg file")
    if args.steps_per_epoch is not None and args.steps_per_epoch < 1:
        parser.error(f"--steps-per-epoch: found {args.steps_per_epoch}, expected at least 1")
    return args


def steps_per_epoch(cfg: Any) -> int:
    from data.build import build_train_and_val
    from data.samplers import usable_samples

    try:
        train_set, _ = build_train_and_val(cfg)
    except UserError as error:
        raise UserError(f"{error}; or give --steps-per-epoch, which needs no data") from error
    return -(-usable_samples(len(train_set), cfg.SOLVER.BATCH_SIZE) // cfg.SOLVER.BATCH_SIZE)


def draw(rates: Sequence[float], steps: int, title: str, output: str) -> None:
    from matplotlib.figure import Figure  # not pyplot, which looks for a display

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([step / steps for step in range(len(rates))], rates)
    axes.set(title=title, xlabel="epoch", ylabel="learning rate")
    axes.grid(alpha=0.3)
    figure.savefig(output, dpi=150)


if __name__ == "__main__":
    run(main)
