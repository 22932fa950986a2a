"""Numeric precision: mixed precision, TF32 and deterministic algorithms."""

import os
from contextlib import AbstractContextManager, nullcontext

import torch

from utils.errors import UserError


def resolve_amp(setting: str, device: torch.device, cpu_bf16: str = "good") -> str:
    """Resolves SOLVER.AMP to off, bf16 or fp16. Raises UserError for what the device does not support.

    auto is bf16 where the device computes it natively, else fp16 on a GPU, else off. `cpu_bf16` tells how the network
    does in bf16 on a CPU: good, slow or broken.
    """
    native = has_native_bf16(device)
    if setting == "auto":
        if device.type == "cpu" and cpu_bf16 != "good":
            return "off"
        return "bf16" if native else "fp16" if device.type == "cuda" else "off"
    if setting == "bf16" and not native:
        raise UserError(f"SOLVER.AMP: this {device.type} device does not compute bf16 natively; set it to auto or off")
    if setting == "bf16" and device.type == "cpu" and cpu_bf16 == "broken":
        problem = "torch's bf16 gradients on a CPU are incorrect for a strided convolution over an image one pixel wide"
        raise UserError(f"SOLVER.AMP: {problem}, which this network has; set it to auto or off, or enlarge INPUT.SIZE")
    if setting == "fp16" and device.type != "cuda":
        raise UserError(f"SOLVER.AMP: fp16 needs a GPU, found {device.type}; set it to auto, bf16 or off")
    return setting


def set_arithmetic(tf32: bool, deterministic: bool) -> None:
    """Sets torch's switches for the whole process.

    TF32 multiplies float32 with ten bits of mantissa on GPUs that have it. Deterministic algorithms give the same
    bits in every run on the same device, and raise where there are none.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    if deterministic != torch.are_deterministic_algorithms_enabled():  # the call imports torch's compiler, in a second
        torch.use_deterministic_algorithms(deterministic)


class Precision:
    """Autocast to `amp` (off, bf16 or fp16) and, for fp16, the gradient scaler.

    P. Micikevicius et al., Mixed precision training, 2017, arXiv:1710.03740.
    """

    def __init__(self, amp: str, device: torch.device):
        self.dtype = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]
        self.device_type = device.type
        # A disabled scaler passes everything through, so that the training step is written once.
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")

    def autocast(self) -> AbstractContextManager:
        return nullcontext() if self.dtype is None else torch.autocast(self.device_type, self.dtype)


def has_native_bf16(device: torch.device) -> bool:
    """Whether a device computes bf16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
