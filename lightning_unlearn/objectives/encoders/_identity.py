from torch import Tensor
from typing_extensions import override

from lightning_unlearn.objectives.encoders._encoder import Encoder


class Identity(Encoder):
    """Hidden states themselves are the latents.

    Example:
        >>> import torch
        >>> Identity()(torch.ones(1, 2))
        tensor([[1., 1.]])
    """

    @override
    def forward(self, states: Tensor) -> Tensor:
        return states
