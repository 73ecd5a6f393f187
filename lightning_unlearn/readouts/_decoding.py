"""Decoding: by ``generate``, where that chooses the tokens that it should, and by whole passes where it does not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lightning_unlearn.functional.likelihood import token_nll
from lightning_unlearn.prediction import IGNORED
from lightning_unlearn.readouts._causal_lm import CausalLMReadout
from lightning_unlearn.readouts._draws import DrawnTokens, Draws
from lightning_unlearn.runtime import on_every_rank


class Asked(NamedTuple):
    """What is to be answered.

    Args:
        questions: Token ids, ``[n]`` each, at least one.
        seen: What else the network is given of all of them, such as ``pixel_values``.
        mark: A token that stands for an image in a question, and should be one of those that end an answer.
    """

    questions: Sequence[Tensor]
    seen: Mapping[str, Any]
    mark: int | None = None

    def behind(self, answers: Sequence[Tensor]) -> list[Tensor]:
        """Each question and the beginning of its answer. A mark that was said is no image, and becomes another token."""
        # It ends its answer, so that nothing which matters is predicted from it.
        told = answers if self.mark is None else [answer.masked_fill(answer == self.mark, 0) for answer in answers]
        return [torch.cat(pair) for pair in zip(self.questions, told, strict=True)]


def first_choices(
    network: nn.Module, asked: Asked, *, ends: Sequence[int], max_new_tokens: int, in_step: bool
) -> list[Tensor]:
    """The most likely token after each question, again and again, up to and including an end token.

    ``generate`` of transformers is fast, and is right only if padding, positions and cache of a network are. What it gives
    is therefore compared with one pass over questions and answers, and made anew without a cache if it differs.

    Args:
        network: In evaluation mode.
        asked: The questions.
        ends: Tokens that end an answer.
        max_new_tokens: Longer answers are cut off.
        in_step: Whether all ranks should run the network equally often. Collective then.
    """
    max_new_tokens = _longest(max_new_tokens, in_step)
    answers = _generated(network, asked, ends, max_new_tokens, in_step)
    if _everywhere(answers is not None, in_step) and _everywhere(_are_first(network, asked, answers), in_step):
        return answers or []
    return _by_whole_passes(network, asked, ends, max_new_tokens, in_step)


def drawn_choices(
    network: nn.Module,
    asked: Asked,
    draws: Draws,
    *,
    ends: Sequence[int],
    max_new_tokens: int,
    in_step: bool,
) -> list[Tensor]:
    """A token drawn after each question, again and again, up to and including an end token. See :func:`first_choices`.

    Args:
        network: In evaluation mode.
        asked: The questions.
        draws: How tokens are drawn, a row per question.
        ends: Tokens that end an answer.
        max_new_tokens: Longer answers are cut off.
        in_step: Whether all ranks should run the network equally often. Collective then.
    """
    max_new_tokens = _longest(max_new_tokens, in_step)
    drawn = DrawnTokens(draws)
    answers = _generated(network, asked, ends, max_new_tokens, in_step, [drawn])
    right = answers is not None and drawn.gave(answers)
    if _everywhere(right, in_step) and _everywhere(_as_likely(network, asked, answers, drawn), in_step):
        return answers or []
    return _by_whole_passes(network, asked, ends, max_new_tokens, in_step, draws)


def _generated(
    network: nn.Module,
    asked: Asked,
    ends: Sequence[int],
    max_new_tokens: int,
    in_step: bool,
    choosing: Sequence[Any] = (),
) -> list[Tensor] | None:
    """What ``generate`` answers; ``None`` if it cannot run this network."""
    from transformers import GenerationConfig, LogitsProcessorList

    # Padded on the left, all questions end in the same column, and all answers begin in the next one.
    # Any token will do as padding, since the mask hides it.
    padding = ends[0] if ends else 0
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        eos_token_id=list(ends) or None,
        pad_token_id=padding,
        do_sample=False,
        use_cache=True,
    )
    with _without_own_settings(network):
        try:
            generated = network.generate(  # type: ignore[operator]  # a method of every language model of transformers
                input_ids=pad_sequence(
                    list(asked.questions), batch_first=True, padding_value=padding, padding_side="left"
                ),
                attention_mask=pad_sequence(
                    [torch.ones_like(q) for q in asked.questions], batch_first=True, padding_side="left"
                ),
                **asked.seen,
                generation_config=settings,
                logits_processor=LogitsProcessorList(choosing),
                synced_gpus=in_step,
            )
        except Exception:  # a network without a cache, or with one of its own, may refuse with any error
            return None
    answers = generated[:, max(map(len, asked.questions)) :]
    is_end = torch.isin(answers, torch.tensor(ends, dtype=torch.int64, device=answers.device)).int()
    # From the end token on, a row holds nothing but padding: shorter answers wait for the longest.
    after = is_end.cumsum(1) - is_end > 0
    return [answer[~gone] for answer, gone in zip(answers, after, strict=True)]


@contextmanager
def _without_own_settings(network: nn.Module) -> Iterator[None]:
    """Hide generation settings that come with a model: they may sample, force tokens, or forbid some."""
    from transformers import GenerationConfig

    # Not by arguments alone: transformers takes what is left out, or is `None`, from the model's own.
    own = [(m, m.__dict__["generation_config"]) for m in network.modules() if "generation_config" in m.__dict__]
    try:
        for module, _ in own:
            module.generation_config = GenerationConfig()
        yield
    finally:
        for module, settings in own:
            module.generation_config = settings


def _are_first(network: nn.Module, asked: Asked, answers: Sequence[Tensor] | None) -> bool:
    """Whether no token of an answer has another one clearly ahead of it, in one pass over all of them."""
    logits, tokens = _predicted(network, asked, answers or [])
    behind = logits.amax(-1) - logits.gather(1, tokens[:, None])[:, 0]
    return bool((behind <= _rounding(logits)).all())


def _as_likely(network: nn.Module, asked: Asked, answers: Sequence[Tensor] | None, drawn: DrawnTokens) -> bool:
    """Whether each token was as likely when it was drawn as it is in one pass over all of them."""
    logits, tokens = _predicted(network, asked, answers or [])
    apart = token_nll(logits, tokens) - drawn.nll_of(answers or []).to(logits.device)
    return bool((apart.abs() <= _rounding(logits)).all())


def _rounding(logits: Tensor) -> Tensor:
    """How far equal logits may be apart: other shapes are summed in another order. Relative to the largest one."""
    return (1e-4 if logits.dtype in (torch.float32, torch.float64) else 5e-2) * logits.abs().amax()


def _longest(max_new_tokens: int, in_step: bool) -> int:
    """The most that any rank wants: whole passes are as many as that."""
    return max(on_every_rank(max_new_tokens)) if in_step else max_new_tokens


def _by_whole_passes(
    network: nn.Module,
    asked: Asked,
    ends: Sequence[int],
    max_new_tokens: int,
    in_step: bool,
    draws: Draws | None = None,
) -> list[Tensor]:
    answers = [question[:0] for question in asked.questions]
    open_ = [True] * len(answers)
    for step in range(max_new_tokens):
        said = asked.behind(answers)
        logits, _ = _predicted(
            network, asked._replace(questions=said), [row[-1:] for row in said]
        )  # any token stands for the one that is sought
        chosen = logits.argmax(-1) if draws is None else draws.choose(logits, step)
        answers = [torch.cat([a, c[None]]) if o else a for a, c, o in zip(answers, chosen, open_, strict=True)]
        open_ = [o and int(c) not in ends for o, c in zip(open_, chosen, strict=True)]
        if not any(open_) and not in_step:
            break
    return answers


def _predicted(network: nn.Module, asked: Asked, answers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Logits ``[N, V]`` for all tokens of the answers, and these tokens, ``[N]``.

    Padded on the right: a causal network does not see it, whatever it makes of masks and positions.
    """
    rows = asked.behind(answers)
    labels = [torch.cat([torch.full_like(q, IGNORED), a]) for q, a in zip(asked.questions, answers, strict=True)]
    batch: dict[str, Any] = {
        **asked.seen,
        "input_ids": pad_sequence(rows, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in rows], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    }
    prediction = CausalLMReadout()(network, batch)
    return prediction.logits, prediction.labels


def _everywhere(claim: bool, in_step: bool) -> bool:
    """Whether a claim holds, on all ranks where they run in step."""
    return all(on_every_rank(claim)) if in_step else claim
