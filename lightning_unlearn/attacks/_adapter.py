from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_unlearn.attacks._held import frozen
from lightning_unlearn.attacks._places import Place, places
from lightning_unlearn.attacks._shifted_weight import shifted_in_passes, shifted_weights
from lightning_unlearn.models.layers import Matrix


@contextmanager
def attached_adapter(
    network: nn.Module, *, rank: int, seed: int, weights: Collection[Tensor] | None = None
) -> Iterator[list[Tensor]]:
    r"""Low-rank factors on every weight matrix but embeddings, held outside the module tree.

    .. math:: W \leftarrow W + B A

    Linear layers get the product through a forward hook, from their inputs, so that it is never formed. Other weights have it
    added whenever they are read: convolutions (flattened to one row for each output), recurrent layers, attention, fused
    experts (factors of their own for each expert, in one tensor), and bare matrices.

    The network does not change: no parameter, no key of its state, no wrapper. Meanwhile its own weights are frozen.
    Factors are float32 and start as LoRA's do: one random, one zero.

    Args:
        network: Its layers are adapted, also those inside PEFT or bitsandbytes layers.
        rank: Of the factors, at most.
        seed: The same factors on every process, whatever the global random state, which stays untouched.
        weights: Only matrices that are one of these parameters, or are computed from one; defaults to all.

    Yields:
        The factors, as parameters to train: for each weight that of its inputs, ``[..., rank, in]``, then that of its
        outputs, ``[..., out, rank]``.
    """
    chosen = [p for p in places(network) if p.is_reached and (weights is None or _is_of(p.matrix, weights))]
    if not chosen:
        raise ValueError(
            f"The adapter should find weight matrices to sit on. Found none in `{type(network).__name__}`. "
            'Use `Relearn(mode="full")`.'
        )
    generator = torch.Generator().manual_seed(seed)
    factors: list[Tensor] = []
    shifts: dict[nn.Module, dict[str, Any]] = {}
    wrapped = {p.matrix.module for p in chosen if any(hasattr(a, "parameter_name") for a in p.matrix.adapters)}
    with frozen(network), ExitStack() as stack:
        for place in chosen:
            a, b = _factors(place, rank, generator)
            factors += [a, b]
            if place.has_hook:
                handle = place.matrix.module.register_forward_hook(_adding(place, a, b), with_kwargs=True)
                stack.callback(handle.remove)
            else:
                shifts.setdefault(place.matrix.module, {})[place.matrix.storage.name] = _product(place, a, b)
        for module, of_module in shifts.items():
            way = shifted_in_passes if module in wrapped else shifted_weights
            stack.enter_context(way(module, of_module))
        yield factors


def _is_of(matrix: Matrix, weights: Collection[Tensor]) -> bool:
    return any(p is weight for p in matrix.parameters for weight in weights)


def _factors(place: Place, rank: int, generator: torch.Generator) -> tuple[nn.Parameter, nn.Parameter]:
    stacked, outputs, inputs = place.sizes
    if not place.has_hook:
        rank = min(rank, outputs, inputs)
    # Drawn on the CPU, since devices draw other numbers from the same seed. Scaled so that the size of what goes through
    # does not depend on the width.
    down = torch.randn(*stacked, rank, inputs, generator=generator) / inputs**0.5
    device = place.device
    return nn.Parameter(down.to(device)), nn.Parameter(torch.zeros(*stacked, outputs, rank, device=device))


def _adding(place: Place, a: Tensor, b: Tensor) -> Any:
    shift = {place.matrix.storage.name: _product(place, a, b)}

    def add(layer: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if not isinstance(output, Tensor):  # of a router, which has done more with its product: once more, with the sum
            with shifted_weights(layer, shift):
                return layer.forward(*args, **kwargs)
        hidden = (args[0] if args else next(iter(kwargs.values()))).to(a.dtype)
        # Factors first, one at a time: the full [out, in] matrix is never formed.
        return output + (hidden @ a.T @ b.T).to(output.dtype)

    return add


def _product(place: Place, a: Tensor, b: Tensor) -> Any:
    return lambda: place.matrix.layout.undone((b @ a).reshape(place.shape))
