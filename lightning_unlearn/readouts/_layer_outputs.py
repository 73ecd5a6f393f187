"""The outputs of layers, read during a forward pass that ends at the last of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.models.layers import eager_if_inside_compiled
from lightning_unlearn.readouts._language_model import inputs_of


def layer_outputs(network: nn.Module, layers: Mapping[str, nn.Module], batch: Any, shape: torch.Size) -> list[Tensor]:
    """Run ``network`` on ``batch`` up to the last of ``layers``, and give the hidden states that each of them gave out.

    Args:
        network: A language model.
        layers: Modules of it, by the names that errors use.
        batch: What the model takes.
        shape: Of the tokens, ``[B, T]``.

    Returns:
        ``[B, T, D]`` each, in the order of ``layers``.
    """
    read: dict[str, Any] = {}
    with ExitStack() as stack:
        for layer in layers.values():
            stack.enter_context(eager_if_inside_compiled(network, layer))
        stack.enter_context(_reading(network, layers, read))
        network(**inputs_of(network, batch))
    return [_states(name, read.get(name), shape) for name in layers]


def _states(name: str, output: Any, shape: torch.Size) -> Tensor:
    states = output[0] if isinstance(output, tuple) else output  # some blocks return a tuple, hidden states first
    if isinstance(states, Tensor) and states.dim() == 3 and len(states) == shape[0] and states.shape[1] >= shape[1]:
        # Counted from the end: prompt tuning puts positions of its own before the batch's.
        return states[:, -shape[1] :]
    found = f"shape {tuple(states.shape)}" if isinstance(states, Tensor) else f"a {type(states).__name__}"
    raise ValueError(
        f"The layer `{name}` should give a hidden state per position, [B, T, D], [B, T] = {list(shape)}. "
        f"Found {found}. Name a whole block, or its MLP."
    )


class _Stop(Exception):
    """Not an error: ends the forward pass once all layers have been read."""


@contextmanager
def _reading(network: nn.Module, layers: Mapping[str, nn.Module], read: dict[str, Any]) -> Iterator[None]:
    # FSDP cleans up after whole forward passes only.
    stops = not any(_is_sharded(m) for m in network.modules())

    def reader(name: str) -> Any:
        def hook(_: nn.Module, args: Any, output: Any) -> None:
            read[name] = output
            if stops and len(read) == len(layers):
                raise _Stop

        return hook

    handles = [layer.register_forward_hook(reader(name)) for name, layer in layers.items()]
    handles += [m.register_forward_hook(_carrying(inside, read)) for m, inside in _shards_around(network, layers)]
    try:
        yield
    except _Stop:
        pass
    finally:
        for handle in handles:
            handle.remove()


def _shards_around(network: nn.Module, layers: Mapping[str, nn.Module]) -> Iterator[tuple[nn.Module, list[str]]]:
    """Each module that is sharded as a whole, with the names of the layers that are inside it, and in no smaller one."""
    innermost: dict[nn.Module, nn.Module] = {}
    for shard in (m for m in network.modules() if _is_sharded(m)):
        # `modules()` names what is around before what is inside, so that the last one stays.
        innermost.update(dict.fromkeys(shard.modules(), shard))
    for shard in dict.fromkeys(innermost.values()):
        inside = [name for name, layer in layers.items() if innermost.get(layer) is shard and layer is not shard]
        if inside:
            yield shard, inside


def _carrying(names: list[str], read: dict[str, Any]) -> Any:
    """A hook that makes layers inside a sharded module depend on its output as well, with a gradient of zero.

    FSDP gathers the weights of a module again for its backward pass when a gradient reaches its *output*. An objective
    on a layer inside alone reaches none, and would run into weights that are gone. Weights behind the layer, in the
    same sharded module, get a gradient of zero instead of none.
    """

    def hook(_: nn.Module, args: Any, output: Any) -> None:
        around = next((t for t in _tensors(output) if t.requires_grad), None)
        for name in names:
            if around is not None and (inside := next(_tensors(read.get(name)), None)) is not None:
                read[name], _ = _Together.apply(inside, around)  # type: ignore[no-untyped-call]

    return hook


def _tensors(output: Any) -> Iterator[Tensor]:
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else [output]
    return (part for part in parts if isinstance(part, Tensor) and part.is_floating_point())


class _Together(torch.autograd.Function):
    """Two tensors, unchanged; backward, the one that got no gradient gets zeros. ``a + 0 * b`` would fail where b is inf."""

    @staticmethod
    @override
    def forward(ctx: Any, inside: Tensor, around: Tensor) -> tuple[Tensor, Tensor]:
        return inside.view_as(inside), around.view_as(around)

    @staticmethod
    @override
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return gradients


def _is_sharded(module: nn.Module) -> bool:
    # By name in the class hierarchy: FSDP2 gives each module a class of its own, which inherits from `FSDPModule`.
    return bool({"FSDPModule", "FullyShardedDataParallel"} & {c.__name__ for c in type(module).__mro__})
