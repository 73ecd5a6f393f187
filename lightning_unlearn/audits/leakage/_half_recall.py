from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from typing_extensions import override

from lightning_unlearn.audits._base import Audit
from lightning_unlearn.audits._replies import ends_of, refuse_mute
from lightning_unlearn.audits._scores import observed
from lightning_unlearn.audits.leakage._continued import continued, refuse_without_beginnings
from lightning_unlearn.audits.leakage.scores import recall
from lightning_unlearn.data import Probe
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.settings import check_whole
from lightning_unlearn.models import load_tokenizer
from lightning_unlearn.observation import Observation
from lightning_unlearn.readouts import Readout, answer_tokens, begun_by


class HalfRecall(Audit):
    r"""Give the first half of each answer, and see how much of the second half the network says: ``half_recall``.

    .. math:: \mathrm{LCS}(\text{said}, \text{second half}) / |\text{second half}|

    in tokens, of as many as the second half has, decoded greedily: ROUGE-L recall. Works for questions and answers, and for
    raw text, where the first half of each window is given. An answer of one token has no half, and is not scored.

    Args:
        tokenizer: As in :class:`QuestionAnswerData`.
        max_new_tokens: No more of a second half is asked for.

    Raises:
        ValueError: When it is run, if the network is no causal language model.

    Example:
        >>> HalfRecall("bundled")
        HalfRecall(max_new_tokens=128)

    References:
        Orhan, `Recognition, recall, and retention of few-shot memories in large language models
        <https://arxiv.org/abs/2303.17557>`_, 2023.
    """

    def __init__(self, tokenizer: str, max_new_tokens: int = 128) -> None:
        check_whole("max_new_tokens", max_new_tokens)
        self.tokenizer = load_tokenizer(tokenizer)
        self.max_new_tokens = max_new_tokens

    @override
    def definitions(self) -> dict[str, str]:
        return {
            "half_recall": "How much of the second half of the right answer the model says, once given the first half."
        }

    @override
    def __call__(
        self, network: nn.Module, *, readout: Readout, probes: Mapping[str, Probe], engine: GradientEngine
    ) -> list[Observation]:
        refuse_mute("HalfRecall", network)
        refuse_without_beginnings("HalfRecall", network)
        observations: list[Observation] = []
        for split, probe in probes.items():
            found = continued(
                network, probe, engine, self.tokenizer, most=self.max_new_tokens, prepared=self._given_half
            )
            scores = {n: recall([*map(str, c.said)], [*map(str, c.right)]) for n, c in found.items()}
            texts = {number: continuation.text for number, continuation in found.items()}
            observations += observed(split, probe, "half_recall", scores, texts=texts)
        return observations

    def _given_half(self, batch: Any) -> Any:
        ends = ends_of(batch, self.tokenizer)
        # The end of an answer is no half of it. Of an odd number of tokens the second half has one more.
        sizes = [sum(token not in ends for token in answer.tolist()) for answer in answer_tokens(batch)]
        # An answer without halves is given whole, end and all, and so has nothing left to score.
        return begun_by(batch, [size // 2 if size > 1 else batch["labels"].shape[1] for size in sizes])
