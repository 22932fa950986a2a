"""ResNet-18 written out in full, for reading beside the paper: arXiv:1512.03385, section 3.3.

It differs from `resnet18` of `modeling/resnet.py` in one place: its first convolution has a bias, 64 parameters
more; `bias=False` gives the same network. Textbooks call the two blocks common and special.
"""

import torch
from torch import nn

from modeling.registry import MODELS


class IdentityBlock(nn.Module):
    """Two 3x3 convolutions, whose output the input is added to: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return torch.relu(out + x)


class DownsampleBlock(nn.Module):
    """Halves the resolution and doubles the channels: (N, C, H, W) -> (N, 2C, H / 2, W / 2).

    A 1x1 convolution gives the input the shape of the output before the two are added.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(2 * channels)
        self.conv2 = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * channels)
        convolution = nn.Conv2d(channels, 2 * channels, 1, stride=2, bias=False)
        self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(2 * channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return torch.relu(out + self.shortcut(x))


@MODELS.register("resnet18_explained")
class ExplainedResNet18(nn.Module):
    """(N, in_channels, H, W) -> (N, num_classes). Seventeen convolutions in a row and a linear layer."""

    def __init__(self, num_classes: int, in_channels: int = 3, bias: bool = True):
        super().__init__()
        self.stem = nn.Sequential(  # (N, in_channels, H, W) -> (N, 64, H / 4, W / 4)
            nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=bias),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        self.stage1 = nn.Sequential(IdentityBlock(64), IdentityBlock(64))  # (N, 64, H / 4, W / 4)
        self.stage2 = nn.Sequential(DownsampleBlock(64), IdentityBlock(128))  # (N, 128, H / 8, W / 8)
        self.stage3 = nn.Sequential(DownsampleBlock(128), IdentityBlock(256))  # (N, 256, H / 16, W / 16)
        self.stage4 = nn.Sequential(DownsampleBlock(256), IdentityBlock(512))  # (N, 512, H / 32, W / 32)
        self.pool = nn.AdaptiveAvgPool2d(1)  # (N, 512, 1, 1)
        self.fc = nn.Linear(512, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stage4(self.stage3(self.stage2(self.stage1(self.stem(x)))))
        return self.fc(self.pool(x).flatten(1))
