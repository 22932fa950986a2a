"""The names that MODEL.NAME and LOSS.NAME can use."""

from utils.registry import Registry

# A model is called with (num_classes, in_channels) and its own arguments, and gives an
# nn.Module: float (N, in_channels, H, W) -> logits (N, num_classes).
# Facts given to `register`: its default size (224, 224), mean and std; min_size, the least it takes;
# in_channels where it takes no other number; auxiliary, the weight of its auxiliary heads' loss.
MODELS = Registry("model")

# A loss is called with its own arguments and gives an nn.Module that is called with
# (outputs, batch) and returns the mean over the batch, a scalar.
# Two arguments are worked out before: a teacher, a checkpoint in YAML, arrives as the module images in
# 0..255 -> logits, or None in testing; class_weights, where they are "balanced", as a list.
# Facts given to `register`: multilabel, whether it takes several labels for an image.
LOSSES = Registry("loss")
