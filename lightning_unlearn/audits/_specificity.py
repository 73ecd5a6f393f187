from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from typing_extensions import override

from lightning_unlearn.audits._base import Audit, observations_of
from lightning_unlearn.audits._candidates import Candidates, share_ahead
from lightning_unlearn.audits._scores import in_data_order
from lightning_unlearn.data import Probe
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.settings import check_whole
from lightning_unlearn.observation import Observation
from lightning_unlearn.readouts import Readout


class Specificity(Audit):
    r"""How often the right answer is likelier than answers about others. A model that prefers no answer is at chance, 0.5.

    .. math:: \frac{1}{K} \sum_{k=1}^{K} \bigl[ p_k < p \bigr] + \tfrac{1}{2} \bigl[ p_k = p \bigr]

    where :math:`p` is the geometric mean of the probabilities of the right answer's tokens, and :math:`p_k` the same for the
    answer of another example, put behind the same question. These alternates are about another entity, are another answer,
    and had the most similar questions. One score per example of the forget split, in [0, 1].

    Alternates come from the forget split itself; if all of it has the same answer, from the other splits too. An example
    without alternates scores 0.5. Nothing is observed where the readout cannot exchange answers (:meth:`Readout.exchanges`).

    Args:
        alternates: Number of other answers ``K``; each costs one forward pass over the forget split.

    Example:
        >>> Specificity(alternates=8)
        Specificity(alternates=8)
    """

    def __init__(self, alternates: int = 4) -> None:
        check_whole("alternates", alternates)
        self.alternates = alternates
        self._candidates = Candidates(alternates)

    @override
    def definitions(self) -> dict[str, str]:
        words = "How often the right answer is likelier than answers about others to the same question; 0.5 is chance."
        return {"specificity": words}

    @override
    def __call__(
        self, network: nn.Module, *, readout: Readout, probes: Mapping[str, Probe], engine: GradientEngine
    ) -> list[Observation]:
        if "forget" not in probes:
            return []
        nll = self._candidates.likelihoods(network, readout, "forget", probes, engine)
        scores = in_data_order({number: share_ahead(of_example) for number, of_example in nll})
        about = {"higher_means_known": True, "bounds": (0.0, 1.0)}
        return observations_of("forget", probes["forget"], "specificity", scores, **about)
