"""What attacks on hidden states share: a perturbation that a hook adds to the output of a layer, trained within a ball."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.attacks._base import Attack, BatchLoss
from lightning_unlearn.attacks._held import frozen, hooks
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.settings import check_not_negative, check_positive, check_whole
from lightning_unlearn.models.layers import one_module
from lightning_unlearn.runtime import eval_mode


class LatentAttack(Attack):
    """Adds a trained perturbation to the output of one layer. No weight changes.

    Args:
        layer: Its name in the network, or the end of its name, as a regular expression.
        eps: Radius of the ball.
        steps: How many are taken within the ball.
        lr: Length of one, relative to ``eps``.
    """

    family: ClassVar[str] = "latent"
    unit: ClassVar[str] = "radius"

    def __init__(self, layer: str, eps: float, steps: int, lr: float) -> None:
        check_not_negative("eps", eps)
        check_whole("steps", steps)
        check_positive("lr", lr)
        self.layer, self.eps, self.steps, self.lr = layer, eps, steps, lr

    @abstractmethod
    def shape(self, states: Tensor) -> tuple[int, ...]:
        """The shape of the perturbation of hidden states, ``[B, D]`` or ``[B, T, D]``."""

    def batches_of(self, batches: Iterable[Any]) -> list[Any]:
        """The batches to train it on. Defaults to all."""
        return list(batches)

    def kept(self, batch: Any, perturbation: Tensor) -> Tensor:
        """Where it is, ones and zeros that its shape broadcasts with. Defaults to everywhere."""
        return perturbation.new_ones(())

    def gradient(self, perturbation: Tensor, batch: Any, loss: BatchLoss, engine: GradientEngine) -> Tensor | None:
        """That of the loss; ``None`` if it does not depend on the layer. Defaults to the mean over ranks."""
        (grad,), _ = engine.row(loss, [batch], [perturbation])
        return grad

    @contextmanager
    def only(self, network: nn.Module, batch: Any) -> Iterator[None]:
        """Refuse other data than it was trained on, until the block is left. Defaults to nothing."""
        yield

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
        data, target = self.batches_of(batches), one_module(network, self.layer)
        if not data or loss is None:
            raise ValueError(
                f"`{type(self).__name__}` should get batches and a loss to train on. Found {len(data)} batches and "
                f"`loss = {loss}`. Give `ForgetRetainData` forget or attack data."
            )
        if not self.eps:
            yield iter((self.eps,))  # not even a zero is added
            return
        engine = GradientEngine(network) if engine is None else engine
        added = _Added(self)
        with hooks() as handles, self.only(network, data[0]):
            handles.append(target.register_forward_hook(added.hook))
            self._train(network, added, data, loss, engine)
            yield iter((self.eps,))

    def _train(
        self, network: nn.Module, added: _Added, data: list[Any], loss: BatchLoss, engine: GradientEngine
    ) -> None:
        # A check may run in validation, where Lightning is in inference mode. Parameters are frozen meanwhile, which saves
        # their gradients; dropout does not help an attacker.
        with torch.inference_mode(False), torch.enable_grad(), frozen(network), eval_mode(network):
            with torch.no_grad():
                engine.forward(loss, data[0])  # shows the shape
            if added.value is None:
                raise ValueError(
                    f"The layer `{self.layer}` should run on the batches of the attacker. Found that it did not."
                )
            delta = added.value
            kept = self.kept(data[0], delta)
            for batch in islice(cycle(data), self.steps):
                grad = self.gradient(delta, batch, loss, engine)
                if grad is None:
                    raise ValueError(
                        f"The loss of the attacker should depend on the layer `{self.layer}`. Found that it does not."
                    )
                with torch.no_grad():
                    delta.sub_(_unit(grad * kept), alpha=self.lr * self.eps)
                    delta.mul_(self.eps / _lengths(delta).clamp_min(self.eps))
        added.value = delta.detach()


class _Added:
    """Adds a perturbation, of zeros at first, to what a layer gives."""

    def __init__(self, attack: LatentAttack) -> None:
        self._attack = attack
        self.value: Tensor | None = None

    def hook(self, _: nn.Module, args: Any, output: Any) -> Any:
        # Some blocks return a tuple, hidden states first.
        states = output[0] if isinstance(output, tuple) and output else output
        self._check(states)
        shape = self._attack.shape(states)
        if self.value is None:
            self.value = torch.zeros(shape, device=states.device, requires_grad=True, dtype=torch.float32)
        if self.value.shape != shape:
            raise ValueError(
                f"`{type(self._attack).__name__}` should run on the batch it was trained on. Found hidden states of "
                f"{list(states.shape)}, instead of {list(self.value.shape)}, in `{self._attack.layer}`. {OTHER_DATA}"
            )
        moved = states + self.value.to(states.dtype)
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    def _check(self, states: Any) -> None:
        if not isinstance(states, Tensor) or states.dim() not in (2, 3) or not states.is_floating_point():
            found = f"shape {list(states.shape)}" if isinstance(states, Tensor) else f"a {type(states).__name__}"
            raise ValueError(
                f"The layer `{self._attack.layer}` should give hidden states, [B, D] or [B, T, D]. Found {found}. Name a "
                "whole block."
            )


def _lengths(vectors: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return lengths


def _unit(vectors: Tensor) -> Tensor:
    # A token on which the loss does not depend stays where it is.
    return vectors / _lengths(vectors).clamp_min(torch.finfo(vectors.dtype).tiny)


OTHER_DATA = (
    "Use it as a vantage point, `Unlearn(under=...)`, which asks about the batch that is judged; in a check use "
    "`LatentPerturbation`, which is the same for all data."
)
"""The way out for a perturbation that fits one batch only."""
