"""Grad-CAM, class activation maps of convolutional networks: R. Selvaraju et al., 2017, arXiv:1610.02391."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn
from torch.nn.functional import interpolate

from utils.errors import UserError


@torch.enable_grad()
def grad_cam(model: nn.Module, images: torch.Tensor, classes: Sequence[int]) -> torch.Tensor:
    """Returns the map of each of `classes` for ONE image: normalised float (1, C, H, W) -> (len(classes), H, W).

    Values are in 0..1, with maximum 1 for each class; all zeros if no location contributes positively. The network
    must be in evaluation mode, and stays as it was. Raises UserError if its last stage has no feature map.
    """
    last = _LastMap(images.shape[2:])
    hooks = [module.register_forward_hook(partial(last.observe, name)) for name, module in model.named_modules()]
    try:
        logits = model(images)  # (1, C, H, W) -> (1, classes)
    finally:
        for hook in hooks:
            hook.remove()
    found = [] if last.problem else [last.gradient(logits[0, label]) for label in classes]
    gradients = [gradient for gradient in found if gradient is not None]
    if len(gradients) < len(found):
        last.problem = f"has logits that do not depend on its last feature map, of '{last.name}'"
    if last.problem or last.map is None:
        problem = f"{type(model).__name__} {last.problem}"
        raise UserError(f"--cam: {problem}; name the run of a convolutional network, or omit --cam")
    weights = torch.cat(gradients).mean((2, 3), keepdim=True)  # (classes, channels, 1, 1)
    maps = (weights * last.map.detach()).sum(1, keepdim=True).relu()
    maps = interpolate(maps, images.shape[2:], mode="bilinear")[:, 0]
    peaks = maps.amax((1, 2), keepdim=True)
    return maps / peaks.masked_fill(peaks == 0, 1)


class _LastMap:
    """The last feature map (1, channels, h, w) of a forward pass, where the graph of gradients begins.

    As the last one is known only at the end, every map is detached from the graph before it and passed on as a
    copy, because later modules may work in place: gradients then reach back to the last map, and no further.
    """

    def __init__(self, size: Sequence[int]):
        self.size = size
        self.map: torch.Tensor | None = None
        self.name = ""  # of the module that gave the map
        self.problem = "has no feature map (1, channels, h, w) of more than one pixel"

    @torch.enable_grad()  # a frozen part of a network may run inside no_grad
    def observe(self, name: str, module: nn.Module, inputs: tuple, output: object) -> torch.Tensor | None:
        pooling = isinstance(module, (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d))  # of a head; may enlarge its map
        if pooling or not isinstance(output, torch.Tensor) or output.dim() < 3 or output.numel() == max(output.shape):
            return None  # logits, and single pixels: pooled features, weights of channels
        if not self.is_map(output):
            self.problem = f"ends in {list(output.shape)} of '{name}', not in a feature map (1, channels, h, w)"
            return None
        self.map, self.name, self.problem = output.detach().requires_grad_(), name, ""
        return self.map.clone()

    def is_map(self, output: torch.Tensor) -> bool:
        """Whether an output (N, C, h, w) has the proportions of the image, unlike windows and channels-last layouts."""
        if output.dim() != 4 or len(output) != 1:
            return False
        strides = [pixels / cells for pixels, cells in zip(self.size, output.shape[2:], strict=True)]
        return max(strides) <= 4 * min(strides)  # 4: an image a few cells wide is rounded coarsely

    def gradient(self, score: torch.Tensor) -> torch.Tensor | None:
        """Returns the gradient of a score by the map, of its shape, or None if it does not depend on it."""
        if self.map is None or not score.requires_grad:
            return None
        return torch.autograd.grad(score, [self.map], retain_graph=True, allow_unused=True)[0]
