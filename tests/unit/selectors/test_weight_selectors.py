"""Selectors that look at weights alone, against other linear algebra in float64, and their traps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import MixtralConfig, MixtralForCausalLM

from lightning_unlearn.models.layers import matrices
from lightning_unlearn.selectors import ConditionNumber, Random, TopNumber, TopShare, TopUpdate


def kappa(matrix: Tensor) -> Tensor:
    """By eigenvalues of the smaller Gram matrix."""
    m = matrix.double()
    gram = m @ m.T if len(m) < m.shape[1] else m.T @ m
    values = torch.linalg.eigvalsh(gram)
    return (values[-1] / values[0]).sqrt()


def number(network: nn.Module, name: str = "weight") -> Tensor:
    return ConditionNumber(choose="highest").scores(network)[name].double()


def linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight = nn.Parameter(weight)
    return layer


# ConditionNumber


@pytest.mark.parametrize("shape", [(5, 5), (4, 9), (9, 4)])
def test_it_is_the_largest_over_the_smallest_singular_value(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = linear(torch.randn(shape))
    assert_close(number(layer), kappa(layer.weight.detach()), rtol=1e-3, atol=0)
    assert_close(ConditionNumber().scores(layer)["weight"].double(), -number(layer))


def test_it_does_not_depend_on_scale_also_without_full_rank() -> None:
    torch.manual_seed(0)
    full, flat = torch.randn(6, 6), torch.randn(6, 2) @ torch.randn(2, 6)
    for weight in (full, flat):
        for scale in (8.0, 2.0**-20):  # powers of two: nothing is rounded
            assert_close(number(linear(scale * weight)), number(linear(weight)), rtol=1e-5, atol=0)
    assert number(linear(flat)) == number(linear(torch.zeros(6, 6))) == pytest.approx(2**23 / 6, rel=1e-4)
    assert_close(number(linear(torch.linalg.qr(full).Q)), torch.tensor(1.0).double(), rtol=1e-5, atol=0)


def test_convolutions_are_ranked_by_their_rows_and_not_skipped() -> None:
    torch.manual_seed(0)
    conv, transposed = nn.Conv2d(3, 4, 2), nn.ConvTranspose1d(4, 6, 3)
    assert_close(number(conv), kappa(conv.weight.detach().reshape(4, 12)), rtol=1e-4, atol=0)
    rows = transposed.weight.detach().transpose(0, 1).reshape(6, 12)  # inputs come first in its weight
    assert_close(number(transposed), kappa(rows), rtol=1e-4, atol=0)


def test_half_precision_is_ranked_and_vectors_and_embeddings_are_not() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4), nn.LayerNorm(4)).bfloat16()
    assert ConditionNumber().scores(net).keys() == {"1.weight"}
    assert_close(number(net, "1.weight"), kappa(net[1].weight.detach()), rtol=1e-3, atol=0)


def test_of_experts_it_is_the_mean_over_them() -> None:
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=3,
    )
    network = MixtralForCausalLM(config)
    (name,) = (n for n, p in network.named_parameters() if n.endswith("experts.down_proj"))
    expected = torch.stack([kappa(e.detach()) for e in network.get_parameter(name)]).mean()
    assert_close(number(network, name), expected, rtol=1e-3, atol=0)


def test_the_plain_number_sorts_by_shape_and_the_matched_one_does_not() -> None:
    """All are random numbers: none is better conditioned than the others for its shape."""
    torch.manual_seed(0)
    shapes = [(24, 24), (24, 240), (24, 24), (240, 24), (24, 24), (24, 240)]
    net = nn.ParameterList([nn.Parameter(torch.randn(shape)) for shape in shapes])
    plain = TopNumber(3)(ConditionNumber().scores(net))
    assert [i for i, m in enumerate(plain.values()) if m] == [1, 3, 5]  # the rectangular ones
    matched = ConditionNumber(choose="highest", shape_matched=True).scores(net)
    rectangular = torch.stack([matched[name] for name in ("1", "3", "5")])
    assert_close(rectangular, torch.ones(3), rtol=0.2, atol=0)
    with torch.no_grad():  # and a badly conditioned one of good shape is now seen among square ones
        net[1][0] = net[1][1] + 1e-4
    worst = TopNumber(1)(ConditionNumber(choose="highest", shape_matched=True).scores(net))
    assert worst["1"]
    assert TopNumber(3)(Random(by="tensor").scores(net)).keys() == plain.keys()  # the control ranks the same tensors


def test_the_factors_of_an_adapter_have_the_score_of_the_matrix_that_they_change() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 4))
    expected = {f"{i}": number(net, f"{i}.weight") for i in (0, 1)}
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["0", "1"]), net)
    found = ConditionNumber(choose="highest").scores(net)
    trained = {n for n, p in net.named_parameters() if p.requires_grad}
    assert found.keys() == trained
    assert len(trained) == 4
    for name, score in found.items():
        assert_close(score.double(), expected[name[0]])


def test_weights_in_few_bits_are_dequantised_before_they_are_ranked() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(Linear4bit(64, 64, bias=False, quant_type="nf4", compute_dtype=torch.float32))
    net.to("cpu")
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["0"]), net)
    (values,) = (m.tensor for m in matrices(net) if m.factor_of is None)
    assert values.shape == (64, 64)
    found = ConditionNumber(choose="highest").scores(net)
    assert len(found) == 2
    for score in found.values():
        assert_close(score.double(), kappa(values.float()), rtol=1e-2, atol=0)


def test_a_network_without_a_trained_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match="should find a matrix that can be trained.*Found none"):
        ConditionNumber().scores(nn.Linear(2, 2).requires_grad_(False))
    with pytest.raises(ValueError, match="`choose` should be"):
        ConditionNumber(choose="best")  # type: ignore[arg-type]


# TopUpdate


@pytest.fixture
def base(tmp_path: Path) -> Any:
    def write(**tensors: Tensor) -> str:
        path = str(tmp_path / "base.safetensors")
        save_file(tensors, path)
        return path

    return write


def test_the_largest_changes_are_chosen(base: Any) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(10, 10)
    change = torch.zeros(10, 10)
    places = torch.randperm(100)[:7]
    change.view(-1)[places] = torch.tensor([1.0, -1.0, 2.0, -2.0, 3.0, 0.5, -0.5])
    path = base(weight=layer.weight.detach() - change, bias=layer.bias.detach().clone())
    chosen = TopShare(7 / 110)(TopUpdate(path).scores(layer))
    assert torch.equal(chosen["weight"], change != 0)
    assert not chosen["bias"].any()
    by_tensor = TopUpdate(path, by="tensor").scores(layer)
    assert_close(by_tensor["weight"], change.abs().mean(), rtol=1e-5, atol=1e-8)


def test_small_differences_of_large_numbers_keep_their_digits(base: Any) -> None:
    layer = nn.Linear(2, 1, bias=False).double()
    nn.init.constant_(layer.weight, 1e6)
    path = base(weight=torch.tensor([[1e6 - 1e-6, 1e6]], dtype=torch.float64))
    assert_close(TopUpdate(path).scores(layer)["weight"], torch.tensor([[1e-6, 0.0]]), rtol=1e-3, atol=0)


def test_weights_of_another_network_are_refused(base: Any) -> None:
    layer = nn.Linear(2, 1)
    with pytest.raises(ValueError, match="Found 1 tensors, none of whose names such a parameter has, as `weight`"):
        TopUpdate(base(other=torch.ones(1))).scores(layer)
    with pytest.raises(ValueError, match=r"Found `weight` of \(3, 1\), not \(1, 2\)"):
        TopUpdate(base(weight=torch.ones(3, 1))).scores(layer)


def test_an_adapter_is_refused_by_what_it_is(base: Any) -> None:
    net = nn.Sequential(nn.Linear(5, 4))
    path = base(**{"0.weight": torch.ones(4, 5)})
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["0"]), net)
    with pytest.raises(ValueError, match="Is there an adapter around the network"):
        TopUpdate(path).scores(net)
