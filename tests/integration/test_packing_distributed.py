"""Ranks whose batches differ in size decide alike whether to pack where a pass is collective, and read what they should."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _families import of_family, rows
from _ranks import run_ranks
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.testing import assert_close

from lightning_unlearn import CausalLMReadout, CrossEntropy, PackedCausalLMReadout
from lightning_unlearn.models.layers import refuse_looking_ahead
from lightning_unlearn.readouts import _packed_causal_lm
from lightning_unlearn.readouts._packing_check import verdicts_of

# By rank: one row, which is never packed; then others longer than the first ones of the same rank.
BATCHES = (
    [rows((9,), shared=4), rows((12, 11, 12), shared=6), rows((9, 7), shared=5), rows((30, 29, 28, 30), shared=9)],
    [rows((10, 12), shared=5), rows((9,), shared=4), rows((12, 12, 11), shared=4), rows((31, 30), shared=9)],
)


def sharded(name: str) -> nn.Module:
    network: Any = of_family(name)
    mesh = init_device_mesh("cpu", (2,))
    for layer in network.model.layers if hasattr(network, "model") else network.transformer.h:
        fully_shard(layer, mesh=mesh)
    fully_shard(network, mesh=mesh)
    return network


@pytest.mark.slow
@pytest.mark.parametrize(("name", "packs"), [("llama", True), ("lfm2, convolutions", False)])
@pytest.mark.parametrize("shards", [True, False], ids=["fsdp2", "whole"])
def test_predictions_are_those_of_one_process(name: str, packs: bool, shards: bool) -> None:
    def on_rank(rank: int, world_size: int) -> Any:
        torch.distributed.init_process_group("gloo", rank=rank, world_size=world_size)
        _packed_causal_lm._pays = lambda *_: True  # type: ignore[assignment]  # in this process alone
        network = sharded(name) if shards else of_family(name)
        refuse_looking_ahead(network)
        losses, readout = [], PackedCausalLMReadout()
        for batch in BATCHES[rank]:
            loss = CrossEntropy()(readout(network, batch))
            loss.backward()
            losses.append(loss.detach())
        (verdict,) = verdicts_of(network).values()
        return torch.stack(losses), verdict.exact, verdict.final

    for rank, (losses, exact, final) in enumerate(run_ranks(on_rank)):
        alone = of_family(name)
        expected = torch.stack([CrossEntropy()(CausalLMReadout()(alone, batch)) for batch in BATCHES[rank]])
        assert_close(losses, expected.detach(), rtol=0, atol=1e-5)
        assert exact is packs
        assert final is shards
