"""What a network says when it is asked, by the number of the example; all processes get the same."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, compress, groupby
from typing import Any

from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor, nn

from lightning_unlearn.data import MarkedAnswer, Probe, QuestionAnswer
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.prediction import IGNORED
from lightning_unlearn.readouts import greedy_answers, has_answer, is_language_model
from lightning_unlearn.runtime import Misfit, on_every_rank


@dataclass(frozen=True)
class Reply:
    """What was said to one question.

    Args:
        text: In words, without special tokens.
        tokens: The same as tokens, up to the end of the answer.
        right: The tokens that would have been right, without the end of the answer.
        expected: The same in words, each part that is supervised in one piece by itself.
    """

    text: str
    tokens: tuple[int, ...]
    right: tuple[int, ...]
    expected: tuple[str, ...]


def greedy_replies(
    network: nn.Module,
    probe: Probe,
    engine: GradientEngine,
    tokenizer: Any,
    *,
    max_new_tokens: int,
    prepared: Callable[[Any], Any] = lambda batch: batch,
) -> dict[int, Reply]:
    """The first choices of ``network`` after each question of ``probe``, one generation per row. Collective.

    Args:
        network: A language model.
        probe: What is asked; the question of a row is all that stands before its first label.
        engine: Calls the network as the strategy needs it called.
        tokenizer: Turns tokens into words.
        max_new_tokens: Longer answers are cut off.
        prepared: What becomes of a batch before it is asked.
    """
    own: dict[int, Reply] = {}
    for batch, index, counts in probe.batches:
        heed_sigterm(engine)
        asked = prepared(engine.to_device(batch))
        ends = ends_of(asked, tokenizer)
        # Answers end at different lengths, but a sharded network must run equally often on every rank.
        in_step = engine.world_size > 1
        ask = partial(greedy_answers, network, end=ends, max_new_tokens=max_new_tokens, in_step=in_step)
        answers = engine.forward(ask, asked)
        if counts:  # otherwise these examples belong to another rank, and are run here only to keep in step
            rows = zip(numbers_of(asked, index), answers, right_parts(asked, ends), strict=True)
            own |= {number: _reply(tokenizer, said, parts) for number, said, parts in rows}
    return from_every_rank(own)


def heed_sigterm(engine: GradientEngine) -> None:
    """End now if the process was asked to end: saying many answers takes long.

    Several processes have to end together, and do so when the audit is over.
    """
    if engine.trainer is not None and engine.world_size == 1 and engine.trainer.received_sigterm:
        raise SIGTERMException


def from_every_rank(own: Mapping[int, Any]) -> dict[int, Any]:
    """What the processes have, by the number of the example, in the order of the data. Collective."""
    every = {number: value for share in on_every_rank(dict(own)) for number, value in share.items()}
    return dict(sorted(every.items()))


def numbers_of(batch: Any, index: Tensor) -> Iterator[int]:
    """The numbers of the examples that are asked: those that have an answer."""
    return compress(index.tolist(), has_answer(batch))


def right_parts(batch: Any, ends: Collection[int]) -> list[list[list[int]]]:
    """The supervised tokens of each example that is asked, in the pieces they come in, without those that end answers."""
    rows = compress(batch["labels"].tolist(), has_answer(batch))
    left = {IGNORED, *ends}
    return [
        [list(part) for counts, part in groupby(row, key=lambda token: token not in left) if counts] for row in rows
    ]


def in_text(tokenizer: Any, parts: Sequence[Sequence[int]]) -> tuple[str, ...]:
    """Each part in words; of none an empty text."""
    return tuple(tokenizer.decode(list(part), skip_special_tokens=True) for part in parts) or ("",)


def ends_of(batch: Any, tokenizer: Any) -> set[int]:
    """The special tokens that end the answers of ``batch``, which may be a template's own, and the tokenizer's end."""
    added = tokenizer.added_tokens_decoder
    special = {*tokenizer.all_special_ids, *(token for token, about in added.items() if about.special)}
    last = {int(row[row != IGNORED][-1]) for row in batch["labels"] if (row != IGNORED).any()}
    return (last & special) | ({tokenizer.eos_token_id} - {None})


def accepted_answers(probe: Probe, replies: Mapping[int, Reply]) -> dict[int, Sequence[str]]:
    """All answers that are right, by the number of the example: as the data list them, or as they are in the tokens."""
    rows = probe.rows
    return {number: reply.expected if rows is None else accepted(rows[number]) for number, reply in replies.items()}


def accepted(row: QuestionAnswer) -> Sequence[str]:
    """All answers of a row that are right; of a row with marked parts these."""
    if isinstance(row, MarkedAnswer) and row.spans:
        return [row.answer[first:end] for first, end in row.spans]
    return row.accepted or (row.answer,)


def refuse_mute(audit: str, network: nn.Module) -> None:
    """Refuse a network that cannot say anything."""
    if not is_language_model(network):
        raise Misfit(
            f"`{audit}` should get a language model, which can answer. Found `{type(network).__name__}`. Leave it out of "
            "`audits`."
        )


def _reply(tokenizer: Any, said: Tensor, parts: list[list[int]]) -> Reply:
    text = tokenizer.decode(said, skip_special_tokens=True)
    return Reply(text, tuple(said.tolist()), tuple(chain.from_iterable(parts)), in_text(tokenizer, parts))
