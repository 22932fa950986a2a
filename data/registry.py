"""The names that DATASETS.NAME and the lists of transforms in INPUT can use."""

from utils.errors import UserError
from utils.registry import Registry

# A data set is called with (root, split) and, where it takes it, the training set's `classes`.
# Facts given to `register`: size, channels, mean, std, train_transforms and test_transforms,
# the defaults of the INPUT keys of the same names.
DATASETS = Registry("data set")

# A transform is called once with its arguments (and `size`, where it takes it), then
# with (image, rng) for each image.
TRANSFORMS = Registry("transform")

# A batch transform is called once with its arguments, then with (images, targets, rng) for a
# whole batch: images (N, C, H, W), targets float32 (N, classes), both on the device.
BATCH_TRANSFORMS = Registry("batch transform")


class MissingSplit(UserError):
    """A data set has no such split of its own."""
