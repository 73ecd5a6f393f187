from __future__ import annotations

import inspect
from collections.abc import Callable
from copy import copy
from typing import Any, ClassVar

import torch
from torch import nn
from typing_extensions import override

from lightning_unlearn.prediction import KnownLikelihood
from lightning_unlearn.readouts._base import Readout
from lightning_unlearn.readouts._cutting import Cut, content_of
from lightning_unlearn.readouts._own_loss import (
    draws,
    find_cut,
    first_cut,
    no_rows,
    own_loss,
    seed_of_content,
    seed_of_step,
)


class TrainingStepReadout(Readout):
    r"""The user's own loss: run ``training_step`` on a batch, whatever it computes.

    It gives negative log-likelihoods without logits: a row is what ``training_step`` returns, with a graph. It needs no
    ``forward``, and knows no form of batch. :class:`GradientAscent`, :class:`Bounded`, :class:`NPO`, :class:`SimNPO` and
    :class:`CrossEntropy` work with it; objectives and metrics that need logits do not.

    **One row per example, or one per batch.** Where batches of one can be cut from a batch, and the mean (or the sum) of
    their losses is the loss of the whole, each example has a row. This is asked once, in evaluation mode
    (:meth:`settled`). Contrastive losses, mixup, losses with random draws, means over unequal numbers of tokens, graphs:
    one row for the batch, and ``batch_size = 1``. So has training with BatchNorm, which mixes examples; measurements, in
    evaluation mode, still are per example.

    Rows per example cost a pass for each. Objectives that need only the mean (:meth:`for_mean`) run the batch in one pass:
    the gradient is that of the user's own loss. :class:`NPO` and :class:`SimNPO` compare example with example, and pay.

    **Random draws** (noise, masks, latent samples) come from random states of their own: a batch sees the same draws in the
    original model and in the network in training, and others in the next step. Measurements (:meth:`for_measuring`) draw
    by the content of the example, and so give the same number each time.

    Logs are muted. An example for which ``training_step`` returns ``None`` is not supervised.

    Args:
        per_example: Whether each example has a row. Defaults to asking the module.

    Raises:
        ValueError: If the module has no ``training_step``, or it does not return a scalar, ``{"loss": scalar}`` or ``None``.
        NotImplementedError: If it takes a ``dataloader_iter``.

    Example:
        >>> class Regression(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = nn.Linear(3, 1)
        ...     def training_step(self, batch, batch_idx):
        ...         return nn.functional.mse_loss(self.layer(batch[0]), batch[1])
        >>> likelihood = TrainingStepReadout()(Regression(), (torch.zeros(4, 3), torch.ones(4, 1)))
        >>> likelihood.token_nll().shape, likelihood.batch_size
        (torch.Size([4]), 4)
    """

    gives_logits: ClassVar[bool] = False

    def __init__(self, per_example: bool | None = None) -> None:
        self.per_example = per_example
        self._is_settled = per_example is False
        self._cut: Cut | None = None  # `None`: one row per batch
        self._cut_in_eval: Cut | None = None
        self._draws = False
        self._seed_of: Callable[[Any], int] = seed_of_step

    @override
    def find_network(self, module: nn.Module) -> nn.Module:
        """The module itself."""
        step: Any = getattr(module, "training_step", None)
        if not callable(step):
            raise ValueError(
                f"`TrainingStepReadout` should find a `training_step`. Found none in `{type(module).__name__}`. Use "
                "`ClassificationReadout()`, or write a `Readout` of your own: one `Prediction` from a network and a batch."
            )
        if "dataloader_iter" in inspect.signature(step).parameters:
            raise NotImplementedError(
                f"`training_step` of `{type(module).__name__}` should take a batch: forget data come one batch at a time. "
                "Found `dataloader_iter`. Take `batch` in its place, or write a `Readout` of your own."
            )
        return module

    @override
    def settled(self, network: nn.Module, batch: Any) -> TrainingStepReadout:
        """This readout, with the answer whether ``network`` can be asked per example. Costs passes over ``batch``."""
        if self._is_settled:
            return self
        self.find_network(network)
        answered = copy(self)
        answered._is_settled = True
        cut = first_cut(batch) if self.per_example else find_cut(network, batch)
        if self.per_example and cut is None:
            raise ValueError(
                "`per_example=True` should go with batches that can be cut: tensors whose first axis counts the examples, "
                f"or lists with an entry for each. Found a `{type(batch).__name__}` of another form. Leave it out."
            )
        answered._cut_in_eval = cut
        answered._draws = draws(network, batch)
        # In training BatchNorm mixes the examples of a batch. Decided by the module and not by its mode now: the reference
        # runs in evaluation mode, and has to give the same rows.
        mixes = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())
        answered._cut = None if mixes and self._seed_of is seed_of_step else cut
        return answered

    @override
    def for_mean(self) -> TrainingStepReadout:
        """One row per batch, in one pass."""
        whole = copy(self)
        whole._is_settled, whole._cut = True, None
        return whole

    @override
    def for_measuring(self) -> TrainingStepReadout:
        """The same, with draws that depend on the content of an example alone."""
        measuring = copy(self)
        measuring._cut, measuring._seed_of = self._cut_in_eval, seed_of_content
        return measuring

    @property
    @override
    def why_not_cached(self) -> str | None:
        if self._is_settled and self._cut is None:
            return "one likelihood per batch, and batches are shuffled anew"
        return "likelihoods of random draws, other ones at each step" if self._draws else None

    @override
    def __call__(self, network: nn.Module, batch: Any) -> KnownLikelihood:
        if not self._is_settled:
            return self.settled(network, batch)(network, batch)
        losses = [own_loss(network, part, self._seed_of(part)) for part in self._parts(batch)]
        rows = [loss for loss in losses if loss is not None]
        nll = torch.stack(rows) if rows else no_rows(network)
        supervised = [number for number, loss in enumerate(losses) if loss is not None]
        return KnownLikelihood(nll, torch.tensor(supervised, dtype=torch.int64, device=nll.device), len(losses))

    @override
    def keys(self, batch: Any) -> list[str]:
        """A key per row: of each example, or of the whole batch."""
        return [content_of(part) for part in self._parts(batch)]

    @override
    def contents(self, batch: Any) -> list[str]:
        """A key per example wherever the batch can be cut, also if its loss is of the whole."""
        return [content_of(part) for part in _cut_by(first_cut(batch), batch)]

    def _parts(self, batch: Any) -> list[Any]:
        return _cut_by(self._cut if self._is_settled else first_cut(batch), batch)


def _cut_by(cut: Cut | None, batch: Any) -> list[Any]:
    """Batches of one; the whole batch alone if it cannot be cut, as the last one of an epoch may be of another form."""
    return (None if cut is None else cut(batch)) or [batch]
