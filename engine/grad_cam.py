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
    last, last_name = None, ""  # the last output that may be a feature map (1, channels, h, w), and its module

    @torch.enable_grad()  # a frozen part of a network may run inside no_grad
    def observe(name: str, module: nn.Module, inputs: tuple, output: object) -> torch.Tensor | None:
        nonlocal last, last_name
        pooling = isinstance(module, (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d))  # of a head; may enlarge its map
        if pooling or not isinstance(output, torch.Tensor) or output.dim() < 3 or output.numel() == max(output.shape):
            return None  # logits, and single pixels: pooled features, weights of channels
        # As the last one is known only at the end, the graph of gradients begins anew at each; later modules get a
        # copy, because they may work in place.
        last, last_name = output.detach().requires_grad_(), name
        return last.clone()

    hooks = [module.register_forward_hook(partial(observe, name)) for name, module in model.named_modules()]
    try:
        logits = model(images)  # (1, C, H, W) -> (1, classes)
    finally:
        for hook in hooks:
            hook.remove()
    if last is None:
        raise _refusal(model, "has no feature map (1, channels, h, w) of more than one pixel")
    if not is_map(last, images):
        raise _refusal(model, f"ends in {list(last.shape)} of '{last_name}', not in a feature map (1, channels, h, w)")
    scores = [logits[0, label] for label in classes if logits.requires_grad]
    found = [torch.autograd.grad(score, last, retain_graph=True, allow_unused=True)[0] for score in scores]
    gradients = [gradient for gradient in found if gradient is not None]
    if len(gradients) < len(classes):
        raise _refusal(model, f"has logits that do not depend on its last feature map, of '{last_name}'")
    weights = torch.cat(gradients).mean((2, 3), keepdim=True)  # (classes, channels, 1, 1)
    maps = (weights * last.detach()).sum(1, keepdim=True).relu()
    maps = interpolate(maps, images.shape[2:], mode="bilinear")[:, 0]
    peaks = maps.amax((1, 2), keepdim=True)
    return maps / peaks.masked_fill(peaks == 0, 1)


def is_map(output: torch.Tensor, images: torch.Tensor) -> bool:
    """Whether an output (N, C, h, w) has the proportions of the image, unlike windows and channels-last layouts."""
    if output.dim() != 4 or len(output) != 1:
        return False
    strides = [pixels / cells for pixels, cells in zip(images.shape[2:], output.shape[2:], strict=True)]
    return max(strides) <= 4 * min(strides)  # 4: an image a few cells wide is rounded coarsely


def _refusal(model: nn.Module, problem: str) -> UserError:
    hint = "name the run of a convolutional network, or omit --cam"
    return UserError(f"--cam: {type(model).__name__} {problem}; {hint}")
