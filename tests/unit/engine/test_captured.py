"""Gradients of single examples that nobody holds equal those of a loop over the examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from _language_models import _SIZES as SIZES
from _language_models import FAMILIES, VOCABULARY, batch, family
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from lightning_unlearn.engine import CapturedRows, GradientEngine
from lightning_unlearn.functional import step as step_file
from lightning_unlearn.functional.step import correct_step_, step_products
from lightning_unlearn.guards.directions._example_gradients import ExampleGradients
from lightning_unlearn.objectives import CrossEntropy
from lightning_unlearn.readouts import CausalLMReadout, ClassificationReadout, PackedCausalLMReadout, Readout

BATCHES = [batch(), batch("left", rows=(1, 0), width=11)]  # padded on either side; one row has nothing supervised
LANGUAGE: dict[str, Callable[[], nn.Module]] = {
    **{name: lambda name=name: family(name) for name in FAMILIES},
    "tied": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "llama lora": lambda: family("llama", lora=True),
    "llama lora head": lambda: family("llama", lora=True, head=True),
    "gpt2 lora": lambda: family("gpt2", lora=True),
}


class Stack(nn.Sequential):
    """Linear layers with and without bias, one of them used twice, an in-place activation, norms, dropout."""

    def __init__(self) -> None:
        twice = nn.Linear(16, 16)
        super().__init__(
            nn.Linear(8, 16, bias=False),
            nn.LayerNorm(16),
            twice,
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            twice,
            nn.BatchNorm1d(16),
            nn.PReLU(),
            nn.Linear(16, 5),
        )


def classified(*sizes: int, dtype: torch.dtype = torch.float32) -> list[Any]:
    batches = [(torch.randn(n, 8, dtype=dtype), torch.randint(0, 5, (n,))) for n in sizes]
    batches[0][1][1] = -100
    return batches


def gradients(network: nn.Module, readout: Readout, held: bool, limit: int | None = None) -> ExampleGradients:
    engine, params = GradientEngine(network), list(network.parameters())
    keep = torch.clone if held else None
    return ExampleGradients(engine, network, readout, CrossEntropy(), params, limit=limit, keep=keep)


def loop(network: nn.Module, batches: list[Any], loss: Callable[[Any], Tensor]) -> Tensor:
    """One example at a time by plain autograd, ``[k, P]`` float64, divided by their number."""
    network.eval()
    params = list(network.parameters())
    rows = []
    for b in batches:
        size = len(b["labels"] if isinstance(b, dict) else b[1])
        for j in range(size):
            one = {k: v[j : j + 1] for k, v in b.items()} if isinstance(b, dict) else [v[j : j + 1] for v in b]
            wanted = [p for p in params if p.requires_grad]
            found = dict(zip(wanted, torch.autograd.grad(loss(one), wanted, allow_unused=True), strict=True))
            rows.append([found.get(p) for p in params])
    network.train()
    return long(rows, params) / len(rows)


def long(rows: Any, params: list[Tensor]) -> Tensor:
    return torch.stack(
        [
            torch.cat(
                [torch.zeros(p.numel()) if g is None else g.flatten() for g, p in zip(row, params, strict=True)]
            ).double()
            for row in rows
        ]
    )


def language_loss(network: nn.Module) -> Callable[[Any], Tensor]:
    """Hugging Face's own, of the row without its padding."""

    def loss(one: Any) -> Tensor:
        shown = one["attention_mask"].bool()
        labels = one["labels"][shown]
        if not (labels[1:] != -100).any():
            return 0 * next(p for p in network.parameters() if p.requires_grad).sum()
        logits = network(input_ids=one["input_ids"][shown][None]).logits
        return F.cross_entropy(logits[0, :-1].to(torch.promote_types(logits.dtype, torch.float32)), labels[1:])

    return loss


def classifier_loss(network: nn.Module) -> Callable[[Any], Tensor]:
    return lambda one: F.cross_entropy(network(one[0]), one[1], ignore_index=-100, reduction="sum")


def assert_equal(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert found.shape == expected.shape
    assert expected.norm(dim=1).max() > 1e-3
    assert float((found - expected).norm() / expected.norm()) < tolerance


@pytest.mark.parametrize("held", [True, False], ids=["held", "matrix_free"])
@pytest.mark.parametrize("readout", [CausalLMReadout, PackedCausalLMReadout])
@pytest.mark.parametrize("name", LANGUAGE)
def test_language_models(name: str, readout: type[CausalLMReadout], held: bool) -> None:
    network = LANGUAGE[name]()
    found = gradients(network, readout(), held).of(BATCHES)
    expected = loop(network, BATCHES, language_loss(network))
    assert_equal(long(found, list(network.parameters())), expected, 1e-5)
    assert not expected[2].any()
    assert isinstance(found, CapturedRows) != held


@pytest.mark.parametrize("name", ["gpt2", "opt", "phi", "gpt2 lora"])
def test_language_models_in_float64(name: str) -> None:
    """Those whose norms do not compute in float32 whatever the weights are."""
    network = LANGUAGE[name]().double()
    found, held = (gradients(network, CausalLMReadout(), held).of(BATCHES) for held in (False, True))
    params = list(network.parameters())
    assert_equal(long(found, params), long(held, params), 1e-10)


@pytest.mark.parametrize("held", [True, False], ids=["held", "matrix_free"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=str)
def test_classifiers(dtype: torch.dtype, tolerance: float, held: bool) -> None:
    network, batches = Stack().to(dtype), classified(4, 3, dtype=dtype)
    network[6].running_mean.normal_()
    found = gradients(network, ClassificationReadout(), held).of(batches)
    expected = loop(network, batches, classifier_loss(network))
    assert_equal(long(found, list(network.parameters())), expected, tolerance)


def test_what_is_looked_up_for_padding_does_not_learn() -> None:
    network = nn.Sequential(nn.Embedding(6, 3, padding_idx=2), nn.Flatten(), nn.Linear(12, 5))
    batches = [(torch.tensor([[0, 2, 2, 5], [1, 1, 2, 0], [4, 3, 3, 2]]), torch.tensor([0, 3, 1]))]
    found = gradients(network, ClassificationReadout(), held=False).of(batches)
    assert_equal(long(found, list(network.parameters())), loop(network, batches, classifier_loss(network)), 1e-5)
    assert all(row[0][0].any() == (j < 2) and not row[0][2].any() for j, row in enumerate(found))


@pytest.mark.parametrize("metric", [False, True])
@pytest.mark.parametrize("name", ["tied", "gpt2", "llama lora"])
def test_gramian_change_and_correction_of_a_step(name: str, metric: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(step_file._BLOCK, "cpu", 60)
    network = LANGUAGE[name]()
    rows = gradients(network, CausalLMReadout(), held=False).of(BATCHES)
    g = loop(network, BATCHES, language_loss(network))
    params = list(network.parameters())
    d = [torch.randn_like(p) for p in params]
    inverse = [torch.rand_like(p) if metric else None for p in params]
    weights = torch.ones(g.shape[1]) if not metric else torch.cat([m.flatten() for m in inverse])
    parts = zip(params, d, rows.by_parameter, inverse, strict=True)
    products = [step_products(p.detach() + step, p.detach(), row, m) for p, step, row, m in parts]
    step = torch.cat([s.flatten() for s in d]).double()
    gramian, along = g @ (weights * g).T, g @ step
    lengths = g.norm(dim=1)
    assert_close(sum(p.gramian for p in products), gramian, rtol=1e-5, atol=1e-5 * float(gramian.abs().max()))
    assert_close(sum(p.along for p in products), along, rtol=0, atol=1e-5 * float(lengths.max() * step.norm()))
    multipliers = torch.randn(len(g), dtype=torch.float64)
    for row, total, m in zip(rows.by_parameter, d, inverse, strict=True):
        correct_step_(total, torch.zeros_like(total), row, multipliers, m)
    corrected = torch.cat([s.flatten() for s in d]).double()
    taken = weights * (multipliers @ g)
    assert float((step - corrected - taken).norm() / taken.norm()) < 1e-5


def test_a_limit_takes_the_first() -> None:
    network = family("gpt2")
    params = list(network.parameters())
    expected = loop(network, BATCHES, language_loss(network)) * 5 / 4
    for held in (True, False):
        found = gradients(network, CausalLMReadout(), held, limit=4).of(BATCHES)
        assert_equal(long(found, params), expected[:4], 1e-5)
    assert len(gradients(network, CausalLMReadout(), held=False, limit=2).of(BATCHES)) == 2


def test_under_autocast_they_are_those_of_autocast_to_its_rounding() -> None:
    """And nearer to those of float32 than autograd's own, whose sums over tokens are rounded to bfloat16."""
    network = family("llama")
    params = list(network.parameters())
    exact = loop(network, BATCHES, language_loss(network))
    with torch.autocast("cpu", torch.bfloat16):
        found = long(gradients(network, CausalLMReadout(), held=False).of(BATCHES), params)
        expected = loop(network, BATCHES, language_loss(network))
    assert_equal(found, expected, 2e-2)
    assert_equal(found, exact, 5e-2)
    assert float((found - expected).norm()) > 0


# What is kept


class Largest(TorchDispatchMode):
    """The largest tensor that any operation brings."""

    def __init__(self) -> None:
        super().__init__()
        self.nbytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, tuple | list) else [out]:
            if isinstance(t, Tensor):
                self.nbytes = max(self.nbytes, t.numel() * t.element_size())
        return out


WIDE = 96


def wide() -> nn.Module:
    return nn.Sequential(nn.Linear(8, WIDE), nn.Tanh(), nn.Linear(WIDE, WIDE), nn.Tanh(), nn.Linear(WIDE, 5))


@pytest.mark.parametrize("examples", [2, 8, 32])
def test_no_tensor_is_as_large_as_two_gradients_of_the_largest_layer(
    examples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(step_file._BLOCK, "cpu", 1 << 10)
    monkeypatch.setitem(step_file._BLOCKS, "cpu", 1 << 12)
    network = wide()
    capture = gradients(network, ClassificationReadout(), held=False)
    with Largest() as largest:
        rows = capture.of(classified(examples))
        for p, row in zip(network.parameters(), rows.by_parameter, strict=True):
            step_products(p.detach(), torch.zeros_like(p), row)
            correct_step_(p.detach(), torch.zeros_like(p), row, torch.ones(examples, dtype=torch.float64))
    assert WIDE * WIDE * 4 <= largest.nbytes <= 2 * WIDE * WIDE * 4 + 1


def test_what_is_kept_goes_by_tokens_and_not_by_examples() -> None:
    """As many tokens, in ever more examples: only norms take more; rows that are held would take sixteen times as much."""
    sizes = {}
    for examples in (2, 8, 32):
        tokens = torch.randint(3, VOCABULARY, (examples, 64 // examples))
        one = {"input_ids": tokens, "labels": tokens, "attention_mask": torch.ones_like(tokens)}
        network = family("llama")
        rows = gradients(network, CausalLMReadout(), held=False).of([one])
        sizes[examples] = rows.nbytes()
    assert max(sizes.values()) < 1.1 * min(sizes.values())


# What cannot be


class Pooled(nn.Module):
    """Examples meet, softly."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.last(torch.tanh(h - 0.3 * h.mean(0)))


class Borrowed(Pooled):
    """A weight is used behind the back of its layer, too."""

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x)) + torch.tanh(x[:, :6] @ self.last.weight.T)


class Token(Pooled):
    """A vector of no layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x) + self.token))


class Convolved(Pooled):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x[:, None])[:, 0]))


class Turned(Pooled):
    """The second axis is that of the examples."""

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x.view(-1, 1, 8).expand(-1, 3, -1).mT.mT.transpose(0, 1)))).mean(0)


REFUSED = {
    "examples meet": (Pooled, "Found a difference of .* in `first.weight`.*examples of a batch depend"),
    "a norm over the batch": (
        lambda: nn.Sequential(nn.Linear(8, 5), nn.BatchNorm1d(5, track_running_stats=False)),
        "Found `track_running_stats=False` in `1`, a `BatchNorm1d`",
    ),
    "a weight used twice": (Borrowed, "Found a difference of .* in `last.weight`.*used in other ways"),
    "a vector of no layer": (Token, r"Found `token`, of shape \(6,\), somewhere else. Use another `storage`"),
    "a convolution": (Convolved, r"Found `first.weight`, of shape \(1, 1, 3\), somewhere else"),
    "another first axis": (Turned, r"should find 4 examples along the first axis.*Found shape \(3, 4, 8\) at `first"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_covered_is_refused_by_name(name: str) -> None:
    build, message = REFUSED[name]
    network = build()
    with pytest.raises(NotImplementedError, match=message):
        gradients(network, ClassificationReadout(), held=False).of(classified(4))


def test_a_parameter_that_is_not_used_is_no_obstacle() -> None:
    network = Stack()
    network.register_parameter("unused", nn.Parameter(torch.ones(3)))
    network.add_module("never called", nn.Conv2d(1, 1, 3))
    layers = list(network)[:9]
    network.forward = lambda x: nn.Sequential(*layers)(x)
    rows = gradients(network, ClassificationReadout(), held=False).of(classified(4))
    used = {name: bool(g.any()) for (name, _), g in zip(network.named_parameters(), rows[0], strict=True)}
    assert {name for name, is_used in used.items() if not is_used} == {
        "unused",
        "never called.weight",
        "never called.bias",
    }


def test_the_comparison_is_made_once() -> None:
    network = wide()
    backward: list[int] = []
    network[0].weight.register_hook(lambda grad: backward.append(1))
    capture = gradients(network, ClassificationReadout(), held=False)
    for _ in range(3):
        capture.of(classified(4, 3))
    assert sum(backward) == 1


@pytest.mark.parametrize("held", [True, False], ids=["held", "matrix_free"])
def test_passes_leave_everything_as_found(held: bool) -> None:
    network = Stack()
    network[4].eval()
    for p in network.parameters():
        p.grad = torch.ones_like(p)
    before = [p.grad for p in network.parameters()]
    buffers = [b.clone() for b in network.buffers()]
    state = torch.get_rng_state()
    batches = classified(4)
    state = torch.get_rng_state()
    gradients(network, ClassificationReadout(), held).of(batches)
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is grad for p, grad in zip(network.parameters(), before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(network.buffers(), buffers, strict=True))
    assert [m.training for m in network] == [True] * 4 + [False] + [True] * 4
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_a_compiled_layer_runs_eagerly() -> None:
    network = wide()
    batches = classified(4)
    expected = loop(network, batches, classifier_loss(network))
    network[2].compile(backend="eager")
    found = gradients(network, ClassificationReadout(), held=False).of(batches)
    assert_equal(long(found, list(network.parameters())), expected, 1e-5)
