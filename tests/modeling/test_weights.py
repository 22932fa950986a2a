"""Initial weights from files and libraries, and heads."""

import logging
import os
import re
import zipfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from config import load_config
from modeling.build import build_input_spec, build_model, load_initial_weights
from modeling.head import find_head, replace_head
from modeling.weights import load_matching, read_weights
from utils.errors import UserError


class Net(nn.Module):
    def __init__(self, channels: int = 3, classes: int = 5):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, classes)


@pytest.fixture
def log(caplog):
    logging.getLogger("strata").propagate = True
    caplog.set_level(logging.INFO)
    return lambda: [record.getMessage() for record in caplog.records]


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module.", "model.", "module.backbone."])
@pytest.mark.parametrize("kind", ["bare", "state_dict", "model", "safetensors"])
def test_weights_come_in_many_ways(tmp_path, prefix, kind):
    source, target = Net(), Net()
    state = {prefix + name: tensor for name, tensor in source.state_dict().items()}
    path = tmp_path / f"x.{'safetensors' if kind == 'safetensors' else 'pth'}"
    if kind == "safetensors":
        pytest.importorskip("safetensors.torch", reason="safetensors is not installed").save_file(state, path)
    else:
        torch.save(state if kind == "bare" else {kind: state, "epoch": 3}, path)
    load_matching(target, read_weights(str(path), Net().state_dict())[0], "x", 0.5)
    assert equal(source.state_dict(), target.state_dict())


def test_weights_of_another_class_count_load_all_but_the_head(log):
    source, target = Net(classes=9), Net(classes=5)
    fresh = target.fc.weight.clone()
    load_matching(target, source.state_dict() | {"extra": torch.zeros(1)}, "x.pth", 0.5)
    assert torch.equal(target.conv.weight, source.conv.weight) and torch.equal(target.fc.weight, fresh)
    assert "x.pth: 7 of 9 tensors loaded" in log()
    assert "skipped fc.weight: found [9, 4], expected [5, 4]" in log()
    assert "unexpected: 1, such as extra" in log()


@pytest.mark.parametrize(("name", "hidden"), [("resnet9", 6), ("torchvision/squeezenet1_1", 0)])
@pytest.mark.parametrize(
    ("saved", "names"),
    [
        (["bag", "boot", "coat", "dress"], ["pullover", "sandal", "shirt", "sneaker"]),
        (["bag", "boot", "coat", "dress"], ["boot", "coat", "shirt", "trousers"]),
        (["bag", "boot", "coat", "dress"], ["dress", "coat", "boot", "bag"]),
        (["bag", "boot", "coat", "dress"], ["coat", "hat"]),
        (["bag", "boot", "coat", "dress"], ["bag", "boot", "coat", "dress"]),
        ([], ["bag", "boot", "coat", "dress"]),  # a bare state dict
    ],
)
def test_rows_of_a_head_go_to_classes_of_the_same_name(tmp_path, log, name, hidden, saved, names):
    words = ["MODEL.NAME", name, "MODEL.HEAD.HIDDEN", str(hidden), "MODEL.WEIGHTS", str(tmp_path / "x.pth")]
    cfg = load_config(None, words)
    spec = build_input_spec(cfg, {"size": (32, 32), "mean": (0.1,) * 3, "std": (0.2,) * 3})
    old, new = (build_model(cfg, spec, len(them) or 4).state_dict() for them in (saved, names))
    torch.save({"model": old, "resolved": {"names": saved}} if saved else old, tmp_path / "x.pth")
    model = build_model(cfg, spec, len(names))
    model.load_state_dict(new)
    load_initial_weights(cfg, model, spec, names)
    *body, weight, bias = result = model.state_dict()
    assert all(torch.equal(result[key], old[key]) for key in body)
    for key in (weight, bias):
        for row, label in enumerate(names):
            place = saved.index(label) if label in saved else row
            assert torch.equal(result[key][row], (new if label not in saved and saved else old)[key][place]), label
    common = [label for label in names if label in saved]
    said = [line for line in log() if "a head of other classes" in line]
    if saved in ([], names):
        assert not said
    else:
        count = f"{len(common)} of {len(names)} rows are kept, such as {common[0]}" if common else "no row is kept"
        assert said == [f"{tmp_path}/x.pth: a head of other classes: {count}; the rest starts fresh"]
        assert any(line.endswith(f" {len(old) - (0 if common else 2)} of {len(old)} tensors loaded") for line in log())


def test_rows_of_a_head_under_a_wrappers_prefix(tmp_path):
    cfg = load_config(None, ["MODEL.WEIGHTS", str(tmp_path / "x.pth")])
    spec = build_input_spec(cfg, {"size": (32, 32), "mean": (0.1,) * 3, "std": (0.2,) * 3})
    old, model = (build_model(cfg, spec, 3) for _ in range(2))
    state = {f"module.{key}": tensor for key, tensor in old.state_dict().items()}
    torch.save({"model": state, "resolved": {"names": ["a", "b", "c"]}}, tmp_path / "x.pth")
    fresh = model.fc.weight.detach().clone()
    load_initial_weights(cfg, model, spec, ["c", "x", "a"])
    assert torch.equal(model.fc.weight, torch.stack([old.fc.weight[2], fresh[1], old.fc.weight[0]]))


@pytest.mark.parametrize(("found", "expected"), [(3, 1), (1, 3), (3, 4), (3, 8), (1, 2)])
def test_the_first_convolution_is_converted_to_other_channels(log, found, expected):
    """Its response to a gray image stays the same."""
    source, target = Net(channels=found), Net(channels=expected)
    load_matching(target, source.state_dict(), "x", 0.5)
    gray = torch.rand(2, 1, 8, 8)
    if expected % found == 0 or expected == 1:  # of four channels the first is repeated
        outputs = [net.conv(gray.expand(-1, n, -1, -1)) for net, n in ((target, expected), (source, found))]
        torch.testing.assert_close(*outputs)
    assert f"x: conv.weight of {found} input channels, converted to {expected}" in log()
    assert not any("skipped" in line for line in log())


def test_weights_of_another_network_are_refused_unless_told_otherwise():
    state = {"fc.weight": torch.zeros(5, 4), "fc.bias": torch.zeros(5)}
    with pytest.raises(UserError, match="x: 2 of 9 tensors match the network, less than MODEL.WEIGHTS_MIN_MATCH 0.5"):
        load_matching(Net(), state, "x", 0.5)
    net = Net()
    load_matching(net, state, "x", 0.1)
    assert net.fc.weight.abs().sum() == 0


def wrapped(net: nn.Module) -> dict[str, torch.Tensor]:
    return {f"module.{name}": tensor for name, tensor in net.state_dict().items()}


@pytest.mark.parametrize(
    "around",
    [
        lambda net: {"state_dict": wrapped(net), "best_acc1": torch.tensor(69.8)},
        lambda net: {"epoch": torch.tensor(3), "model": {"encoder": Part().state_dict(), "whole": net.state_dict()}},
        lambda net: {"ema": {"shadow": torch.zeros(3)}, "net": net.state_dict()},
        lambda net: {"ema": net.state_dict(), "model": Net().state_dict()},
        lambda net: {"state_dict": Net().state_dict(), "model": net.state_dict()},
        lambda net: {"optimizer": {"state": {0: {"exp_avg": torch.zeros(4, 3, 3, 3)}}}, "weights": wrapped(net)},
    ],
)
def test_of_all_that_a_file_has_what_fits_best_is_loaded(tmp_path, around):
    """Of what fits equally, the average before the network itself."""
    source, target = Net(), Net()
    torch.save(around(source), tmp_path / "x.pth")
    load_matching(target, read_weights(str(tmp_path / "x.pth"), target.state_dict())[0], "x", 1)
    assert equal(source.state_dict(), target.state_dict())


class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)


@pytest.mark.parametrize(
    "value",
    [
        Namespace(lr=0.1, root=Path("data"), seeds=[1, 2]),
        *(np.float64(0.5), np.float32(0.5), np.int64(3), np.bool_(True), np.arange(3), np.array(["a"])),
        {"best": np.float64(0.5), "args": Namespace(best=np.int32(1))},
    ],
)
@pytest.mark.parametrize("is_zip", [True, False])
def test_plain_values_beside_the_weights(tmp_path, value, is_zip):
    torch.save({"model": Net().state_dict(), "args": value}, tmp_path / "x.pth", _use_new_zipfile_serialization=is_zip)
    assert read_weights(str(tmp_path / "x.pth"), Net().state_dict())[0].keys() == Net().state_dict().keys()


def test_numpys_old_names(tmp_path):
    torch.save({"model": Net().state_dict(), "best": np.float64(1)}, tmp_path / "x.pth", pickle_protocol=2)
    with zipfile.ZipFile(tmp_path / "x.pth") as old, zipfile.ZipFile(tmp_path / "y.pth", "w") as new:
        for name in old.namelist():
            new.writestr(name, re.sub(rb"numpy\._?core\.", b"numpy.core.", old.read(name)))
    assert read_weights(str(tmp_path / "y.pth"), Net().state_dict())[0]


def test_what_would_run_code_is_refused_with_its_name(tmp_path):
    torch.save({"model": Net().state_dict(), "args": Runs(str(tmp_path / "ran"))}, tmp_path / "x.pth")
    with pytest.raises(UserError) as error:
        read_weights(str(tmp_path / "x.pth"), Net().state_dict())
    message = (
        "cannot read weights: it contains posix.mkdir, expected tensors and plain values; save its state dict alone"
    )
    assert str(error.value).endswith(message) and not (tmp_path / "ran").exists()


class Runs:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: str):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.write_text("hello"), "cannot read weights"),
        (lambda path: torch.save({"epoch": 3}, path), "the file has no weights"),
        (lambda path: torch.save([1], path), "the file has no weights"),
        (lambda path: torch.save({"model": UserError}, path), "cannot read weights"),
    ],
)
def test_files_without_weights(tmp_path, make, message):
    make(tmp_path / "x.pth")
    with pytest.raises(UserError, match=f"MODEL.WEIGHTS: .*x.pth: {message}"):
        read_weights(str(tmp_path / "x.pth"), Net().state_dict())


def test_a_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "x.pth"
    net = Net()
    torch.save(net.state_dict(), path)
    data = bytearray(path.read_bytes())
    data[data.index(net.conv.weight.detach().numpy().tobytes()) + 7] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="cannot read weights: the CRC of"):
        read_weights(str(path), Net().state_dict())


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """torch hub's cache in an empty folder, and no network."""

    def no_network(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


@pytest.mark.parametrize("name", ["resnet18", "torchvision/resnet18"])
def test_pretrained_weights_are_taken_from_the_cache(hub, name):
    import torchvision

    truth = torchvision.models.resnet18()
    file = torchvision.models.ResNet18_Weights.DEFAULT.url.rpartition("/")[2]
    cfg = load_config(None, ["MODEL.NAME", name, "MODEL.PRETRAINED", "true"])
    spec = build_input_spec(cfg, {"size": (28, 28), "channels": 1, "mean": (0.1,), "std": (0.2,)})
    model = build_model(cfg, spec, 7)
    with pytest.raises(UserError, match=rf"the weights of resnet18: .*{file} does not exist, and the download failed"):
        load_initial_weights(cfg, model, spec, [])
    torch.save(truth.state_dict(), hub / file)
    load_initial_weights(cfg, model, spec, [])
    conv = truth.conv1.weight if name != "resnet18" else truth.conv1.weight.sum(dim=1, keepdim=True)
    assert torch.equal(model.conv1.weight, conv) and torch.equal(
        model.layer4[1].conv2.weight, truth.layer4[1].conv2.weight
    )
    assert model.fc.weight.shape == (7, 512)
    assert spec.size == (224, 224) and len(spec.mean) == 1 and spec.mean[0] == pytest.approx(0.449)


def test_a_network_without_pretrained_weights_says_so(hub):
    cfg = load_config(None, ["MODEL.PRETRAINED", "true"])
    with pytest.raises(UserError, match="no pretrained weights exist for resnet9; name a network of torchvision"):
        build_input_spec(cfg, {})


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("resnet9", "fc"),
        ("torchvision/mobilenet_v3_small", "classifier.3"),
        ("torchvision/vgg11", "classifier.6"),
        ("torchvision/densenet121", "classifier"),
        ("torchvision/googlenet", "fc"),
        ("torchvision/swin_t", "head"),
        ("torchvision/vit_b_16", "heads.head"),
        ("torchvision/convnext_tiny", "classifier.2"),
    ],
)
def test_the_head_is_found_and_replaced(name, head):
    cfg = load_config(None, ["MODEL.NAME", name])
    with torch.device("meta"):
        model = build_model(cfg, build_input_spec(cfg, {}), 11)
        assert find_head(model, 11) == head
        replace_head(model, 11, hidden=32, dropout=0.5)
    layers = model.get_submodule(head)
    assert [type(layer) for layer in layers] == [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    assert layers[0].out_features == 32 and layers[-1].out_features == 11
    assert find_head(model, 11) == head


def test_a_network_that_ends_otherwise_is_refused():
    cfg = load_config(None, ["MODEL.NAME", "torchvision/squeezenet1_1", "MODEL.HEAD.HIDDEN", "32"])
    with pytest.raises(UserError, match="SqueezeNet ends in Conv2d 'classifier.1', not in a linear layer"):
        build_model(cfg, build_input_spec(cfg, {}), 11)


def test_a_network_of_several_classifiers_is_refused():
    with torch.device("meta"):
        cfg = load_config(None, ["MODEL.NAME", "timm/deit_tiny_distilled_patch16_224", "MODEL.HEAD.HIDDEN", "32"])
        with pytest.raises(UserError, match="ends in 'head_dist', which does not compute all 11 outputs: MODEL.HEAD"):
            build_model(cfg, build_input_spec(cfg, {}), 11)


def test_the_weights_of_a_vision_transformer_fit_another_size(hub):
    import torchvision

    truth = torchvision.models.vit_b_32()
    torch.save(truth.state_dict(), hub / torchvision.models.ViT_B_32_Weights.DEFAULT.url.rpartition("/")[2])
    words = ["MODEL.NAME", "torchvision/vit_b_32", "MODEL.PRETRAINED", "true", "INPUT.SIZE", "[64,64]"]
    cfg = load_config(None, words)
    spec = build_input_spec(cfg, {})
    model = build_model(cfg, spec, 3)
    load_initial_weights(cfg, model, spec, [])
    embedding = model.encoder.pos_embedding  # (1, 1 + 2 * 2, 768), of (1, 1 + 7 * 7, 768)
    assert embedding.shape == (1, 5, 768)
    assert torch.equal(embedding[:, 0], truth.encoder.pos_embedding[:, 0])
    corner = truth.encoder.pos_embedding[0, 1]
    assert torch.allclose(embedding[0, 1], corner, atol=1e-6)  # bicubic, corners aligned


def test_networks_that_normalise_once_more_do_so():
    """torchvision trained GoogLeNet and Inception on pixels in -1..1; what they get is normalised as ImageNet."""
    import torchvision

    for name in ("googlenet", "inception_v3"):
        cfg = load_config(None, ["MODEL.NAME", f"torchvision/{name}"])
        with torch.device("meta"):
            assert build_model(cfg, build_input_spec(cfg, {}), 3).transform_input
    assert torchvision.models.googlenet(init_weights=False).transform_input is False


def test_older_names_and_versions_are_the_librarys_business(hub):
    """torchvision renames the tensors of its older files, and notes down versions of its networks."""
    import torchvision

    vit = torchvision.models.vit_b_32()
    old = {
        k.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): v for k, v in vit.state_dict().items()
    }
    torch.save(old, hub / torchvision.models.ViT_B_32_Weights.DEFAULT.url.rpartition("/")[2])
    mnasnet = torchvision.models.mnasnet0_5()
    torch.save(mnasnet.state_dict(), hub / torchvision.models.MNASNet0_5_Weights.DEFAULT.url.rpartition("/")[2])
    for name, truth in (("vit_b_32", vit), ("mnasnet0_5", mnasnet)):
        cfg = load_config(None, ["MODEL.NAME", f"torchvision/{name}", "MODEL.PRETRAINED", "true"])
        spec = build_input_spec(cfg, {})
        model = build_model(cfg, spec, 1000)
        load_initial_weights(cfg, model, spec, [])
        for key, tensor in truth.state_dict().items():
            assert torch.equal(model.state_dict()[key], tensor), key


@pytest.mark.parametrize("content", [b"", b"<html>", b"PK\x03\x04"])
def test_a_damaged_file_in_the_cache_is_named(hub, content):
    import torchvision

    file = hub / torchvision.models.ResNet18_Weights.DEFAULT.url.rpartition("/")[2]
    file.write_bytes(content)
    cfg = load_config(None, ["MODEL.NAME", "resnet18", "MODEL.PRETRAINED", "true"])
    spec = build_input_spec(cfg, {})
    with pytest.raises(UserError, match=f"the weights of resnet18: {file} is corrupt .*; put https://.* there"):
        load_initial_weights(cfg, build_model(cfg, spec, 7), spec, [])


@pytest.mark.parametrize("key", ["model_state_dict", "net", "anything"])
def test_weights_are_found_by_any_name(tmp_path, key):
    torch.save({"epoch": 3, "optimizer": {"state": {}}, key: Net().state_dict()}, tmp_path / "x.pth")
    assert read_weights(str(tmp_path / "x.pth"), Net().state_dict())[0].keys() == Net().state_dict().keys()


def test_a_run_can_be_named(tmp_path):
    (tmp_path / "run/weights").mkdir(parents=True)
    torch.save(Net().state_dict(), tmp_path / "run/weights/best.pth")
    assert read_weights(str(tmp_path / "run"), Net().state_dict())[0].keys() == Net().state_dict().keys()


@pytest.mark.parametrize("name", ["timm/resnet18", "torchvision/resnet18"])
def test_arguments_that_the_program_sets_are_refused(name):
    cfg = load_config(None, ["MODEL.NAME", name, "MODEL.num_classes", "4"])
    with pytest.raises(UserError, match="MODEL.num_classes: set automatically; remove it"):
        build_model(cfg, build_input_spec(cfg, {}), 3)


@pytest.mark.parametrize(
    "name", ["torchvision/efficientnet_b0", "timm/efficientnet_lite0", "resnet18", "torchvision/mobilenet_v3_small"]
)
def test_a_fresh_head_begins_near_the_loss_of_guessing(name):
    """The weights of EfficientNet's head are drawn wider the fewer its classes: far from it with five."""
    if name.startswith("timm/"):
        pytest.importorskip("timm", reason="timm is not installed")
    cfg = load_config(None, ["MODEL.NAME", name, "INPUT.SIZE", "[64,64]"])
    torch.manual_seed(0)
    spec = build_input_spec(cfg, {})
    model = build_model(cfg, spec, 5)
    before = model.get_submodule(find_head(model, 5)).weight.detach().clone()
    load_initial_weights(cfg, model, spec, list("abcde"))
    after = model.get_submodule(find_head(model, 5)).weight.detach()
    assert float(after.std()) <= 1.5 * (3 * after.shape[1]) ** -0.5
    assert torch.allclose(after / after.norm(), before / before.norm())
    if "efficientnet" not in name:
        assert torch.equal(after, before)
