"""One pass in which the states that one block gives out are exchanged, where the tokens of answers are predicted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from lightning_unlearn.models.layers import eager_if_inside_compiled
from lightning_unlearn.readouts import CausalLMReadout
from lightning_unlearn.readouts._causal_lm import _labels, _supervised
from lightning_unlearn.readouts._padding import padded_behind


def answer_nll(network: nn.Module, batch: Any, block: nn.Module | None = None, states: Tensor | None = None) -> Tensor:
    """Negative log-likelihood per token of each answer, ``[B]``; NaN where there is none.

    Args:
        network: A causal language model.
        batch: On its device.
        block: The block whose output is exchanged; none by default.
        states: What it is exchanged for, at the positions that predict supervised tokens, ``[N, D]``, in their order.
    """
    batch = padded_behind(batch, _labels(batch))
    labels = _labels(batch)
    where = F.pad(_supervised(batch, labels), (0, 1))  # the last position predicts no label
    with _exchanged(network, block, where, states):
        prediction = CausalLMReadout()(network, batch)
    return prediction.example_nll() / prediction.rows_per_example()


@contextmanager
def _exchanged(network: nn.Module, block: nn.Module | None, where: Tensor, states: Tensor | None) -> Iterator[None]:
    if block is None or states is None:
        yield
        return

    def hook(_: nn.Module, args: Any, output: Any) -> Any:
        given = output[0] if isinstance(output, tuple) else output
        patched = given.clone()
        # Counted from the end: prompt tuning puts positions of its own before the batch's.
        patched[:, -where.shape[1] :][where] = states.to(device=given.device, dtype=given.dtype)
        return (patched, *output[1:]) if isinstance(output, tuple) else patched

    handle = block.register_forward_hook(hook)
    try:
        with eager_if_inside_compiled(network, block):
            yield
    finally:
        handle.remove()
