from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_unlearn.models.layers import base_model
from lightning_unlearn.readouts._causal_lm import _labels, _present, _supervised
from lightning_unlearn.readouts._decoding import first_choices
from lightning_unlearn.runtime import eval_without_grad


def greedy_answers(
    network: nn.Module, batch: Any, *, end: Collection[int], max_new_tokens: int = 64, in_step: bool = False
) -> list[Tensor]:
    """What a causal language model answers to the questions of ``batch``, by greedy decoding.

    The question of a row is all that stands before its first supervised label. All rows are answered at once, in
    evaluation mode and without a graph; modes, gradients and random states stay as they were. An answer is made of the
    network's first choices, as whole passes over unpadded rows would give them, whatever the model's own
    ``generation_config`` says; only its end tokens count.

    Args:
        network: A Hugging Face model, bare or with a PEFT adapter.
        batch: As for :class:`CausalLMReadout`.
        end: Tokens that end an answer, in addition to those of the model's own ``generation_config``; there may be none.
        max_new_tokens: Longer answers are cut off.
        in_step: Whether all ranks should run the network equally often, as a sharded one must be.

    Returns:
        Token ids of each answer, ``[n]``, without the end token: one per row that has a supervised label, in their order.

    Example:
        >>> from lightning_unlearn import TinyCausalLM
        >>> batch = {"input_ids": torch.tensor([[5, 6, 7]]), "labels": torch.tensor([[-100, -100, 7]])}
        >>> [len(answer) for answer in greedy_answers(TinyCausalLM(hidden_size=32), batch, end=[3], max_new_tokens=4)]
        [4]
    """
    questions, answered = _questions(batch)
    ends = sorted({*end, *_own_ends(network)})
    asked = [question if len(question) else question.new_zeros(1) for question in questions]
    with eval_without_grad(network):
        answers = first_choices(network, asked, ends=ends, max_new_tokens=max_new_tokens, in_step=in_step)
    at_end = torch.tensor(ends, dtype=torch.int64, device=asked[0].device)
    rows = zip(answers, answered, strict=True)
    return [answer[~torch.isin(answer, at_end)] for answer, has_label in rows if has_label]


def has_answer(batch: Any) -> list[bool]:
    """Which rows of ``batch`` have a supervised label; :func:`greedy_answers` answers these.

    Example:
        >>> has_answer({"input_ids": torch.tensor([[5, 6]]), "labels": torch.tensor([[-100, -100]])})
        [False]
    """
    return _questions(batch)[1]


def _questions(batch: Any) -> tuple[list[Tensor], list[bool]]:
    """The tokens before the first supervised label of each row, and whether there is such a label."""
    labels = _labels(batch)
    supervised = F.pad(
        _supervised(batch, labels), (1, 0)
    )  # as wide as the labels again; nothing predicts the first one
    asked = _present(batch, labels).to(labels.device) & (supervised.int().cumsum(1) == 0)
    questions = [tokens[which] for tokens, which in zip(batch["input_ids"], asked, strict=True)]
    return questions, supervised.any(1).tolist()


def _own_ends(network: nn.Module) -> list[int]:
    config: Any = getattr(base_model(network), "generation_config", None)
    own = getattr(config, "eos_token_id", None)
    return own if isinstance(own, list) else [] if own is None else [own]
