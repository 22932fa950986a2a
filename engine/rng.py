"""The state of every global random generator, as plain values."""

import random

import numpy as np
import torch

from engine.checkpoint import State


def seed_everything(seed: int) -> None:
    """Seeds Python's, NumPy's and torch's generators, torch's on every device; `seed` in 0..2**63 - 1."""
    random.seed(seed)
    np.random.seed([seed & 0xFFFFFFFF, seed >> 32])  # a single number is limited to 32 bits
    torch.manual_seed(seed)


class RngState:
    """The global random generators as one thing that can be saved and restored."""

    def state_dict(self) -> State:
        kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
        return {
            "python": random.getstate(),
            "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss],
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def load_state_dict(self, state: State) -> None:
        """Restores a state. GPUs that were not there when it was saved keep their own."""
        version, internal, gauss = state["python"]
        random.setstate((version, tuple(internal), gauss))
        kind, keys, *rest = state["numpy"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
        torch.set_rng_state(state["torch"])
        if torch.cuda.is_available():
            for device, cuda_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
                torch.cuda.set_rng_state(cuda_state, device)
