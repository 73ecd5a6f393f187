"""A gradient that is added where it is computed is the one that is added afterwards, and takes no memory of its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GPT2Config, GPT2LMHeadModel

from lightning_unlearn import NPO, CausalLMReadout, GradientAscent, PackedCausalLMReadout
from lightning_unlearn.engine import GradientEngine, add_gradient_, combine_
from lightning_unlearn.prediction import KnownLikelihood
from lightning_unlearn.readouts import read_for_a_loss

VOCABULARY = 300
READOUTS: dict[str, Any] = {
    "padded": CausalLMReadout,
    "packed": PackedCausalLMReadout,
    "put off": lambda: CausalLMReadout(logits_at_most=4 * VOCABULARY),
}
OBJECTIVES: dict[str, Any] = {"ascent, in parts": GradientAscent(), "npo": NPO(beta=0.3)}


def network(is_tied: bool, dtype: torch.dtype = torch.float64) -> Any:
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16}
    return GPT2LMHeadModel(GPT2Config(tie_word_embeddings=is_tied, **sizes)).eval().to(dtype)


def batch(seed: int) -> dict[str, Tensor]:
    tokens = torch.randint(3, 12, (3, 9), generator=torch.Generator().manual_seed(seed))  # many of them twice
    return {"input_ids": tokens, "labels": torch.where(torch.arange(9) > 3, tokens, -100)}


def loss_of(net: Any, readout: Any, objective: Any) -> Any:
    def loss(rows: Any) -> Tensor:
        with read_for_a_loss():
            student = readout(net, rows)
            known = KnownLikelihood(torch.ones(len(student.labels), dtype=torch.float64), student.example, 3)
            value: Tensor = objective(student, known)
        return value

    return loss


class Made(TorchDispatchMode):
    """Counts new tensors as large as the vocabulary's weight."""

    made = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        is_new = all(value.alias_info is None for value in func._schema.returns)  # no view, and nothing in place
        self.made += is_new and isinstance(out, Tensor) and out.shape == (VOCABULARY, 16)
        return out


def merged(net: Any, readout: Any, objective: Any, how: str) -> tuple[list[Tensor], int]:
    """The sum of two gradients; and how many tensors of the vocabulary's size the second one took."""
    params, loss, engine = list(net.parameters()), loss_of(net, readout, objective), GradientEngine(net)
    loss(batch(1)).backward()
    loss(batch(2))  # packing is compared before the second pass, once
    with Made() as seen:
        if how == "apart":
            row, _ = engine.row(loss, [batch(2)], params)
            combine_(params, [row, [p.grad for p in params]], [0.7, 1.0])
        else:
            add_gradient_(engine, loss, batch(2), params, weight=0.7, measured=how == "measured")
    return [p.grad for p in params], seen.made  # type: ignore[misc]


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
def test_the_sum_is_that_of_two_gradients(is_tied: bool, readout: str, objective: str) -> None:
    ways = {}
    for how in ("apart", "measured", "in place"):
        ways[how], made = merged(network(is_tied), READOUTS[readout](), OBJECTIVES[objective], how)
        if how == "in place":
            # Parts of a mean give the head's gradient in the forward pass, before there is anything to add it to.
            assert made == (readout == "put off")
    for name in ("measured", "in place"):
        for one, other in zip(ways[name], ways["apart"], strict=True):
            assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
def test_half_precision_is_as_near_as_a_sum_of_two(is_tied: bool) -> None:
    exact, _ = merged(network(is_tied), CausalLMReadout(), NPO(0.3), "apart")
    off = []
    for how in ("in place", "apart"):
        found, _ = merged(network(is_tied, torch.bfloat16), CausalLMReadout(), NPO(0.3), how)
        off.append(max(float((a.double() - b).norm()) for a, b in zip(found, exact, strict=True)))
    assert off[0] <= 1.1 * off[1]


def test_a_weight_with_a_hook_is_given_its_gradient() -> None:
    net, seen = network(is_tied=False), []
    net.lm_head.weight.register_hook(lambda grad: seen.append(grad.shape))
    merged(net, CausalLMReadout(), NPO(0.3), "in place")
    assert seen == [(VOCABULARY, 16)] * 2


def test_nothing_is_open_after_an_error() -> None:
    net = network(is_tied=False)
    params, loss = list(net.parameters()), loss_of(net, CausalLMReadout(), NPO(0.3))
    loss(batch(1)).backward()
    with pytest.raises(ZeroDivisionError):
        add_gradient_(GradientEngine(net), lambda rows: 1 / 0, batch(2), params, weight=1.0, measured=False)
    before = net.lm_head.weight.grad.clone()
    (gradient,) = torch.autograd.grad(loss(batch(2)), net.lm_head.weight)
    assert gradient.norm() > 0
    assert torch.equal(before, net.lm_head.weight.grad)
