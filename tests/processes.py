"""Functions in several connected processes, as torchrun would start them but in a fraction of the time."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch

from utils.distributed import process_group

_TIMEOUT = 60  # seconds
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.engine.test_distributed", "engine.build", "torch._dynamo", "torch.nn.parallel"])


def run(count: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """Calls a function of a module in `count` processes. Returns what each returns, or the error it raised, as text."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pipes, processes = [], []
    for rank in range(count):
        ours, theirs = _context.Pipe(duplex=False)
        process = _context.Process(target=_call, args=(rank, count, port, theirs, function, args), daemon=True)
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    found = []
    for pipe in pipes:
        try:
            found.append(pipe.recv() if pipe.poll(_TIMEOUT) else "no answer")
        except EOFError:
            found.append("died")
    for process in processes:
        process.join(5)
        process.kill()
    return found


def _call(rank: int, count: int, port: int, pipe: Any, function: Callable[..., Any], args: tuple) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(count)}
    try:
        with process_group("cpu"):
            pipe.send(function(*args))
    except BaseException as error:
        detail = traceback.format_exc() if not str(error) else ""
        pipe.send(f"{type(error).__name__}: {error}{detail}")
