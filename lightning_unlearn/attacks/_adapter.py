from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_unlearn.attacks._held import frozen, hooks
from lightning_unlearn.models.layers import count, is_linear, matrices, sizes


@contextmanager
def attached_adapter(
    network: nn.Module, *, rank: int, seed: int, layers: Sequence[nn.Module] | None = None
) -> Iterator[list[Tensor]]:
    """Low-rank factors on linear layers, held outside the module tree by forward hooks.

    The network does not change: no parameter, no key of its state, no wrapper. Meanwhile its own weights are frozen.
    Factors are float32 and start as LoRA's do: one random, one zero.

    Args:
        network: Its ``nn.Linear`` and ``Conv1D`` layers are adapted, also those inside PEFT or bitsandbytes layers.
        rank: Of the factors.
        seed: The same factors on every process, whatever the global random state, which stays untouched.
        layers: Only these linear layers of it; defaults to all.

    Yields:
        The factors, as parameters to train.
    """
    layers = [m for m in network.modules() if is_linear(m)] if layers is None else layers
    if not layers:
        raise ValueError(
            f"The adapter should find linear layers to sit on. Found none in `{type(network).__name__}`. "
            'Use `Relearn(mode="full")`.'
        )
    generator = torch.Generator().manual_seed(seed)
    factors: list[Tensor] = []
    with frozen(network), hooks() as handles:
        for layer in layers:
            inputs, outputs = sizes(layer)
            # Drawn on the CPU, since devices draw other numbers from the same seed. Scaled so that the size of what
            # goes through does not depend on the width.
            down = torch.randn(rank, inputs, generator=generator) / inputs**0.5
            device: Any = layer.weight.device
            a, b = nn.Parameter(down.to(device)), nn.Parameter(torch.zeros(outputs, rank, device=device))
            factors += [a, b]
            handles.append(layer.register_forward_hook(_adding(a, b)))
        yield factors


def adapted_share(network: nn.Module) -> float:
    """The share of the weights of matrices, embeddings and adapters aside, that linear layers hold; 1 if there are none.

    Example:
        >>> adapted_share(nn.Sequential(nn.Conv1d(1, 3, 1), nn.Linear(3, 3)))
        0.75
    """
    own = [m for m in matrices(network) if m.factor_of is None and m.layout.kind != "embedding"]
    weights = {p: is_linear(m.module) for m in own for p in m.parameters}
    total = sum(count(p) for p in weights)
    return sum(count(p) for p, reached in weights.items() if reached) / total if total else 1.0


def _adding(a: Tensor, b: Tensor) -> Any:
    def add(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        hidden = args[0].to(a.dtype)
        # Factors first, one at a time: the full [out, in] matrix is never formed.
        return output + (hidden @ a.T @ b.T).to(output.dtype)

    return add
