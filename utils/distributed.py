"""Processes that train together, as torchrun starts them; without it, every function is the identity.

Gradients are averaged by torch's DistributedDataParallel; numbers, objects and the wish to stop are exchanged by gloo,
also on GPUs. What is collective is called by all processes in the same order, and never while one handles an error.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from utils.errors import Interrupted, UserError, one_line

_TIMEOUT = timedelta(minutes=30)  # of waiting for one that is busy; one that has died is noticed at once
T = TypeVar("T")


def launch_rank() -> int:
    """Number that the launcher gave to this process, connected or not; 0 without a launcher."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Number of connected processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process among the connected ones, from 0."""
    return launch_rank() if world_size() > 1 else 0


def is_main() -> bool:
    """Whether this process is the one that names the run, writes its files and decides which epoch is the best."""
    return rank() == 0


def on_this_machine() -> int:
    """Number of connected processes that share this machine's CPUs."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if world_size() > 1 else 1


def local_gpu() -> str:
    """The GPU of this process."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if world_size() > 1 else "cuda"


def launcher() -> list[str]:
    """The words before a script that start as many processes of it again."""
    return ["python"] if world_size() == 1 else ["torchrun", "--nproc-per-node", os.environ["LOCAL_WORLD_SIZE"]]


@contextmanager
def connected(device: str) -> Iterator[None]:
    """Connects the processes that torchrun has started, if it has, for a block; `device` is MODEL.DEVICE.

    Raises UserError if that fails, or when another process has ended.
    """
    if "WORLD_SIZE" not in os.environ or os.environ["WORLD_SIZE"] == "1":
        yield
        return
    has_gpu = torch.cuda.is_available() and device in ("auto", "cuda")
    try:
        store, number, count = next(dist.rendezvous("env://", timeout=_TIMEOUT))
        # Otherwise processes that torchrun starts again would find the addresses of those before.
        store = dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
        group = {"store": store, "rank": number, "world_size": count, "timeout": _TIMEOUT}
        dist.init_process_group("cpu:gloo,cuda:nccl" if has_gpu else "gloo", **group)
    except (RuntimeError, ValueError) as error:
        found = f"process {launch_rank()} of {os.environ['WORLD_SIZE']} cannot connect to the others"
        raise UserError(f"{found}: {one_line(error)}; start all of them by torchrun") from error
    if has_gpu:
        torch.cuda.set_device(local_gpu())
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistBackendError) or "gloo" in str(error):
            hint = "see its message; to continue, start all of them again with --resume"
            raise UserError(f"another process of this training has ended: {hint}") from error
        raise
    dist.destroy_process_group()


def all_sum(numbers: np.ndarray) -> np.ndarray:
    """Returns the sums of numbers over the processes, in the shape of the numbers; collective."""
    if world_size() > 1:
        dist.all_reduce(torch.from_numpy(numbers := numbers.copy()))
    return numbers


def gather(thing: T) -> list[T]:
    """Returns the things of all processes, by rank, to the main one, and nothing to the others; collective."""
    if world_size() == 1:
        return [thing]
    things: list[Any] = [None] * world_size() if is_main() else []
    dist.gather_object(thing, things if is_main() else None)
    return things


def from_main(function: Callable[[], T]) -> T:
    """Returns to all processes what the main one, which alone calls it, gets from a function; collective.

    An error that it raises for a user's mistake is raised in all of them.
    """
    if world_size() == 1:
        return function()
    outcome: list[Any] = [None, None]
    if is_main():
        try:
            outcome[0] = function()
        except UserError as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def broadcast(tensors: Iterable[torch.Tensor]) -> None:
    """Overwrites tensors with those of the main process; collective."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def average(tensors: Iterable[torch.Tensor]) -> None:
    """Overwrites tensors with their means over the processes; collective."""
    if world_size() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor /= world_size()


class Parallel:
    """Calls a module so that the gradients of a backward pass are averaged over the processes."""

    def __init__(self, module: nn.Module):
        self.module = module
        self._trainable: list[bool] = []

    def __call__(self, *inputs: Any, is_last: bool = True) -> Any:
        """Gradients add up without being exchanged until the backward pass of the `is_last` call before an update."""
        if world_size() == 1:
            return self.module(*inputs)
        trainable = [parameter.requires_grad for parameter in self.module.parameters()]
        if trainable != self._trainable:  # at the start, and when layers have been frozen or released
            # This option also keeps DDP from rearranging gradients after the first step of a process: sums of more than
            # two numbers depend on their order, and a resumed run would differ in bits.
            self._ddp = nn.parallel.DistributedDataParallel(self.module, find_unused_parameters=True)
            self._trainable = trainable
        self._ddp.require_backward_grad_sync = is_last  # as DDP's `no_sync` does
        return self._ddp(*inputs)


class SharedPoll:
    """A `poll` that raises Interrupted in all processes at the same call if it would have done so in one of them.

    They learn of it at the next call, so that none waits for the others; collective.
    """

    def __init__(self, poll: Callable[[], None]):
        self.poll = poll
        self._asked: tuple[Any, torch.Tensor] | None = None  # the exchange under way, its signal number or 0

    def __call__(self) -> None:
        if world_size() == 1:
            self.poll()
            return
        signum = torch.zeros(1, dtype=torch.int64)
        try:
            self.poll()
        except Interrupted as stop:
            signum += stop.signum
        before, self._asked = self._asked, (dist.all_reduce(signum, dist.ReduceOp.MAX, async_op=True), signum)
        if before is not None:
            before[0].wait()
            if before[1]:
                raise Interrupted(int(before[1]))
