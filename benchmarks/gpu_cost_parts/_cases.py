from __future__ import annotations

from collections.abc import Callable

from gpu_cost_parts._by_hand import by_hand, fine_tuning, npo, two_losses
from gpu_cost_parts._ours import corrected, kl, ours
from lightning_unlearn import NPO, GradientAscent, SimNPO
from lightning_unlearn.guards import BFloat16, Float32, Int8

PLAIN = "plain, by hand"
CASES: dict[str, Callable[..., None]] = {
    PLAIN: by_hand(fine_tuning),
    "two losses, by hand": by_hand(two_losses),
    "NPO, by hand": by_hand(npo, reference=True),
    "GradDiff": ours(GradientAscent),
    "NPO": ours(NPO),
    "SimNPO": ours(SimNPO),
    "NPO + KL": ours(NPO, keeps=kl),
    "NPO, guard rank 1": ours(NPO, guard=corrected(1, Float32)),
    "NPO, guard rank 8": ours(NPO, guard=corrected(8, Float32)),
    "NPO, guard rank 8, bf16": ours(NPO, guard=corrected(8, BFloat16)),
    "NPO, guard rank 8, int8": ours(NPO, guard=corrected(8, Int8)),
    "NPO under Relearn, ten steps": ours(NPO, relearns=10),
    "plain LoRA, by hand": by_hand(fine_tuning, lora=True),
    "NPO, LoRA": ours(NPO, lora=True),
}
CORE = (PLAIN, "two losses, by hand", "GradDiff", "NPO", "NPO, guard rank 1", "plain LoRA, by hand", "NPO, LoRA")
COMPILED = (PLAIN, "NPO", "two losses, by hand", "SimNPO")


def warm_up(name: str) -> int:
    """Steps before the clock counts: until a history is full; one of those that take ten times as long."""
    return 11 if "rank 8" in name else 1 if "Relearn" in name else 3
