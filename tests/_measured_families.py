"""Tiny models of every causal family of transformers: those that `benchmarks/families.py` measures, and how it does."""

import json
from pathlib import Path
from typing import Any

from families_parts._batches import ORDERS, Batch, alone, batch
from families_parts._build import build, families
from families_parts._causal import looks_ahead, own_loss_is_shifted
from families_parts._decoding import decoded
from families_parts._exactness import EXACT, differences, next_token, own, read
from families_parts._reach import counted, reached, shares
from families_parts._shown import apart, shown

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "families.json"
__all__ = [
    "EXACT",
    "ORDERS",
    "Batch",
    "alone",
    "apart",
    "batch",
    "build",
    "committed",
    "counted",
    "decoded",
    "differences",
    "families",
    "looks_ahead",
    "next_token",
    "own",
    "own_loss_is_shifted",
    "reached",
    "read",
    "shares",
    "shown",
]


def committed() -> dict[str, Any]:
    """The results that the table of `benchmarks/README.md` is printed from."""
    found: dict[str, Any] = json.loads(RESULTS.read_text())
    return found
