"""Selectors of whole layers: the last ones, those that matter when left out, and those in which a fact is written."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

from lightning_unlearn.models import LoRA, TinyCausalLM
from lightning_unlearn.readouts import CausalLMReadout, ClassificationReadout
from lightning_unlearn.runtime import hash_of
from lightning_unlearn.selectors import AtLeast, CausalTrace, LastLayers, LayerAblation, TopLayers, TopNumber

READOUT = ClassificationReadout()


class Block(nn.Module):
    """Norms before or after the sum; ``write`` is added whatever comes in."""

    def __init__(self, norm: str) -> None:
        super().__init__()
        self.norm, self.mlp, self.order = nn.LayerNorm(6), nn.Linear(6, 6), norm

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(x)) if self.order == "pre" else self.norm(x + self.mlp(x))


def network(norm: str = "pre", blocks: int = 3) -> nn.Module:
    torch.manual_seed(0)
    stack = nn.ModuleList(Block(norm) for _ in range(blocks))

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.blocks, self.lm_head = nn.Linear(4, 6), stack, nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            for block in self.blocks:
                x = block(x)
            return self.lm_head(x)

    return Network().double()


def batches(seed: int, n: int = 2) -> list[Any]:
    g = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(5, 4, generator=g, dtype=torch.float64), torch.randint(0, 3, (5,), generator=g)) for _ in range(n)
    ]


def sentences(vocabulary: int = 32) -> list[Any]:
    ids = torch.randint(0, vocabulary, (3, 7), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}]


def by_block(found: dict[str, Tensor]) -> list[float]:
    """The one score of all tensors of each block."""
    levels: dict[str, set[float]] = {}
    for name, score in found.items():
        levels.setdefault(name.split("blocks.")[1].split(".")[0], set()).add(float(score))
    assert all(len(level) == 1 for level in levels.values())
    return [level.pop() for level in levels.values()]


# LastLayers


def test_the_last_blocks_are_chosen_with_all_their_tensors_and_nothing_else() -> None:
    found = LastLayers().scores(network())
    assert by_block(found) == [-2.0, -1.0, 0.0]
    for choice in (AtLeast(-1), TopLayers(2)):
        chosen = {name for name, m in choice(found).items() if m}
        assert chosen == {n for n, _ in network().named_parameters() if n.startswith(("blocks.1.", "blocks.2."))}


def test_a_head_of_its_own_is_a_layer_behind_the_last_block() -> None:
    found = LastLayers(with_head=True).scores(network())
    assert {name for name, score in found.items() if score == 0} == {"lm_head.weight", "lm_head.bias"}
    assert found["blocks.2.mlp.weight"] == -1


def test_a_head_that_is_tied_to_the_embeddings_is_refused_with_it_and_left_alone_without() -> None:
    tied = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_embd=8, n_head=2, n_layer=2, n_positions=16))
    assert all("wte" not in name and "lm_head" not in name for name in LastLayers().scores(tied))
    with pytest.raises(ValueError, match="Found one whose weights another layer uses, as of tied embeddings"):
        LastLayers(with_head=True).scores(tied)
    free = TinyCausalLM(hidden_size=16, num_hidden_layers=2)
    if free.lm_head.weight is not free.model.embed_tokens.weight:
        assert LastLayers(with_head=True).scores(free)["lm_head.weight"] == 0
    with pytest.raises(ValueError, match="Found none"):
        LastLayers(with_head=True).scores(
            nn.Sequential(nn.Flatten(), nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]))
        )


def test_where_nothing_repeats_a_shared_weight_counts_where_it_is_used_first() -> None:
    first, last = nn.Linear(3, 3, bias=False), nn.Linear(3, 3)
    last.weight = first.weight
    net = nn.Sequential(first, nn.LayerNorm(3), nn.Sequential(last), nn.Sequential(nn.LayerNorm(3)))
    found = LastLayers().scores(net)
    assert {name: float(score) for name, score in found.items()} == {
        "0.weight": -3.0,
        "1.weight": -2.0,
        "1.bias": -2.0,
        "2.0.bias": -1.0,
        "3.0.weight": 0.0,
        "3.0.bias": 0.0,
    }


def test_of_an_adapter_the_factors_in_the_last_blocks_are_chosen() -> None:
    adapted = LoRA(r=2).wrap(TinyCausalLM(hidden_size=16, num_hidden_layers=3))
    chosen = {name for name, m in TopLayers(1)(LastLayers().scores(adapted)).items() if m}
    assert chosen == {n for n, p in adapted.named_parameters() if p.requires_grad and ".layers.2." in n}
    assert chosen


# LayerAblation


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_block_scores_by_how_far_the_loss_moves_without_it(norm: str) -> None:
    net = network(norm)
    found = LayerAblation().scores(net, forget=batches(1), readout=READOUT)

    def loss(without: int | None) -> Tensor:  # written as a loop that leaves one out
        total = []
        for x, y in batches(1):
            states = net.embed(x)
            for block in (b for i, b in enumerate(net.blocks) if i != without):
                states = block(states)
            total.append(F.cross_entropy(net.lm_head(states), y))
        return torch.stack(total).mean()

    expected = [float((loss(i) - loss(None)).detach().abs()) for i in range(3)]
    assert by_block(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("norm", "is_identity"), [("pre", True), ("post", False)])
def test_setting_weights_to_zero_leaves_a_block_out_only_where_norms_come_first(norm: str, is_identity: bool) -> None:
    net, x = network(norm, blocks=1), batches(1)[0][0]
    around = net.lm_head(net.embed(x))
    with torch.no_grad():
        for p in net.blocks[0].parameters():
            p.zero_()
    assert torch.equal(net(x), around) is is_identity


def test_blocks_of_bert_whose_norms_come_last_are_left_out_and_not_broken() -> None:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=32, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
    bert = BertForSequenceClassification(config).double().eval()
    with torch.no_grad():  # as they are at first, they say the same whatever comes in
        for p in bert.parameters():
            p.mul_(10) if p.dim() > 1 else None
    (ids,) = (batch["input_ids"] for batch in sentences())

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = bert

        def forward(self, x: Tensor) -> Tensor:
            return self.bert(x).logits

    batch = (ids, torch.tensor([0, 1, 1]))
    found = LayerAblation().scores(Logits(), forget=[batch], readout=READOUT)
    whole = F.cross_entropy(bert(ids).logits, batch[1])
    layers = bert.bert.encoder.layer
    for i in range(2):
        bert.bert.encoder.layer = nn.ModuleList([layers[1 - i]])
        effect = (F.cross_entropy(bert(ids).logits, batch[1]) - whole).abs().detach()
        name = f"bert.bert.encoder.layer.{i}.output.dense.weight"
        assert_close(found[name].double(), effect, rtol=1e-4, atol=0)


def test_of_a_language_model_it_is_what_a_shorter_model_shows() -> None:
    net = TinyCausalLM(hidden_size=16, num_hidden_layers=3).eval()
    found = LayerAblation().scores(net, forget=sentences(), readout=CausalLMReadout())
    (batch,) = sentences()
    whole, layers = net(**batch, use_cache=False).loss, net.model.layers
    for i in range(3):
        net.model.layers = nn.ModuleList(layer for j, layer in enumerate(layers) if j != i)
        effect = (net(**batch, use_cache=False).loss - whole).abs().detach()
        assert_close(found[f"model.layers.{i}.mlp.up_proj.weight"], effect, rtol=1e-3, atol=1e-6)


def test_no_hook_stays_also_after_an_error() -> None:
    net = network()
    for selector in (LayerAblation(), CausalTrace()):
        with pytest.raises(IndexError):
            selector.scores(net, forget=[(batches(1)[0][0], torch.full((5,), 9))], readout=READOUT)
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_a_block_that_changes_the_shape_has_no_score_and_no_blocks_are_refused() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3))).double()
    found = LayerAblation().scores(net, forget=batches(1), readout=READOUT)
    assert found.keys() == {"1.1.weight", "1.1.bias"}
    plain = nn.Sequential(nn.Linear(4, 3), nn.Tanh()).double()
    for selector in (LayerAblation(), CausalTrace()):
        with pytest.raises(ValueError, match=r"should find blocks.*Found none in `Sequential`"):
            selector.scores(plain, forget=batches(1), readout=READOUT)


# CausalTrace


class Residual(nn.Module):
    def __init__(self, writes: bool) -> None:
        super().__init__()
        self.mlp = nn.Linear(6, 6, bias=False)
        with torch.no_grad():
            self.mlp.weight.zero_()
            if writes:
                self.mlp.weight[3:, :3] = 8 * torch.eye(3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(x)


class Wrapped(nn.Module):
    """Six residual blocks, of which block 3 alone reads the question, in the first half, and writes the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Residual(i == 3) for i in range(6))

    def forward(self, x: Tensor) -> Tensor:
        states = torch.cat([x, torch.zeros_like(x)], dim=1)
        for block in self.blocks:
            states = block(states)
        return states[:, 3:]


def facts() -> list[Any]:
    labels = torch.tensor([0, 1, 2, 0, 1])
    return [(F.one_hot(labels, 3).float(), labels)]


def test_the_windows_that_hold_the_block_in_which_a_fact_is_written_restore_it_and_no_others() -> None:
    def effects(window: int) -> list[float]:
        return by_block(CausalTrace(window=window).scores(Wrapped(), forget=facts() * 9, readout=READOUT))

    # Block 3 alone; with windows of two, those of blocks 2-3 and 3-4.
    assert effects(1) == pytest.approx([0, 0, 0, 1, 0, 0], abs=1e-3)
    assert effects(2) == pytest.approx([0, 0, 1, 1, 1, 0], abs=1e-3)
    assert effects(6) == pytest.approx([1] * 6, abs=1e-3)
    assert effects(99) == pytest.approx([1] * 6, abs=1e-3)


def test_a_part_of_each_block_can_be_put_back_and_is_all_that_is_scored() -> None:
    found = CausalTrace(window=1, part="mlp").scores(Wrapped(), forget=facts() * 9, readout=READOUT)
    assert by_block(found) == pytest.approx([0, 0, 0, 1, 0, 0], abs=1e-3)
    net = TinyCausalLM(hidden_size=16, num_hidden_layers=2)
    traced = CausalTrace(window=1, part="mlp").scores(net, forget=sentences(), readout=CausalLMReadout())
    assert traced.keys() == {n for n, _ in net.named_parameters() if ".mlp." in n}
    with pytest.raises(ValueError, match="Found 0 for `part = 'ffn'`; a block has `self_attn`, `mlp`"):
        CausalTrace(part="ffn").scores(net, forget=sentences(), readout=CausalLMReadout())


def test_it_is_the_median_over_examples_whose_mean_one_example_alone_decides() -> None:
    net, (batch,) = network(blocks=4), batches(6, n=1)
    x, y = batch[0].repeat(12, 1), batch[1].repeat(12)
    embedded = net.embed(x).detach()
    drawn = torch.randn(embedded.shape, generator=torch.Generator().manual_seed(hash_of(5, 0)))
    noisy = embedded + 2 * embedded.std(correction=0) * drawn

    def answer(states: Tensor, kept: Any, clean: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        added = []
        for i, block in enumerate(net.blocks):
            new = clean[i] if i in kept else block.mlp(block.norm(states))
            states = states + new
            added.append(new.detach())
        return net.lm_head(states).softmax(1)[range(len(y)), y].detach(), added

    whole, clean = answer(embedded, (), [])
    broken, _ = answer(noisy, (), [])
    windows = [(0, 1), (1, 2), (2, 3)]
    effects = [(answer(noisy, kept, clean)[0] - broken) / (whole - broken + 1e-6) for kept in windows]
    medians = [float(e.quantile(0.5)) for e in effects]
    expected = [medians[0], max(medians[:2]), max(medians[1:]), medians[2]]
    found = CausalTrace(window=2, noise=2.0, seed=5).scores(net, forget=[(x, y)], readout=READOUT)
    assert by_block(found) == pytest.approx(expected, rel=1e-4)
    assert max(abs(float(e.mean()) - m) for e, m in zip(effects, medians, strict=True)) > 0.1


def test_the_best_window_is_chosen_as_the_highest_layer_and_the_seed_is_of_the_noise() -> None:
    forget = batches(3, n=1)
    found = CausalTrace(window=2).scores(network(), forget=forget, readout=READOUT)
    chosen = {name.split(".")[1] for name, m in TopLayers(1)(found).items() if m}
    assert len(chosen) >= 2
    same, other = (CausalTrace(window=2, seed=s).scores(network(), forget=forget, readout=READOUT) for s in (0, 1))
    assert by_block(found) == by_block(same) != by_block(other)
    assert sum(bool(m) for m in TopNumber(1)(found).values()) == 1  # it counts tensors
