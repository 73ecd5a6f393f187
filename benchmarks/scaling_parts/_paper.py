"""What a step would cost on GPUs: an estimate by formula, from the shapes alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Model:
    parameters: float
    layers: int
    width: int
    vocabulary: int


@dataclass(frozen=True)
class Card:
    """An H100 SXM by its data sheet, at the utilisation that is assumed."""

    flops: float = 989e12
    utilisation: float = 0.4
    bandwidth: float = 3.35e12
    link: float = 450e9  # NVLink, one way
    gigabytes: float = 80.0


MODELS = {"1B": Model(1.24e9, 16, 2048, 128256), "8B": Model(8.03e9, 32, 4096, 128256)}
ROWS, TOKENS, SUPERVISED = 4, 512, 0.75  # rows of forget and of retain data on each GPU
FORMULA = r"""
T = 2 * rows * tokens; N = 0.75 T; n GPUs, each with its own rows; P parameters, L layers, width h, V words
passes      (6 P T + 12 L h tokens T) / (utilisation * peak)
optimizer   28 P / n / bandwidth                     reads and writes of float32 weights, gradients, two moments
plain       passes + optimizer + traffic
ours        plain + the second reduction of gradients + 12 P / n / bandwidth for setting aside and merging
guard r     (r + 3) 4 P / n / bandwidth for products + (r + 4) 4 P / n / bandwidth for correcting
            + 16 P / n / bandwidth for the snapshot and the copy of the gradient
memory      16 P / n + 2 P (bf16 weights in use, where sharded) + 34 T/2 h L + logits
            plain: logits 6 (N/2) V; ours: the same, as there without a chunked head; + 4 P / n for the forget gradient
            guard r: + (r + 1) 4 P / n
traffic     per GPU and step, sharded: (2 * 2 P gathered + 4 P scattered) (n - 1)/n for each of two passes
            (plain fine-tuning on the same rows as one batch: one such pass; as two micro-batches: the same two)
"""


def estimates() -> list[dict[str, Any]]:
    return [_estimate(name, gpus) for name in MODELS for gpus in (1, 8)]


def _estimate(name: str, n: int) -> dict[str, Any]:
    m, card = MODELS[name], Card()
    p, tokens = m.parameters, 2 * ROWS * TOKENS
    passes = (6 * p * tokens + 12 * m.layers * m.width * TOKENS * tokens) / (card.utilisation * card.flops)
    moved = (8 * p) * (n - 1) / n  # of one pass
    over = lambda size: size / n / card.bandwidth  # noqa: E731
    plain = passes + over(28 * p) + moved / card.link
    ours = plain + over(12 * p) + moved / card.link
    guard = {r: ours + over((2 * r + 7) * 4 * p + 16 * p) for r in (1, 8)}
    fixed = 16 * p / n + (2 * p if n > 1 else 0) + 34 * tokens / 2 * m.width * m.layers
    logits = 6 * SUPERVISED * tokens / 2 * m.vocabulary
    memory = {
        "plain": fixed + logits,
        "ours": fixed + logits + 4 * p / n,
        "guard 1": fixed + logits + 4 * p / n + 2 * 4 * p / n,
        "guard 8": fixed + logits + 4 * p / n + 9 * 4 * p / n,
    }
    return {
        "model": name,
        "gpus": n,
        "ms": {
            k: round(v * 1e3, 1)
            for k, v in {"plain": plain, "ours": ours, "guard 1": guard[1], "guard 8": guard[8]}.items()
        },
        "gigabytes": {k: round(v / 2**30, 1) for k, v in memory.items()},
        "traffic_gigabytes": {"plain": round(moved / 2**30, 2), "ours": round(2 * moved / 2**30, 2)},
        "fits": {k: v / 2**30 < card.gigabytes * 0.93 for k, v in memory.items()},
    }
