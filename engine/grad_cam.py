"""Grad-CAM: where in an image a convolutional network looks for a class.

R. Selvaraju et al., Grad-CAM: visual explanations from deep networks, 2017, arXiv:1610.02391.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn
from torch.nn.functional import interpolate

from utils.errors import UserError


@torch.enable_grad()
def grad_cam(model: nn.Module, images: torch.Tensor, classes: Sequence[int]) -> torch.Tensor:
    """Where a network looks for each of `classes` in ONE image: (1, C, H, W) normalised float -> (len(classes), H, W).

    Values are 0..1, the maximum of each class is 1; a class that nothing speaks for has zeros only. The
    network, in evaluation mode, is left as it was. Raises UserError for one that has no feature map at its end.
    """
    last = _LastMap(images.shape[2:])
    hooks = [module.register_forward_hook(partial(last.see, name)) for name, module in model.named_modules()]
    try:
        logits = model(images)  # (1, C, H, W) -> (1, classes)
    finally:
        for hook in hooks:
            hook.remove()
    gradients = [] if last.problem else [last.gradient(logits[0, label]) for label in classes]
    if any(gradient is None for gradient in gradients):
        last.problem = f"has logits that do not depend on its last feature map, of '{last.name}'"
    if last.problem:
        found = f"{type(model).__name__} {last.problem}"
        raise UserError(f"--cam: {found}; name the run of a convolutional network, or leave --cam out")
    weights = torch.cat(gradients).mean((2, 3), keepdim=True)  # (classes, channels, 1, 1)
    maps = (weights * last.map.detach()).sum(1, keepdim=True).relu()
    maps = interpolate(maps, images.shape[2:], mode="bilinear")[:, 0]
    peaks = maps.amax((1, 2), keepdim=True)
    return maps / peaks.masked_fill(peaks == 0, 1)


class _LastMap:
    """The last feature map (1, channels, h, w) of a forward pass, where the graph of gradients begins.

    Which one is the last shows only at the end. So every map is cut off from what was before it and handed
    on as a copy, because what follows may work in place: the graph then goes back to the last map, and no
    further. Modules are seen in the order in which their calls end, one that is called twice, twice.
    """

    def __init__(self, size: Sequence[int]):
        self.size = size
        self.map: torch.Tensor | None = None
        self.name = ""  # of the module that gave the map
        self.problem = "has no feature map (1, channels, h, w) of more than one pixel"

    @torch.enable_grad()  # a frozen part of a network may run inside no_grad
    def see(self, name: str, module: nn.Module, inputs: tuple, output: object) -> torch.Tensor | None:
        pooling = isinstance(module, (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d))  # of a head; may enlarge its map
        if pooling or not isinstance(output, torch.Tensor) or output.dim() < 3 or output.numel() == max(output.shape):
            return None  # logits, and single pixels: pooled features, weights of channels
        if not self.is_map(output):
            self.problem = f"ends in {list(output.shape)} of '{name}', not in a feature map (1, channels, h, w)"
            return None
        self.map, self.name, self.problem = output.detach().requires_grad_(), name, ""
        return self.map.clone()

    def is_map(self, output: torch.Tensor) -> bool:
        """Whether an output has the proportions of the image, which windows and channels-last layouts have not."""
        if output.dim() != 4 or len(output) != 1:
            return False
        strides = [pixels / cells for pixels, cells in zip(self.size, output.shape[2:], strict=True)]
        return max(strides) <= 4 * min(strides)  # 4: an image a few cells wide is rounded coarsely

    def gradient(self, score: torch.Tensor) -> torch.Tensor | None:
        options = {"retain_graph": True, "allow_unused": True}
        return torch.autograd.grad(score, self.map, **options)[0] if score.requires_grad else None
