"""One file per kind of transform; each file here is found by itself.

A transform is called with (image, rng): image is uint8 (H, W, C), rng the numpy Generator of
this sample, the only source of randomness; it returns a uint8 image.
"""

from utils.registry import import_submodules

import_submodules(__name__, __path__)
