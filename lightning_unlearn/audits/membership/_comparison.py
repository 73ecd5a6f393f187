"""Whether a score tells what must go from what nobody was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lightning_unlearn.audits._base import observations_of
from lightning_unlearn.data import Probe
from lightning_unlearn.functional.proportions import clopper_pearson
from lightning_unlearn.functional.separation import (
    advantage,
    advantage_interval,
    auc_interval,
    places,
    recognised,
)
from lightning_unlearn.functional.settings import check_between, check_whole
from lightning_unlearn.observation import MEMBERSHIP, Observation
from lightning_unlearn.runtime import Misfit


@dataclass(frozen=True)
class Comparison:
    """Compares scores of the forget split with those of a holdout: AUC, advantage, and what a careful observer finds.

    The AUC is an observation of the forget split: the score of an example is the share of the holdout that it is ahead of.
    What is said of both splits at once stands under ``forget_vs_<holdout>``.

    Args:
        holdout: Name of the split of examples of the same kind that nobody was trained on.
        false_positive_rates: Shares of the holdout that may be taken for members.
        draws: Number of bootstrap resamples.
        seed: Of the bootstrap.
    """

    holdout: str = "holdout"
    false_positive_rates: tuple[float, ...] = (0.01, 0.001)
    draws: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        for rate in self.false_positive_rates:
            check_between("false_positive_rates", rate, 0, 1)
        check_whole("draws", self.draws)

    @property
    def both(self) -> str:
        """The split of observations that are of both sets at once."""
        return f"forget_vs_{self.holdout}"

    def refuse_missing(self, splits: Mapping[str, object], who: str) -> None:
        """Refuse splits without a holdout.

        Raises:
            Misfit: If there is none.
        """
        if missing := [split for split in ("forget", self.holdout) if split not in splits]:
            raise Misfit(
                f"`{who}` should get examples of the same kind that nobody was trained on, as a split `{self.holdout}`. "
                f"Found no `{'`, no `'.join(missing)}` among `{'`, `'.join(splits)}`. Give them as "
                f'`RecoveryCheck(probes={{"{self.holdout}": ...}})`, or leave `{who}` out.'
            )

    def __call__(
        self,
        name: str,
        scores: Mapping[str, Sequence[float]],
        probes: Mapping[str, Probe],
        *,
        higher_means_known: bool,
        layer: str = "",
    ) -> list[Observation]:
        """What ``name`` tells of the two splits; nothing if one of them has no scores.

        Args:
            name: The score's name.
            scores: By split; one for each example that has an answer, in the order of the data.
            probes: What was asked.
            higher_means_known: Whether a larger score means that the model knows more.
            layer: The part of the network that the scores were read at.
        """
        sign = 1 if higher_means_known else -1
        forget, holdout = (sign * np.asarray(scores[split], dtype=float) for split in ("forget", self.holdout))
        if not len(forget) or not len(holdout):
            return []
        who = tuple(clusters(probes[s], len(scores[s])) for s in ("forget", self.holdout))
        interval = auc_interval(forget, holdout, who, draws=self.draws, seed=self.seed)  # type: ignore[arg-type]
        about = {"higher_means_known": True, "bounds": (0.0, 1.0), "layer": layer}
        of_forget = probes["forget"]
        found = observations_of(
            "forget", of_forget, f"{MEMBERSHIP}{name}", places(forget, holdout).tolist(), interval=interval, **about
        )
        auc = found[0].value
        of_both = None if interval is None else advantage_interval(interval)
        found.append(
            Observation(f"advantage_{name}", self.both, advantage(auc), interval=of_both, **about)  # type: ignore[arg-type]
        )
        for rate in self.false_positive_rates:
            hits = recognised(forget, holdout, rate)
            (share,) = observations_of(
                self.both, of_forget, rate_name(rate, name), hits.astype(float).tolist(), **about
            )
            found.append(replace(share, interval=clopper_pearson(int(hits.sum()), len(hits))))
        return found

    def definitions(self, name: str, in_words: str) -> dict[str, str]:
        """The meaning of each of its metrics of the score ``name``, which ``in_words`` explains."""
        rates = {
            rate_name(rate, name): f"The share of what must go that is recognised by its {name} score, if at most "
            f"{100 * rate:g} % of examples that nobody was trained on may be taken for it."
            for rate in self.false_positive_rates
        }
        return {
            f"{MEMBERSHIP}{name}": "How often an example that must go looks more like training data than one that nobody "
            "was trained on: 0.5 if nobody can tell them apart; near 1 the model still knows it; near 0 it shuns it, which "
            f"gives it away as well. Judged by: {in_words[0].lower()}{in_words[1:]}",
            f"advantage_{name}": "How much better than by guessing one can tell from the model which examples were to go, "
            f"by their {name} score: 0 is guessing, 1 is always right. Too much unlearning counts as much as too little.",
            **rates,
        }


def rate_name(rate: float, name: str) -> str:
    """Name of the true positive rate at a false positive rate.

    Example:
        >>> rate_name(0.001, "loss")
        'tpr_at_0.1pct_loss'
    """
    return f"tpr_at_{100 * rate:g}pct_{name}"


def clusters(probe: Probe, count: int) -> list[str]:
    """The entity of each of ``count`` scores. If there are others than examples, nobody knows whose they are."""
    return probe.clusters if probe.size == count else [f"example {number}" for number in range(count)]
