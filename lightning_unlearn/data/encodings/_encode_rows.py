from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch.utilities import rank_zero_warn

from lightning_unlearn.data.encodings._encoded_row import EncodedRow
from lightning_unlearn.data.encodings._encoding import Encoding
from lightning_unlearn.data.encodings._padding import Batch
from lightning_unlearn.data.records import QuestionAnswer


def encode_rows(rows: Sequence[QuestionAnswer], encoding: Encoding) -> list[Batch]:
    """Encode all rows, and warn once, with a count, of what happened to several of them.

    Warns:
        UserWarning: If answers were cut, if questions or answers are not in the tokens as they were written, or if the
            chat template does not end the answer's turn.
    """
    encoded = [encoding.encode(row) for row in rows]
    for said in (_cut(rows, encoded, encoding), _altered(encoded, encoding), _open(encoded, encoding)):
        if said:
            rank_zero_warn(said)
    return [one.tensors() for one in encoded]


def _cut(rows: Sequence[QuestionAnswer], encoded: Sequence[EncodedRow], encoding: Encoding) -> str | None:
    short = [(one.cut, row.source) for one, row in zip(encoded, rows, strict=True) if one.cut]
    if not short:
        return None
    most, source = max(short)
    return (
        f"`max_length = {encoding.max_length}` cuts the answers of {len(short)} of {len(rows)} rows: "
        f"{sum(cut for cut, _ in short)} tokens in all are neither learnt nor forgotten, at most {most}, of {source}. "
        f"Nothing is cut with `max_length = {max(one.length for one in encoded)}`."
    )


def _altered(encoded: Sequence[EncodedRow], encoding: Encoding) -> str | None:
    altered = [one.altered for one in encoded if one.altered]
    if not altered:
        return None
    return (
        f"The tokens of {len(altered)} of {len(encoded)} rows do not say what was written there, with the tokenizer "
        f"`{encoding.tokenizer.name_or_path}`: {altered[0]}. Use a tokenizer or a chat template that keeps it."
    )


def _open(encoded: Sequence[EncodedRow], encoding: Encoding) -> str | None:
    if not any(one.open_end for one in encoded):
        return None
    eos = encoding.tokenizer.eos_token
    said = (
        f"so the `eos_token` {eos!r} was put there, and is supervised"
        if eos is not None
        else "and the tokenizer has no `eos_token`: a network does not learn where to stop. Set one"
    )
    return (
        f"The chat template of `{encoding.tokenizer.name_or_path}` writes no end of turn after the last answer, {said}."
    )
