"""The registries behind DATASETS.NAME and the lists of transforms in INPUT, and the contracts of what they hold."""

from collections.abc import Callable

import numpy as np
import torch

from utils.contracts import Dataset, Transform
from utils.errors import UserError
from utils.registry import Registry

# A data set, one file in data/datasets/: a class (or function) called with `root` (the Path DATASETS.ROOT), `split`
# (train, val or test; it raises MissingSplit for one it does not have), the arguments given beside DATASETS.NAME, and,
# if it takes it, `classes`: those of the training set (None for the training set itself), which it must keep.
#   len(dataset), dataset[i] -> (source, target), dataset.name(i) -> str: see utils.contracts.Dataset.
#   source: uint8 (H, W, C) or (H, W), any C (gray and RGB are converted to INPUT.CHANNELS), or EncodedImage.open(path).
#   target: an int class index; float32 (classes,) of several labels: 1 present, 0 absent, -1 ignored in loss and
#     metrics; float32 (k,) of numbers for regression; a mask (H, W) of the image's size; or what the task understands.
#   classes: list of names, for classification; target_names: names of the numbers, for regression.
#   Optional: targets (n, ...), all of them in one array (else every sample is read once); strata (n,), integers, what
#   splits are stratified by (else the classes); groups (n,), strings: a group is held out as a whole; weights (n,), of
#   the samples in the loss or the sampler; multilabel = True if vectors are several labels, though each may have just
#   one; missing, a list of the files that do not exist, which end a training at its start unless DATASETS.ON_ERROR is
#   skip; thread_safe = True if several threads may call dataset[i] at once.
# Facts given to `register`: size, channels, mean, std, train_transforms and test_transforms, the defaults of the INPUT
# keys of the same names. An image that cannot be read is a BrokenImage, which DATASETS.ON_ERROR skip tolerates.
DATASETS = Registry[Dataset]("data set", "data.datasets")

# A transform, in data/transforms/: called once with its arguments (and `size`, (height, width) of INPUT.SIZE, if it
# takes it), then as transform(image, rng) for each image: uint8 (H, W, C) in, uint8 (H, W, C) out, a view or a new
# array, never changed in place; all randomness from `rng`, the numpy Generator of the sample. The last transform leaves
# images of INPUT.SIZE. Optional:
#   joint(image, target, rng) -> (image, target) moves a mask (H, W, ...) alike; needed for tasks with spatial targets,
#     unless the class has moves_pixels = False: then targets stay as they are.
#   plan(size, rng) -> (top, left, height, width) and finish(pixels) -> image: transform(image, rng) equals finish of
#     the planned part, and plan makes all the draws. As the first transform it saves decoding the rest of the image.
# Lists for INPUT.TRAIN_TRANSFORMS, from the mildest to one for long trainings:
#     light: [Resize, {RandomCrop: {padding: 4}}, HFlip]
#     usual: [{RandomResizedCrop: {scale: [0.35, 1]}}, HFlip]
#     strong: [RandomResizedCrop, HFlip, TrivialAugmentWide, {RandomErasing: {p: 0.1}}]
TRANSFORMS = Registry[Transform]("transform", "data.transforms")

# A batch transform, in data/transforms/: called once with its arguments, then as transform(images, targets, rng) for
# each batch on its device, which it leaves unchanged: images (N, C, H, W), uint8 or float 0..255, targets float32
# (N, outputs). All randomness from `rng`, the numpy Generator of the batch. Returns the mixed images and targets.
Mixed = tuple[torch.Tensor, torch.Tensor]
BatchTransform = Callable[[torch.Tensor, torch.Tensor, np.random.Generator], Mixed]
BATCH_TRANSFORMS = Registry[BatchTransform]("batch transform", "data.transforms")


class MissingSplit(UserError):
    """The data set has no such split of its own."""
