"""Train a network, or continue a run that was stopped."""

import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

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
        folder, state = choose_run(args, cfg)
        if state is not None and is_complete(state, cfg):
            log.info("%s is complete: nothing to do", folder)
            return
        log_to_file(folder.log, cfg.LOG.FORMAT, cfg.LOG.DAILY)
        train(cfg, folder, state, args.allow_change, interrupt)


def parse(argv: Sequence[str]) -> tuple[Namespace, CfgNode]:
    words, overrides = split_overrides(argv)
    parser = ArgumentParser(description=__doc__, epilog="KEY VALUE pairs, such as SOLVER.BASE_LR 0.05, change any key.")
    parser.add_argument(
        "--config-file", metavar="FILE", help="the experiment; without it the bundled digits are trained"
    )
    parser.add_argument("--run-dir", metavar="DIR", help="the run's folder, instead of a new one under OUTPUT_DIR")
    parser.add_argument(
        "--resume",
        metavar="RUN",
        nargs="?",
        const="",
        help="continue RUN, or the newest unfinished run if there is one",
    )
    parser.add_argument(
        "--allow-change", metavar="KEY", action="append", default=[], help="let a resumed run differ in this key"
    )
    parser.add_argument("--print-config", action="store_true", help="print the configuration and stop")
    args = parser.parse_args(words)
    file = args.config_file
    if args.resume and not file:
        file = RunFolder(Path(args.resume)).config
    return args, load_config(file, overrides)


def choose_run(args: Namespace, cfg: CfgNode) -> tuple[RunFolder, dict | None]:
    """The folder to train in and, for a run that is continued, its checkpoint. One line says which."""
    experiment = Path(cfg.OUTPUT_DIR) / cfg.EXPERIMENT.NAME
    found = None
    if args.resume is not None:
        from engine.resume import newest_unfinished, resume_run

        if args.run_dir and args.resume:
            raise UserError("--run-dir and --resume RUN name two folders; give one of them")
        if args.resume:
            found = resume_run(Path(args.resume))
        elif args.run_dir:
            found = resume_run(Path(args.run_dir)) if RunFolder(Path(args.run_dir)).has_weights else None
        else:
            found = newest_unfinished(experiment)
    if found:
        counters = found[1]["counters"]
        log.info("resuming %s from epoch %d, step %d", found[0], counters["epoch"], counters["step"])
        return found
    folder = new_run(args, experiment)
    reason = "nothing to resume, " if args.resume is not None else ""
    log.info("%sstarting fresh in %s", reason, folder)
    return folder, None


def new_run(args: Namespace, experiment: Path) -> RunFolder:
    if not args.run_dir:
        folder = create_run(experiment.parent, experiment.name)
    else:
        path = Path(args.run_dir)
        if args.resume is None and path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(f"--run-dir {path}: not an empty folder; name another one, or continue it with --resume")
        folder = open_run(path)
    if not folder.lock():
        raise UserError(f"{folder}: another process is training in this folder")
    return folder


def is_complete(state: dict, cfg: CfgNode) -> bool:
    counters = state["counters"]
    return counters["epoch"] >= cfg.SOLVER.MAX_EPOCHS or bool(counters["stop_reason"])


def train(
    cfg: CfgNode, folder: RunFolder, state: dict | None, allow_changes: Sequence[str], interrupt: InterruptHandler
) -> None:
    from engine.build import build_trainer

    trainer = build_trainer(cfg, folder, state, allow_changes, interrupt.poll, show_bar=sys.stderr.isatty())
    try:
        with interrupt.deferred():
            trainer.train()
    except Interrupted:
        command = shlex.join(["python", sys.argv[0], "--resume", str(folder)])
        log.info("stopped; to resume: %s", command)
        raise
    except Exception:
        interrupt.poll()  # workers may have died of the signal that is to stop us
        raise
    if trainer.stop_reason:
        log.info("stopped early: %s", trainer.stop_reason)
    log.info("done: %s; to test it: python tools/test_net.py %s", folder.best, shlex.quote(str(folder)))


if __name__ == "__main__":
    run(main)
