"""configs/fashion_mnist.yml as others write it: `python -m tests.bench.trainings STYLE ROOT SEED OUTPUT`.

All train the same network with the same optimizer, schedule, batches and precision on 57,000 images of torchvision's
Fashion-MNIST in ROOT, validate on the other 3,000 after each epoch, and save the weights to OUTPUT at the end. STYLE is
`bare`, a loop as short as it can be; `timm`, with the meters, log and checkpoints of timm's train.py; or `lightning`,
a LightningModule with the Trainer's defaults.
"""

import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

from modeling.resnet9 import ResNet9

BATCH, EPOCHS, TRAIN = 256, 14, 57_000
USUAL = [transforms.ToTensor(), transforms.Normalize((0.2860,), (0.3530,))]
Loaders = tuple[DataLoader, DataLoader]
Schedule = torch.optim.lr_scheduler.OneCycleLR


def loaders(root: str, workers: int) -> Loaders:
    augmented = transforms.Compose([transforms.RandomCrop(28, padding=1), transforms.RandomHorizontalFlip(), *USUAL])
    train_set = Subset(datasets.FashionMNIST(root, transform=augmented), range(TRAIN))
    val_set = Subset(datasets.FashionMNIST(root, transform=transforms.Compose(USUAL)), range(TRAIN, 60_000))
    train = DataLoader(train_set, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    return train, DataLoader(val_set, BATCH)


def network() -> nn.Module:
    return ResNet9(10, 1).to(memory_format=torch.channels_last)


def solver(model: nn.Module, steps: int) -> tuple[torch.optim.Optimizer, Schedule]:
    optimizer = torch.optim.SGD(model.parameters(), 0.2, 0.9, weight_decay=5e-4, nesterov=True)
    return optimizer, Schedule(optimizer, 0.2, steps, pct_start=0.2)


def criterion() -> nn.Module:
    return nn.CrossEntropyLoss(label_smoothing=0.1)


def bare(data: Loaders, output: Path) -> None:
    train, val = data
    model, loss_of = network(), criterion()
    optimizer, schedule = solver(model, EPOCHS * len(train))
    for _ in range(EPOCHS):
        model.train()
        for images, targets in train:
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_of(model(images.to(memory_format=torch.channels_last)), targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        model.eval()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            correct = sum(int((model(images).argmax(1) == targets).sum()) for images, targets in val)
        print(f"accuracy {correct / (60_000 - TRAIN):.4f}", flush=True)
    torch.save(model.state_dict(), output)


def timm(data: Loaders, output: Path) -> None:
    from timm.utils import AverageMeter, CheckpointSaver, accuracy, update_summary

    train, val = data
    model, loss_of = network(), criterion()
    optimizer, schedule = solver(model, EPOCHS * len(train))
    saver = CheckpointSaver(model, optimizer, checkpoint_dir=str(output.parent), max_history=2)
    for epoch in range(EPOCHS):
        losses, data_time, update_time = AverageMeter(), AverageMeter(), AverageMeter()
        model.train()
        ended = time.time()
        for i, (images, targets) in enumerate(train):
            images = images.to(memory_format=torch.channels_last)
            data_time.update(time.time() - ended)
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_of(model(images), targets)
            loss.backward()
            optimizer.step()
            losses.update(loss.item(), len(images))
            optimizer.zero_grad()
            update_time.update(time.time() - ended)
            ended = time.time()
            schedule.step()
            if i % 50 == 0:
                print(f"{epoch} {i} {losses.val:#.3g} {losses.avg:#.3g} {update_time.avg:.3f} {data_time.avg:.3f}")
        model.eval()
        top1, top5, val_loss = AverageMeter(), AverageMeter(), AverageMeter()
        with torch.inference_mode():
            for images, targets in val:
                with torch.autocast("cpu", torch.bfloat16):
                    logits = model(images.to(memory_format=torch.channels_last))
                    loss = nn.functional.cross_entropy(logits, targets)
                acc1, acc5 = accuracy(logits, targets, topk=(1, 5))
                for meter, value in ((val_loss, loss), (top1, acc1), (top5, acc5)):
                    meter.update(value.item(), len(images))
        scores = OrderedDict(loss=val_loss.avg, top1=top1.avg, top5=top5.avg)
        summary = str(output.parent / "summary.csv")
        update_summary(epoch, OrderedDict(loss=losses.avg), scores, summary, write_header=epoch == 0)
        saver.save_checkpoint(epoch, metric=top1.avg)
    torch.save(model.state_dict(), output)


def lightning(data: Loaders, output: Path) -> None:
    from lightning import LightningModule, Trainer

    train, val = data

    class Classifier(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.loss_of = network(), criterion()

        def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
            loss = self.loss_of(self.model(batch[0].to(memory_format=torch.channels_last)), batch[1])
            self.log("loss", loss)
            return loss

        def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> None:
            correct = (self.model(batch[0]).argmax(1) == batch[1]).float().mean()
            self.log("accuracy", correct, prog_bar=True)

        def configure_optimizers(self) -> dict:
            optimizer, schedule = solver(self.model, EPOCHS * len(train))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    classifier = Classifier()
    Trainer(accelerator="cpu", precision="bf16-mixed", max_epochs=EPOCHS, default_root_dir=output.parent).fit(
        classifier, train, val
    )
    torch.save(classifier.model.state_dict(), output)


STYLES: dict[str, Callable[[Loaders, Path], None]] = {"bare": bare, "timm": timm, "lightning": lightning}


if __name__ == "__main__":
    style, root, seed, output = sys.argv[1:]
    torch.manual_seed(int(seed))
    # two workers as in Lightning's and timm's documentation; the bare loop reads by itself
    STYLES[style](loaders(root, workers=0 if style == "bare" else 2), Path(output))
