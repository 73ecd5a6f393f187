"""Tokens drawn by random numbers of their own: those of the fit are left alone, and every look draws the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_unlearn.functional.likelihood import token_nll
from lightning_unlearn.functional.settings import check_between, check_positive

_LIKELIEST = 256
"""So many tokens nearly always reach ``top_p``; sorting a whole vocabulary costs more than the rest of a step."""


@dataclass(frozen=True)
class Draws:
    r"""Draws each next token of some answers: by the inverse of its distribution function, at a number of its own.

    What is drawn depends on the row's seed, the number of the token, and the logits; not on the global random generators,
    the other rows, or the process.

    Args:
        seeds: One per row.
        temperature: Divides the logits.
        top_p: Only the likeliest tokens that together have this probability may be drawn.

    Raises:
        ValueError: If a setting is out of range.

    Example:
        >>> draws = Draws(seeds=range(1000))
        >>> logits = torch.tensor([0.2, 0.8]).log().expand(1000, 2)
        >>> round(draws.choose(logits, step=0).double().mean().item(), 1)
        0.8
    """

    seeds: Sequence[int]
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature)
        check_between("top_p", self.top_p, 1e-6, 1)

    def choose(self, logits: Tensor, step: int) -> Tensor:
        """Token ``step`` of each answer, ``[n]``, from its ``logits [n, V]``."""
        # torch has no deterministic running sum on GPUs, and no float64 at all on some.
        on_cpu = torch.are_deterministic_algorithms_enabled() or logits.device.type == "mps"
        there = logits.cpu() if on_cpu else logits
        p = (there.double() / self.temperature).softmax(-1)
        reached = (_nucleus(p, self.top_p) if self.top_p < 1 else p).cumsum(-1)
        at = self._numbers(step).to(reached.device)[:, None] * reached[:, -1:]
        chosen = torch.searchsorted(reached, at, right=True)[:, 0].clamp_max(logits.shape[-1] - 1)
        return chosen.to(logits.device)

    def _numbers(self, step: int) -> Tensor:
        """A number in [0, 1) for each row."""
        numbers = []
        for seed in self.seeds:
            generator = torch.Generator().manual_seed((seed * 1_000_003 + step) % (1 << 63))
            numbers.append(torch.rand(1, generator=generator, dtype=torch.float64))
        return torch.cat(numbers)


def _nucleus(p: Tensor, top_p: float) -> Tensor:
    """``p``, with 0 in place of tokens beyond the likeliest that reach ``top_p``."""
    ordered, places = p.topk(min(_LIKELIEST, p.shape[-1]))
    if ordered.sum(-1).min() < top_p:
        ordered, places = p.sort(stable=True, dim=-1, descending=True)
    within = ordered.cumsum(-1) - ordered < top_p
    return torch.where(torch.zeros_like(p, dtype=torch.bool).scatter(-1, places, within), p, 0.0)


class DrawnTokens:
    """Makes ``generate`` choose what :class:`Draws` draws, and keeps what it was shown.

    Args:
        draws: A row for each row of ``generate``.
    """

    def __init__(self, draws: Draws) -> None:
        self.draws = draws
        self.tokens: list[Tensor] = []
        self.nll: list[Tensor] = []

    def __call__(self, input_ids: Any, scores: Tensor) -> Tensor:
        """Leave one token possible in each row: that which is drawn."""
        chosen = self.draws.choose(scores, len(self.tokens))
        self.tokens.append(chosen)
        self.nll.append(token_nll(scores, chosen))
        return torch.full_like(scores, -torch.inf).scatter(1, chosen[:, None], 0.0)

    def gave(self, answers: Sequence[Tensor]) -> bool:
        """Whether ``answers`` are made of the tokens that were drawn."""
        if not self.tokens or max(map(len, answers)) > len(self.tokens):
            return False
        drawn = torch.stack(self.tokens, dim=1)
        return all(torch.equal(answer, row[: len(answer)]) for answer, row in zip(answers, drawn, strict=True))

    def nll_of(self, answers: Sequence[Tensor]) -> Tensor:
        """Of each token of ``answers`` when it was drawn, ``[N]``."""
        nll = torch.stack(self.nll, dim=1)
        return torch.cat([row[: len(answer)] for answer, row in zip(answers, nll, strict=True)])
