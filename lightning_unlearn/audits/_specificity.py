from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.audits._alternates import choose_alternates
from lightning_unlearn.audits._base import Audit, observations_of
from lightning_unlearn.audits._scores import in_data_order
from lightning_unlearn.data import Probe
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.settings import check_whole
from lightning_unlearn.observation import Observation
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import eval_without_grad


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
        self._chosen: dict[str, list[list[Tensor]]] = {}

    @override
    def definitions(self) -> dict[str, str]:
        words = "How often the right answer is likelier than answers about others to the same question; 0.5 is chance."
        return {"specificity": words}

    @override
    def __call__(
        self, network: nn.Module, *, readout: Readout, probes: Mapping[str, Probe], engine: GradientEngine
    ) -> list[Observation]:
        probe = probes.get("forget")
        alternates = [] if probe is None else self._alternates(probe, probes)
        if probe is None or not any(alternates):
            return []
        # Every rank makes the same number of passes over each batch, since a sharded network has to run in step.
        passes = max(map(len, alternates))
        scores: dict[int, float] = {}
        for batch, index, counts in probe.batches:
            # The right answer first; an example that has run out of alternates repeats it.
            candidates = [[_right(probe, i), *alternates[i]] for i in index.tolist()]
            nll = torch.stack(
                [
                    _token_nll(network, readout, engine, batch, [c[k] if k < len(c) else c[0] for c in candidates])
                    for k in range(passes + 1)
                ]
            )
            for i, of_example, among in zip(index.tolist(), nll.T, candidates, strict=True) if counts else ():
                if len(among[0]):
                    scores[i] = _share_ahead(of_example[: len(among)])
        return observations_of(
            "forget", probe, "specificity", in_data_order(scores), higher_means_known=True, bounds=(0.0, 1.0)
        )

    def _alternates(self, probe: Probe, probes: Mapping[str, Probe]) -> list[list[Tensor]]:
        """Other answers for each example of ``probe``, the same on every rank."""
        if probe.exchanges is None:
            return []
        key = " ".join(p.content_hash for p in probes.values())
        if key not in self._chosen:  # the same at each point of each attack
            others = [p for p in probes.values() if p is not probe and p.exchanges is not None]
            own = self._choose([probe], probe.size)
            self._chosen[key] = own if any(own) else self._choose([probe, *others], probe.size)
        return self._chosen[key]

    def _choose(self, probes: Sequence[Probe], first: int) -> list[list[Tensor]]:
        pool = [exchange for probe in probes for exchange in probe.exchanges or ()]
        entities = [entity for probe in probes for entity in probe.clusters]
        chosen = choose_alternates(pool, entities, first=first, count=self.alternates)
        return [[pool[other].answer for other in others] for others in chosen]


def _right(probe: Probe, index: int) -> Tensor:
    assert probe.exchanges is not None  # else nothing would have been chosen
    return probe.exchanges[index].answer


def _token_nll(
    network: nn.Module, readout: Readout, engine: GradientEngine, batch: Any, answers: Sequence[Tensor]
) -> Tensor:
    """Mean negative log-likelihood of the tokens of each of ``answers``, ``[B]`` on the CPU."""
    on_device = engine.to_device(readout.with_answers(batch, answers))
    with eval_without_grad(network):
        prediction = engine.forward(lambda b: readout(network, b), on_device)
        return (prediction.example_nll() / prediction.rows_per_example().clamp_min(1)).cpu()


def _share_ahead(nll: Tensor) -> float:
    """The share of alternates that the right answer, the first of ``nll [1 + K]``, is likelier than; 0.5 without any.

    A comparison with NaN counts as lost.
    """
    right, others = nll[0], nll[1:]
    if not len(others):
        return 0.5
    # Ties by rounding: a model that gives every token the same probability has means that differ in the last digit.
    tied = torch.isclose(others, right, rtol=1e-6, atol=0.0)
    return float(torch.where(tied, 0.5, (others > right).double()).mean())
