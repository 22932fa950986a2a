"""Every classifier of torchvision, and the heavy ones of timm: `make test-models`. Prints a table.

All are built on the meta device with 7 classes; the twenty smallest and three of timm are
trained for a step, saved, loaded, and must then predict the same.
"""

import io
import time
from types import SimpleNamespace

import pytest
import torch
import torchvision

from config import load_config
from modeling.build import build_criterion, build_model, build_normalize, input_spec
from modeling.head import find_head
from utils.errors import UserError

ALL = torchvision.models.list_models(module=torchvision.models)
TIMM = ["timm/legacy_xception", "timm/seresnext50_32x4d", "timm/tf_efficientnet_b2.ap_in1k"]


def experiment(name: str):
    cfg = load_config(None, ["MODEL.NAME", name])
    return cfg, input_spec(cfg, native={})


def parameters(name: str) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build_model(*experiment(f"torchvision/{name}"), 7).parameters())


@pytest.fixture(scope="module")
def sizes() -> dict[str, int]:
    return {name: parameters(name) for name in ALL}


def test_all_are_built(sizes, capsys):
    with capsys.disabled():
        print(f"\n{'network':<36}{'parameters':>14}  head")
        for name in sorted(sizes, key=sizes.get):
            cfg, spec = experiment(f"torchvision/{name}")
            with torch.device("meta"):
                model = build_model(cfg, spec, 7)
            try:
                head = find_head(model)
            except UserError:
                head = "not linear"
            print(f"{'torchvision/' + name:<36}{sizes[name]:>14,}  {head}")
    assert len(sizes) == len(ALL) >= 80


def test_the_smallest_train_save_load_and_predict(sizes, capsys):
    names = [f"torchvision/{name}" for name in sorted(sizes, key=sizes.get)[:20]] + TIMM
    with capsys.disabled():
        print(f"\n{'network':<36}{'input':>16}{'loss':>9}{'seconds':>9}")
        for name in names:
            start = time.perf_counter()
            loss, spec = train_save_load_predict(name)
            size = "x".join(map(str, (spec.channels, *spec.size)))
            print(f"{name:<36}{size:>16}{loss:>9.3f}{time.perf_counter() - start:>9.1f}")


def train_save_load_predict(name: str):
    torch.manual_seed(0)
    cfg, spec = experiment(name)
    model, normalize = build_model(cfg, spec, 7), build_normalize(cfg, spec)
    images = normalize(torch.randint(0, 256, (2, spec.channels, *spec.size), dtype=torch.uint8))
    loss = build_criterion(cfg)(model(images), SimpleNamespace(targets=torch.tensor([1, 5])))
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=1e-3).step()
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    again = build_model(cfg, spec, 7)
    again.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    with torch.inference_mode():
        assert torch.equal(model.eval()(images), again.eval()(images)), name
    assert torch.isfinite(loss)
    return loss.item(), spec
