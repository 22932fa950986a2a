"""Losses against the formula in float64, torch's own classes, torchvision's and scikit-learn's."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torchvision.ops import sigmoid_focal_loss

from config import load_config
from modeling.build import build_criterion
from modeling.losses import balanced_weights
from utils.errors import UserError

WEIGHTS = [0.5, 2.0, 1.0, 0.0, 3.0]


class Fixed(nn.Module):
    """A teacher that answers the images with themselves."""

    def forward(self, images):
        assert not self.training
        return images


def build(name, teacher=None, **arguments):
    words = [word for key, value in arguments.items() for word in (f"LOSS.{key}", str(value))]
    teacher_key = ["LOSS.teacher", "run"] if teacher else []
    return build_criterion(load_config(None, ["LOSS.NAME", name, *words, *teacher_key]), teacher)


def batch_of(targets, weights=None, images=None):
    return SimpleNamespace(targets=targets, weights=weights, images=images)


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


def test_binary_cross_entropy_leaves_out_what_does_not_count():
    logits, labels = draw(16, 5, scale=20), LABELS.clone()
    labels[0] = -1  # nothing of it counts
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
        assert criterion.eval()(logits, batch_of(targets, weights)).item() == hard  # it needs no images then
        criterion.train()


def test_distillation_without_its_teacher_is_cross_entropy():
    criterion = build_criterion(load_config(None, ["LOSS.NAME", "distillation", "LOSS.teacher", "gone.pth"])).train()
    logits = draw(16, 5)
    assert criterion(logits, batch_of(CLASSES)) == build("cross_entropy")(logits, batch_of(CLASSES))


def test_distillation_at_high_temperatures_matches_logits():
    """Section 2.1 of the paper: the gradient goes to (z - v) / classes of logits whose mean is 0."""
    z, v = draw(4, 5).double(), draw(4, 5, seed=1).double()
    z, v = z - z.mean(1, keepdim=True), v - v.mean(1, keepdim=True)
    z.requires_grad_()
    criterion = build("distillation", Fixed(), temperature=1e5, weight=1.0).train()
    criterion(z, batch_of(CLASSES[:4], images=v)).backward()
    assert torch.allclose(4 * z.grad, (z.detach() - v) / 5, rtol=1e-3, atol=1e-5)


LOSSES = {
    "cross_entropy": {"label_smoothing": 0.1, "class_weights": WEIGHTS},
    "focal": {"gamma": 0.5, "class_weights": WEIGHTS},
    "bce": {"class_weights": WEIGHTS},
    "focal_bce": {"gamma": 0.5, "class_weights": WEIGHTS},
    "distillation": {"teacher": Fixed(), "label_smoothing": 0.1},
}


def targets_for(name):
    return (CLASSES, SOFT, LABELS) if "bce" in name else (CLASSES, SOFT)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients(name):
    criterion = build(name, **LOSSES[name]).double().train()
    logits, images = draw(16, 5, scale=3).double().requires_grad_(), draw(16, 5, seed=3).double()
    for targets in targets_for(name):
        batch = batch_of(targets.double() if targets.ndim == 2 else targets, draw(16, seed=4).abs().double(), images)
        assert torch.autograd.gradcheck(lambda z, batch=batch: criterion(z, batch), logits)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_enormous_logits(name, dtype):
    """Right and wrong beyond all doubt: values and gradients are finite."""
    criterion = build(name, **LOSSES[name]).train()
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
        ("crossentropy", {}, "LOSS.NAME 'crossentropy': no such loss; did you mean 'cross_entropy'"),
    ],
)
def test_mistakes(name, arguments, message):
    words = [word for key, value in arguments.items() for word in (f"LOSS.{key}", str(value))]
    with pytest.raises(UserError, match=message) as error:
        build_criterion(load_config(None, ["LOSS.NAME", name, *words]))
    assert str(error.value).startswith("LOSS") and "\n" not in str(error.value)


def test_a_number_for_each_class():
    cfg = load_config(None, ["MODEL.NUM_CLASSES", "10", "LOSS.class_weights", "[1, 2]"])
    with pytest.raises(UserError, match=r"LOSS.class_weights: found 2 numbers for 10 classes; give one for each"):
        build_criterion(cfg)
