from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.attacks._adapter import attached_adapter
from lightning_unlearn.attacks._changes import Change
from lightning_unlearn.edits._base import Edit
from lightning_unlearn.edits._needs import logits_of, needed
from lightning_unlearn.engine import GradientEngine, sharded_like, with_local
from lightning_unlearn.functional.divergence import kl_divergence
from lightning_unlearn.functional.likelihood import mean_or_zero
from lightning_unlearn.functional.settings import check_finite, check_not_negative, check_positive, check_whole
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import eval_mode, local


class NegateLearnedVector(Edit):
    r"""Learn what to subtract, and subtract it: a task vector that leaves alone what is common to all data.

    A low-rank adapter :math:`\Delta` is trained by Adam on two streams in turn, one step each:

    .. math:: \min_\Delta \; L_f(\theta + \Delta), \qquad
        \min_\Delta \; \gamma \max\bigl(0, \; b - \mathrm{KL}(p_\theta \,\|\, p_{\theta + \Delta})\bigr)
        \;\text{on retain data}

    Then :math:`\theta \leftarrow \theta - \text{scale} \cdot \Delta`. The first stream learns the forget data better still.
    The second one *pushes away* from the network's own predictions on retain data: the vector is to be subtracted, and what
    it does to them should not cancel what the network can do. The divergence is bounded; without a bound it would be all
    that is learnt. At first it is zero, and so is its gradient, so that the forget stream begins.

    Dropout is off. Nothing but the product of the factors is kept. Weights of two layers, such as a tied head, are left
    alone: what one of them learned would be subtracted from the other.

    Args:
        scale: How much of the vector is subtracted; 0 changes nothing.
        steps: Of both streams together.
        lr: Learning rate of Adam.
        divergence: :math:`\gamma`; with 0 the forget stream alone learns.
        bound: :math:`b`, in nats per supervised row.
        rank: Of the adapter, on every weight matrix but embeddings.
        seed: Of the adapter's start.

    Raises:
        ValueError: When called, without forget data, retain data, a readout or logits; if there is no weight matrix.

    Example:
        >>> from lightning_unlearn.readouts import ClassificationReadout
        >>> network, batch = nn.Linear(2, 2), (torch.eye(2), torch.tensor([0, 1]))
        >>> data = {"forget": [batch], "retain": [batch], "readout": ClassificationReadout()}
        >>> before = nn.functional.cross_entropy(network(batch[0]), batch[1])
        >>> _ = NegateLearnedVector(steps=10, lr=0.1, divergence=0.0, rank=1)(network, **data)
        >>> bool(nn.functional.cross_entropy(network(batch[0]), batch[1]) > before)
        True

    References:
        The first stage of `SafeMo <https://arxiv.org/abs/2601.00590>`_, 2026, by its code, for classifiers and language
        models: its losses on motion are a cross-entropy here, its unbounded distance is a bounded divergence.
    """

    needs_forget: ClassVar[bool] = True
    needs_retain: ClassVar[bool] = True

    def __init__(
        self,
        scale: float = 1.0,
        steps: int = 40,
        lr: float = 1e-3,
        divergence: float = 0.5,
        bound: float = 1.0,
        rank: int = 8,
        seed: int = 0,
    ) -> None:
        check_finite("scale", scale)
        for name, number in (("steps", steps), ("rank", rank)):
            check_whole(name, number)
        check_positive("lr", lr)
        check_not_negative("divergence", divergence)
        check_positive("bound", bound)
        self.scale, self.steps, self.lr = scale, steps, lr
        self.divergence, self.bound, self.rank, self.seed = divergence, bound, rank, seed

    @override
    def new_values(
        self,
        network: nn.Module,
        *,
        forget: Sequence[Any],
        retain: Sequence[Any],
        readout: Readout | None,
        engine: GradientEngine,
    ) -> Iterator[tuple[str, Tensor]]:
        readout = needed(self, readout, forget=forget, retain=retain)
        if not self.scale:
            return
        names = {id(p): name for name, p in network.named_parameters()}
        with eval_mode(network):
            streams = self._streams(network, forget, retain, readout, engine)
            attached = attached_adapter(network, rank=self.rank, seed=self.seed, weights=_own_weights(network))
            with attached as changes, torch.enable_grad():
                self._learn(changes, streams, engine)
                vectors = {c.place.matrix.tensor: c.shift().detach() for c in changes if _is_plain(c, names)}
        for param, vector in vectors.items():
            here = local(sharded_like(vector, param))
            yield names[id(param)], with_local(param, local(param.detach()).double() - self.scale * here.double())

    def _streams(
        self, network: nn.Module, forget: Sequence[Any], retain: Sequence[Any], readout: Readout, engine: GradientEngine
    ) -> Iterator[tuple[Callable[[Any], Tensor], Any]]:
        """The loss and the batch of each step: forget and retain in turn."""
        with torch.no_grad():
            seen = retain[: (self.steps + 1) // 2]
            said = [engine.forward(lambda b: logits_of(self, network, readout, b).float(), batch) for batch in seen]

        def learnt(batch: Any) -> Tensor:
            return mean_or_zero(readout(network, batch).token_nll())

        def apart(numbered: Any) -> Tensor:
            batch, original = numbered
            distance = mean_or_zero(kl_divergence(logits_of(self, network, readout, batch).float(), original))
            return self.divergence * (self.bound - distance).relu()

        for step in range(self.steps):
            turn = step // 2 if self.divergence else step
            if self.divergence and step % 2:
                yield apart, (seen[turn % len(seen)], said[turn % len(seen)])
            else:
                yield learnt, forget[turn % len(forget)]

    def _learn(
        self,
        changes: Sequence[Change],
        streams: Iterator[tuple[Callable[[Any], Tensor], Any]],
        engine: GradientEngine,
    ) -> None:
        factors = [p for change in changes for p in change.params]
        optimizer = torch.optim.Adam(factors, lr=self.lr)
        for loss, batch in streams:
            row, _ = engine.row(loss, [batch], factors)
            for factor, gradient in zip(factors, row, strict=True):
                factor.grad = gradient
            optimizer.step()
        optimizer.zero_grad()


def _own_weights(network: nn.Module) -> list[Tensor]:
    """The parameters that one module alone uses."""
    users = Counter(id(p) for module in network.modules() for p in module._parameters.values() if p is not None)
    return [p for p in network.parameters() if users[id(p)] == 1]


def _is_plain(change: Change, names: dict[int, str]) -> bool:
    """Whether the weight is a parameter of its own, which an edit can write."""
    matrix = change.place.matrix
    return not (matrix.is_low_bit or matrix.is_computed) and id(matrix.tensor) in names
