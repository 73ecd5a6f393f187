from __future__ import annotations

from typing import Literal

from torch import Tensor
from typing_extensions import override

from lightning_unlearn.attacks._latent import LatentAttack


class LatentPerturbation(LatentAttack):
    r"""Add one vector to the hidden states of a layer, trained to bring the knowledge back: latent adversarial training.

    .. math:: h_t \leftarrow h_t + \delta, \qquad
        \delta = \arg\min_{\lVert \delta \rVert \le \epsilon} \mathcal{L}_\mathrm{CE}

    The same vector at every position, so that it holds for other data, too. It is trained on the attacker's batches in turn,
    by steps of fixed length along the gradient, from zero, and brought back into the ball after each. (The published code
    uses AdamW, which moves along signs, and so misses the best point of a ball; and it has a vector for each token, as
    :class:`TokenwisePerturbation` does.)

    Args:
        layer: The layer's name in the network, or the end of its name, as a regular expression that fits one module:
            ``"layers.7"``, ``r"h\.7"``. It gives hidden states, ``[B, D]`` or ``[B, T, D]``.
        eps: Radius of the ball; 0 changes nothing, not one bit.
        steps: How many are taken.
        lr: Length of one, relative to ``eps``.

    Raises:
        ValueError: If there is no data, ``layer`` fits no module or several, or its output is not hidden states.

    Example:
        >>> import torch
        >>> network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1, bias=False))
        >>> _ = network[1].weight.data.copy_(torch.tensor([[3.0, 4.0]]))
        >>> x, attack = torch.ones(4, 2), LatentPerturbation("0", eps=0.5, steps=50)
        >>> before = network(x)
        >>> with attack(network, batches=[x], loss=lambda x: network(x).mean()) as points:
        ...     print(list(points), f"{(network(x) - before).mean().item():.2f}")  # as far as 0.5 goes: -0.5 * |(3, 4)|
        [0.5] -2.50

    References:
        Sheshadri et al., `Latent Adversarial Training <https://arxiv.org/abs/2407.15549>`_, 2024.
    """

    needs_data: Literal["attack", "forget", "judged", "retain"] | None = "attack"

    def __init__(self, layer: str, eps: float = 1.0, steps: int = 16, lr: float = 0.1) -> None:
        super().__init__(layer, eps, steps, lr)

    @override
    def shape(self, states: Tensor) -> tuple[int, ...]:
        """One vector, ``[D]``."""
        return (states.shape[-1],)
