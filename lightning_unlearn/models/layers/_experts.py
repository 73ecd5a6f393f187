"""Experts of a mixture that are fused into one parameter: ``[experts, out, in]``, ``[experts, in, out]``, or flattened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lightning_unlearn.models.layers._layout import Layout

_OUTPUTS_FIRST, _INPUTS_FIRST = (0, 1, 2), (0, 2, 1)
_WIDTHS = ("hidden_size", "hidden_dim", "d_model")
_COUNTS = ("num_experts", "num_local_experts", "n_experts", "moe_num_experts", "n_routed_experts")
_BACK = ("w2", "wo", "fc2", "c_proj")
"""Names of the matrix of an expert that goes back to the network's width, beside those with ``down`` or ``out``."""


def holds_experts(module: nn.Module) -> bool:
    """Whether a module holds experts, by its class name or by an attribute with their number."""
    return _is_named_for_experts(module) or any(hasattr(module, name) for name in _COUNTS)


def experts_layouts(module: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Layout]:
    """Layouts of the ``weights`` with three axes, of which the first counts experts, and of those that are flattened.

    Which of the other two axes holds the outputs: transformers 5 says so (``is_transposed``). Otherwise sizes tell: the
    network's width is the output size of the matrix that goes back to it (``down_proj``), and the input size of others. A
    square matrix is taken to be as the others of its module. If all are square, the layout is not certain.
    """
    fused = {name: weight for name, weight in weights.items() if weight.dim() == 3}
    inputs_first = getattr(module, "is_transposed", None)
    if not isinstance(inputs_first, bool):
        told = {_told_by_sizes(module, name, tuple(weight.shape[1:])) for name, weight in fused.items()} - {None}
        inputs_first = told.pop() if len(told) == 1 else None
    order = _INPUTS_FIRST if inputs_first else _OUTPUTS_FIRST
    stacked = {name: Layout("experts", order, stacked=1, is_certain=inputs_first is not None) for name in fused}
    return stacked | _flattened(module, weights)


def _flattened(module: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Layout]:
    """Layouts of weights in which experts follow each other along the first of two axes, as in DBRX."""
    experts = next((getattr(module, count) for count in _COUNTS if isinstance(getattr(module, count, None), int)), 0)
    layouts = {}
    for name, weight in weights.items() if experts > 1 and _is_named_for_experts(module) else ():
        # As many rows as experts are those of a router.
        if weight.dim() == 2 and len(weight) > experts and len(weight) % experts == 0:
            inputs_first = _told_by_sizes(module, name, (len(weight) // experts, weight.shape[1]))
            order = _INPUTS_FIRST if inputs_first else _OUTPUTS_FIRST
            layouts[name] = Layout("experts", order, stacked=1, groups=experts, is_certain=inputs_first is not None)
    return layouts


def _is_named_for_experts(module: nn.Module) -> bool:
    return "expert" in type(module).__name__.lower()


def _told_by_sizes(module: Any, name: str, shape: tuple[int, ...]) -> bool | None:
    """Whether inputs come first; ``None`` if sizes do not tell."""
    first, last = shape
    if first == last:
        return None
    if isinstance(getattr(module, "input_size", None), int):
        return bool(first == module.input_size)
    width = next((getattr(module, w) for w in _WIDTHS if isinstance(getattr(module, w, None), int)), None)
    if width not in (first, last):
        return None
    width_is_first = first == width
    goes_back = "down" in name or "out" in name or name in _BACK
    return not width_is_first if goes_back else width_is_first
