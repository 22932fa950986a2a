"""Train a network, or continue a run that was stopped."""

import os
import shlex
import shutil
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _path  # noqa: F401

from config.loader import CfgNode, dump_marked, load_config, split_overrides
from engine.interrupt import InterruptHandler
from utils.cli import ArgumentParser, run
from utils.errors import Interrupted, UserError
from utils.logger import get_logger, log_to_file, setup_logging
from utils.run_folder import RunFolder, create_run, open_run

log = get_logger("train")


def main(argv: Sequence[str]) -> int | None:
    args, cfg = parse(argv)
    if args.print_config:
        print(dump_marked(cfg), end="")
        return
    setup_logging(cfg.LOG.LEVEL, cfg.LOG.FORMAT)
    with InterruptHandler() as interrupt:
        from engine.build import build_trainer

        folder, state = choose_run(args, cfg)
        log_to_file(folder.log, cfg.LOG.FORMAT, cfg.LOG.DAILY)
        if state is None:
            log.info("starting fresh in %s", folder)
        elif state["counters"]["epoch"] >= cfg.SOLVER.MAX_EPOCHS:
            log.info("%s is complete: nothing to do", folder)
            if cfg.TEST.REPORT and not (folder.report / "index.html").exists():
                look_back(folder, cfg)  # the process was stopped before it came to that
            return
        else:
            counters = state["counters"]
            log.info("resuming %s from epoch %d, step %d", folder, counters["epoch"], counters["step"])
        try:
            trainer = build_trainer(cfg, folder, state, args.allow_change, interrupt.poll, show_bar=sys.stderr.isatty())
        except UserError:
            if state is None and not args.run_dir:
                shutil.rmtree(folder.path)  # a run that never began
            raise
        train(trainer, folder, interrupt)
        if cfg.TEST.REPORT:
            look_back(folder, cfg)


def parse(argv: Sequence[str]) -> tuple[Namespace, CfgNode]:
    words, overrides = split_overrides(argv, ("--config-file", "--run-dir", "--allow-change"))
    parser = ArgumentParser(description=__doc__, epilog="KEY VALUE pairs, such as SOLVER.BASE_LR 0.05, change any key.")
    parser.add_argument(
        "--config-file", metavar="FILE", help="the experiment; without it the bundled digits are trained"
    )
    parser.add_argument("--run-dir", metavar="DIR", help="the run's folder, instead of a new one under OUTPUT_DIR")
    parser.add_argument(
        "--resume",
        metavar="RUN",
        nargs="?",
        const=True,
        help="continue RUN, or the newest unfinished run if there is one",
    )
    parser.add_argument(
        "--allow-change", metavar="KEY", action="append", default=[], help="let a resumed run differ in this key"
    )
    parser.add_argument("--print-config", action="store_true", help="print the configuration and stop")
    args = parser.parse_args(words)
    for option in ("config_file", "run_dir", "resume"):
        if getattr(args, option) == "":
            parser.error(f"--{option.replace('_', '-')}: found nothing, expected a path")
    file = args.config_file
    if isinstance(args.resume, str) and not file:
        file = RunFolder(Path(args.resume)).config
    return args, load_config(file, overrides)


def choose_run(args: Namespace, cfg: CfgNode) -> tuple[RunFolder, dict | None]:
    """The folder to train in and, for a run that is continued, its checkpoint."""
    from engine.resume import newest_unfinished, resume_run

    experiment = Path(os.path.expanduser(cfg.OUTPUT_DIR)) / cfg.EXPERIMENT.NAME
    folder = Path(args.run_dir) if args.run_dir else None
    if isinstance(args.resume, str):
        if folder:
            raise UserError("--run-dir and --resume RUN name two folders; give one of them")
        return resume_run(Path(args.resume))
    if args.resume and folder is None:
        return newest_unfinished(experiment, cfg.SOLVER.MAX_EPOCHS) or (create_run(experiment), None)
    if folder is None:
        return create_run(experiment), None
    if args.resume and RunFolder(folder).has_weights:
        return resume_run(folder)
    if not args.resume and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--run-dir {folder}: not an empty folder; name another one, or continue it with --resume")
    return open_run(folder), None


def train(trainer: Any, folder: RunFolder, interrupt: InterruptHandler) -> None:
    """Train, and say how it ended and what to do next."""
    try:
        with interrupt.deferred():
            trainer.train()
    except Interrupted:
        command = shlex.join(["python", sys.argv[0], "--resume", str(folder)])
        log.info("stopped; to resume: %s", command)
        raise
    if trainer.stop_reason:
        log.info("stopped early: %s", trainer.stop_reason)
    log.info("done: %s; to test it: python tools/test_net.py %s", folder.best_weights, shlex.quote(str(folder)))


def look_back(folder: RunFolder, now: CfgNode) -> None:
    """The report of a training: its curves, and how its best weights do on the validation set.

    The best weights may be of before a stop: where the data are and how to test is what it is `now`.
    """
    from _report import draw_data, report, test

    from data.build import build_train_and_val
    from engine.build_inference import checkpoint_config
    from engine.checkpoint import load_checkpoint

    best = folder.best_weights
    state = load_checkpoint(best)
    cfg = checkpoint_config(state, best).clone()
    cfg.DATASETS.ROOT, cfg.MODEL.DEVICE = now.DATASETS.ROOT, now.MODEL.DEVICE
    cfg.DATALOADER, cfg.TEST = now.DATALOADER, now.TEST
    train_set, val_set = build_train_and_val(cfg)
    results = None if val_set is None else test(best, state, cfg, "val", val_set)
    report(folder.report, best, state, cfg, results, draw_data(cfg, train_set, val_set))
    log.info("to look at: %s", folder.report / "index.html")


if __name__ == "__main__":
    run(main)
