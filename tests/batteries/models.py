"""All classifiers of torchvision and three large ones of timm: `make test-models`. Prints a table.

All are built on the meta device with 7 classes; the twenty smallest and three of timm are
trained for a step, saved, loaded, and must then predict the same.
"""

import io
import time

import pytest
import torch
import torchvision

from config import load_config
from modeling.build import build_criterion, build_input_spec, build_model, build_normalize
from modeling.head import find_head
from utils.contracts import Batch
from utils.errors import UserError

ALL = torchvision.models.list_models(module=torchvision.models)
TIMM = ["timm/legacy_xception", "timm/seresnext50_32x4d", "timm/tf_efficientnet_b2.ap_in1k"]


def experiment(name: str):
    cfg = load_config(None, ["MODEL.NAME", name])
    return cfg, build_input_spec(cfg, {})


def build(name: str) -> torch.nn.Module:
    """Returns a network of 7 classes on the meta device; RegNets compute with tensors when built, which needs a CPU."""
    cfg, spec = experiment(name)
    with torch.device("cpu" if "regnet" in name else "meta"):
        return build_model(cfg, spec, 7)


@pytest.fixture(scope="module")
def table() -> dict[str, tuple[int, str]]:
    """Name -> parameters and head, the smallest first."""
    rows = {}
    for name in ALL:
        model = build(f"torchvision/{name}")
        try:
            head = find_head(model, 7)
        except UserError:
            head = "not linear"
        rows[f"torchvision/{name}"] = sum(p.numel() for p in model.parameters()), head
    return dict(sorted(rows.items(), key=lambda row: row[1]))


def test_all_are_built(table, capsys):
    with capsys.disabled():
        print(f"\n{'network':<36}{'parameters':>14}  head")
        for name, (parameters, head) in table.items():
            print(f"{name:<36}{parameters:>14,}  {head}")
    assert len(table) == len(ALL) >= 80


def test_the_smallest_train_save_load_and_predict(table, capsys):
    names = [*list(table)[:20], *TIMM]
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
    batch = Batch(images, torch.tensor([1, 5]), torch.arange(2))
    loss = build_criterion(cfg, "cross_entropy")(model(images), batch)
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
