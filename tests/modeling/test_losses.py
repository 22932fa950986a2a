"""Losses against their formulas in float64, torch, torchvision and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torchvision.ops import sigmoid_focal_loss

from config import load_config
from modeling.build import build_criterion, loss_task
from modeling.losses import MeanLoss, balanced_weights
from modeling.registry import LOSSES
from utils.contracts import Batch
from utils.errors import UserError

WEIGHTS = [0.5, 2.0, 1.0, 0.0, 3.0]


class Fixed(nn.Module):
    """A teacher whose logits are the images."""

    def forward(self, images):
        assert not self.training
        return images


def build(name, teacher=None, **arguments):
    words = [word for key, value in arguments.items() for word in (f"LOSS.{key}", str(value))]
    teacher_key = ["LOSS.teacher", "run"] if teacher else []
    return build_criterion(load_config(None, ["LOSS.NAME", name, *words, *teacher_key]), name, teacher=teacher)


def batch_of(targets, weights=None, images=None):
    images = torch.empty(len(targets), 1, 1, 1) if images is None else images
    return Batch(images, targets, torch.arange(len(targets)), weights)


def draw(*shape, scale=1.0, seed=0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def log_softmax(z):
    z = np.asarray(z, dtype=np.float64)
    z = z - z.max(1, keepdims=True)
    return z - np.log(np.exp(z).sum(1, keepdims=True))


CLASSES = torch.arange(16) % 5
SOFT = draw(16, 5, seed=1).softmax(1)
LABELS = torch.randint(-1, 2, (16, 5), generator=torch.Generator().manual_seed(2)).float()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("targets", [CLASSES, SOFT], ids=["classes", "soft"])
def test_cross_entropy(smoothing, dtype, weights, targets):
    logits = draw(16, 5, scale=30).to(dtype)
    criterion = build("cross_entropy", label_smoothing=smoothing, **({"class_weights": weights} if weights else {}))
    found = criterion(logits, batch_of(targets))
    assert found.dtype == torch.float32
    shares = targets.double().numpy() if targets.ndim == 2 else np.eye(5)[targets]
    smooth = ((1 - smoothing) * shares + smoothing / 5) * np.array(weights or 1.0)
    wanted = -(smooth * log_softmax(logits.double())).sum(1).mean()
    assert found.item() == pytest.approx(wanted, rel=1e-6)
    scale = None if weights is None else torch.tensor(weights)
    theirs = nn.CrossEntropyLoss(scale, label_smoothing=smoothing, reduction="none")(logits.float(), targets)
    assert found.item() == pytest.approx(theirs.mean().item(), rel=1e-6)


def test_balanced_weights_are_scikit_learns_and_make_torchs_mean_ours():
    targets = np.repeat([0, 1, 2], [40, 8, 2])
    weights = balanced_weights(targets, 3)
    assert weights == pytest.approx(compute_class_weight("balanced", classes=np.arange(3), y=targets), rel=1e-12)
    assert balanced_weights(np.eye(3)[targets], 3) == weights
    labels = np.array([[1, 0, -1], [1, 1, 0], [-1, 1, 1], [1, 0, 0.0]])
    assert balanced_weights(labels, 3) == pytest.approx([6 / 9, 6 / 6, 6 / 3])
    logits, classes = draw(50, 3), torch.from_numpy(targets)
    theirs = nn.CrossEntropyLoss(torch.tensor(weights))(logits, classes).item()
    criterion = build("cross_entropy", class_weights=weights)
    assert criterion(logits, batch_of(classes)).item() == pytest.approx(theirs, rel=1e-6)
    halves = [criterion(logits[half], batch_of(classes[half])).item() for half in (slice(0, 25), slice(25, 50))]
    assert np.mean(halves) == pytest.approx(theirs, rel=1e-6)  # the same in batches of any size
    with pytest.raises(ValueError, match="class 1 does not occur in training"):
        balanced_weights(np.array([0, 2, 2]), 3)
    for targets in (np.zeros((4, 2, 2), int), np.zeros((4, 2)), np.array([0.5, 1.5])):
        with pytest.raises(ValueError, match=r"balanced: found targets \[\d.*\], expected one class index or 3 labels"):
            balanced_weights(targets, 3)


def test_balanced_weights_of_labels_are_negatives_over_positives():
    rare = np.zeros((100, 2), np.float32)
    rare[:5, 0] = rare[5:10, 1] = 1
    assert balanced_weights(rare, 2, binary=True) == [19, 19]
    unknown = np.array([[1, -1, 0, 1], [-1, 1, 0, 1], [0, 0, 0, 1], [0, 0, -1, -1.0]])
    assert balanced_weights(unknown, 4, binary=True) == [2, 2, 1, 1]  # 1 for a label on no or on all images
    assert balanced_weights(np.array([0, 0, 0, 2]), 4, binary=True) == pytest.approx([1 / 3, 1, 3, 1])
    labels = torch.from_numpy(unknown[:, :2])
    weights = balanced_weights(unknown[:, :2], 2, binary=True)
    torch.manual_seed(0)
    logits = torch.zeros(4, 2, requires_grad=True)
    build("bce", class_weights=weights).label_losses(logits, labels.clamp(min=0).float()).mul(
        labels >= 0
    ).sum().backward()
    assert logits.grad.sum(dim=0) == pytest.approx([0, 0], abs=1e-6)  # both values of a label weigh the same


@pytest.mark.parametrize("gamma", [0, 0.5, 2, 5])
def test_focal(gamma):
    logits, weights = draw(16, 5, scale=4), np.array(WEIGHTS)
    log_p = log_softmax(logits.double())
    for targets, shares in ((CLASSES, np.eye(5)[CLASSES]), (SOFT, SOFT.double().numpy())):
        wanted = -(shares * (1 - np.exp(log_p)) ** gamma * log_p).sum(1).mean()
        assert build("focal", gamma=gamma)(logits, batch_of(targets)).item() == pytest.approx(wanted, rel=1e-5)
        wanted = -(weights * shares * (1 - np.exp(log_p)) ** gamma * log_p).sum(1).mean()
        found = build("focal", gamma=gamma, class_weights=WEIGHTS)(logits, batch_of(targets))
        assert found.item() == pytest.approx(wanted, rel=1e-5)
    # Of two classes it is torchvision's, of the difference of the two logits.
    two, classes = logits[:, :2], CLASSES.clamp(max=1)
    theirs = sigmoid_focal_loss(two[:, 1] - two[:, 0], classes.float(), alpha=-1, gamma=gamma, reduction="mean")
    assert build("focal", gamma=gamma)(two, batch_of(classes)).item() == pytest.approx(theirs.item(), rel=1e-5)


def test_binary_cross_entropy_ignores_unknown_labels():
    logits, labels = draw(16, 5, scale=20), LABELS.clone()
    labels[0] = -1  # no known label
    z, t = logits.double().numpy(), labels.double().numpy()
    losses = np.logaddexp(0, z) - t * z
    wanted = np.array([losses[i][t[i] >= 0].mean() if (t[i] >= 0).any() else 0.0 for i in range(16)])
    assert build("bce")(logits, batch_of(labels)).item() == pytest.approx(wanted.mean(), rel=1e-6)
    weights = torch.rand(16, generator=torch.Generator().manual_seed(0))
    found = build("bce")(logits, batch_of(labels, weights)).item()
    assert found == pytest.approx((wanted * weights.numpy()).mean(), rel=1e-6)
    assert build("bce")(logits.bfloat16(), batch_of(labels)).item() == pytest.approx(wanted.mean(), rel=2e-2)
    one_hot = torch.eye(5)[CLASSES]
    for name in ("bce", "focal_bce"):
        found, again = (build(name)(logits, batch_of(targets)).item() for targets in (CLASSES, one_hot))
        assert found == again


@pytest.mark.parametrize("labels", [LABELS.clamp(min=0), SOFT], ids=["labels", "soft"])
def test_binary_cross_entropy_with_class_weights(labels):
    logits = draw(16, 5, scale=20)
    theirs = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(WEIGHTS))(logits, labels).item()
    assert build("bce", class_weights=WEIGHTS)(logits, batch_of(labels)).item() == pytest.approx(theirs, rel=1e-6)
    flat = build("focal_bce", gamma=0, class_weights=WEIGHTS)
    assert flat(logits, batch_of(labels)).item() == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("gamma", [0, 0.5, 2, 5])
def test_binary_focal(gamma):
    logits, labels = draw(16, 5, scale=4), LABELS.clamp(min=0)
    theirs = sigmoid_focal_loss(logits, labels, alpha=-1, gamma=gamma, reduction="mean").item()
    assert build("focal_bce", gamma=gamma)(logits, batch_of(labels)).item() == pytest.approx(theirs, rel=1e-5)
    theirs = sigmoid_focal_loss(logits, labels, alpha=0.25, gamma=gamma, reduction="mean").item()
    ours = 0.75 * build("focal_bce", gamma=gamma, class_weights=[1 / 3] * 5)(logits, batch_of(labels))
    assert ours.item() == pytest.approx(theirs, rel=1e-5)
    p, t = 1 / (1 + np.exp(-logits.double().numpy())), LABELS.numpy()
    losses = np.where(t == 1, -((1 - p) ** gamma) * np.log(p), -(p**gamma) * np.log(1 - p))
    wanted = np.mean([losses[i][t[i] >= 0].mean() for i in range(16)])
    assert build("focal_bce", gamma=gamma)(logits, batch_of(LABELS)).item() == pytest.approx(wanted, rel=1e-5)


def test_distillation():
    logits, teacher, weights = draw(16, 5, scale=6), draw(16, 5, scale=6, seed=1), torch.arange(16) / 7.5
    criterion = build("distillation", Fixed(), temperature=3, weight=0.7, label_smoothing=0.1, class_weights=WEIGHTS)
    criterion.train()
    plain = build("cross_entropy", label_smoothing=0.1, class_weights=WEIGHTS)
    log_q, log_p = log_softmax(teacher.double() / 3), log_softmax(logits.double() / 3)
    kl = (np.exp(log_q) * (log_q - log_p)).sum(1)
    for targets in (CLASSES, SOFT):
        batch = batch_of(targets, weights, teacher)
        hard = plain(logits, batch).item()
        wanted = 0.3 * hard + 0.7 * 9 * (kl * weights.double().numpy()).mean()
        assert criterion(logits, batch).item() == pytest.approx(wanted, rel=1e-5)
        assert criterion.eval()(logits, batch_of(targets, weights)).item() == hard  # without the teacher
        criterion.train()


def test_distillation_without_its_teacher_is_cross_entropy():
    cfg = load_config(None, ["LOSS.NAME", "distillation", "LOSS.teacher", "gone.pth"])
    criterion = build_criterion(cfg, "distillation").train()
    logits = draw(16, 5)
    expected = build("cross_entropy")(logits, batch_of(CLASSES)).item()
    assert criterion(logits, batch_of(CLASSES)).item() == pytest.approx(expected, rel=1e-6)


def test_distillation_at_high_temperatures_matches_logits():
    """Section 2.1 of the paper: the gradient goes to (z - v) / classes of logits whose mean is 0."""
    z, v = draw(4, 5).double(), draw(4, 5, seed=1).double()
    z, v = z - z.mean(1, keepdim=True), v - v.mean(1, keepdim=True)
    z.requires_grad_()
    criterion = build("distillation", Fixed(), temperature=1e5, weight=1.0).train()
    criterion(z, batch_of(CLASSES[:4], images=v)).backward()
    assert torch.allclose(4 * z.grad, (z.detach() - v) / 5, rtol=1e-3, atol=1e-5)


EXAMPLES = {
    "cross_entropy": {"label_smoothing": 0.1, "class_weights": WEIGHTS},
    "focal": {"gamma": 0.5, "class_weights": WEIGHTS},
    "bce": {"class_weights": WEIGHTS},
    "focal_bce": {"gamma": 0.5, "class_weights": WEIGHTS},
    "distillation": {"teacher": Fixed(), "label_smoothing": 0.1},
    "mse": {},
    "l1": {},
    "smooth_l1": {"beta": 0.5},
}


def targets_for(name):
    if LOSSES.info(name, "") == {"task": "regression"}:
        return (draw(16, 5, seed=5),)
    return (CLASSES, SOFT, LABELS) if "bce" in name else (CLASSES, SOFT)


@pytest.mark.parametrize("name", EXAMPLES)
def test_gradients(name):
    criterion = build(name, **EXAMPLES[name]).double().train()
    logits, images = draw(16, 5, scale=3).double().requires_grad_(), draw(16, 5, seed=3).double()
    for targets in targets_for(name):
        batch = batch_of(targets.double() if targets.ndim == 2 else targets, draw(16, seed=4).abs().double(), images)
        assert torch.autograd.gradcheck(lambda z, batch=batch: criterion(z, batch), logits)


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_enormous_logits(name, dtype):
    """Values and gradients are finite for completely certain predictions, correct and incorrect."""
    criterion = build(name, **EXAMPLES[name]).train()
    for targets in targets_for(name):
        for sign in (1e4, -1e4):
            logits = (sign * torch.eye(5)[CLASSES]).to(dtype).requires_grad_()
            loss = criterion(logits, batch_of(targets, images=-logits.detach()))
            loss.backward()
            assert loss.dtype == torch.float32 and loss.isfinite() and logits.grad.isfinite().all(), (targets, sign)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("cross_entropy", {"label_smoothing": 2}, "CrossEntropy: label_smoothing: found 2, expected a share"),
        ("cross_entropy", {"class_weights": [1, -1]}, r"class_weights: found .*-1.*, expected a number from 0 up"),
        ("bce", {"class_weights": [0, 0]}, "expected a number from 0 up for each class"),
        ("focal", {"class_weights": "even"}, "class_weights: found 'even', expected a number from 0 up"),
        ("focal", {"gamma": -1}, "Focal: gamma: found -1, expected a number from 0 up"),
        ("focal_bce", {"gamma": "x"}, "LOSS: BinaryFocal: .*"),
        ("distillation", {}, "missing a required argument: 'teacher'"),
        ("distillation", {"teacher": "x", "temperature": 0}, "temperature: found 0, expected a number above 0"),
        ("distillation", {"teacher": "x", "weight": 1.5}, "weight: found 1.5, expected a share from 0 to 1"),
        ("mse", {"class_weights": [1, 2]}, "LOSS.class_weights: RegressionLoss takes no such argument"),
        ("smooth_l1", {"beta": -1}, "SmoothL1: beta: found -1, expected a number from 0 up"),
        ("crossentropy", {}, "LOSS.NAME 'crossentropy': no such loss; did you mean 'cross_entropy'"),
    ],
)
def test_mistakes(name, arguments, message):
    words = [word for key, value in arguments.items() for word in (f"LOSS.{key}", str(value))]
    with pytest.raises(UserError, match=message) as error:
        build_criterion(load_config(None, ["LOSS.NAME", name, *words]), name)
    assert str(error.value).startswith("LOSS") and "\n" not in str(error.value)


def test_one_class_weight_per_class():
    cfg = load_config(None, ["LOSS.NAME", "cross_entropy", "LOSS.class_weights", "[1, 2]"])
    with pytest.raises(UserError, match=r"LOSS.class_weights: found 2 numbers for 10 classes; give one each"):
        build_criterion(cfg, "cross_entropy", num_outputs=10)
    logits, batch = draw(4, 2), batch_of(torch.tensor([0, 1, 1, 0]))
    resolved = build_criterion(cfg, "cross_entropy", class_weights=[3.0, 1.0], num_outputs=2)(logits, batch)
    assert resolved == build("cross_entropy", class_weights=[3.0, 1.0])(logits, batch)


def test_the_task_of_a_loss():
    tasks = {name: loss_task(load_config(None, ["LOSS.NAME", name])) for name in LOSSES.names()}
    assert tasks["cross_entropy"] == tasks["focal"] == tasks["distillation"] == "classification"
    assert tasks["bce"] == tasks["focal_bce"] == "multilabel"
    assert tasks["mse"] == tasks["l1"] == tasks["smooth_l1"] == "regression"
    with pytest.raises(UserError, match="LOSS.NAME 'cross_entropi': no such loss; did you mean 'cross_entropy'"):
        loss_task(load_config(None, ["LOSS.NAME", "cross_entropi"]))


@pytest.mark.parametrize(
    ("name", "arguments", "oracle"),
    [
        ("mse", {}, nn.MSELoss()),
        ("l1", {}, nn.L1Loss()),
        ("smooth_l1", {}, nn.SmoothL1Loss()),
        ("smooth_l1", {"beta": 0.3}, nn.SmoothL1Loss(beta=0.3)),
    ],
)
def test_regression(name, arguments, oracle):
    criterion, outputs, targets = build(name, **arguments), draw(16, 5), draw(16, 5, seed=1)
    assert criterion(outputs, batch_of(targets)).item() == pytest.approx(oracle(outputs, targets).item(), rel=1e-6)
    single, column = draw(16, 1), draw(16, seed=2)
    expected = oracle(single[:, 0], column).item()
    assert criterion(single, batch_of(column)).item() == pytest.approx(expected, rel=1e-6)  # not (N, N) values
    assert criterion(single, batch_of(column.double())).dtype == torch.float32
    weights = torch.rand(16, generator=torch.Generator().manual_seed(0))
    each = torch.stack([oracle(outputs[i], targets[i]) for i in range(16)])
    found = criterion(outputs, batch_of(targets, weights)).item()
    assert found == pytest.approx((each * weights).mean().item(), rel=1e-6)
    with pytest.raises(RuntimeError):  # five outputs for one number
        criterion(outputs, batch_of(column))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_of_masks(smoothing, weights):
    logits, masks = draw(6, 5, 3, 4), torch.randint(0, 5, (6, 3, 4), generator=torch.Generator().manual_seed(0))
    arguments = {"label_smoothing": smoothing} | ({"class_weights": weights} if weights else {})
    criterion = build("cross_entropy", **arguments)
    scale = None if weights is None else torch.tensor(weights)
    pixels = nn.CrossEntropyLoss(scale, label_smoothing=smoothing, reduction="none")(logits, masks)  # (6, 3, 4)
    assert criterion(logits, batch_of(masks)).item() == pytest.approx(pixels.mean().item(), rel=1e-6)
    soft = torch.movedim(torch.eye(5)[masks], 3, 1)  # (6, 5, 3, 4)
    assert criterion(logits, batch_of(soft)).item() == pytest.approx(pixels.mean().item(), rel=1e-6)


def test_ignored_pixels_do_not_weigh_and_micro_batches_equal_the_batch():
    logits, masks = draw(6, 5, 3, 4), torch.randint(0, 5, (6, 3, 4), generator=torch.Generator().manual_seed(0))
    masks[0, 1:] = 255
    masks[1] = 255
    criterion, oracle = build("cross_entropy", ignore_index=255), nn.CrossEntropyLoss(ignore_index=255)
    expected = [0.0 if i == 1 else oracle(logits[i : i + 1], masks[i : i + 1]).item() for i in range(6)]
    whole = criterion(logits, batch_of(masks)).item()
    assert whole == pytest.approx(np.mean(expected), rel=1e-6)
    parts = [criterion(logits[part], batch_of(masks[part])).item() for part in (slice(0, 2), slice(2, 6))]
    assert parts[0] * 2 / 6 + parts[1] * 4 / 6 == pytest.approx(whole, rel=1e-6)
    assert build("cross_entropy", ignore_index=255)(draw(4, 5), batch_of(CLASSES[:4])) == build("cross_entropy")(
        draw(4, 5), batch_of(CLASSES[:4])
    )


def test_a_loss_of_any_shape_is_averaged_within_each_image_first():
    class Squares(MeanLoss):
        def losses(self, outputs, batch):
            return (outputs - batch.targets) ** 2

    outputs, targets, weights = draw(6, 2, 3, 4).bfloat16(), draw(6, 2, 3, 4, seed=1), torch.arange(6.0)
    each = ((outputs.float() - targets) ** 2).mean(dim=(1, 2, 3))
    found = Squares()(outputs, batch_of(targets, weights))
    assert found.shape == () and found.item() == pytest.approx((each * weights).mean().item(), rel=1e-6)


def test_a_teacher_is_neither_saved_nor_trained_nor_moved():
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(5, 5), nn.Dropout(0.5)).train()
    cfg = load_config(None, ["LOSS.NAME", "distillation", "LOSS.teacher", "run"])
    criterion = build_criterion(cfg, "distillation", teacher=teacher)
    assert not list(criterion.parameters()) and not criterion.state_dict() and len(list(criterion.modules())) == 1
    criterion.train().double()
    assert not teacher.training and not teacher[2].training and teacher[1].weight.dtype == torch.float32
    logits = draw(4, 5).requires_grad_()
    batch = batch_of(CLASSES[:4], images=draw(4, 5, seed=1))
    criterion(logits, batch).backward()
    assert logits.grad is not None and teacher[1].weight.grad is None
    function = build_criterion(cfg, "distillation", teacher=teacher.forward).train()
    assert function(logits, batch).item() == pytest.approx(criterion.float()(logits, batch).item())
