from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_unlearn.models.adapters._added_layer import refuse_merging
from lightning_unlearn.models.layers import adapters, is_low_bit, low_rank_factors, only_adds


@torch.no_grad()
def fold_adapter_(network: nn.Module, seed: int = 0) -> None:
    r"""Add what a LoRA adapter has learned to the weights, and begin a fresh one in its place: for requests in turn.

    .. math:: W \leftarrow W + \tfrac{\alpha}{r} B A, \qquad B \leftarrow 0

    The network says the same as before, to rounding. ``A`` is drawn anew. The wrapper, its parameters and their names stay,
    so that optimizers, checkpoints and readouts go on. A layer that shares its weight, as a tied head does, gets a weight of
    its own first: the embedding does not get what the head has learned.

    Args:
        network: A network of PEFT with a plain LoRA adapter.
        seed: Of the fresh ``A``; random states stay as they were.

    Raises:
        ValueError: If there is no adapter, it is more than a product of two factors (DoRA, biases, on embeddings), or a base
            weight is in few bits, which adding would round.
        NotImplementedError: If the adapter is one that cannot be merged.

    Example:
        >>> from lightning_unlearn import LoRA, TinyCausalLM
        >>> network = LoRA(r=2).wrap(TinyCausalLM(hidden_size=32, num_hidden_layers=1))
        >>> factor = next(p for name, p in network.named_parameters() if "lora_B" in name)
        >>> _ = factor.data.fill_(1.0)
        >>> fold_adapter_(network)
        >>> factor.abs().max().item()
        0.0
    """
    refuse_merging(network)
    found = list(adapters(network))
    factors = list(low_rank_factors(network))
    _refuse(found, len(factors))
    users: dict[int, int] = {}
    for module in network.modules():
        for p in module._parameters.values():
            users[id(p)] = users.get(id(p), 0) + 1
    generator = torch.Generator().manual_seed(seed)
    for part in factors:
        layer: Any = part.adapter
        base = layer.get_base_layer()
        key = part.name.rpartition(".")[2]
        if users[id(base.weight)] > 1:
            users[id(base.weight)] -= 1
            base.weight = nn.Parameter(base.weight.detach().clone(), base.weight.requires_grad)
        base.weight.add_(layer.get_delta_weight(key).to(base.weight.dtype))
        _start_again_(part.first.weight, part.second.weight, generator)  # type: ignore[arg-type]


def _start_again_(first: Tensor, second: Tensor, generator: torch.Generator) -> None:
    uniform = torch.rand(first.shape, generator=generator, dtype=torch.float32) * 2 - 1
    # As PEFT's Kaiming with a = sqrt(5): the bound is one over the root of the number of inputs.
    first.copy_((uniform / first[0].numel() ** 0.5).to(first))
    second.zero_()


def _refuse(found: list[tuple[str, Any]], number: int) -> None:
    if not found:
        raise ValueError("`fold_adapter_` should get a network with a LoRA adapter. Found none.")
    for name, layer in found:
        # On a parameter of a module, as of experts, there is no layer with a weight below.
        if not only_adds(layer) or not getattr(layer, "lora_A", {}) or hasattr(layer, "parameter_name"):
            raise ValueError(
                f"`fold_adapter_` should find plain LoRA on linear layers. Found another adapter on `{name}`. Merge it by "
                "`merge_and_unload()`, and wrap the network again."
            )
        if is_low_bit(layer.get_base_layer().weight):
            raise ValueError(
                f"`fold_adapter_` should add to weights that can hold it. Found `{name}` in few bits, where it would be "
                "rounded away. Load the network without `quantization`."
            )
    if number < len(found):
        raise ValueError(
            f"`fold_adapter_` should find two factors on each layer. Found {number} on {len(found)}: some adapter is not "
            "active. Activate it, or delete it."
        )
