from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.attacks._base import Attack, BatchLoss
from lightning_unlearn.attacks._perturbed import in_full, move_, restored, trainable
from lightning_unlearn.engine import GradientEngine, Row
from lightning_unlearn.functional.settings import check_not_negative
from lightning_unlearn.models.layers import trained_share
from lightning_unlearn.runtime import eval_mode, local


class Sharpen(Attack):
    r"""Take one step of fixed length towards the knowledge. As a vantage point of forgetting it is sharpness-aware (SAM).

    .. math:: \theta \leftarrow \theta - \rho \, \frac{g}{\lVert g \rVert}, \qquad
        g = \nabla_\theta \, \mathcal{L}_\mathrm{CE}

    over all trainable parameters at once. In a fit :math:`g` is of the very examples that are to be forgotten, so the
    forget gradient is taken where one step of relearning would lead; in a check, of all batches that the attacker has.
    The network is in evaluation mode for it.

    Args:
        rho: Length of the step, in units of the weights; 0 changes nothing. The more parameters, the longer it has to be:
            the published 0.01 for 7 billion weights in bf16 is mostly lost to rounding, of which a warning tells.

    Raises:
        ValueError: If there is no data, nothing is trainable, or the gradient is zero.
        FloatingPointError: If the gradient is not finite.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, 1.0]]))
        >>> with Sharpen(rho=5.0)(layer, batches=[torch.tensor([3.0, 4.0])], loss=lambda x: layer(x).sum()) as points:
        ...     list(points), layer.weight.tolist()
        ([5.0], [[-2.0, -3.0]])
        >>> layer.weight.tolist()
        [[1.0, 1.0]]

    References:
        Foret et al., `Sharpness-Aware Minimization <https://arxiv.org/abs/2010.01412>`_, 2021, eq. 2; for unlearning, Fan
        et al., `Towards LLM Unlearning Resilient to Relearning Attacks <https://arxiv.org/abs/2502.05374>`_, 2025.
    """

    family: ClassVar[str] = "sharpen"
    unit: ClassVar[str] = "rho"
    needs_data: Literal["attack", "forget", "judged", "retain"] | None = "judged"

    def __init__(self, rho: float = 0.1) -> None:
        check_not_negative("rho", rho)
        self.rho = rho

    @override
    def share_reached(self, network: nn.Module) -> float:
        """The share of the weights of matrices, embeddings aside, that train, themselves or through an adapter."""
        return trained_share(network)

    @override
    @contextmanager
    def __call__(
        self,
        network: nn.Module,
        *,
        batches: Iterable[Any] = (),
        loss: BatchLoss | None = None,
        engine: GradientEngine | None = None,
    ) -> Iterator[Iterator[float]]:
        batches = list(batches)
        if not batches or loss is None:
            raise ValueError(
                f"`Sharpen` should get batches and a loss to take a gradient of. Found {len(batches)} batches and "
                f"`loss = {loss}`. Give `ForgetRetainData` forget or attack data."
            )
        engine = GradientEngine(network) if engine is None else engine
        params = trainable(network, "`Sharpen`")
        step = self._step(network, params, batches, loss, engine)
        with restored(network, params):
            move_(params, step, "`Sharpen`")
            del step  # the caller's pass should have its memory
            yield iter((self.rho,))

    def _step(
        self, network: nn.Module, params: list[Tensor], batches: list[Any], loss: BatchLoss, engine: GradientEngine
    ) -> Row:
        # A check may run in validation, where Lightning is in inference mode.
        with torch.inference_mode(False), torch.enable_grad(), eval_mode(network):
            row, _ = engine.row(loss, batches, params)
        length = float(engine.gramian([row], params).squeeze().sqrt())
        if not 0 < length < float("inf"):
            found = "one of zeros" if length == 0 else f"a length of {length}"
            error = ValueError if length == 0 else FloatingPointError
            raise error(
                f"`Sharpen` should get a gradient to step along. Found {found}. Are there supervised labels in its data, "
                "and does the loss depend on the trainable parameters?"
            )
        return [None if g is None else local(g).to(in_full(g)) * (-self.rho / length) for g in row]
