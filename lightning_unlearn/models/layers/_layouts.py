"""Layouts of the weights that a module holds itself, by its class, or by its sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lightning_unlearn.models.layers._experts import experts_layouts, holds_experts
from lightning_unlearn.models.layers._layout import Layout
from lightning_unlearn.models.layers._linear import is_transposed


def known_layouts(module: nn.Module) -> dict[str, Layout]:
    """Layouts of the weights of a module of torch or transformers, by name, if its class tells; otherwise none."""
    if isinstance(module, nn.Linear) or is_transposed(module):
        return {"weight": Layout("linear", (1, 0) if is_transposed(module) else (0, 1))}
    if isinstance(module, _ConvNd):
        return {"weight": _convolution(module)}
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return {"weight": Layout("embedding", (0, 1))}
    if isinstance(module, nn.Bilinear):
        return {"weight": Layout("bilinear", (0, 1, 2))}
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):  # the gates are stacked in the rows
        layers: Any = module
        names = getattr(layers, "_flat_weights_names", ["weight_ih", "weight_hh"])
        return {name: Layout("recurrent", (0, 1)) for name in names if name.startswith("weight")}
    if isinstance(module, nn.MultiheadAttention):  # queries, keys and values in one, unless they differ in size
        names = (
            ["in_proj_weight"] if module._qkv_same_embed_dim else ["q_proj_weight", "k_proj_weight", "v_proj_weight"]
        )
        return {name: Layout("attention", (0, 1)) for name in names}
    return {}


def bare_layouts(module: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Layout]:
    """Layouts of bare parameters, of modules whose class tells nothing; vectors are left out."""
    matrices = {name: weight for name, weight in weights.items() if not _is_vector(name, weight)}
    experts = experts_layouts(module, matrices) if holds_experts(module) else {}
    return {
        name: experts.get(name, Layout("other", tuple(range(weight.dim())), is_certain=False))
        for name, weight in matrices.items()
    }


def _convolution(module: _ConvNd) -> Layout:
    axes = tuple(range(2, 2 + len(module.kernel_size)))
    if not isinstance(module, _ConvTransposeNd):
        return Layout("convolution", (0, 1, *axes))
    if module.groups == 1:  # [in, out, ...]
        return Layout("convolution", (1, 0, *axes))
    # [groups * in, out, ...], once split: [groups, in, out, ...]
    return Layout("convolution", (0, 2, 1, *(axis + 1 for axis in axes)), stacked=1, groups=module.groups)


def _is_vector(name: str, weight: Tensor) -> bool:
    """Whether a weight is no matrix, whatever its axes: a class token, ``[1, 1, D]``, or the biases of all experts."""
    return sum(size > 1 for size in weight.shape) < 2 or "bias" in name
