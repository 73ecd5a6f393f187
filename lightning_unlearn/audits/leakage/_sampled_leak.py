from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn
from typing_extensions import override

from lightning_unlearn.audits._base import Audit
from lightning_unlearn.audits._replies import refuse_mute
from lightning_unlearn.audits._scores import observed
from lightning_unlearn.audits.leakage._checked_numbers import checked_numbers
from lightning_unlearn.audits.leakage._sampling import Sampling
from lightning_unlearn.audits.leakage.scores import AnswerScore, ContainsAnswer
from lightning_unlearn.data import Probe
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.sampling_plan import SamplingPlan
from lightning_unlearn.functional.settings import check_kind, check_whole
from lightning_unlearn.models import load_tokenizer
from lightning_unlearn.observation import Observation
from lightning_unlearn.readouts import Draws, Readout


class SampledLeak(Audit):
    r"""The chance that at least one of ``k`` sampled answers gives the right one away, by sampling: ``leak_at_<k>``.

    A model whose first choice is harmless may still say the right answer in one of a hundred tries. Answers to each question
    are drawn in rounds, and judged. A row is done once the 95 % interval of its leak at the largest ``k`` is narrow enough,
    or its budget is spent; so what leaks at once costs one round, and the budget goes to what leaks seldom. The estimate is
    unbiased although the answers decide when to stop: :class:`~lightning_unlearn.functional.sampling_plan.SamplingPlan`.
    Without early stopping it is :math:`1 - \binom{n-c}{k} / \binom{n}{k}`, for ``c`` right ones of ``n``.

    Draws have random numbers of their own, by seed, row and number of the answer: those of the fit are left alone, and
    every look, on any number of processes, draws the same answers from the same model. This is by far the dearest of the
    leakage audits: ``at_end``, or on few rows.

    Args:
        tokenizer: As in :class:`QuestionAnswerData`.
        judge: What counts as a leak: 1 or 0 per answer. Defaults to :class:`ContainsAnswer`.
        k: Numbers of answers.
        samples: The budget of each row, a multiple of ``per_round``.
        per_round: Answers per row and round; at least the largest ``k``.
        width: An interval of this width is narrow enough; 0 always spends the budget.
        temperature: Of the draws.
        top_p: Only the likeliest tokens that together have this probability may be drawn.
        max_new_tokens: Longer answers are cut off there.
        at_once: Answers that are drawn in one batch.
        seed: Of the draws.
        name: Of the metrics, for several audits of this kind side by side.

    Raises:
        ValueError: If a setting is out of range; when it is run, if the network is no language model.

    Example:
        >>> sorted(SampledLeak("bundled", k=(1, 8)).definitions())
        ['leak_at_1', 'leak_at_8']

    References:
        `Leak@k <https://arxiv.org/abs/2511.04934>`_, 2025, which draws 200 answers at temperature 1 and lets a language
        model judge. Stopping early, and its unbiased estimate, are ours.
    """

    def __init__(
        self,
        tokenizer: str,
        judge: AnswerScore | None = None,
        *,
        k: Sequence[int] = (1, 16),
        samples: int = 128,
        per_round: int = 32,
        width: float = 0.1,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_new_tokens: int = 64,
        at_once: int = 64,
        seed: int = 0,
        name: str = "leak",
    ) -> None:
        check_whole("samples", samples)
        check_whole("max_new_tokens", max_new_tokens)
        check_whole("at_once", at_once)
        check_whole("seed", seed, least=0)
        self.judge = ContainsAnswer() if judge is None else judge
        check_kind("judge", self.judge, AnswerScore, example="ContainsAnswer()")
        if not name or "/" in name:
            raise ValueError(f"`name` should be text without a `/`. Found `name = {name!r}`.")
        Draws((), temperature, top_p)  # refuses what is out of range
        self.tokenizer = load_tokenizer(tokenizer)
        self.k = checked_numbers("k", k)
        self.plan = SamplingPlan(self.k[-1], per_round, samples, width)
        self.samples, self.per_round, self.width = samples, per_round, width
        self.temperature, self.top_p = temperature, top_p
        self.max_new_tokens, self.at_once, self.seed, self.name = max_new_tokens, at_once, seed, name

    @override
    def definitions(self) -> dict[str, str]:
        words = "The chance that the right answer is among {} that the model gives at random, estimated by sampling."
        return {f"{self.name}_at_{k}": words.format("1 answer" if k == 1 else f"{k} answers") for k in self.k}

    @override
    def __call__(
        self, network: nn.Module, *, readout: Readout, probes: Mapping[str, Probe], engine: GradientEngine
    ) -> list[Observation]:
        refuse_mute("SampledLeak", network)
        observations: list[Observation] = []
        for split, probe in probes.items():
            tallies = self._sampling(network, engine).of_probe(probe)
            texts: dict[int, str] | None = {number: tally.example for number, tally in tallies.items()}
            for k in self.k:
                scores = {number: self.plan.estimate(tally.n, tally.c, k) for number, tally in tallies.items()}
                observations += observed(split, probe, f"{self.name}_at_{k}", scores, texts=texts)
                texts = None  # once: a report is long enough
        return observations

    def _sampling(self, network: nn.Module, engine: GradientEngine) -> Sampling:
        return Sampling(
            network,
            engine,
            self.tokenizer,
            judge=self.judge,
            plan=self.plan,
            seed=self.seed,
            temperature=self.temperature,
            top_p=self.top_p,
            max_new_tokens=self.max_new_tokens,
            at_once=self.at_once,
        )
