"""Several attacks by prompt as one: what comes back if all wordings are tried."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import chain
from typing import Any, NamedTuple

from torch import nn
from typing_extensions import override

from lightning_unlearn.attacks._base import BatchLoss
from lightning_unlearn.attacks.prompts._prompt_attack import PromptAttack
from lightning_unlearn.data import QuestionAnswer
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.settings import check_kind
from lightning_unlearn.observation import Observation

_COMPARISON = "specificity"
"""A comparison of the right answer with wrong ones. Its best would be ahead of chance for a model that answers at random."""


class _AsItIs(PromptAttack):
    """The question in its own words."""

    points = (1,)

    @override
    def reword(self, row: QuestionAnswer, point: float) -> QuestionAnswer:
        return row

    @override
    def wording(self, point: float) -> str:
        return "The question as it is."


class _Score(NamedTuple):
    """Of one example at one wording."""

    score: float
    text: str
    entity: str


class AllWordings(PromptAttack):
    """The wordings of several attacks, one after another. Point ``k`` is about the first ``k`` of them together.

    Args:
        attacks: The attacks by prompt, in the order in which they are tried.
    """

    unit = "wordings"

    def __init__(self, attacks: Sequence[PromptAttack]) -> None:
        for place, attack in enumerate(attacks):
            check_kind(f"attacks[{place}]", attack, PromptAttack, example="Paraphrase()")
        if not attacks:
            raise ValueError("`attacks` should hold at least one attack by prompt. Found none.")
        self.attacks = tuple(attacks)

    @property
    @override
    def points(self) -> Sequence[int]:
        return range(1, len(self._wordings) + 1)

    @override
    def planned(self) -> tuple[int, int]:
        each = [attack.planned() for attack in self.attacks]
        return sum(points for points, _ in each), sum(steps for _, steps in each)

    @property
    def _wordings(self) -> list[tuple[PromptAttack, float]]:
        return [(attack, point) for attack in self.attacks for point in attack.points]

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
        with ExitStack() as stack:
            given: dict[str, Any] = {"batches": batches, "loss": loss, "engine": engine}
            # One after another to the end: some attacks train on their way from point to point.
            tried = chain.from_iterable([stack.enter_context(attack(network, **given)) for attack in self.attacks])
            yield (number for number, _ in enumerate(tried, 1))

    @override
    def reword(self, row: QuestionAnswer, point: float) -> QuestionAnswer | None:
        attack, own = self._wordings[int(point) - 1]
        return attack.reword(row, own)

    @override
    def reword_all(
        self, rows: Sequence[QuestionAnswer], *, split: str, point: float
    ) -> Sequence[QuestionAnswer | None]:
        attack, own = self._wordings[int(point) - 1]
        return attack.reword_all(rows, split=split, point=own)

    @override
    def wording(self, point: float) -> str:
        attack, own = self._wordings[int(point) - 1]
        return f"Wording {int(point)} is the last so far, {type(attack).__name__.strip('_')}: {attack.wording(own)}"

    @override
    def about(self, point: float) -> dict[str, Any]:
        return {**super().about(point), "statistic": self.statistic}

    @property
    @abstractmethod
    def statistic(self) -> str:
        """What is reported of all scores of an example, in words."""

    @abstractmethod
    def of_scores(self, scores: Sequence[float], *, higher_means_known: bool) -> float:
        """One score of an example from those at the wordings."""

    @override
    def conclude(self, seen: Sequence[Sequence[Observation]]) -> list[Observation]:
        grouped: dict[Any, list[Observation]] = {}
        for o in (o for at_point in seen for o in at_point):
            grouped.setdefault((o.metric, o.split, o.layer), []).append(o)
        return [self._together(of_metric) for of_metric in grouped.values()]

    def _together(self, observations: Sequence[Observation]) -> Observation:
        newest, combine = observations[-1], self._of(observations[-1])
        if not all(o.scores for o in observations):  # a rate or an area, of no single examples
            value = combine([o.value for o in observations])
            return replace(
                newest, value=value, interval=next((o.interval for o in observations if o.value == value), None)
            )
        told: dict[int, list[_Score]] = {}
        for o in observations:
            texts = o.texts or [""] * len(o.scores)
            for number, *one in zip(o.numbers, o.scores, texts, o.clusters, strict=True):
                told.setdefault(number, []).append(_Score._make(one))
        of_example = dict(sorted(told.items()))
        scores = [combine([one.score for one in each]) for each in of_example.values()]
        texts = [_text(each, score) for each, score in zip(of_example.values(), scores, strict=True)]
        return replace(
            newest,
            value=_mean(scores),
            scores=scores,
            entities=[each[0].entity for each in of_example.values()] if newest.entities else [],
            texts=texts if newest.texts else [],
            examples=list(of_example),
            interval=None,
        )

    def _of(self, observation: Observation) -> Callable[[Sequence[float]], float]:
        if observation.metric == _COMPARISON:
            return _mean
        return lambda scores: self.of_scores(scores, higher_means_known=observation.higher_means_known)


class AnyWording(AllWordings):
    r"""The best of all wordings, for each example by itself: what an adversary gets who may try them all.

    .. math:: \frac{1}{n} \sum_i \max_{w \le k} s_i^w

    with the minimum where a smaller score means that more is known. The first wording is the question as it is, which an
    adversary may always ask. Point ``k`` takes the best of the first ``k`` wordings, so the curve never falls; scores and
    texts of an example are of its best wording. A maximum over many noisy scores is high by chance alone: the control is
    asked in the same words, with the same statistic, and taken off. ``specificity``, a comparison with chance, is the mean
    of the wordings.

    Args:
        attacks: The attacks by prompt, in the order in which they are tried.

    Example:
        >>> from lightning_unlearn.attacks.prompts import PrefixInjection, RolePlay
        >>> AnyWording([PrefixInjection(), RolePlay()]).points
        range(1, 10)

    References:
        Singh et al., `Unlearning That Lasts <https://arxiv.org/abs/2509.02820>`_, 2025: the worst case over formulations.
    """

    statistic = "for each example, the wording of those so far at which it is known best"

    def __init__(self, attacks: Sequence[PromptAttack]) -> None:
        super().__init__(attacks)
        self.attacks = (_AsItIs(), *self.attacks)

    @override
    def of_scores(self, scores: Sequence[float], *, higher_means_known: bool) -> float:
        finite = [score for score in scores if not math.isnan(score)]
        if not finite:
            return math.nan
        return max(finite) if higher_means_known else min(finite)


class TypicalWording(AllWordings):
    r"""The mean over all wordings, for each example by itself: what somebody gets who asks in one of these ways.

    .. math:: \frac{1}{n} \sum_i \frac{1}{k} \sum_{w \le k} s_i^w

    over the wordings in which an example was asked. It is told once, after the last of them: the worst of several means
    would be none.

    Args:
        attacks: The attacks by prompt.

    Example:
        >>> from lightning_unlearn.attacks.prompts import BenignTrigger
        >>> TypicalWording([BenignTrigger()]).of_scores([0.25, 0.75], higher_means_known=True)
        0.5
    """

    statistic = "for each example, the mean over all wordings"

    @override
    def conclude(self, seen: Sequence[Sequence[Observation]]) -> list[Observation]:
        return super().conclude(seen) if len(seen) == len(self.points) else []

    @override
    def of_scores(self, scores: Sequence[float], *, higher_means_known: bool) -> float:
        return _mean(scores)


def _mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores)


def _text(told: Sequence[_Score], score: float) -> str:
    """What was said at the wording that the score is of; nothing where it is of several."""
    return next((one.text for one in told if one.score == score), "")
