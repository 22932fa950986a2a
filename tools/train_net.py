"""Train a network, or continue a run that was stopped."""

import os
import shlex
import shutil
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import _path  # noqa: F401

from config.loader import CfgNode, dump_marked, load_config, split_overrides
from utils.cli import ArgumentParser, progress_bar, run
from utils.errors import Interrupted, UserError
from utils.interrupt import InterruptHandler
from utils.logger import get_logger, log_to_file, setup_logging
from utils.run_folder import RunFolder, create_run, open_run

if TYPE_CHECKING:
    from engine.checkpoint import Checkpoint

log = get_logger("train")


def main(argv: Sequence[str]) -> None:
    args, cfg = parse(argv)
    if args.print_config:
        print(dump_marked(cfg), end="")
        return
    with InterruptHandler() as interrupt:
        from utils.distributed import launch_rank, process_group

        setup_logging("WARNING" if launch_rank() and cfg.LOG.LEVEL in ("DEBUG", "INFO") else cfg.LOG.LEVEL)
        with process_group(cfg.MODEL.DEVICE):
            folder, is_reported = train(args, cfg, interrupt)
        if cfg.TEST.REPORT and launch_rank() == 0 and not is_reported:
            report(folder, cfg)


def parse(argv: Sequence[str]) -> tuple[Namespace, CfgNode]:
    words, overrides = split_overrides(argv, ("--config-file", "--run-dir", "--allow-change"))
    parser = ArgumentParser(description=__doc__, epilog="KEY VALUE pairs, such as SOLVER.BASE_LR 0.05, change any key.")
    parser.add_argument("--config-file", metavar="FILE", help="the experiment; default: the bundled digits")
    parser.add_argument("--run-dir", metavar="DIR", help="the run's folder, instead of a new one under OUTPUT_DIR")
    resume = "continue RUN, or the newest unfinished run if there is one"
    parser.add_argument("--resume", metavar="RUN", nargs="?", const=True, help=resume)
    allow = "let a resumed run differ in this key"
    parser.add_argument("--allow-change", metavar="KEY", action="append", default=[], help=allow)
    parser.add_argument("--print-config", action="store_true", help="print the configuration and stop")
    args = parser.parse_args(words)
    for option, path in (("config-file", args.config_file), ("run-dir", args.run_dir), ("resume", args.resume)):
        if path == "":
            parser.error(f"--{option}: found nothing, expected a path")
    resumed = RunFolder(Path(args.resume)).config if isinstance(args.resume, str) else None
    return args, load_config(args.config_file or resumed, overrides)


def choose_run(args: Namespace, cfg: CfgNode) -> "tuple[RunFolder, Checkpoint | None]":
    """Returns the folder to train in and, for a run to continue, its checkpoint. Raises UserError if it is not free."""
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


def train(args: Namespace, cfg: CfgNode, interrupt: InterruptHandler) -> tuple[RunFolder, bool]:
    """Trains, unless nothing is left to do. Returns the run, and whether its report has been written."""
    from engine.build import build_trainer
    from utils.distributed import from_main, is_main, launch_command

    folder, checkpoint = from_main(lambda: choose_run(args, cfg))
    if is_main():
        log_to_file(folder.log, cfg.LOG.DAILY)
    if checkpoint is None:
        log.info("starting a new run in %s", folder)
    elif checkpoint.epoch >= cfg.SOLVER.MAX_EPOCHS:
        log.info("%s is complete: nothing to train", folder)
        return folder, (folder.report / "index.html").exists()  # not if the process was stopped before
    else:
        log.info("resuming %s from epoch %d, step %d", folder, checkpoint.epoch, checkpoint.step)
    try:
        trainer = build_trainer(cfg, folder, checkpoint, args.allow_change, interrupt.poll)
    except (UserError, Interrupted):
        if checkpoint is None and is_main() and not (args.run_dir and args.resume):
            shutil.rmtree(folder.path, ignore_errors=True)  # a run that never began
        raise
    try:
        with interrupt.deferred():
            trainer.train()
    except Interrupted:
        log.info("stopped; to resume: %s", shlex.join([*launch_command(), sys.argv[0], "--resume", str(folder)]))
        raise
    if trainer.progress.stop_reason:
        log.info("stopped early: %s", trainer.progress.stop_reason)
    log.info("done: %s; to test it: python tools/test_net.py %s", folder.best_weights, shlex.quote(str(folder)))
    return folder, False


def report(folder: RunFolder, cfg: CfgNode) -> None:
    """Writes the report on the training, with its best weights on the validation set."""
    from engine.build_report import report_on_training

    log.info("report: %s", report_on_training(folder, cfg, progress_bar))


if __name__ == "__main__":
    run(main)
