"""Data-parallel training under torchrun; without it, every function is a no-op.

Gradients are averaged by torch's DistributedDataParallel; numbers, objects and stop requests go through gloo, also on
GPUs. Collectives must be called by all processes in the same order, and in an error handler only for an Interrupted,
which all of them get.
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

_TIMEOUT = timedelta(minutes=30)  # for a slow process; gloo notices a dead one at once
T = TypeVar("T")


def launch_rank() -> int:
    """Global rank set by the launcher, whether or not this process is connected; 0 without a launcher."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Number of connected processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Global rank of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this process, of rank 0, names the run, writes its files and decides which epoch is the best."""
    return rank() == 0


def local_world_size() -> int:
    """Number of connected processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if dist.is_initialized() else 1


def local_gpu() -> str:
    """The GPU of this process."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if dist.is_initialized() else "cuda"


def launch_command() -> list[str]:
    """Command prefix that runs a script again with the same number of processes, on each machine."""
    if world_size() == 1:
        return ["python"]
    nodes = world_size() // local_world_size()
    return ["torchrun", *([f"--nnodes={nodes}"] if nodes > 1 else []), f"--nproc-per-node={local_world_size()}"]


@contextmanager
def process_group(device: str) -> Iterator[None]:
    """Connects the processes that torchrun has started, if any, for a block; `device` is MODEL.DEVICE.

    Raises UserError if that fails, or when another process has exited.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield
        return
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"MODEL.DEVICE {device}: for several processes set it to auto, cpu or cuda")
    has_gpu, number = device != "cpu" and torch.cuda.is_available(), int(os.environ.get("LOCAL_RANK", "0"))
    if has_gpu and number >= torch.cuda.device_count():
        problem = f"process {number} of this machine has no GPU, found {torch.cuda.device_count()}"
        raise UserError(f"MODEL.DEVICE {device}: {problem}; lower --nproc-per-node, or set it to cpu")
    try:
        store, *place = next(dist.rendezvous("env://", timeout=_TIMEOUT))
        # Otherwise processes that torchrun restarts would find the addresses of those before.
        store = dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
        group = {"store": store, "rank": place[0], "world_size": place[1], "timeout": _TIMEOUT}
        if has_gpu:
            torch.cuda.set_device(number)
        dist.init_process_group("cpu:gloo,cuda:nccl" if has_gpu else "gloo", **group)
    except (RuntimeError, ValueError) as error:
        found = f"process {launch_rank()} of {os.environ['WORLD_SIZE']} cannot connect to the others"
        raise UserError(f"{found}: {one_line(error)}; launch with torchrun") from error
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            problem = "another process of this job exited or does not respond"
            raise UserError(f"{problem}: see its error, and restart the job with --resume") from error
        raise
    dist.destroy_process_group()


def all_reduce_sum(numbers: np.ndarray) -> np.ndarray:
    """Returns the sums of numbers over all processes, in the shape of the numbers; collective."""
    if world_size() > 1:
        dist.all_reduce(torch.from_numpy(numbers := numbers.copy()))
    return numbers


def all_reduce_mean(tensors: Iterable[torch.Tensor]) -> None:
    """Overwrites tensors with their means over all processes; collective."""
    if world_size() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor /= world_size()


def broadcast(tensors: Iterable[torch.Tensor]) -> None:
    """Overwrites tensors with those of the main process; collective."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def gather(thing: T) -> list[T]:
    """Returns the things of all processes, by rank, to the main one, and an empty list to the others; collective."""
    if world_size() == 1:
        return [thing]
    things: list[Any] = [None] * world_size() if is_main() else []
    dist.gather_object(thing, things if is_main() else None)
    return things


def from_main(function: Callable[[], T]) -> T:
    """Calls a function in the main process alone and returns its result to all; collective. They share a UserError."""
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


def main_first(function: Callable[[], T]) -> T:
    """Calls a function in the main process, then in the others, which find what it downloaded; collective."""
    found: list[T] = []
    from_main(lambda: found.append(function()))
    return found[0] if found else function()


def check_same(**facts: Any) -> None:
    """Raises UserError if something that all processes must agree on differs from the main process; collective."""
    for name, expected in from_main(lambda: facts).items():
        if facts[name] != expected:
            problem = f"found {facts[name]} in process {rank()}, expected {expected} as in process 0"
            raise UserError(f"{name}: {problem}; give all processes the same data and kind of device")


def check_batch_size(batch_size: int, micro_batches: int) -> None:
    """Raises UserError for a batch that is not divisible among several processes, in pairs for MixUp."""
    unit = 2 * world_size() * micro_batches
    if world_size() > 1 and batch_size % unit:
        parts = f"2 x {world_size()} processes x MICRO_BATCHES {micro_batches}"
        nearest = max(round(batch_size / unit), 1) * unit
        raise UserError(f"SOLVER.BATCH_SIZE {batch_size}: must be a multiple of {unit} ({parts}), such as {nearest}")


class GradientSync:
    """Calls a module so that the gradients of a backward pass are averaged over all processes."""

    def __init__(self, module: nn.Module):
        self.module, self._is_shared = module, world_size() > 1
        self._trainable: list[bool] = []

    def __call__(self, *inputs: Any, is_last: bool = True) -> Any:
        """Gradients accumulate locally and are averaged in the backward pass of the `is_last` call before an update."""
        if not self._is_shared:
            return self.module(*inputs)
        trainable = [parameter.requires_grad for parameter in self.module.parameters()]
        if trainable != self._trainable:  # at the start, and when layers have been frozen or unfrozen
            # The option also keeps DDP from rearranging its buckets after the first step of a process: sums of more
            # than two numbers depend on their order, and a resumed run would differ in its last bits.
            self._ddp = nn.parallel.DistributedDataParallel(self.module, find_unused_parameters=True)
            self._trainable = trainable
        self._ddp.require_backward_grad_sync = is_last  # as DDP's `no_sync` does
        return self._ddp(*inputs)


class SharedPoll:
    """A `poll` that raises Interrupted in all processes at the same call once it would do so in one; collective.

    The flag is reduced asynchronously and read at the next call, so that polling does not block.
    """

    def __init__(self, poll: Callable[[], None]):
        self.poll, self._is_shared = poll, world_size() > 1
        self._asked: tuple[Any, torch.Tensor] | None = None  # the reduction under way, of the signal's number or 0

    def __call__(self) -> None:
        if not self._is_shared:
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
