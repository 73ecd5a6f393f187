from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from typing_extensions import override

from lightning_unlearn.audits._base import Audit
from lightning_unlearn.audits._replies import refuse_mute
from lightning_unlearn.audits._scores import observed
from lightning_unlearn.audits.leakage._checked_numbers import checked_numbers
from lightning_unlearn.audits.leakage._continued import Continuation, continued, refuse_without_beginnings
from lightning_unlearn.audits.leakage.scores import recall
from lightning_unlearn.data import Probe
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.settings import check_whole
from lightning_unlearn.models import load_tokenizer
from lightning_unlearn.observation import Observation
from lightning_unlearn.readouts import Readout, begun_by


class Verbatim(Audit):
    """Give the beginning of a text, and see how much of what follows the network reproduces word for word.

    For raw text, as from :class:`TextData`, and for answers that are long enough. For each prefix of ``p`` tokens two
    numbers: ``verbatim_<p>``, the longest passage of the text that was reproduced without a gap, in tokens; and
    ``reproduced_<p>``, the share of what follows that was said in the same order, which is ROUGE-L recall in tokens. Decoded
    greedily, one generation per row and prefix; the first ``continuation`` tokens of what follows are asked for.

    A row is scored if at least one token follows. What a row shows anyway is not counted in the prefix: a question, or in
    raw text the first token of a window, which nothing predicts.

    Args:
        tokenizer: As in :class:`QuestionAnswerData`.
        prefixes: Numbers of tokens that are given.
        continuation: Number of tokens asked for.

    Raises:
        ValueError: If a setting is out of range; when it is run, if the network is no causal language model.

    Example:
        >>> sorted(Verbatim("bundled", prefixes=(25, 100)).definitions())
        ['reproduced_100', 'reproduced_25', 'verbatim_100', 'verbatim_25']

    References:
        The prefixes are those of `Hubble <https://github.com/allegro-lab/hubble>`_, 2025; the idea is of Carlini et al.,
        `Quantifying Memorization <https://arxiv.org/abs/2202.07646>`_, 2023.
    """

    def __init__(self, tokenizer: str, prefixes: Sequence[int] = (25, 50, 75, 100), continuation: int = 50) -> None:
        check_whole("continuation", continuation)
        self.tokenizer = load_tokenizer(tokenizer)
        self.prefixes = checked_numbers("prefixes", prefixes)
        self.continuation = continuation

    @override
    def definitions(self) -> dict[str, str]:
        return {
            name: words.format(prefix)
            for prefix in self.prefixes
            for name, words in (
                (
                    f"verbatim_{prefix}",
                    "Tokens of the text that the model says in a row, word for word, once given {}.",
                ),
                (
                    f"reproduced_{prefix}",
                    "The share of the text that the model says in the same order, once given {} tokens.",
                ),
            )
        }

    @override
    def __call__(
        self, network: nn.Module, *, readout: Readout, probes: Mapping[str, Probe], engine: GradientEngine
    ) -> list[Observation]:
        refuse_mute("Verbatim", network)
        refuse_without_beginnings("Verbatim", network)
        observations: list[Observation] = []
        for split, probe in probes.items():
            for prefix in self.prefixes:

                def prepared(batch: Any, given: int = prefix) -> Any:
                    return begun_by(batch, [given] * len(batch["labels"]))

                found = continued(network, probe, engine, self.tokenizer, most=self.continuation, prepared=prepared)
                observations += self._scored(split, probe, prefix, found)
        return observations

    def _scored(self, split: str, probe: Probe, prefix: int, found: Mapping[int, Continuation]) -> list[Observation]:
        texts = {number: each.text for number, each in found.items()}
        longest = {number: float(longest_passage(each.said, each.right)) for number, each in found.items()}
        shares = {number: recall([*map(str, each.said)], [*map(str, each.right)]) for number, each in found.items()}
        most = (0.0, float(self.continuation))
        return [
            *observed(split, probe, f"reproduced_{prefix}", shares, texts=texts),
            *observed(split, probe, f"verbatim_{prefix}", longest, bounds=most),
        ]


def longest_passage(said: Sequence[int], right: Sequence[int]) -> int:
    """Length of the longest run of tokens that stands in both.

    Example:
        >>> longest_passage([7, 1, 2, 3], [1, 2, 3, 4])
        3
    """
    best, ending_before = 0, [0] * (len(right) + 1)
    for token in said:
        ending = [0] * (len(right) + 1)
        for place, other in enumerate(right, start=1):
            if token == other:
                ending[place] = ending_before[place - 1] + 1
        best, ending_before = max(best, *ending), ending
    return best
