from __future__ import annotations

from collections import Counter
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from lightning_unlearn.models._lora_targets import ALL_LINEAR
from lightning_unlearn.models.layers import count, is_trained, own_matrices, trained_share

_LEAST = 0.5


def warn_of_few_weights(network: nn.Module, targets: Any) -> None:
    """Warn if an adapter on all linear layers reaches less than half of the weights: a mixture's are elsewhere.

    Args:
        network: With its adapter.
        targets: The ``target_modules`` that it was given. Whoever names layers knows which ones.
    """
    missed = [m for m in own_matrices(network) if not is_trained(m)]
    experts = Counter({m: sum(map(count, m.parameters)) for m in missed if m.layout.kind == "experts"})
    if targets != ALL_LINEAR or not experts or (share := trained_share(network)) >= _LEAST:
        return
    largest = dict.fromkeys(".".join(m.name.split(".")[-2:]) for m, _ in experts.most_common())
    rank_zero_warn(
        f"`LoRA` on all linear layers should reach most weights of the network. Found that it reaches {share:.0%} of them. "
        f"The others are fused experts, which are bare parameters: name them, as `target_parameters={list(largest)}`, or "
        "train without an adapter."
    )
