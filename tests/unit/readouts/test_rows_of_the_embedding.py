"""A tied embedding adds the rows of its tokens to the head's gradient, and nothing else changes."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from lightning_unlearn.readouts._vocabulary import read_cheaply

TOKENS = torch.tensor([[0, 0, 7, 7, 9], [4, 7, 0, 9, 2]])
KINDS = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=16, n_layer=1, n_head=2, n_positions=8)),
    "llama, with padding": lambda: LlamaForCausalLM(
        LlamaConfig(
            vocab_size=300,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            tie_word_embeddings=True,
            pad_token_id=0,
        )
    ),
}


def network(kind: str) -> Any:
    torch.manual_seed(0)
    return KINDS[kind]().double().eval()


def through_the_head(net: Any) -> Tensor:
    return net(TOKENS).logits.square().mean()


def past_the_head(net: Any) -> Tensor:
    return net(TOKENS, output_hidden_states=True).hidden_states[0].square().mean()


@pytest.mark.parametrize("loss", [through_the_head, past_the_head])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_the_same_and_dense(kind: str, loss: Any) -> None:
    found = {}
    for name, how in (("plain", lambda net: nullcontext()), ("cheap", lambda net: read_cheaply(net, net.lm_head))):
        net = network(kind)
        with how(net):
            value = loss(net)
        value.backward()
        loss_again = loss(net)
        loss_again.backward()  # what accumulates later finds a gradient that it can add to
        found[name] = net.lm_head.weight.grad
    assert found["cheap"].layout == torch.strided
    assert_close(found["cheap"], found["plain"], rtol=0, atol=1e-12)


def test_a_weight_that_is_used_a_third_time_gets_all_of_its_gradient() -> None:
    found = []
    for cheap in (False, True):
        net = network("gpt2")
        with read_cheaply(net, net.lm_head) if cheap else nullcontext():
            output = net(TOKENS, output_hidden_states=True)
        third = output.hidden_states[0].detach() @ net.lm_head.weight.T
        (output.logits.square().mean() + third.square().mean()).backward()
        found.append(net.lm_head.weight.grad)
    assert_close(*found, rtol=0, atol=1e-12)


def test_two_forward_passes_in_one_backward() -> None:
    found = []
    for cheap in (False, True):
        net, losses = network("gpt2"), []
        for rows in (TOKENS, TOKENS.flip(1)):
            with read_cheaply(net, net.lm_head) if cheap else nullcontext():
                losses.append(net(rows).logits.square().mean())
        sum(losses).backward()
        found.append(net.lm_head.weight.grad)
    assert_close(*found, rtol=0, atol=1e-12)


class Shapes(TorchDispatchMode):
    """Counts new tensors as large as the vocabulary's weight."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.shape, self.made = shape, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        is_new = all(value.alias_info is None for value in func._schema.returns)  # no view, and nothing in place
        self.made += is_new and isinstance(out, Tensor) and out.layout == torch.strided and out.shape == self.shape
        return out


@pytest.mark.parametrize(("how", "made"), [(read_cheaply, 1), (lambda *_: nullcontext(), 3)], ids=["cheap", "plain"])
def test_backward_makes_one_tensor_of_the_vocabulary(how: Any, made: int) -> None:
    net = network("llama, with padding")
    with how(net, net.lm_head):
        value = through_the_head(net)
    with Shapes(net.lm_head.weight.shape) as shapes:
        value.backward()
    assert shapes.made == made


def test_modules_stay_as_they_are() -> None:
    net = network("gpt2")
    before = [dict(vars(module)) for module in net.modules()]
    with read_cheaply(net, net.lm_head):
        through_the_head(net)
    assert all(set(vars(module)) == set(then) for module, then in zip(net.modules(), before, strict=True))


def test_an_embedding_with_other_settings_is_left_alone() -> None:
    net = network("gpt2")
    net.transformer.wte.scale_grad_by_freq = True
    with read_cheaply(net, net.lm_head):
        assert "forward" not in vars(net.transformer.wte)
        assert "forward" in vars(net.lm_head)
    assert isinstance(net.transformer.wte, nn.Embedding)
