"""Does a readout compute what the user trains on? Asked with a few passes that nobody notices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, TypeVar

import lightning.pytorch as pl
import torch

from lightning_unlearn.engine._gradients import GradientEngine
from lightning_unlearn.engine._isolation import isolated
from lightning_unlearn.functional.likelihood import mean_or_zero
from lightning_unlearn.prediction import with_router_loss
from lightning_unlearn.readouts import CUTS, Readout, how_close, own_loss, refuse_foreign_tokens
from lightning_unlearn.runtime import Misfit, eval_without_grad, seeded

T = TypeVar("T")

_MOST = 8
"""The most examples that are compared. Each costs two passes."""

_LONGEST = 400
"""Characters of an error: what should be, what was found, and the way out."""


@dataclass(frozen=True)
class Compared:
    """What a readout's cross-entropy and ``training_step`` gave for the same parts of a batch.

    Args:
        entropies: Mean cross-entropy of each part, by the readout.
        losses: What ``training_step`` returned.
        error: Why the readout could not read the batch, if it could not.
        close: How far numbers may be apart that should be equal, as a share.
    """

    entropies: Sequence[float] = ()
    losses: Sequence[float] = ()
    error: str | None = None
    close: float = 1e-3

    @property
    def agrees(self) -> bool:
        """Whether one factor turns all entropies into the losses; also if nothing could be compared.

        Example:
            >>> Compared([1.0, 3.0], [0.5, 1.5]).agrees, Compared([1.0, 3.0], [1.0, 2.0]).agrees
            (True, False)
        """
        if self.error is not None:
            return False
        x = torch.tensor(self.entropies, dtype=torch.float64)
        y = torch.tensor(self.losses, dtype=torch.float64)
        if not len(x) or bool(torch.isclose(x, y, rtol=self.close, atol=1e-6).all()):
            return True
        # Parts that are all alike fit any factor: they prove nothing.
        proves = len(x) > 1 and float(x.max() - x.min()) > 10 * self.close * float(x.abs().max())
        factor = float((x @ y) / (x @ x).clamp_min(1e-12))
        return proves and factor > 0 and bool(torch.isclose(factor * x, y, rtol=self.close, atol=1e-6).all())

    def __str__(self) -> str:
        """Both numbers in words."""
        if self.error is not None:
            return f"it cannot read the first training batch ({self.error})"
        mean, loss = (sum(values) / len(values) for values in (self.entropies, self.losses))
        return (
            f"its cross-entropy on the first training examples is {mean:.4g}, the loss of `training_step` is {loss:.4g}"
        )


def unnoticed(trainer: pl.Trainer, module: pl.LightningModule, function: Callable[[Any], T], batch: Any) -> T:
    """``function(batch)`` in evaluation mode and without a graph; module, logs and random states are as before."""
    engine = GradientEngine(module, trainer)
    with isolated(trainer, module), eval_without_grad(module), seeded(0):
        return engine.forward(function, batch)


def compared(trainer: pl.Trainer, module: pl.LightningModule, readout: Readout, batches: Sequence[Any]) -> Compared:
    """Compare ``readout`` with ``training_step`` on parts of ``batches``, which are on the device. Collective."""
    measuring = readout.for_measuring()

    def entropy(part: Any) -> float:
        likelihood = measuring(network, part)
        return float(with_router_loss(mean_or_zero(likelihood.token_nll()), likelihood))

    def loss(part: Any) -> float:
        value = own_loss(module, part, seed=0)
        return float("nan") if value is None else float(value)

    try:
        network = measuring.find_network(module)
        for batch in batches:
            refuse_foreign_tokens(network, batch)
        unnoticed(trainer, module, entropy, batches[0])
    except Misfit:  # another readout would not read it, either
        raise
    except Exception as error:  # of any kind: the batch may be of any kind
        return Compared(error=f"{type(error).__name__}: {_short(error)}")
    for parts in _parts(batches):
        try:
            losses = [unnoticed(trainer, module, loss, p) for p in parts]
        except Exception:  # a step that never saw a batch of one may raise: the next parts are larger
            continue
        try:
            entropies = [unnoticed(trainer, module, entropy, p) for p in parts]
        except Exception as error:  # what the step takes, and the readout does not
            return Compared(error=f"{type(error).__name__}: {_short(error)}")
        known = [pair for pair in zip(entropies, losses, strict=True) if pair[0] == pair[0] and pair[1] == pair[1]]
        entropies, losses = [e for e, _ in known], [value for _, value in known]
        return Compared(entropies, losses, close=how_close(network))
    return Compared()


def _parts(batches: Sequence[Any]) -> Iterator[list[Any]]:
    """Single examples of all batches, then whole batches."""
    for cut in CUTS:
        examples = [cut(batch) or [] for batch in batches]
        if len(examples[0]) > 1:
            yield [e for row in zip_longest(*examples) for e in row if e is not None][:_MOST]
    yield list(batches)


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} [...]"
