"""Families of networks: a training step, saving and loading, and the input that they take."""

import pytest
import torch
import torchvision

from config import load_config
from modeling.build import build_criterion, build_input_spec, build_model, build_normalize
from modeling.resnet18_explained import ExplainedResNet18
from utils.contracts import Batch
from utils.errors import UserError

# The smallest member of each family, and the side of its test images.
SMALLEST = {
    "resnet9": 32,
    "resnet18": 64,
    "resnext50_32x4d": 64,
    "wide_resnet50_2": 64,
    "resnet18_explained": 64,
    "torchvision/alexnet": 64,
    "torchvision/vgg11": 32,
    "torchvision/squeezenet1_1": 32,
    "torchvision/densenet121": 64,
    "torchvision/googlenet": 64,
    "torchvision/inception_v3": 139,
    "torchvision/mnasnet0_5": 64,
    "torchvision/mobilenet_v2": 64,
    "torchvision/mobilenet_v3_small": 64,
    "torchvision/shufflenet_v2_x0_5": 64,
    "torchvision/regnet_y_400mf": 64,
    "torchvision/efficientnet_b0": 64,
    "torchvision/efficientnet_v2_s": 64,
    "torchvision/convnext_tiny": 64,
    "torchvision/swin_t": 64,
    "torchvision/vit_b_16": 32,
    "torchvision/maxvit_t": 224,
    "timm/resnet10t": 64,
}


def experiment(name: str, side: int | str | None = None, *overrides: str):
    size = ["INPUT.SIZE", f"[{side},{side}]" if isinstance(side, int) else side] if side else []
    cfg = load_config(None, ["MODEL.NAME", name, *size, *overrides])
    return cfg, build_input_spec(cfg, {})


def test_the_explained_resnet18_without_bias_is_resnet18():
    """Its tensors are in the same order under other names."""
    torch.manual_seed(0)
    explained, resnet = ExplainedResNet18(6, bias=False).eval(), torchvision.models.resnet18(num_classes=6).eval()
    explained.load_state_dict(dict(zip(explained.state_dict(), resnet.state_dict().values(), strict=True)))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(explained(images), resnet(images))


@pytest.mark.parametrize(
    ("name", "parameters"), [("resnet18_explained", 11_309_446), ("torchvision/resnet18", 11_309_382)]
)
def test_a_two_layer_head_has_the_published_count(name, parameters):
    cfg, spec = experiment(name, None, "MODEL.HEAD.HIDDEN", "256")
    assert sum(p.numel() for p in build_model(cfg, spec, 6).parameters()) == parameters


@pytest.mark.parametrize("name", SMALLEST)
def test_train_save_load_predict(name, tmp_path):
    if name.startswith("timm/"):
        pytest.importorskip("timm", reason="timm is not installed")
    torch.manual_seed(0)
    cfg, spec = experiment(name, SMALLEST[name])
    model, normalize = build_model(cfg, spec, 7), build_normalize(cfg, spec)
    images = normalize(torch.randint(0, 256, (2, spec.channels, *spec.size), dtype=torch.uint8))
    before = [parameter.clone() for parameter in model.parameters()]
    batch = Batch(images, torch.tensor([1, 5]), torch.arange(2))
    loss = build_criterion(cfg, "cross_entropy")(model(images), batch)
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=1e-3).step()
    assert torch.isfinite(loss)
    assert not all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))

    torch.save(model.state_dict(), tmp_path / "x.pth")
    again = build_model(cfg, spec, 7)
    again.load_state_dict(torch.load(tmp_path / "x.pth", weights_only=True))
    (tmp_path / "x.pth").unlink()
    with torch.inference_mode():
        logits, repeated = model.eval()(images), again.eval()(images)
    assert logits.shape == (2, 7) and torch.equal(logits, repeated)


@pytest.mark.parametrize(
    ("name", "side", "message"),
    [
        (
            "torchvision/inception_v3",
            64,
            r"INPUT.SIZE: found \[64, 64\], torchvision/inception_v3 takes at least \[75, 75\]",
        ),
        ("torchvision/alexnet", 32, r"takes at least \[63, 63\]"),
        ("torchvision/vit_b_16", 50, "Input shape indivisible by patch size"),
        ("torchvision/vit_b_16", "[64,32]", r"INPUT.SIZE: found \[64, 32\], torchvision/vit_b_16 takes square images"),
        ("timm/resnt18", None, "MODEL.NAME 'timm/resnt18': timm has no such model"),
        ("timm/resnet18.nobody", None, "timm has no such model; .*resnet18"),
        ("tim/resnet18", None, "MODEL.NAME 'tim/resnet18': no such model"),
        ("efficientnet_b4", None, "MODEL.NAME 'efficientnet_b4': no such model here; name torchvision/efficientnet_b4"),
    ],
)
def test_input_that_a_network_cannot_take(name, side, message):
    with pytest.raises(UserError, match=message):
        build_model(*experiment(name, side), 7)


def test_sizes_and_normalisation_are_the_librarys():
    assert experiment("torchvision/inception_v3")[1].size == (299, 299)
    half = experiment("timm/tf_efficientnet_b2.ap_in1k")[1]
    assert half.size == (260, 260) and half.mean == (0.5, 0.5, 0.5)
    assert experiment("timm/legacy_xception")[1].mean == (0.5, 0.5, 0.5)
    assert experiment("timm/seresnext50_32x4d")[1].mean == (0.485, 0.456, 0.406)
    assert experiment("torchvision/efficientnet_b4")[1].size == (380, 380)
