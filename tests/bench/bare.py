"""The programs that whole commands of ours are compared with, as short as they can be: `start` and `train`.

`python -m tests.bench.bare start` prints a line when the first step on the digits has been made; `python -m
tests.bench.bare train ROOT IMAGES EPOCHS PRECISION` trains on torchvision's Fashion-MNIST in ROOT, in bf16 or else in
float32, without what it has beyond IMAGES.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from modeling.resnet9 import ResNet9


def start() -> None:
    with np.load(Path("data/datasets/digits.npz")) as archive:
        images, labels = archive["images"], archive["labels"]
    pixels = torch.from_numpy(images).float().div(16).unsqueeze(1)
    loader = DataLoader(TensorDataset(pixels, torch.from_numpy(labels).long()), 64, shuffle=True)
    model = ResNet9(10, 1)
    optimizer, criterion = torch.optim.AdamW(model.parameters(), 0.001), nn.CrossEntropyLoss()
    for batch, targets in loader:
        criterion(model(batch), targets).backward()
        optimizer.step()
        print("the first step has been made", flush=True)
        return


def train(root: str, images: int, epochs: int, precision: str) -> None:
    """Trains as configs/fashion_mnist.yml does, channels last, and validates after each epoch on 3,000 images."""
    from torchvision import datasets, transforms

    usual = [transforms.ToTensor(), transforms.Normalize((0.2860,), (0.3530,))]
    augmented = transforms.Compose([transforms.RandomCrop(28, padding=1), transforms.RandomHorizontalFlip(), *usual])
    train_set = Subset(datasets.FashionMNIST(root, transform=augmented), range(images))
    val_set = Subset(datasets.FashionMNIST(root, transform=transforms.Compose(usual)), range(57_000, 60_000))
    loader = DataLoader(train_set, 256, shuffle=True, num_workers=2, persistent_workers=True)
    model, criterion = ResNet9(10, 1).to(memory_format=torch.channels_last), nn.CrossEntropyLoss(label_smoothing=0.1)
    optimizer = torch.optim.SGD(model.parameters(), 0.2, 0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, epochs * len(loader), pct_start=0.2)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    for _ in range(epochs):
        model.train()
        for batch, targets in loader:
            with autocast:
                loss = criterion(model(batch.to(memory_format=torch.channels_last)), targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        model.eval()
        with torch.inference_mode(), autocast:
            found = [(model(batch).argmax(1) == targets).sum() for batch, targets in DataLoader(val_set, 256)]
        print(f"accuracy {sum(map(int, found)) / len(val_set):.4f}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["start"]:
        start()
    else:
        train(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
