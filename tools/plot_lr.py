"""Plot the learning rate of an experiment over its epochs.

--output decides the format: .png, .pdf or .svg. Nothing is read but the configuration.
"""

from collections.abc import Sequence

from _common import parse_experiment

from utils.cli import run
from utils.errors import UserError

_STEPS = 100  # in an epoch; another number of steps follows the same curve


def main(argv: Sequence[str]) -> None:
    cfg, output = parse_experiment(argv, __doc__, output="lr.png")
    if output.suffix not in (".png", ".pdf", ".svg"):
        raise UserError(f"--output {output}: found '{output.suffix}', expected a .png, .pdf or .svg file")

    from solver.build import base_lr, schedule_factor
    from utils.plotting import learning_rate, render

    factor = schedule_factor(cfg, _STEPS)
    rates = [base_lr(cfg) * factor(step) for step in range(cfg.SOLVER.MAX_EPOCHS * _STEPS)]
    title = f"{cfg.EXPERIMENT.NAME}: {cfg.SOLVER.SCHEDULER.NAME}"
    figure = learning_rate([step / _STEPS for step in range(len(rates))], rates, title)
    output.write_bytes(render(figure, output.suffix[1:]))
    print(f"{output}: lowest {min(rates):.6g}, highest {max(rates):.6g}, last {rates[-1]:.6g}")


if __name__ == "__main__":
    run(main)
