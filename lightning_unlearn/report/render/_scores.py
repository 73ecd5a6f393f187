"""Scores of single examples, one a row, for those who want to compute something else from them."""

import importlib
import io
import json
import math
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

from lightning_unlearn.observation import Observation

COLUMNS = ("subject", "attack", "point", "split", "metric", "layer", "step", "example", "entity", "score", "text")
"""What each row says. The text is empty if nothing was said; a score that is not finite is null."""


def score_rows(observations: Sequence[Observation]) -> Iterator[dict[str, Any]]:
    """A row for every score of every observation.

    Example:
        >>> (row,) = score_rows([Observation("probability", "forget", 0.5, scores=[0.5], entities=["Ada"])])
        >>> row["entity"], row["example"], row["score"]
        ('Ada', 0, 0.5)
    """
    for o in observations:
        shared = (o.subject, o.attack, float(o.point), o.split, o.metric, o.layer, o.step)
        texts, entities = o.texts or [""] * len(o.scores), o.entities or [""] * len(o.scores)
        for own in zip(o.numbers, entities, o.scores, texts, strict=True):
            example, entity, score, text = own
            finite = float(score) if math.isfinite(score) else None
            yield dict(zip(COLUMNS, (*shared, int(example), entity, finite, text), strict=True))


def to_jsonl(observations: Sequence[Observation]) -> bytes:
    """One JSON object a line."""
    lines = (json.dumps(row, ensure_ascii=False) for row in score_rows(observations))
    return "".join(f"{line}\n" for line in lines).encode(errors="backslashreplace")


def to_parquet(observations: Sequence[Observation]) -> bytes | None:
    """The same as a Parquet file; None where pyarrow is not installed."""
    if find_spec("pyarrow") is None:
        return None
    arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    kinds = {"point": arrow.float64(), "step": arrow.int64(), "example": arrow.int64(), "score": arrow.float64()}
    schema = arrow.schema([(column, kinds.get(column, arrow.string())) for column in COLUMNS])
    clean = ({k: _utf8(v) for k, v in row.items()} for row in score_rows(observations))
    parquet.write_table(arrow.Table.from_pylist(list(clean), schema=schema), file := io.BytesIO(), compression="zstd")
    return file.getvalue()


def _utf8(value: Any) -> Any:
    # Half a character, as files of others may hold, has no UTF-8.
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value
