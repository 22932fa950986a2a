"""One file per kind of transform; each file here is found by itself.

A transform is called with (image, rng): image is uint8 (H, W, C), rng the numpy Generator of
this sample, the only source of randomness; it returns a uint8 image.

Lists for INPUT.TRAIN_TRANSFORMS that serve well, from the mildest to one for long trainings:

    light: [Resize, {RandomCrop: {padding: 4}}, HFlip]
    usual: [{RandomResizedCrop: {scale: [0.35, 1]}}, HFlip]
    strong: [RandomResizedCrop, HFlip, TrivialAugmentWide, {RandomErasing: {p: 0.1}}]
"""

from utils.registry import import_submodules

import_submodules(__name__, __path__)
