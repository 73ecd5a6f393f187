"""Beginnings of right answers, and how a network goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from lightning_unlearn.audits._replies import greedy_replies
from lightning_unlearn.data import Probe
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.models.layers import base_model
from lightning_unlearn.runtime import Misfit


@dataclass(frozen=True)
class Continuation:
    """How an answer was continued, and how it goes on.

    Args:
        text: What was said, in words.
        said: Tokens, as many as ``right`` at most.
        right: Tokens.
    """

    text: str
    said: tuple[int, ...]
    right: tuple[int, ...]


def continued(
    network: nn.Module,
    probe: Probe,
    engine: GradientEngine,
    tokenizer: Any,
    *,
    most: int,
    prepared: Callable[[Any], Any],
) -> dict[int, Continuation]:
    """What ``network`` says after the beginnings that ``prepared`` gives, by the number of the example. Collective.

    Args:
        network: A causal language model.
        probe: The right answers.
        engine: Calls the network as the strategy needs it called.
        tokenizer: Turns tokens into words.
        most: No more tokens of an answer are asked for.
        prepared: Makes beginnings part of the questions of a batch.
    """
    longest = min(most, _longest(probe, prepared))
    replies = greedy_replies(network, probe, engine, tokenizer, max_new_tokens=longest, prepared=prepared)
    found = {}
    for number, reply in replies.items():
        if right := reply.right[:most]:  # not `longest`, which is of this process's share
            said = reply.tokens[: len(right)]
            found[number] = Continuation(tokenizer.decode(list(said), skip_special_tokens=True), said, right)
    return found


def refuse_without_beginnings(audit: str, network: nn.Module) -> None:
    """Refuse a network whose answers are no continuation of what it reads."""
    if getattr(getattr(base_model(network), "config", None), "is_encoder_decoder", False):
        raise Misfit(
            f"`{audit}` should get a causal language model, which goes on from what it has read. Found "
            f"`{type(base_model(network)).__name__}`, an encoder-decoder. Leave it out of `audits`."
        )


def _longest(probe: Probe, prepared: Callable[[Any], Any]) -> int:
    """The most labels of a row that are left to say; at least 1."""
    left = [int((prepared(batch)["labels"] >= 0).sum(1).max()) for batch, _, _ in probe.batches]
    return max([1, *left])
