from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from lightning_unlearn.functional.settings import check_whole


class ResNet20(nn.Module):
    """The residual network of 20 layers for small images: three stages of three blocks, shortcuts without parameters.

    Parameters are named as in the public weights of ``akamaster/pytorch_resnet_cifar10``, so that those can be loaded.

    Args:
        classes: How many.
        width: Channels of the first stage; the next ones have two and four times as many.
        channels: Of the images.
        seed: Of the weights. The global random number generator is left as found.

    Example:
        >>> network = ResNet20()
        >>> network(torch.zeros(2, 3, 32, 32)).shape, sum(p.numel() for p in network.parameters())
        (torch.Size([2, 10]), 269722)

    References:
        He et al., `Deep Residual Learning for Image Recognition <https://arxiv.org/abs/1512.03385>`_, 2015, section 4.2,
        with its shortcut A.
    """

    def __init__(self, classes: int = 10, width: int = 16, channels: int = 3, seed: int = 0) -> None:
        super().__init__()
        for name, value in {"classes": classes, "width": width, "channels": channels}.items():
            check_whole(name, value)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.conv1 = _convolution(channels, width, 1)
            self.bn1 = nn.BatchNorm2d(width)
            self.layer1 = _stage(width, width, 1)
            self.layer2 = _stage(width, 2 * width, 2)
            self.layer3 = _stage(2 * width, 4 * width, 2)
            self.linear = nn.Linear(4 * width, classes)
            for layer in self.modules():
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    nn.init.kaiming_normal_(layer.weight)

    def features(self, images: Tensor) -> Tensor:
        """What the last layer reads, ``[B, 4 * width]``."""
        x = self.bn1(self.conv1(images)).relu()
        x = self.layer3(self.layer2(self.layer1(x)))
        mean: Tensor = x.mean((2, 3))
        return mean

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Logits, ``[B, classes]``, of images ``[B, C, H, W]``."""
        logits: Tensor = self.linear(self.features(images))
        return logits


class _Block(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _convolution(before, after, stride)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = _convolution(after, after, 1)
        self.bn2 = nn.BatchNorm2d(after)
        self.stride, self.new = stride, after - before

    @override
    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        # Every second pixel, and zeros for the new channels, half of them on either side.
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.new // 2, self.new - self.new // 2))
        added: Tensor = y + shortcut
        return added.relu()


def _convolution(before: int, after: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride, padding=1, bias=False)


def _stage(before: int, after: int, stride: int) -> nn.Sequential:
    return nn.Sequential(_Block(before, after, stride), _Block(after, after, 1), _Block(after, after, 1))
