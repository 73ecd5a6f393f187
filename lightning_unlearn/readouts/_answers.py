from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_unlearn.models.layers import base_model
from lightning_unlearn.prediction import IGNORED
from lightning_unlearn.readouts._causal_lm import _labels, _supervised
from lightning_unlearn.readouts._decoding import Asked, drawn_choices, first_choices
from lightning_unlearn.readouts._draws import DrawnTokens, Draws
from lightning_unlearn.readouts._language_model import inputs_of, is_encoder_decoder
from lightning_unlearn.readouts._padding import present_in
from lightning_unlearn.runtime import eval_without_grad


def greedy_answers(
    network: nn.Module, batch: Any, *, end: Collection[int], max_new_tokens: int = 64, in_step: bool = False
) -> list[Tensor]:
    """What a language model answers to the questions of ``batch``, by greedy decoding.

    The question of a row is all that stands before its first supervised label; of an encoder-decoder, what its encoder
    reads. All rows are answered at once, in
    evaluation mode and without a graph; modes, gradients and random states stay as they were.

    Args:
        network: A Hugging Face model, bare or with a PEFT adapter.
        batch: As for :class:`CausalLMReadout` or :class:`EncoderDecoderReadout`.
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
    ends = sorted({*end, *_own_ends(network)})
    with eval_without_grad(network):
        if is_encoder_decoder(network):
            answers = _of_encoder_decoder(network, batch, ends, max_new_tokens, in_step)
        else:
            answers = first_choices(
                network, _asked(network, batch), ends=ends, max_new_tokens=max_new_tokens, in_step=in_step
            )
    return _of_labelled(batch, answers, ends)


def sampled_answers(
    network: nn.Module,
    batch: Any,
    draws: Draws,
    *,
    end: Collection[int],
    max_new_tokens: int = 64,
    in_step: bool = False,
) -> list[Tensor]:
    """As :func:`greedy_answers`, with each token drawn at random.

    The global random generators stay as they are, and the same seeds draw the same answers, on every process and in every
    batch; logits that differ by rounding may change a token now and then.

    Args:
        network: A Hugging Face model, bare or with a PEFT adapter.
        batch: As for :class:`CausalLMReadout` or :class:`EncoderDecoderReadout`.
        draws: How tokens are drawn; a seed for each row of ``batch``.
        end: Tokens that end an answer, in addition to those of the model's own ``generation_config``.
        max_new_tokens: Longer answers are cut off.
        in_step: Whether all ranks should run the network equally often, as a sharded one must be.

    Example:
        >>> from lightning_unlearn import TinyCausalLM
        >>> batch = {"input_ids": torch.tensor([[5, 6, 7]]), "labels": torch.tensor([[-100, -100, 7]])}
        >>> network = TinyCausalLM(hidden_size=32)
        >>> first, again = (sampled_answers(network, batch, Draws([8]), end=[3], max_new_tokens=4) for _ in range(2))
        >>> torch.equal(first[0], again[0])
        True
    """
    ends = sorted({*end, *_own_ends(network)})
    with eval_without_grad(network):
        if is_encoder_decoder(network):
            answers = _of_encoder_decoder(network, batch, ends, max_new_tokens, in_step, [DrawnTokens(draws)])
        else:
            answers = drawn_choices(
                network, _asked(network, batch), draws, ends=ends, max_new_tokens=max_new_tokens, in_step=in_step
            )
    return _of_labelled(batch, answers, ends)


def _asked(network: nn.Module, batch: Any) -> Asked:
    questions = [question if len(question) else question.new_zeros(1) for question in _questions(batch)]
    # What has a value per token would not fit other tokens; images do.
    tokens, inputs = batch["input_ids"].shape, inputs_of(network, batch).items()
    seen = {name: v for name, v in inputs if isinstance(v, Tensor) and v.dim() > 1 and v.shape[:2] != tokens}
    return Asked(questions, seen, _image_mark(network))


def _of_labelled(batch: Any, answers: list[Tensor], ends: list[int]) -> list[Tensor]:
    """The answers to rows that have a label, up to their first end token."""
    at_end = torch.tensor(ends, dtype=torch.int64, device=answers[0].device)
    rows = zip(answers, has_answer(batch), strict=True)
    return [answer[~torch.isin(answer, at_end)] for answer, has_label in rows if has_label]


def _of_encoder_decoder(
    network: Any, batch: Any, ends: list[int], max_new_tokens: int, in_step: bool, choosing: Sequence[Any] = ()
) -> list[Tensor]:
    from transformers import LogitsProcessorList

    inputs = {k: v for k, v in inputs_of(network, batch).items() if not k.startswith("decoder_") and k != "use_cache"}
    # Answers that are shorter than the longest are filled up with an end token, and are cut there.
    own = {"max_new_tokens": max_new_tokens, "eos_token_id": ends, "pad_token_id": ends[0], "synced_gpus": in_step}
    chosen = {"logits_processor": LogitsProcessorList(choosing)}
    generated: Tensor = network.generate(**inputs, **own, **chosen, **_FIRST_CHOICE)
    return list(generated[:, 1:])  # the first token is that with which every answer starts


def has_answer(batch: Any) -> list[bool]:
    """Which rows of ``batch`` have a supervised label; :func:`greedy_answers` answers these.

    Example:
        >>> has_answer({"input_ids": torch.tensor([[5, 6]]), "labels": torch.tensor([[-100, -100]])})
        [False]
    """
    labels = batch.get("labels") if isinstance(batch, Mapping) else None
    ids = batch.get("input_ids") if isinstance(batch, Mapping) else None
    if isinstance(labels, Tensor) and (not isinstance(ids, Tensor) or ids.shape != labels.shape):
        answered: list[bool] = (labels != IGNORED).any(1).tolist()  # of an encoder-decoder
        return answered
    labels = _labels(batch)
    with_label: list[bool] = _supervised(batch, labels).any(1).tolist()
    return with_label


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


def _questions(batch: Any) -> list[Tensor]:
    """The tokens before the first supervised label of each row."""
    labels = _labels(batch)
    # As wide as the labels again; nothing predicts the first one.
    supervised = F.pad(_supervised(batch, labels), (1, 0))
    asked = present_in(batch, labels).to(labels.device) & (supervised.int().cumsum(1) == 0)
    return [tokens[which] for tokens, which in zip(batch["input_ids"], asked, strict=True)]


def _own_ends(network: nn.Module) -> list[int]:
    config: Any = getattr(base_model(network), "generation_config", None)
    own = getattr(config, "eos_token_id", None)
    mark = _image_mark(network)  # said by a network, it is no image: there is nothing to go on with
    return [*(own if isinstance(own, list) else [] if own is None else [own]), *([] if mark is None else [mark])]


def _image_mark(network: nn.Module) -> int | None:
    config: Any = getattr(base_model(network), "config", None)
    found = (getattr(config, name, None) for name in ("image_token_id", "image_token_index"))
    return next((number for number in found if isinstance(number, int)), None)
