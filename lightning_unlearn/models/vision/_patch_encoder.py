from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.functional.settings import check_whole


class PatchEncoder(nn.Module):
    """Images as a few positions: convolutions, one position for each patch, and a place for each.

    For :class:`ImageCausalLM`, which puts these positions before the tokens of a language model.

    Args:
        size: Height and width of the images.
        patch: Height and width of a patch, even, and a divisor of ``size``.
        channels: Of the images.
        width: Of what is given.
        seed: Of the weights. The global random number generator is left as found.

    Attributes:
        positions: How many there are of each image, ``P = (size / patch)^2``.

    Example:
        >>> PatchEncoder()(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 4, 64])
    """

    def __init__(self, size: int = 28, patch: int = 14, channels: int = 1, width: int = 64, seed: int = 0) -> None:
        super().__init__()
        self.settings = {"size": size, "patch": patch, "channels": channels, "width": width, "seed": seed}
        for name, value in self.settings.items():
            check_whole(name, value, least=0 if name == "seed" else 1)
        if size % patch or patch % 2:
            raise ValueError(f"`patch` should be even and divide `size`. Found {patch} and {size}.")
        self.positions = (size // patch) ** 2
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.convolutions = nn.Sequential(
                nn.Conv2d(channels, width // 2, 5, stride=2, padding=2),
                nn.GELU(),
                nn.Conv2d(width // 2, width // 2, 3, padding=1),
                nn.GELU(),
                nn.Conv2d(width // 2, width, patch // 2, patch // 2),
            )
            self.places = nn.Parameter(0.02 * torch.randn(self.positions, width))
        self.norm = nn.LayerNorm(width)

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Hidden states ``[B, P, width]`` of images ``[B, C, H, W]``."""
        states: Tensor = self.norm(self.convolutions(images).flatten(2).transpose(1, 2) + self.places)
        return states
