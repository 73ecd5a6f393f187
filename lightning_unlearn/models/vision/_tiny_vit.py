from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from lightning_unlearn.functional.settings import check_whole


class TinyViT(nn.Module):
    """A vision transformer of a few thousand parameters: patches, positions, pre-norm blocks, the mean over patches, a head.

    Each block has the linear layers ``qkv``, ``proj``, ``fc1`` and ``fc2``: adapters find them by name.

    Args:
        classes: How many.
        size: Height and width of the images.
        patch: Height and width of a patch, a divisor of ``size``.
        channels: Of the images.
        width: Of the hidden states, a multiple of ``heads``.
        depth: Number of blocks.
        heads: Of attention.
        seed: Of the weights. The global random number generator is left as found.

    Example:
        >>> TinyViT()(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])

    References:
        Dosovitskiy et al., `An Image is Worth 16x16 Words <https://arxiv.org/abs/2010.11929>`_, 2020.
    """

    def __init__(
        self,
        classes: int = 10,
        size: int = 28,
        patch: int = 7,
        channels: int = 1,
        width: int = 48,
        depth: int = 3,
        heads: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        sizes = {"size": size, "patch": patch, "channels": channels, "width": width, "depth": depth, "heads": heads}
        for name, value in {"classes": classes, **sizes}.items():
            check_whole(name, value)
        if size % patch or width % heads:
            raise ValueError(
                f"`patch` should divide `size`, and `heads` should divide `width`. Found {patch}, {size}, {heads}, {width}."
            )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.patches = nn.Conv2d(channels, width, patch, patch)
            self.positions = nn.Parameter(0.02 * torch.randn((size // patch) ** 2, width))
            self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
            self.norm = nn.LayerNorm(width)
            self.head = nn.Linear(width, classes)

    def features(self, images: Tensor) -> Tensor:
        """What the head reads, ``[B, width]``."""
        x = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            x = block(x)
        mean: Tensor = self.norm(x).mean(1)
        return mean

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Logits, ``[B, classes]``, of images ``[B, C, H, W]``."""
        logits: Tensor = self.head(self.features(images))
        return logits


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.heads = heads

    @override
    def forward(self, x: Tensor) -> Tensor:
        batch, patches, width = x.shape
        parts = self.qkv(self.norm1(x)).view(batch, patches, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(*parts.unbind())
        x = x + self.proj(attended.transpose(1, 2).reshape(batch, patches, width))
        mlp: Tensor = self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return x + mlp
