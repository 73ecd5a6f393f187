"""Rounds of sampled answers, judged one by one; all processes run the network equally often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_unlearn.audits._replies import (
    accepted,
    ends_of,
    from_every_rank,
    heed_sigterm,
    in_text,
    numbers_of,
    right_parts,
)
from lightning_unlearn.audits.leakage.scores import AnswerScore
from lightning_unlearn.data import Probe
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.sampling_plan import SamplingPlan
from lightning_unlearn.readouts import Draws, has_answer, sampled_answers
from lightning_unlearn.runtime import hash_of, on_every_rank


@dataclass
class Tally:
    """What was drawn for a row so far.

    Args:
        n: Answers.
        c: How many of them leak.
        example: The first that leaks; while none does, the first.
    """

    n: int = 0
    c: int = 0
    example: str = ""

    def count(self, said: str, leaks: bool) -> None:
        """Add an answer."""
        if self.n == 0 or (leaks and self.c == 0):
            self.example = said
        self.n += 1
        self.c += leaks


@dataclass(frozen=True)
class Sampling:
    """Samples answers of ``network``. See the arguments of :class:`SampledLeak`."""

    network: nn.Module
    engine: GradientEngine
    tokenizer: Any
    judge: AnswerScore
    plan: SamplingPlan
    seed: int
    temperature: float
    top_p: float
    max_new_tokens: int
    at_once: int

    def of_probe(self, probe: Probe) -> dict[int, Tally]:
        """A tally for each example that has an answer, by its number. Collective."""
        own: dict[int, Tally] = {}
        for batch, index, counts in probe.batches:
            tallies = self._of_batch(self.engine.to_device(batch), index, probe)
            own |= tallies if counts else {}  # otherwise they are another rank's, and are run here to keep in step
        return from_every_rank(own)

    def _of_batch(self, batch: Any, index: Tensor, probe: Probe) -> dict[int, Tally]:
        ends = ends_of(batch, self.tokenizer)
        right = self._right(batch, index, probe, ends)
        place = dict(zip(numbers_of(batch, index), _places(has_answer(batch)), strict=True))
        tallies = {number: Tally() for number in place}
        while True:
            open_ = [
                number for number, tally in tallies.items() if not tally.n or not self.plan.stops(tally.n, tally.c)
            ]
            wanted = [(number, tallies[number].n + more) for number in open_ for more in range(self.plan.per_round)]
            chunks = [wanted[first : first + self.at_once] for first in range(0, len(wanted), self.at_once)]
            passes = self._most(len(chunks))
            if not passes:
                return tallies
            # A rank that is done runs its first row for nothing, while another one goes on.
            for chunk in [*chunks, *([[]] * (passes - len(chunks)))]:
                heed_sigterm(self.engine)
                said = self._said(batch, [(place[number], number, draw) for number, draw in chunk] or [(0, 0, 0)], ends)
                for (number, _), text in zip(chunk, said, strict=False):
                    tallies[number].count(text, self.judge(text, right[number]) >= 1)

    def _said(self, batch: Any, wanted: Sequence[tuple[int, int, int]], ends: set[int]) -> list[str]:
        """A text for each place in ``batch``, number of the example, and number of the answer."""
        rows = _rows(batch, [place for place, _, _ in wanted])
        seeds = [hash_of(self.seed, number, draw) for _, number, draw in wanted]
        ask = partial(
            sampled_answers,
            self.network,
            draws=Draws(seeds, self.temperature, self.top_p),
            end=ends,
            max_new_tokens=self.max_new_tokens,
            in_step=self._in_step,
        )
        answers = self.engine.forward(lambda asked: ask(batch=asked), rows)
        return [self.tokenizer.decode(answer, skip_special_tokens=True) for answer in answers]

    def _right(self, batch: Any, index: Tensor, probe: Probe, ends: set[int]) -> dict[int, Sequence[str]]:
        rows, asked = probe.rows, numbers_of(batch, index)
        if rows is not None:
            return {number: accepted(rows[number]) for number in asked}
        parts = right_parts(batch, ends)
        return {number: in_text(self.tokenizer, each) for number, each in zip(asked, parts, strict=True)}

    @property
    def _in_step(self) -> bool:
        return self.engine.world_size > 1

    def _most(self, chunks: int) -> int:
        return max(on_every_rank(chunks)) if self._in_step else chunks


def _places(answered: Sequence[bool]) -> list[int]:
    return [place for place, has in enumerate(answered) if has]


def _rows(batch: Mapping[str, Any], places: Sequence[int]) -> dict[str, Any]:
    """Some rows of ``batch``, perhaps several times."""
    size = len(batch["labels"])
    at = torch.tensor(list(places))

    def chosen(value: Any) -> Any:
        by_row = isinstance(value, Tensor) and value.dim() > 0 and len(value) == size
        return value[at.to(value.device)] if by_row else value

    return {name: chosen(value) for name, value in batch.items()}
