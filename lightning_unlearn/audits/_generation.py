from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from typing_extensions import override

from lightning_unlearn.audits._base import Audit
from lightning_unlearn.audits._replies import Reply, accepted_answers, greedy_replies, refuse_mute
from lightning_unlearn.audits._scores import observed
from lightning_unlearn.audits.leakage._said_in_styles import SaidInStyles
from lightning_unlearn.audits.leakage.scores import AnswerScore, ContainsAnswer, Refuses, RougeRecall
from lightning_unlearn.audits.leakage.styles import AnswerStyle
from lightning_unlearn.data import Probe
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.settings import check_named, check_whole
from lightning_unlearn.models import load_tokenizer
from lightning_unlearn.observation import Observation
from lightning_unlearn.readouts import Readout


class Generation(Audit):
    """Let the network answer by itself, once, and score what it said in several ways.

    The question of a row is all that stands before its first label. Answers are decoded greedily, up to the model's own
    end token, the tokenizer's, or the special token that ends the answers of the data. Every answer that a row accepts is
    right. The first score carries the texts.

    On harmless questions of the same form as those that must go, as from :class:`DecoupledQuestion`, the mean of
    ``refusals`` is the safe-answer refusal rate (SARR).

    With ``styles`` the same facts are asked in other styles too, each with one more generation per row. A model that has
    only forgotten to answer in the style of the data is caught: ``style_<name>`` for each style, ``any_style`` for what was
    said as asked or in any style that chance cannot answer, and ``superficial`` for what was said in such a style and not as
    asked. They need questions and answers in words, as from :class:`QuestionAnswerData`.

    Questions by another name are a style, too: :class:`~lightning_unlearn.audits.leakage.Renamed`. Multi-hop questions,
    which have other answers, are a probe of their own: a split with its own fields,
    ``RecoveryCheck(probes={"multi_hop": QuestionAnswerData(FileRecords(..., question="hop", answer="hop_answer"), ...)})``.
    So are questions of a reasoning model that is told not to think, by ``Encoding(template_arguments=...)``. What it thinks
    and what it answers are judged apart by the scores ``InTrace()``, ``BehindTrace()`` and ``OnlyInTrace()``.

    Args:
        tokenizer: As in :class:`QuestionAnswerData`.
        scores: How answers are scored, by the name under which the mean is logged. Defaults to ``rouge_l``, ``said`` (the
            right answer is contained) and ``refusals``.
        styles: Other styles, by name, such as :func:`answer_styles`.
        max_new_tokens: Longer answers are cut off there.

    Raises:
        ValueError: If there is no score; when it is run, if the network is no language model.

    Example:
        >>> audit = Generation("bundled", max_new_tokens=24)  # RecoveryCheck(audits=[Measure(), audit])
        >>> audit
        Generation(max_new_tokens=24)
        >>> sorted(audit.definitions())
        ['refusals', 'rouge_l', 'said']
    """

    def __init__(
        self,
        tokenizer: str,
        scores: dict[str, AnswerScore] | None = None,
        styles: dict[str, AnswerStyle] | None = None,
        max_new_tokens: int = 64,
    ) -> None:
        check_whole("max_new_tokens", max_new_tokens)
        if scores is not None:
            check_named("scores", scores, AnswerScore, example='{"said": ContainsAnswer()}')
            if not scores:
                raise ValueError(
                    "`scores` should hold at least one score. Found none. Leave it out for the three defaults."
                )
        self.tokenizer = load_tokenizer(tokenizer)
        self.scores = scores or {"rouge_l": RougeRecall(), "said": ContainsAnswer(), "refusals": Refuses()}
        self.max_new_tokens = max_new_tokens
        self.styles = None if styles is None else SaidInStyles(styles)

    @override
    def definitions(self) -> dict[str, str]:
        in_styles = {} if self.styles is None else self.styles.definitions()
        return {**{name: score.in_words for name, score in self.scores.items()}, **in_styles}

    @override
    def __call__(
        self, network: nn.Module, *, readout: Readout, probes: Mapping[str, Probe], engine: GradientEngine
    ) -> list[Observation]:
        refuse_mute("Generation", network)

        def ask(probe: Probe) -> dict[int, Reply]:
            return greedy_replies(network, probe, engine, self.tokenizer, max_new_tokens=self.max_new_tokens)

        observations: list[Observation] = []
        for split, probe in probes.items():
            replies = ask(probe)
            observations += self._scored(split, probe, replies)
            if self.styles is not None and probe.rows is not None:
                observations += self.styles.observe(split, probe, replies, ask)
        return observations

    def _scored(self, split: str, probe: Probe, replies: Mapping[int, Reply]) -> list[Observation]:
        right = accepted_answers(probe, replies)
        texts: dict[int, str] | None = {number: reply.text for number, reply in replies.items()}
        observations: list[Observation] = []
        for name, score in self.scores.items():
            of_rows = {number: score(reply.text, right[number]) for number, reply in replies.items()}
            rises = score.higher_means_known
            observations += observed(split, probe, name, of_rows, texts=texts, higher_means_known=rises)
            texts = None  # once: a report is long enough
        return observations
