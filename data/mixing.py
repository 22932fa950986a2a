"""The batch transforms of a training, as one function of the batch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch.nn import functional as F

from data.registry import BatchTransform
from data.samplers import stream
from utils.contracts import Batch


@dataclass
class BatchTransforms:
    """Applies one of `transforms`, drawn anew for each batch: a function of (seed, epoch, samples seen).

    Class indices become probabilities (N, num_outputs). From epoch `off_epoch` on batches are not mixed; 0: never off.
    """

    transforms: Sequence[BatchTransform]
    num_outputs: int
    seed: int
    off_epoch: int = 0

    def __call__(self, batch: Batch, epoch: int, samples_seen: int) -> Batch:
        if 0 < self.off_epoch <= epoch:
            return batch
        rng = stream("mixing", self.seed, epoch, samples_seen)
        targets = batch.targets
        if not targets.is_floating_point():
            targets = F.one_hot(targets, self.num_outputs).float()
        transform = self.transforms[int(rng.integers(len(self.transforms)))]
        images, targets = transform(batch.images, targets, rng)
        return replace(batch, images=images, targets=targets)
