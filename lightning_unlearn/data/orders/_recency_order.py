from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.data._hashing import shuffled
from lightning_unlearn.data.orders._order import EpochRows, Order, RowSet
from lightning_unlearn.functional.settings import check_not_negative, check_positive
from lightning_unlearn.runtime import hash_of


class ForgettingLaw(ABC):
    """How likely something is wanted again, by how long ago it was last."""

    @abstractmethod
    def __call__(self, ages: Tensor) -> Tensor:
        """Weights ``[N]`` of ages ``[N]``, from 1, the last one seen."""


class PowerLaw(ForgettingLaw):
    r"""Weights :math:`k^{-b}` of age :math:`k`: in many environments what was met lately is met again by a power law.

    Args:
        exponent: :math:`b`; 0 makes all ages alike.

    Example:
        >>> PowerLaw(1.0)(torch.tensor([1.0, 2.0, 4.0]))
        tensor([1.0000, 0.5000, 0.2500])
    """

    def __init__(self, exponent: float = 1.0) -> None:
        check_not_negative("exponent", exponent)
        self.exponent = exponent

    @override
    def __call__(self, ages: Tensor) -> Tensor:
        return ages**-self.exponent


class Exponential(ForgettingLaw):
    r"""Weights :math:`e^{-\lambda k}` of age :math:`k`.

    Args:
        rate: :math:`\lambda`.

    Example:
        >>> Exponential(0.6931471805599453)(torch.tensor([1.0, 2.0]))
        tensor([0.5000, 0.2500])
    """

    def __init__(self, rate: float = 0.5) -> None:
        check_positive("rate", rate)
        self.rate = rate

    @override
    def __call__(self, ages: Tensor) -> Tensor:
        return torch.exp(-self.rate * ages)


class RecencyOrder(Order):
    r"""Every forget row once, shuffled, with retain rows of entities that were seen lately, by a law.

    The age of an entity is its rank by when it was last seen: 1 for the last one. Each retain row is drawn from an entity of
    age :math:`k` with probability :math:`w(k) / \sum_j w(j)`, and so makes it the last one seen. Before the first epoch the
    entities count as seen in the order of the data. Where retain rows are those of earlier tasks, in order, this is
    rehearsal that favours what is fresh.

    Args:
        law: The weights. Defaults to :class:`PowerLaw`.

    Example:
        >>> class Rows(list):
        ...     entities = ["Ada", "Bo", "Cy"]
        >>> order = RecencyOrder(PowerLaw(50.0))  # so steep that only the last one is drawn
        >>> order.rows(RowSet("ab", 1), RowSet(Rows("cde"), 1), seed=0, epoch=0).retain
        [2, 2]

    References:
        `Continual Learning in Power-Law Environments <https://arxiv.org/abs/2401.10393>`_, 2024; rebuilt from its abstract.
        Exponents and amounts are ours.
    """

    def __init__(self, law: ForgettingLaw | None = None) -> None:
        self.law = PowerLaw() if law is None else law

    @override
    def rows(self, forget: RowSet, retain: RowSet, *, seed: int, epoch: int) -> EpochRows:
        groups, wanted = list(retain.groups().values()), retain.rows_for(forget)
        weights = self.law(torch.arange(1, len(groups) + 1, dtype=torch.float64))
        # Ages depend on all that was drawn before: the draws of earlier epochs are made again.
        lately = list(reversed(range(len(groups))))
        for number in range(epoch):
            _draw(lately, _ranks(weights, wanted, seed, number))
        drawn = _draw(lately, _ranks(weights, wanted, seed, epoch))
        place = torch.Generator().manual_seed(hash_of(seed, epoch, 3))
        own = [groups[group][int(torch.randint(len(groups[group]), (), generator=place))] for group in drawn]
        return EpochRows(shuffled(len(forget), seed, 2 * epoch), own)


def _ranks(weights: Tensor, count: int, seed: int, epoch: int) -> list[int]:
    generator = torch.Generator().manual_seed(hash_of(seed, epoch, 2))
    ranks: list[int] = torch.multinomial(weights, count, replacement=True, generator=generator).tolist()
    return ranks


def _draw(lately: list[int], ranks: list[int]) -> list[int]:
    """The entities at these ranks, one after the other, each of which is then the last one seen."""
    drawn = []
    for rank in ranks:
        entity = lately.pop(rank)
        lately.insert(0, entity)
        drawn.append(entity)
    return drawn
