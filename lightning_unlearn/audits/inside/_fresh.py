from __future__ import annotations

from copy import deepcopy
from typing import Any

from torch import nn

from lightning_unlearn.models.layers import base_model
from lightning_unlearn.runtime import seeded


def fresh_network(network: nn.Module, seed: int) -> nn.Module:
    """A network of the same configuration that was never trained, with the device and the precision of ``network``.

    Adapters are left out. It is whole on every process, also where ``network`` is sharded.

    Args:
        network: A Hugging Face model, bare or with a PEFT adapter.
        seed: Of its weights. Global random numbers are left alone.

    Example:
        >>> from lightning_unlearn.models import TinyCausalLM
        >>> taught = TinyCausalLM(hidden_size=32, num_hidden_layers=1)
        >>> [a.shape == b.shape for a, b in zip(fresh_network(taught, 1).parameters(), taught.parameters())][:2]
        [True, True]
    """
    base: Any = base_model(network)
    config = deepcopy(base.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # random weights are not rounded
    kind = next(c for c in type(base).__mro__ if not _is_made_by_fsdp(c))
    with seeded(seed):
        fresh: nn.Module = kind(config)
    like = next(p for p in network.parameters() if p.is_floating_point())
    return fresh.to(device=like.device, dtype=like.dtype).eval().requires_grad_(False)


def _is_made_by_fsdp(kind: type) -> bool:
    # FSDP2 gives each sharded module a class of its own, which inherits from the module's.
    return kind.__name__.startswith("FSDP") or kind.__module__.startswith("torch.distributed")
