"""What a model answers by itself to the questions of TOFU, and how good that is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from lightning_unlearn.audits._replies import Reply, accepted_answers, greedy_replies
from lightning_unlearn.audits.tofu._questions import SPLITS
from lightning_unlearn.data import Probe
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.compat import Compat
from lightning_unlearn.functional.fluency import ngram_entropy
from lightning_unlearn.functional.rouge import RougeScores, rouge_l, stemmed_words
from lightning_unlearn.functional.words import words


def answered(
    network: nn.Module,
    probes: Mapping[str, Probe],
    engine: GradientEngine,
    tokenizer: Any,
    *,
    max_new_tokens: int,
    compat: Compat | None,
) -> dict[str, dict[str, list[Any]]]:
    """ROUGE-L and fluency of greedy answers, by split, in the order of the data. Collective."""
    found = {}
    for split, probe in ((split, probes[split]) for split in SPLITS if split in probes):
        replies = greedy_replies(network, probe, engine, tokenizer, max_new_tokens=max_new_tokens)
        right = accepted_answers(probe, replies)
        rouge = [_best(reply, right[number], compat) for number, reply in replies.items()]
        found[split] = {
            "rouge_l_recall": [each.recall for each in rouge],
            "rouge_l_f": [each.f for each in rouge],
            "fluency": [ngram_entropy(words(reply.text)) for reply in replies.values()],
            "texts": [reply.text for reply in replies.values()],
        }
    return found


def _best(reply: Reply, right: Any, compat: Compat | None) -> RougeScores:
    """ROUGE against the right answer that was said best."""
    said = stemmed_words(reply.text, compat)
    return max((rouge_l(said, stemmed_words(answer, compat)) for answer in right), key=lambda rouge: rouge.recall)
