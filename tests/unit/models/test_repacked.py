"""What layers in four bits stand for can be read after somebody else's evaluation pass has repacked them for its kernel."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from lightning_unlearn.models.layers import dequantized

bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes stores weights in few bits")


@pytest.mark.parametrize("twice", [False, True], ids=["scales in full", "scales in few bits"])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_repacked_weights_are_read(kind: str, twice: bool) -> None:
    torch.manual_seed(0)
    layer = bnb.nn.Linear4bit(128, 64, quant_type=kind, compress_statistics=twice, compute_dtype=torch.float32).to(
        "cpu"
    )
    before = dequantized(layer.weight, layer)
    weight = layer.weight
    weight.data, state = bnb.functional._convert_weight_packed_for_cpu(weight.data, weight.quant_state)
    codes, scales = weight.data.clone(), state.absmax.clone()
    assert state.packing_format_for_cpu
    # Its scales are rounded to bfloat16 then.
    assert_close(dequantized(weight, layer), before, rtol=2**-7, atol=0)
    assert torch.equal(weight.data, codes)
    assert torch.equal(state.absmax, scales)
    assert state.packing_format_for_cpu
