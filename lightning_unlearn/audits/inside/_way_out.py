"""From hidden states to logits: the final norm and the head, found by following a forward pass, not by their names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.func import functional_call

from lightning_unlearn.models.layers import base_model, blocks, eager_if_inside_compiled, output_head
from lightning_unlearn.readouts._every_position import all_logits
from lightning_unlearn.runtime import Misfit, eval_without_grad, on_every_rank

_ROUNDING = {torch.float32: 1e-3, torch.float64: 1e-6}
"""How far logits may differ, as a share of the largest; 5 % in half precision."""


class WayOut:
    """What a language model does to the output of its last block: the final norm, if there is one, and the head.

    Under FSDP2 the whole weights are gathered once, and held while this object lives.

    Args:
        modules: In their order.
    """

    def __init__(self, modules: list[nn.Module]) -> None:
        self._steps = [(module, _whole(module)) for module in modules]

    def __call__(self, states: Tensor) -> Tensor:
        """Logits ``[N, V]`` of states ``[N, D]``."""
        found = states[None]  # some norms and heads expect a batch of sequences
        for module, whole in self._steps:
            given = module(found) if whole is None else functional_call(module, whole, (found,))
            found = given[0] if isinstance(given, tuple) else given
        return found[0]


def find_way_out(network: nn.Module, batch: Any) -> WayOut:
    """Follow one row of ``batch`` from the last block to the logits. Collective.

    Args:
        network: A causal language model with blocks.
        batch: On the device of the network.

    Raises:
        Misfit: If that way is not a chain of modules, or gives other logits than the model: it scales or caps them.

    Example:
        >>> from lightning_unlearn.models import TinyCausalLM
        >>> ids = torch.tensor([[5, 6, 7]])
        >>> way_out = find_way_out(TinyCausalLM(hidden_size=32), {"input_ids": ids, "labels": ids})
        >>> way_out(torch.zeros(2, 32)).shape
        torch.Size([2, 640])
    """
    row = {k: v[:1] if isinstance(v, Tensor) and v.dim() else v for k, v in batch.items()}
    last, head = list(blocks(network).values())[-1], output_head(base_model(network))
    with eval_without_grad(network), eager_if_inside_compiled(network, last), _followed(network, last) as passes:
        logits = all_logits(network, row)
    problem, way_out = "no output head", None
    if head is not None:
        modules = _chain(passes, last, head)
        problem = f"no chain of modules between its last block and its head, a `{type(head).__name__}`"
        if modules is not None:
            with eval_without_grad(network):
                way_out = WayOut(modules)
                lens = way_out(passes[last][1][0][-len(logits[0]) :])
            problem = _difference(lens, logits[0])
    problems = [each for each in on_every_rank(problem if way_out is None or problem else "") if each]
    if problems or way_out is None:
        raise Misfit(
            "The logit lens should find what turns the output of the last block into logits: a final norm, and a head. "
            f"Found {(problems or [problem])[0]} in `{type(base_model(network)).__name__}`. Leave `LogitLens` out of "
            "`audits`; `LayerProbe` does not need them."
        )
    return way_out


def _difference(lens: Tensor, logits: Tensor) -> str:
    """What keeps the lens at the last block from being the model's own output; empty if it is."""
    largest = float(logits.abs().max())
    apart = float((lens.float() - logits.float()).abs().max())
    if apart <= _ROUNDING.get(logits.dtype, 0.05) * max(largest, 1e-6):
        return ""
    return f"logits that differ from the model's own by up to {apart:.2g} of {largest:.2g} (it scales or caps them)"


@contextmanager
def _followed(network: nn.Module, last: nn.Module) -> Iterator[dict[nn.Module, tuple[Any, Any]]]:
    """Record first input and output of ``last`` and of all modules outside of blocks. Outer modules come first."""
    inside = {part for block in blocks(network).values() for part in block.modules()}
    around = [m for m in network.modules() if m not in inside and not inside & set(m.modules())]
    passes: dict[nn.Module, tuple[Any, Any]] = dict.fromkeys([*around, last], (None, None))

    def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        given = args[0] if args else next(iter(kwargs.values()), None)
        passes[module] = (given, output[0] if isinstance(output, tuple) else output)

    handles = [module.register_forward_hook(hook, with_kwargs=True) for module in passes]
    try:
        yield passes
    finally:
        for handle in handles:
            handle.remove()


def _chain(passes: dict[nn.Module, tuple[Any, Any]], last: nn.Module, head: nn.Module) -> list[nn.Module] | None:
    """Modules through which the output of ``last`` goes to ``head``, that one included."""
    states, chain = passes[last][1], []
    while not _same(states, passes.get(head, (None, None))[0]):
        # The outermost: a wrapper of PEFT, and not the norm inside of it.
        after = [
            m for m, (given, out) in passes.items() if m is not last and _same(states, given) and not _same(given, out)
        ]
        if not after or after[0] in chain:
            return None
        chain.append(after[0])
        states = passes[after[0]][1]
    return [*chain, head]


def _same(one: Any, other: Any) -> bool:
    """Whether two are the same memory: a slice over all positions is another tensor object."""
    both = isinstance(one, Tensor) and isinstance(other, Tensor)
    return both and one.shape == other.shape and one.data_ptr() == other.data_ptr() and one.numel() > 0


def _whole(module: nn.Module) -> dict[str, Tensor] | None:
    """Its tensors, gathered, if they are shards that nobody gathers when it is called; else ``None``."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    gathers_itself = any("FSDPModule" in {c.__name__ for c in type(m).__mro__} for m in module.modules())
    if gathers_itself or not any(isinstance(t, DTensor) for t in tensors.values()):
        return None
    return {name: t.full_tensor() if isinstance(t, DTensor) else t for name, t in tensors.items()}
