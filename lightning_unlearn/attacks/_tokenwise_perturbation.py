from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from typing_extensions import override

from lightning_unlearn.attacks._base import BatchLoss
from lightning_unlearn.attacks._held import hooks
from lightning_unlearn.attacks._latent import OTHER_DATA, LatentAttack
from lightning_unlearn.engine import GradientEngine


class TokenwisePerturbation(LatentAttack):
    r"""Add a vector to each hidden state of one batch, trained to bring the knowledge back: latent adversarial training.

    .. math:: h_t \leftarrow h_t + \delta_t, \qquad
        \delta = \arg\min_{\lVert \delta_t \rVert \le \epsilon} \mathcal{L}_\mathrm{CE}

    Trained on the batch whose forget gradient is taken, and of use for this one only: it is a vantage point of forgetting,
    not an attack for checks, in which it is refused as soon as another batch runs. Zero on padding, where the batch is a
    mapping with an ``attention_mask``, ``[B, T]``. The steps are those of :class:`LatentPerturbation`, token by token.

    Args:
        layer: The layer's name in the network, or the end of its name, as a regular expression that fits one module:
            ``"layers.7"``, ``r"h\.7"``. It gives hidden states, ``[B, D]`` or ``[B, T, D]``.
        eps: Radius of the ball of each token; 0 changes nothing, not one bit.
        steps: How many are taken.
        lr: Length of one, relative to ``eps``.

    Raises:
        ValueError: If there is not one batch exactly, another one is run, ``layer`` fits no module or several, or its output
            is not hidden states.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1, bias=False))
        >>> _ = network[1].weight.data.copy_(torch.tensor([[3.0, 4.0]]))
        >>> x, attack = torch.ones(4, 2), TokenwisePerturbation("0", eps=0.5, steps=50)
        >>> before = network(x)
        >>> with attack(network, batches=[x], loss=lambda x: network(x).mean()) as points:
        ...     print(list(points), f"{(network(x) - before).mean().item():.2f}")
        [0.5] -2.50

    References:
        Sheshadri et al., `Latent Adversarial Training <https://arxiv.org/abs/2407.15549>`_, 2024.
    """

    needs_data: Literal["attack", "forget", "judged", "retain"] | None = "judged"

    def __init__(self, layer: str, eps: float = 1.0, steps: int = 16, lr: float = 0.1) -> None:
        super().__init__(layer, eps, steps, lr)

    @override
    def shape(self, states: Tensor) -> tuple[int, ...]:
        """A vector for each hidden state."""
        return tuple(states.shape)

    @override
    def batches_of(self, batches: Iterable[Any]) -> list[Any]:
        """The one batch."""
        data = list(batches)
        if len(data) > 1:
            raise ValueError(
                f"`TokenwisePerturbation` should get the one batch that is judged. Found {len(data)}. {OTHER_DATA}"
            )
        return data

    @override
    def kept(self, batch: Any, perturbation: Tensor) -> Tensor:
        """Zero on padding."""
        mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
        if not isinstance(mask, Tensor) or mask.shape != perturbation.shape[:-1]:
            return super().kept(batch, perturbation)
        return mask.to(perturbation)[..., None]

    @override
    def gradient(self, perturbation: Tensor, batch: Any, loss: BatchLoss, engine: GradientEngine) -> Tensor | None:
        """Of this rank's own batch: other ranks judge other examples, perhaps more of them."""
        (grad,), _ = engine.own_row(loss, [batch], [perturbation])
        return grad

    @override
    @contextmanager
    def only(self, network: nn.Module, batch: Any) -> Iterator[None]:
        """Refuse other inputs of the network than the first ones."""
        first: list[Tensor] = []

        def compare(_: nn.Module, args: Any, kwargs: Any) -> None:
            inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            if not first:
                first.extend(inputs)
            if len(inputs) != len(first) or not all(map(torch.equal, inputs, first)):
                raise ValueError(
                    f"`TokenwisePerturbation` should run on the batch it was trained on. Found other inputs. {OTHER_DATA}"
                )

        with hooks() as handles:
            handles.append(network.register_forward_pre_hook(compare, with_kwargs=True))
            yield
