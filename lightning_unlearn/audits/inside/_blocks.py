"""The blocks of a language model, and the hidden states that they give out."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from lightning_unlearn.audits._states import read_states
from lightning_unlearn.data import Probe
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.models.layers import blocks, plain_name
from lightning_unlearn.readouts import LayersReadout, PromptEndReadout
from lightning_unlearn.readouts._language_model import is_causal
from lightning_unlearn.runtime import Misfit, on_every_rank

ALL_BLOCKS = "all blocks"
"""The ``layer`` of what is concluded from all blocks together, and is no level of knowledge: a diagnosis, a p-value."""


def named_blocks(network: nn.Module, who: str) -> list[str]:
    """Names of the blocks of a causal language model, in their order.

    Raises:
        Misfit: If it is none, or has no blocks.
    """
    if not is_causal(network):
        raise Misfit(
            f"`{who}` should get a causal language model, whose blocks all give a hidden state per position. Found "
            f"`{type(network).__name__}`. Leave it out of `audits`."
        )
    names = [plain_name(name) for name in blocks(network)]
    if not names:
        raise Misfit(
            f"`{who}` should find blocks, modules that repeat in a list. Found none in `{type(network).__name__}`. Leave it "
            "out of `audits`."
        )
    return names


def every_block(names: list[str]) -> LayersReadout:
    """Reads the states of all of them."""
    return LayersReadout([re.escape(name) for name in names])


def states_at_prompt_ends(
    network: nn.Module, probe: Probe, engine: GradientEngine, names: list[str]
) -> dict[int, Tensor]:
    """Hidden states where each answer is about to begin, ``[L, D]`` float32 on the CPU, by the number of the example.

    Of all processes, in the order of the data; none of an example without an answer. Collective.
    """
    readout = PromptEndReadout(every_block(names))
    own: dict[int, Tensor] = {}
    for batch, index, counts in probe.batches:
        (read,) = read_states(network, readout=readout, batches=[batch], engine=engine)
        assert read.features is not None  # else it would have been refused
        if counts:  # else these examples belong to another rank, and are run here only to keep in step
            own |= dict(zip(index[read.example.cpu()].tolist(), read.features.float().cpu(), strict=True))
    shares = on_every_rank(own)
    found = {number: states for share in shares for number, states in share.items()}
    return {number: found[number] for number in sorted(found)}


def stacked(states: dict[int, Tensor]) -> Tensor:
    """``[L, n, D]``, of ``n`` examples."""
    return torch.stack(list(states.values()), dim=1)
