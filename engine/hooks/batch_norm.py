"""Statistics of batch norm that belong to the weights they are tested with."""

import copy

import torch
from torch import nn

from engine.hooks.base import Hook
from engine.registry import HOOKS
from engine.trainer import Trainer
from utils.distributed import all_reduce_mean


@HOOKS.register(always=True)
class PreciseBatchNorm(Hook):
    """Re-estimates mean and variance of batch norm at the end of each epoch, from its last `images` training images.

    The running averages are those of earlier weights: with a high learning rate or in short trainings they are far
    off, and the validation loss with them. Y. Wu and J. Johnson, Rethinking "Batch" in BatchNorm, 2021,
    arXiv:2105.07576. All other layers are in evaluation mode, the images are augmented, but not mixed. Training itself
    does not depend on it. Layers that are frozen keep their statistics.
    """

    def __init__(self, images: int = 512):
        if images < 0:
            raise ValueError(f"images: found {images}, expected 1 or more, or 0 for the running averages")
        self.images = images

    def before_evaluate(self, trainer: Trainer) -> None:
        ema, loader = trainer.train_step.ema, trainer.train_loader
        model = trainer.task.model if ema is None else ema.module
        layers = [
            layer
            for layer, trained in zip(model.modules(), trainer.task.model.modules(), strict=True)
            if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.track_running_stats and trained.training
        ]
        if not layers or not self.images:
            return
        batch_size = min(loader.batch_size, loader.num_samples)
        full_batches = loader.num_samples // batch_size
        start = max(0, full_batches - max(1, self.images // batch_size)) * batch_size
        task = trainer.task.with_model(model).eval()
        saved = [(layer.momentum, copy.deepcopy(layer.state_dict())) for layer in layers]
        for layer in layers:
            layer.train()
            layer.reset_running_stats()
            layer.momentum = None  # the mean over batches
        try:
            # Read to the end, because an epoch that is left early gives up its buffers.
            for number, batch in enumerate(loader.batches(trainer.epoch, start, trainer.poll), start // batch_size):
                trainer.poll()
                if number < full_batches:  # a smaller one would weigh as much
                    with torch.no_grad():
                        task(batch)
            all_reduce_mean(b for layer in layers for b in (layer.running_mean, layer.running_var) if b is not None)
        except BaseException:  # a checkpoint may be saved now
            for layer, (_, state) in zip(layers, saved, strict=True):
                layer.load_state_dict(state)
            raise
        finally:
            for layer, (momentum, _) in zip(layers, saved, strict=True):
                layer.momentum = momentum
