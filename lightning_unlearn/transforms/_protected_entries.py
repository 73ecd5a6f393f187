"""Which entries of the weights an adapter has changed most: of a network, and of adapters in files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lightning_unlearn.functional.entries import largest_entries
from lightning_unlearn.models.layers import low_rank_factors, plain_name


def protected_entries(
    network: nn.Module, share: float = 0.02, *, before: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The entries of each layer that its LoRA adapter has changed most, behind those from ``before``.

    An adapter that adds nothing yet protects nothing.

    Args:
        network: With a plain LoRA adapter.
        share: Of all entries of a layer.
        before: Earlier results.

    Returns:
        Rows and columns by the name of a layer, ``[n, 2]`` int64; what is in two of them is there twice.

    Example:
        >>> from lightning_unlearn import LoRA, TinyCausalLM
        >>> network = LoRA(r=2, target_modules=["up_proj"]).wrap(TinyCausalLM(hidden_size=32, num_hidden_layers=1))
        >>> protected_entries(network)
        {}
    """
    return _joined(before or {}, products_of(network), share)


def protected_by(adapters: Iterable[str | Path], share: float = 0.02) -> dict[str, Tensor]:
    """The entries that adapters in files have changed most, those of one behind those of another.

    They are what :class:`RegLoRA` finds when fits with these adapters end, in turn. So a request keeps off what all requests
    before it have changed, and depends on nothing else::

        def callbacks(job: Job) -> list[Callback]:
            keep_off = RegLoRA(weight=2.5e3, share=0.02)
            keep_off.protected = protected_by(job.adapters, share=0.02)
            return [keep_off]

        RequestSequence(..., TrainerFit(..., callbacks=callbacks), keeping=AdaptersAlone())

    Args:
        adapters: Files with both factors of each layer, as PEFT names them.
        share: Of all entries of a layer.

    Returns:
        Rows and columns by the name of a layer, ``[n, 2]`` int64.

    Raises:
        ValueError: If a file has no factors of linear layers.

    Example:
        >>> protected_by([])
        {}
    """
    found: dict[str, Tensor] = {}
    for path in adapters:
        found = _joined(found, _products_in(path), share)
    return found


def _joined(before: Mapping[str, Tensor], products: Mapping[str, tuple[Any, Any]], share: float) -> dict[str, Tensor]:
    found = dict(before)
    for name, (second, first) in products.items():
        if second.any() and share:
            fresh = largest_entries(second, first, share).cpu()
            found[name] = torch.cat([found[name].cpu(), fresh]) if name in found else fresh
    return found


def _products_in(path: str | Path) -> dict[str, tuple[Tensor, Tensor]]:
    """As :func:`products_of`, of the factors in a file."""
    factors: dict[str, Tensor] = load_file(path)
    layers = {name: name.partition(".lora_A.") for name in factors if ".lora_A." in name}
    found = {
        _inner(plain_name(layer)): (factors[f"{layer}.lora_B.{rest}"], factors[name])
        for name, (layer, _, rest) in layers.items()
        if factors[name].dim() == 2
    }
    if not found:
        raise ValueError(
            f"`{path}` should hold the factors of a LoRA adapter on linear layers. Found {sorted(factors)[:4]}. Give files "
            "of `AdaptersAlone`, or `adapter_model.safetensors` of PEFT."
        )
    return found


def products_of(network: nn.Module) -> dict[str, tuple[Any, Any]]:
    """Second and first factor of each adapted layer, by the layer's name in the network itself."""
    found = {}
    for part in low_rank_factors(network):
        second: Any = part.second.weight
        first: Any = part.first.weight
        if second.dim() == 2:
            # The same in a LightningModule as in the bare network.
            found[_inner(plain_name(part.name).rpartition(".lora_A.")[0])] = second, first
    return found


def _inner(name: str) -> str:
    head, mark, rest = name.partition("base_model.model.")
    return rest if mark else head
