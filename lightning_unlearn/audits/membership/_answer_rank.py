from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.audits._base import Audit, observations_of
from lightning_unlearn.audits._candidates import Candidates, share_ahead
from lightning_unlearn.audits._scores import in_data_order
from lightning_unlearn.audits.membership._comparison import Comparison
from lightning_unlearn.data import Probe
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.settings import check_whole
from lightning_unlearn.observation import Observation
from lightning_unlearn.readouts import Readout

_RANK = (
    "Where the right answer stands among answers about others to the same question, by how likely the model finds them: 1 "
    "is ahead of all, 0.5 in the middle, 0 behind all. Far from 0.5 in either direction gives the answer away."
)
_RECOGNITION = (
    "How often the model finds the right answer likelier than one wrong answer, that to the most similar question; 0.5 is "
    "guessing. A model that cannot say an answer any more may still recognise it."
)


class AnswerRank(Audit):
    r"""Whether the network still picks out the right answer among others: its rank, and recognition between two.

    On the forget split, and on the holdout if there is one, per example:

    - ``answer_rank``: the share of ``alternates`` that the right answer is ahead of, ties half. On the forget split it is
      :class:`Specificity`. The holdout shows what a model says that was never told: some right answers are likelier than
      others by themselves.
    - ``recognition``: 1 if it is ahead of the first alternate, that of the most similar question; 0.5 for a tie. It is the
      strictest of cheap tests for what is left: models recognise long after they can no longer recall.

    With a holdout also the comparison of both splits by rank, as in :class:`Membership`.

    The answers compared are about another entity, and are put behind the same question, each in a forward pass of its own.
    Nothing is observed where the readout cannot exchange answers (:meth:`Readout.exchanges`).

    Args:
        alternates: Number of other answers.
        holdout: Name of the split of examples that nobody was trained on.

    Example:
        >>> sorted(AnswerRank().definitions())[:3]
        ['advantage_answer_rank', 'answer_rank', 'membership_auc_answer_rank']

    References:
        Rank among candidates: Tian et al., code of `LLM-Unlearning-Recovery
        <https://github.com/rzTian/LLM-Unlearning-Recovery>`_. Recognition: Orhan, `Recognition, recall, and retention of
        few-shot memories in large language models <https://arxiv.org/abs/2303.17557>`_, 2023.
    """

    def __init__(self, alternates: int = 9, holdout: str = "holdout") -> None:
        check_whole("alternates", alternates)
        self.alternates, self.holdout = alternates, holdout
        self._candidates = Candidates(alternates)
        self._compare = Comparison(holdout)

    @override
    def definitions(self) -> dict[str, str]:
        words = {"answer_rank": _RANK, "recognition": _RECOGNITION}
        return {**words, **self._compare.definitions("answer_rank", _RANK)}

    @override
    def __call__(
        self, network: nn.Module, *, readout: Readout, probes: Mapping[str, Probe], engine: GradientEngine
    ) -> list[Observation]:
        found: list[Observation] = []
        ranks: dict[str, list[float]] = {}
        for split in [split for split in ("forget", self.holdout) if split in probes]:
            nll = dict(self._candidates.likelihoods(network, readout, split, probes, engine))
            ranks[split] = in_data_order({number: share_ahead(each) for number, each in nll.items()})
            picked = in_data_order({number: _recognised(each) for number, each in nll.items()})
            for name, scores in (("answer_rank", ranks[split]), ("recognition", picked)):
                found += observations_of(split, probes[split], name, scores, higher_means_known=True, bounds=(0.0, 1.0))
        if len(ranks) == 2:
            found += self._compare("answer_rank", ranks, probes, higher_means_known=True)
        return found


def _recognised(nll: Tensor) -> float:
    return share_ahead(nll[:2])
