"""Packing is decided on rows larger than any batch, so no later batch can break it; deciding leaves no trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _families import LONG, SHORT, VOCABULARY, of_family, own_loss_row_by_row, rows
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import GPTNeoConfig, GPTNeoForCausalLM, LlamaConfig, LlamaForCausalLM

from lightning_unlearn import CausalLMReadout, CrossEntropy, PackedCausalLMReadout
from lightning_unlearn.readouts._packing_check import Sizes, verdicts_of

SIZES: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 256, "pad_token_id": 0}


@pytest.fixture
def always_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny networks are so narrow that longer attention costs more than fewer tokens save."""
    monkeypatch.setattr("lightning_unlearn.readouts._packed_causal_lm._pays", lambda *_: True)


always = pytest.mark.usefixtures("always_packed")


def causal(length: int, window: int | None = None) -> Tensor:
    """Which positions see which, ``[1, 1, T, T]``."""
    back = torch.arange(length)[:, None] - torch.arange(length)
    return ((back >= 0) & (back < (window or length)))[None, None]


class WindowOfItsOwn(LlamaForCausalLM):
    """A window that no configuration names; a mask from outside takes its place."""

    def forward(self, input_ids: Tensor, attention_mask: Any = None, position_ids: Any = None, **kwargs: Any) -> Any:
        if attention_mask is None or attention_mask.dim() == 2:
            attention_mask = causal(input_ids.shape[1], 20).expand(len(input_ids), -1, -1, -1)
        return super().forward(input_ids, attention_mask=attention_mask, position_ids=position_ids, **kwargs)


class WindowByIndex(LlamaForCausalLM):
    """A window over places in the sequence, whatever positions it is given."""

    def forward(self, input_ids: Tensor, attention_mask: Any = None, position_ids: Any = None, **kwargs: Any) -> Any:
        near = causal(input_ids.shape[1], 40)
        mask = near & attention_mask if attention_mask is not None and attention_mask.dim() == 4 else near
        mask = mask.expand(len(input_ids), -1, -1, -1)
        return super().forward(input_ids, attention_mask=mask, position_ids=position_ids, **kwargs)


class OwnPositions(LlamaForCausalLM):
    """Positions that it counts itself."""

    def forward(self, input_ids: Tensor, attention_mask: Any = None, **kwargs: Any) -> Any:
        kwargs["position_ids"] = torch.arange(input_ids.shape[1]).expand(len(input_ids), -1)
        return super().forward(input_ids, attention_mask=attention_mask, **kwargs)


class LateTable(LlamaForCausalLM):
    """Something that is added far behind in a sequence only, as a scale of attention by length is."""

    def forward(self, input_ids: Tensor, attention_mask: Any = None, position_ids: Any = None, **kwargs: Any) -> Any:
        output = super().forward(input_ids, attention_mask=attention_mask, position_ids=position_ids, **kwargs)
        late = torch.arange(output.logits.shape[1])[-output.logits.shape[1] :] >= 60
        output.logits = output.logits if output.logits.dim() == 2 else output.logits * (1 + late[:, None] * 0.1)
        return output

    def get_output_embeddings(self) -> None:
        return None  # all logits are computed, [B, T, V]


def made(kind: type[LlamaForCausalLM]) -> LlamaForCausalLM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = kind(LlamaConfig(**SIZES)).eval()
        for p in network.parameters():
            p.data.add_(0.1 * torch.randn_like(p))
    return network


def passes(network: Any) -> list[int]:
    """Tokens of each pass through ``network``, from now on."""
    seen: list[int] = []
    forward = type(network).forward

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append((args[0] if args else kwargs["input_ids"]).numel())
        return forward(self, *args, **kwargs)

    network.__class__ = type("Counted", (type(network),), {"forward": counted})
    counted.__signature__ = __import__("inspect").signature(forward)  # type: ignore[attr-defined]
    return seen


@always
@pytest.mark.parametrize("kind", [WindowOfItsOwn, WindowByIndex, OwnPositions, LateTable])
@pytest.mark.parametrize("lengths", [(16, 40), (40, 16)], ids=["short first", "long first"])
def test_what_no_name_gives_away_is_found(kind: type[LlamaForCausalLM], lengths: tuple[int, int]) -> None:
    network, readout = made(kind), PackedCausalLMReadout()
    for length in lengths:
        batch = rows((length, length - 3, length - 1, length), shared=6)
        with torch.no_grad():
            packed, plain = readout(network, batch), CausalLMReadout()(network, batch)
        assert_close(packed.logits, plain.logits, rtol=0, atol=1e-5)
    assert [verdict.exact for verdict in verdicts_of(network).values()] == [False]


@always
def test_local_attention_is_found_after_a_short_first_batch() -> None:
    torch.manual_seed(0)
    sizes = {"num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]], "window_size": 64}
    network = GPTNeoForCausalLM(
        GPTNeoConfig(vocab_size=48, hidden_size=32, max_position_embeddings=512, **sizes)
    ).eval()
    for p in network.parameters():
        p.data.add_(0.05 * torch.randn_like(p))
    readout = PackedCausalLMReadout()
    with torch.no_grad():
        readout(network, rows(**SHORT))
        assert [verdict.exact for verdict in verdicts_of(network).values()] == [True]
        long = rows((40,) * 6, shared=12)
        assert_close(CrossEntropy()(readout(network, long)), own_loss_row_by_row(network, long), rtol=0, atol=1e-5)
    assert [verdict.exact for verdict in verdicts_of(network).values()] == [False]


@always
def test_once_it_was_not_exact_it_is_never_asked_again() -> None:
    network, readout = made(OwnPositions), PackedCausalLMReadout()
    seen = passes(network)
    with torch.no_grad():
        for lengths in ((9, 7), (20, 22, 18), (60, 50, 61)):
            readout(network, rows(lengths, shared=5))
    assert len(seen) == 4 + 3
    assert seen[-2:] == [3 * 22, 3 * 61]


@always
def test_the_extra_passes_are_few() -> None:
    """Four small ones at first, then four where a size passes a power of two: few, and of few tokens."""
    network, readout = made(LlamaForCausalLM), PackedCausalLMReadout()
    seen, batches = passes(network), [rows((n, n - 3, n - 1, n), shared=6) for n in range(10, 60)]
    with torch.no_grad():
        for batch in batches:
            readout(network, batch)
    assert verdicts_of(network)["sdpa"].upto == Sizes(256, 64)
    # Lengths pass 32, 64 and 128; rows pass 16 and 32; the first sizes; and the small ones.
    assert 0 < len(seen) - len(batches) <= 4 * (3 + 2 + 2)
    assert sum(seen) < 2 * sum(batch["labels"].numel() for batch in batches)
    seen.clear()
    with torch.no_grad():
        for batch in batches[:10]:
            readout(network, batch)
    assert len(seen) == 10


@always
def test_a_network_that_draws_keeps_statistics_and_is_watched_notices_nothing() -> None:
    class Drawing(LlamaForCausalLM):
        def forward(
            self, input_ids: Tensor, attention_mask: Any = None, position_ids: Any = None, **kwargs: Any
        ) -> Any:
            torch.rand(1)
            self.seen = getattr(self, "seen", 0) + 1
            self.statistics.add_(input_ids.numel())
            return super().forward(input_ids, attention_mask=attention_mask, position_ids=position_ids, **kwargs)

    network, batch, called = made(Drawing).train(), rows(**LONG), []
    network.register_buffer("statistics", torch.zeros(1))
    network.model.layers[0].eval()
    network.model.layers[0].register_forward_hook(lambda *_: called.append(1))
    modes, state = [m.training for m in network.modules()], torch.get_rng_state()
    expected = torch.rand(2)[1]
    torch.set_rng_state(state)
    readout = PackedCausalLMReadout()
    readout(network, batch)
    assert verdicts_of(network)["sdpa"].exact
    assert torch.equal(torch.rand(1)[0], expected)  # one draw before, of the prediction itself
    assert len(called) == 1
    assert network.seen == 1
    assert int(network.statistics) < batch["labels"].numel()
    assert [m.training for m in network.modules()] == modes


@always
def test_frequencies_that_grow_with_the_input_are_put_back() -> None:
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
    torch.manual_seed(0)
    network = LlamaForCausalLM(LlamaConfig(**{**SIZES, "max_position_embeddings": 24}, rope_parameters=rope)).eval()
    before = network.model.rotary_emb.inv_freq.clone()
    batch = rows(**LONG)
    with torch.no_grad():
        loss = CrossEntropy()(PackedCausalLMReadout()(network, batch))
        assert_close(loss, own_loss_row_by_row(network, batch), rtol=0, atol=1e-5)
    assert verdicts_of(network)["sdpa"].upto.row > 24  # it was asked with rows that are longer
    assert torch.equal(network.model.rotary_emb.inv_freq, before)
    assert network.model.rotary_emb.max_seq_len_cached == 24


@always
def test_weights_that_were_zero_are_asked_again() -> None:
    """A bias by place in the sequence that training has to find first."""

    class Biased(LlamaForCausalLM):
        def forward(
            self, input_ids: Tensor, attention_mask: Any = None, position_ids: Any = None, **kwargs: Any
        ) -> Any:
            embedded = self.model.embed_tokens(input_ids)
            embedded = embedded + self.places * torch.arange(input_ids.shape[1])[:, None]
            kwargs |= {"inputs_embeds": embedded, "position_ids": position_ids}
            return super().forward(attention_mask=attention_mask, **kwargs)

    network, readout, batch = made(Biased), PackedCausalLMReadout(), rows(**LONG)
    network.places = nn.Parameter(torch.zeros(16))
    with torch.no_grad():
        readout(network, batch)
        assert verdicts_of(network)["sdpa"].exact
        network.places.fill_(0.1)
        for _ in range(63):
            packed = readout(network, batch)
        assert torch.equal(packed.logits, CausalLMReadout()(network, batch).logits)
    assert not verdicts_of(network)["sdpa"].exact


@always
def test_a_head_of_zeros_proves_nothing() -> None:
    network = made(OwnPositions)
    network.lm_head.weight.data.zero_()
    PackedCausalLMReadout()(network, rows(**LONG))
    assert not verdicts_of(network)["sdpa"].exact


@always
def test_another_kind_of_attention_is_asked_anew() -> None:
    network, batch = of_family("llama"), rows(**LONG)
    PackedCausalLMReadout()(network, batch)
    network.set_attn_implementation("eager")
    PackedCausalLMReadout()(network, batch)
    assert set(verdicts_of(network)) == {"sdpa", "eager"}


@always
def test_rows_that_depend_on_each_other_are_read_plainly() -> None:
    """As capacities of experts, or statistics of a batch, make them."""

    class Crowded(LlamaForCausalLM):
        def forward(
            self, input_ids: Tensor, attention_mask: Any = None, position_ids: Any = None, **kwargs: Any
        ) -> Any:
            output = super().forward(input_ids, attention_mask=attention_mask, position_ids=position_ids, **kwargs)
            output.logits = output.logits * (1 + 0.01 * input_ids.numel())
            return output

    network, batch = made(Crowded), rows(**LONG)
    with torch.no_grad():
        packed, plain = PackedCausalLMReadout()(network, batch), CausalLMReadout()(network, batch)
    assert torch.equal(packed.logits, plain.logits)
    assert not verdicts_of(network)["sdpa"].exact


@always
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_is_no_difference(dtype: torch.dtype) -> None:
    network = of_family("llama").to(dtype)
    PackedCausalLMReadout()(network, rows(**LONG))
    assert verdicts_of(network)["sdpa"].exact


@always
def test_mixed_precision_is_no_difference_either() -> None:
    network = of_family("llama")
    with torch.autocast("cpu", torch.bfloat16):
        PackedCausalLMReadout()(network, rows(**LONG))
    assert verdicts_of(network)["sdpa"].exact


@always
def test_a_window_in_half_precision_is_a_difference() -> None:
    network = made(WindowOfItsOwn).to(torch.bfloat16)
    PackedCausalLMReadout()(network, rows((40, 38, 40), shared=5))
    assert not verdicts_of(network)["sdpa"].exact


def test_nothing_is_asked_where_nothing_is_gained() -> None:
    """One row is as long packed as it is alone."""
    network = made(LlamaForCausalLM)
    seen = passes(network)
    PackedCausalLMReadout()(network, rows((12,), shared=4))
    assert seen == [12]


def test_sizes_cover_what_is_smaller_in_both() -> None:
    assert Sizes(64, 32).covers(Sizes(64, 20))
    assert not Sizes(64, 32).covers(Sizes(20, 33))
    assert Sizes(50, 20).up_to_powers(24) == Sizes(64, 24)
    assert Sizes(20, 20).up_to_powers(1000) == Sizes(64, 32)
