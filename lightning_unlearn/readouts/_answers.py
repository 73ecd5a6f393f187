from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from lightning_unlearn.models.layers import base_model
from lightning_unlearn.readouts._causal_lm import _labels, _supervised
from lightning_unlearn.readouts._padding import present_in
from lightning_unlearn.runtime import eval_without_grad


def greedy_answers(
    network: nn.Module, batch: Any, *, end: Collection[int], max_new_tokens: int = 64, in_step: bool = False
) -> list[Tensor]:
    """What a causal language model answers to the questions of ``batch``, by greedy decoding.

    The question of a row is all that stands before its first supervised label. All rows are answered at once, in
    evaluation mode and without a graph; modes, gradients and random states stay as they were.

    Args:
        network: A Hugging Face model, bare or with a PEFT adapter.
        batch: As for :class:`CausalLMReadout`.
        end: Tokens that end an answer, in addition to those of the model's own ``generation_config``.
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
    # Padded on the left, all questions end in the same column, and all answers begin in the next one.
    # Any token will do as padding, since the mask hides it.
    with eval_without_grad(network):
        generated = network.generate(  # type: ignore[operator]  # a method of every language model of transformers
            input_ids=pad_sequence(questions, batch_first=True, padding_value=ends[0], padding_side="left"),
            attention_mask=pad_sequence([torch.ones_like(q) for q in questions], batch_first=True, padding_side="left"),
            max_new_tokens=max_new_tokens,
            eos_token_id=ends,
            pad_token_id=ends[0],
            synced_gpus=in_step,
            **_FIRST_CHOICE,
        )
    answers = generated[:, max(map(len, questions)) :]
    # From the end token on, a row holds nothing but padding: shorter answers wait for the longest.
    ended = torch.isin(answers, torch.tensor(ends, device=answers.device)).int().cumsum(1) > 0
    rows = zip(answers, ended, answered, strict=True)
    return [answer[~after] for answer, after, has_label in rows if has_label]


def has_answer(batch: Any) -> list[bool]:
    """Which rows of ``batch`` have a supervised label; :func:`greedy_answers` answers these.

    Example:
        >>> has_answer({"input_ids": torch.tensor([[5, 6]]), "labels": torch.tensor([[-100, -100]])})
        [False]
    """
    return _questions(batch)[1]


# Every option is given: one that is left out would be taken from the model's own `generation_config`, which may sample.
_FIRST_CHOICE: dict[str, Any] = {
    "do_sample": False,
    "temperature": None,
    "top_p": None,
    "top_k": None,
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_new_tokens": 0,
    "use_cache": True,
    "return_dict_in_generate": False,
}


def _questions(batch: Any) -> tuple[list[Tensor], list[bool]]:
    """The tokens before the first supervised label of each row, and whether there is such a label."""
    labels = _labels(batch)
    supervised = F.pad(
        _supervised(batch, labels), (1, 0)
    )  # as wide as the labels again; nothing predicts the first one
    asked = present_in(batch, labels).to(labels.device) & (supervised.int().cumsum(1) == 0)
    questions = [tokens[which] for tokens, which in zip(batch["input_ids"], asked, strict=True)]
    return questions, supervised.any(1).tolist()


def _own_ends(network: nn.Module) -> list[int]:
    config: Any = getattr(base_model(network), "generation_config", None)
    own = getattr(config, "eos_token_id", None)
    return own if isinstance(own, list) else [] if own is None else [own]
