from __future__ import annotations

from collections import Counter
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from lightning_unlearn.models._lora_targets import ALL_LINEAR
from lightning_unlearn.models.layers import count, is_trained, own_matrices, trained_share

_LEAST = 0.5
_SHOWN = 4


def warn_of_few_weights(network: nn.Module, targets: Any) -> None:
    """Warn if an adapter on all linear layers reaches less than half of the weights: a mixture's are elsewhere.

    Args:
        network: With its adapter.
        targets: The ``target_modules`` that it was given. Whoever names layers knows which ones.
    """
    if targets != ALL_LINEAR or (share := trained_share(network)) >= _LEAST:
        return
    missed: Counter[str] = Counter()
    for matrix in own_matrices(network):
        if not is_trained(matrix):
            missed[".".join(matrix.name.split(".")[-2:])] += sum(map(count, matrix.parameters))
    largest = [name for name, _ in missed.most_common(_SHOWN)]
    rank_zero_warn(
        f"`LoRA` on all linear layers should reach most weights of the network. Found that it reaches {share:.0%} of them. "
        f"The largest of the others are {', '.join(f'`{name}`' for name in largest)}: fused experts are bare parameters. "
        f"Name them as `target_parameters={largest}`, or train without an adapter."
    )
