"""What a network predicts for a batch: readouts produce it, objectives and metrics consume it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from lightning_unlearn.functional.head_logits import HeadLogits, whole
from lightning_unlearn.functional.likelihood import sum_per_example, token_nll

IGNORED = -100
"""The label of a position that is not supervised, as in PyTorch and Hugging Face."""


class Likelihood(ABC):
    """How likely the labels of a batch were, one row per supervised token (or per image).

    Attributes:
        example: Which example of the batch a row belongs to, ``[N]`` int64, in ``[0, batch_size)``.
        batch_size: Number of examples ``B`` in the batch, those without any row included.
    """

    example: Tensor
    batch_size: int

    @abstractmethod
    def token_nll(self) -> Tensor:
        """Negative log-likelihood of each row's label, ``[N]``, in nats."""

    def example_nll(self) -> Tensor:
        """Sum of :meth:`token_nll` over each example, ``[B]``; 0 for an example without rows."""
        return sum_per_example(self.token_nll(), self.example, self.batch_size)

    def rows_per_example(self) -> Tensor:
        """Number of supervised rows of each example, ``[B]`` int64."""
        # `minlength`, since the last examples of a batch may have no rows.
        return torch.bincount(self.example, minlength=self.batch_size)

    def supervised(self) -> Tensor:
        """Which examples have at least one row, ``[B]`` bool."""
        return self.rows_per_example() > 0

    def rows(self, index: Tensor) -> Likelihood:
        """Some of its rows, of the same batch: its other examples have none.

        Args:
            index: Which ones, ``[n]`` int64.
        """
        return KnownLikelihood(self.token_nll()[index], self.example[index], self.batch_size)


@dataclass(frozen=True)
class KnownLikelihood(Likelihood):
    """Likelihoods without logits: computed before, as a reference gives them, or by somebody else's loss.

    Args:
        nll: Negative log-likelihood of each row's label, ``[N]``, in nats.
        example: Which example of the batch a row belongs to, ``[N]`` int64, in ``[0, batch_size)``.
        batch_size: Number of examples ``B`` in the batch, those without any row included.

    Example:
        >>> seen = KnownLikelihood(torch.tensor([0.5, 0.5, 2.0]), torch.tensor([0, 0, 1]), batch_size=2)
        >>> seen.example_nll()
        tensor([1., 2.])
        >>> seen.rows_per_example()
        tensor([2, 1])
    """

    nll: Tensor
    example: Tensor
    batch_size: int

    def token_nll(self) -> Tensor:
        """Negative log-likelihood of each row's label, ``[N]``, in nats."""
        return self.nll


class _Whole:
    """The logits that a :class:`Prediction` holds, computed when they are asked for."""

    def __get__(self, prediction: Any, owner: Any) -> Tensor:
        if prediction is None:  # so that the field has no default
            raise AttributeError("logits")
        return whole(vars(prediction)["logits"])

    def __set__(self, prediction: Any, logits: Tensor) -> None:
        vars(prediction)["logits"] = logits


@dataclass(frozen=True)
class Prediction(Likelihood):
    """What a network predicts for a batch, one row per supervised token (or per image).

    Prompt and padding positions never become rows, so no loss can average over them, and the output head need not
    compute them.

    Logits may be put off: a readout then gives :class:`~lightning_unlearn.functional.head_logits.HeadLogits`. Likelihoods
    are computed in chunks, and ``logits``, if somebody asks for them, all at once.

    Args:
        logits: Unnormalised scores, ``[N, V]``.
        labels: Class or token ids, ``[N]`` int64, never ignored.
        example: Which example of the batch a row belongs to, ``[N]`` int64, in ``[0, batch_size)``.
        batch_size: Number of examples ``B`` in the batch, those without any row included.
        features: Hidden state each row was read from, ``[N, D]``, or those of several layers, ``[N, L, D]``, if the readout
            kept them.
        router_loss: What a mixture of experts adds to its own loss, ``[]``, if it does. For losses that retain:
            :func:`with_router_loss`. What forgets or measures leaves it out.

    Example:
        >>> prediction = Prediction(torch.zeros(3, 4), torch.tensor([1, 2, 0]), torch.tensor([0, 0, 1]), batch_size=2)
        >>> prediction.example_nll()
        tensor([2.7726, 1.3863])
    """

    logits: Tensor
    labels: Tensor
    example: Tensor
    batch_size: int
    features: Tensor | None = None
    router_loss: Tensor | None = None

    @property
    def scores(self) -> Tensor:
        """The logits, put off if they are: for functions that go through them in chunks of rows."""
        return vars(self)["logits"]  # type: ignore[no-any-return]

    @property
    def put_off(self) -> HeadLogits | None:
        """The logits, if they are put off and nobody has asked for them yet."""
        scores = self.scores
        return scores if isinstance(scores, HeadLogits) and scores.is_put_off else None

    def token_nll(self) -> Tensor:
        """Negative log-likelihood of each row's label, ``[N]``, in nats."""
        return token_nll(self.scores, self.labels)

    def rows(self, index: Tensor) -> Self:
        """Some of its rows, of the same batch: its other examples have none.

        Args:
            index: Which ones, ``[n]`` int64.

        Example:
            >>> prediction = Prediction(torch.zeros(3, 4), torch.tensor([1, 2, 0]), torch.tensor([0, 0, 1]), batch_size=2)
            >>> prediction.rows(torch.tensor([1, 2])).labels
            tensor([2, 0])
        """
        return replace(
            self,
            logits=self.scores[index],
            labels=self.labels[index],
            example=self.example[index],
            features=None if self.features is None else self.features[index],
            router_loss=None,  # it is of the whole batch
        )

    def detach(self) -> Prediction:
        """The same values, without a graph."""
        features = None if self.features is None else self.features.detach()
        router_loss = None if self.router_loss is None else self.router_loss.detach()
        return replace(self, logits=self.scores.detach(), features=features, router_loss=router_loss)

    def split_by_example(self) -> list[Prediction]:
        """Each example as a batch of its own, ``B`` of them.

        Example:
            >>> prediction = Prediction(torch.zeros(3, 4), torch.tensor([1, 2, 0]), torch.tensor([0, 0, 1]), batch_size=2)
            >>> [alone.labels.tolist() for alone in prediction.split_by_example()]
            [[1, 2], [0]]
        """
        # An example without supervised rows becomes a batch of one example with no rows, so that `B` are returned.
        rows = [(self.example == j).nonzero()[:, 0] for j in range(self.batch_size)]
        return [replace(self.rows(own), example=torch.zeros_like(own), batch_size=1) for own in rows]


# After the dataclass is made, which would take it for a default value.
Prediction.logits = _Whole()  # type: ignore[assignment]


def with_router_loss(loss: Tensor, likelihood: Likelihood) -> Tensor:
    """``loss`` with what the network adds to its own: what trains a mixture of experts keeps its router balanced.

    Example:
        >>> nothing = torch.zeros(0, dtype=torch.int64)
        >>> prediction = Prediction(torch.zeros(0, 4), nothing, nothing, 1, router_loss=torch.tensor(0.25))
        >>> with_router_loss(torch.tensor(1.0), prediction)
        tensor(1.2500)
    """
    added = getattr(likelihood, "router_loss", None)
    return loss if added is None else loss + added.to(loss.device)
