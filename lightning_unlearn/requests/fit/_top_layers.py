from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from lightning_unlearn.models.layers import blocks
from lightning_unlearn.readouts import choose_readout
from lightning_unlearn.selectors import LayerAblation, TopLayers


@contextmanager
def only_top_layers(network: nn.Module, forget: Sequence[Any], number: int) -> Iterator[list[str]]:
    """Freeze all but the blocks without which the forget loss moves most, and their norms.

    Frozen by ``requires_grad``: no gradients are taken for the rest, which saves what the backward pass costs there.
    Afterwards every parameter is as trainable as it was.

    Args:
        network: What is about to be trained.
        forget: Batches of what must go.
        number: How many blocks.

    Yields:
        The names of the chosen blocks.

    References:
        The layer attribution of FIT, `Xu et al. <https://arxiv.org/abs/2601.21682>`_, 2026: eight blocks, of which
        attention and feed-forward layers are trained.
    """
    scores = LayerAblation().scores(network, forget=forget, readout=choose_readout(network))
    chosen = {name for name, mask in TopLayers(number)(scores).items() if bool(mask)} - _of_norms(network)
    flags = [(p, p.requires_grad) for p in network.parameters()]
    parameters = dict(network.named_parameters())
    within = {id(parameters[name]) for name in chosen}
    try:
        for p, flag in flags:
            p.requires_grad_(flag and id(p) in within)
        yield [name for name, block in blocks(network).items() if any(id(p) in within for p in block.parameters())]
    finally:
        for p, flag in flags:
            p.requires_grad_(flag)


def _of_norms(network: nn.Module) -> set[str]:
    names = (name for name, module in network.named_modules() if "norm" in type(module).__name__.lower())
    return {f"{name}.{each}" for name in names for each, _ in network.get_submodule(name).named_parameters()}
