"""How likely the right answer is beside answers about others, put behind the same question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_unlearn.audits._alternates import choose_alternates
from lightning_unlearn.data import Probe
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import eval_without_grad


class Candidates:
    """Chooses other answers for each example, once for the same data, and asks the network how likely each is.

    Args:
        alternates: Number of other answers; each costs one forward pass.
    """

    def __init__(self, alternates: int) -> None:
        self.alternates = alternates
        self._chosen: dict[str, list[list[Tensor]]] = {}

    def likelihoods(
        self, network: nn.Module, readout: Readout, split: str, probes: Mapping[str, Probe], engine: GradientEngine
    ) -> Iterator[tuple[int, Tensor]]:
        """The number of each answered example of this process, and the mean token NLL of its answers, the right one first.

        Nothing where the readout cannot exchange answers, or no example of the split has another answer.
        """
        probe = probes[split]
        alternates = self._of(split, probes)
        if not any(alternates):
            return
        # Every rank makes the same number of passes over each batch, since a sharded network has to run in step.
        passes = max(map(len, alternates))
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
                    yield i, of_example[: len(among)]

    def _of(self, split: str, probes: Mapping[str, Probe]) -> list[list[Tensor]]:
        """Other answers for each example of the split, the same on every rank."""
        probe = probes[split]
        if probe.exchanges is None:
            return []
        key = " ".join([split, *(p.content_hash for p in probes.values())])
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


def share_ahead(nll: Tensor) -> float:
    """The share of alternates that the right answer, the first of ``nll [1 + K]``, is likelier than; 0.5 without any.

    A tie counts half. A comparison with NaN counts as lost.

    Example:
        >>> share_ahead(torch.tensor([1.0, 2.0, 1.0, 0.5, 3.0]))
        0.625
    """
    right, others = nll[0], nll[1:]
    if not len(others):
        return 0.5
    # Ties by rounding: a model that gives every token the same probability has means that differ in the last digit.
    tied = torch.isclose(others, right, rtol=1e-6, atol=0.0)
    return float(torch.where(tied, 0.5, (others > right).double()).mean())
