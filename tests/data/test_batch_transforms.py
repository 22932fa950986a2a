"""Images mixed with their targets."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from data.build import build_batch_transforms
from data.transforms.batch import CutMix, MixUp
from utils.contracts import Batch
from utils.errors import Interrupted, UserError

CLASSES = 5


def batch(size: int = 6) -> Batch:
    """Each image is filled with a number of its own, which tells what was mixed."""
    values = torch.arange(1, size + 1, dtype=torch.uint8) * 30
    images = values[:, None, None, None].expand(size, 3, 9, 11).clone()
    return Batch(images, torch.arange(size) % CLASSES, torch.arange(size))


def build(toy_cfg, entries: str, *overrides: str):
    return build_batch_transforms(toy_cfg("INPUT.BATCH_TRANSFORMS", entries, *overrides), CLASSES)


def mix(transform, seed: int):
    """(images before, images after, targets before, targets after)."""
    one = batch()
    before = F.one_hot(one.targets, CLASSES).float()
    return (one.images, *transform(one.images, before, np.random.default_rng(seed)), before)


@pytest.mark.parametrize("seed", range(5))
def test_mixup_blends_images_and_targets_alike(seed):
    images, mixed, targets, before = mix(MixUp(alpha=1.0), seed)
    assert mixed.dtype == torch.float32 and torch.allclose(targets.sum(1), torch.ones(6))
    values, flat = images[:, 0, 0, 0].float(), mixed.flatten(1)
    assert (flat == flat[:, :1]).all()
    pairs = [  # (share, partner) that explain the first image
        (share, partner)
        for partner in range(6)
        if partner and 0 <= (share := ((flat[0, 0] - values[partner]) / (values[0] - values[partner])).item()) <= 1
    ]
    assert any(torch.allclose(targets[0], s * before[0] + (1 - s) * before[p], atol=1e-5) for s, p in pairs) or (
        flat[0, 0] == values[0] and torch.allclose(targets[0], before[0])
    )


@pytest.mark.parametrize("seed", range(20))
def test_cutmix_pastes_a_box_and_counts_its_area(seed):
    images, mixed, targets, before = mix(CutMix(), seed)
    assert mixed.dtype == torch.uint8
    for i in range(6):
        own = images[i, 0, 0, 0]
        foreign = mixed[i, 0] != own
        area = foreign.float().mean()
        assert targets[i, i % CLASSES].item() >= 1 - area.item() - 1e-6
        if foreign.any():
            rows, columns = foreign.any(1).nonzero(), foreign.any(0).nonzero()
            box = mixed[i, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert (box == box[0, 0, 0]).all() and foreign.sum() == box[0].numel()
            partner = int(box[0, 0, 0]) // 30 - 1
            wanted = (1 - area) * before[i] + area * before[partner]
            assert torch.allclose(targets[i], wanted, atol=1e-6)
    assert torch.equal(images, batch().images)  # what came in stays


def test_what_is_drawn_follows_from_seed_epoch_and_position(toy_cfg):
    transform = build(toy_cfg, "[MixUp, {CutMix: {alpha: 0.5}}]")
    one, again = transform(batch(), 1, 8), transform(batch(), 1, 8)
    assert torch.equal(one.images, again.images) and torch.equal(one.targets, again.targets)
    others = [transform(batch(), epoch, position) for epoch in range(7) for position in (0, 8, 16)]
    assert len({tuple(other.targets.flatten().tolist()) for other in others}) > 15  # an empty box may come twice
    kinds = {other.images.dtype for other in others}
    assert kinds == {torch.uint8, torch.float32}  # both were drawn


def test_mixing_ends_at_an_epoch(toy_cfg):
    transform = build(toy_cfg, "[MixUp]", "INPUT.MIXUP_OFF_EPOCH", "2")
    whole = batch()
    assert transform(whole, 1, 0).targets.is_floating_point()
    assert transform(whole, 2, 0) is whole and transform(whole, 3, 0) is whole


def test_soft_targets_stay_soft(toy_cfg):
    soft = replace(batch(), targets=torch.full((6, CLASSES), 0.2))
    assert torch.allclose(build(toy_cfg, "[MixUp]")(soft, 0, 0).targets, soft.targets)
    assert build(toy_cfg, "[]") is None


@pytest.mark.parametrize("transform", [MixUp(), CutMix()])
def test_what_does_not_count_stays_so(transform):
    targets = torch.tensor([[1.0, -1.0, 0.0]] * 3 + [[0.0, 1.0, 1.0]] * 3)
    _, mixed = transform(batch().images, targets, np.random.default_rng(0))
    partner_or_own_unknown = mixed[:, 1] == -1
    assert partner_or_own_unknown[:3].all() and (mixed[:, [0, 2]] >= 0).all()
    assert ((mixed[:, 1] == 1) | partner_or_own_unknown).all()


def test_mistakes(toy_cfg):
    with pytest.raises(UserError, match="INPUT.BATCH_TRANSFORMS: MixUp: alpha: found 0, expected a number above 0"):
        build(toy_cfg, "[{MixUp: {alpha: 0}}]")
    with pytest.raises(
        UserError, match="INPUT.BATCH_TRANSFORMS 'Mixup': no such batch transform; did you mean 'MixUp'"
    ):
        build(toy_cfg, "[Mixup]")


def test_a_mixed_training_resumes_bit_for_bit(make_trainer, tmp_path):
    keys = ("INPUT.BATCH_TRANSFORMS", "[MixUp, CutMix]", "SOLVER.MAX_EPOCHS", "2")
    whole = make_trainer(*keys, run="whole")
    whole.train()
    calls = []

    def stop():
        calls.append(1)
        if len(calls) == 7:
            raise Interrupted(2)

    from engine.checkpoint import load_checkpoint

    with pytest.raises(Interrupted):
        make_trainer(*keys, run="stopped", poll=stop).train()
    state = load_checkpoint(tmp_path / "stopped/weights/last.pth")
    resumed = make_trainer(*keys, run="stopped", checkpoint=state)
    resumed.train()
    for name, tensor in whole.task.model.state_dict().items():
        assert torch.equal(tensor, resumed.task.model.state_dict()[name]), name
