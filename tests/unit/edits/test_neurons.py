"""Neurons that are given first weights again, and neurons whose outputs are projected."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from _modules import SomebodysModule, loader, quiet
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.testing import assert_close
from transformers import BertConfig, BertForSequenceClassification, T5Config, T5ForConditionalGeneration

from lightning_unlearn import ApplyEdit, LoRA, TinyCausalLM
from lightning_unlearn.edits import Edit, NewtonInfluence, ProjectNeurons, ResetNeurons, WithinBudget
from lightning_unlearn.readouts import CausalLMReadout, ClassificationReadout, EncoderDecoderReadout

SIZES = {"hidden_size": 16, "num_hidden_layers": 2}


def moved(net: nn.Module, before: nn.Module) -> dict[str, Tensor]:
    pairs = zip(net.named_parameters(), before.parameters(), strict=True)
    return {name: p != q for (name, p), q in pairs if not torch.equal(p, q)}


# ResetNeurons


def test_half_of_the_rows_are_drawn_again_and_the_others_stay_to_the_bit() -> None:
    layer = nn.Linear(7, 64)
    before = deepcopy(layer)
    ResetNeurons(fraction=0.5, std=0.02)(layer)
    rows = (layer.weight != before.weight).any(1)
    assert int(rows.sum()) == 32
    assert torch.equal((layer.weight != before.weight).all(1), rows)
    assert torch.equal(layer.bias == 0, rows)
    assert torch.equal(layer.bias[~rows], before.bias[~rows])
    assert layer.weight[rows].std().item() == pytest.approx(0.02, rel=0.15)


def test_the_draw_depends_on_the_seed_alone() -> None:
    nets = [nn.Linear(3, 20) for _ in range(3)]
    for net in nets:
        net.load_state_dict(nets[0].state_dict())
    torch.manual_seed(1)
    ResetNeurons(seed=5)(nets[0])
    torch.manual_seed(2)
    ResetNeurons(seed=5)(nets[1])
    ResetNeurons(seed=6)(nets[2])
    assert torch.equal(nets[0].weight, nets[1].weight)
    assert not torch.equal(nets[0].weight, nets[2].weight)


def test_of_a_language_model_it_takes_the_last_block_and_its_own_first_weights() -> None:
    net = TinyCausalLM(**SIZES)
    before = deepcopy(net)
    ResetNeurons(fraction=1.0)(net)
    changed = moved(net, before)
    assert {name.rpartition(".")[0] for name in changed} == {
        f"model.layers.1.{part}"
        for part in (
            *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
            *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
        )
    }
    weight: Any = net.get_parameter("model.layers.1.mlp.up_proj.weight")
    assert weight.std().item() == pytest.approx(net.config.initializer_range, rel=0.1)


def test_of_a_layer_that_is_stored_transposed_outputs_are_reset_and_not_inputs() -> None:
    from transformers.pytorch_utils import Conv1D

    net = nn.Sequential(Conv1D(10, 4))
    before = deepcopy(net)
    ResetNeurons(fraction=0.5)(net)
    assert int((net[0].weight != before[0].weight).all(0).sum()) == 5
    assert int((net[0].weight != before[0].weight).any(0).sum()) == 5


def test_a_head_that_is_tied_to_the_embeddings_is_refused_and_nothing_is_touched() -> None:
    net = TinyCausalLM(**SIZES)
    net.config.tie_word_embeddings = True
    net.tie_weights()
    assert net.lm_head.weight.data_ptr() == net.model.embed_tokens.weight.data_ptr()
    before = deepcopy(net.state_dict())
    with pytest.raises(ValueError, match="`lm_head` shares its weight with `model.embed_tokens`, which would be reset"):
        ResetNeurons(layers=["mlp", "lm_head"])(net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_head_of_its_own_is_reset_and_the_embeddings_are_not() -> None:
    net = TinyCausalLM(**SIZES)
    net.lm_head.weight = nn.Parameter(net.lm_head.weight.detach().clone())
    before = deepcopy(net)
    ResetNeurons(layers="lm_head")(net)
    assert list(moved(net, before)) == ["lm_head.weight"]


def test_factors_of_an_adapter_are_no_layers() -> None:
    net = LoRA(r=2).wrap(TinyCausalLM(**SIZES))
    before = deepcopy(net)
    ResetNeurons(layers="mlp")(net)
    assert moved(net, before)
    assert not any("lora_" in name for name in moved(net, before))


COMPUTED = {
    "weight norm": lambda layer: nn.utils.parametrizations.weight_norm(layer),
    "spectral norm": lambda layer: nn.utils.parametrizations.spectral_norm(layer),
    "old weight norm": lambda layer: nn.utils.weight_norm(layer),
    "pruned": lambda layer: prune.random_unstructured(layer, "weight", 0.5),
    "pruned bias": lambda layer: prune.random_unstructured(layer, "bias", 0.5),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("edit", [ResetNeurons(layers="1"), ProjectNeurons("1"), NewtonInfluence("1")])
@pytest.mark.parametrize("kind", COMPUTED)
def test_a_weight_that_is_computed_from_others_is_refused_by_name_and_others_are_not(kind: str, edit: Any) -> None:
    net = nn.Sequential(COMPUTED[kind](nn.Linear(2, 2)), COMPUTED[kind](nn.Linear(2, 2)), nn.Linear(2, 2))
    before = deepcopy(net.state_dict())
    data: Any = {name: [(torch.eye(2), torch.tensor([0, 1]))] for name in ("forget", "retain")}
    part = "bias" if "bias" in kind else "weight"
    with pytest.raises(ValueError, match=f"`{type(edit).__name__}` should .* Found that the {part} of `1` is computed"):
        edit(net, **data, readout=ClassificationReadout())
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    ResetNeurons(layers="2")(net)


def test_names_that_fit_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="Found none for .'head'.. There are `0`, `1`."):
        ResetNeurons(layers="head")(nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1)))


class Halfway(ResetNeurons):
    """Without the resetting of moments, to see what that is for."""

    resets_optimizer = False


HALF = [cls(0.5, "head") for cls in (ResetNeurons, Halfway)]
WITHIN = [WithinBudget(edit, kl=1e-3, neutral=loader(seed=1), limit=1.0) for edit in HALF]


@pytest.mark.parametrize("edit", [*HALF, *WITHIN], ids=["reset", "kept", "reset within", "kept within"])
def test_what_the_optimizer_remembers_of_reset_rows_is_gone(edit: Edit) -> None:
    """And of no others. A fit that is resumed brings moments along."""
    module = SomebodysModule()
    trainer = quiet(max_steps=3)
    trainer.fit(module, loader(seed=1))
    optimizer = trainer.optimizers[0]
    held = deepcopy({id(p): s for p, s in optimizer.state.items()})
    before = module.head.weight.detach().clone()
    edit(module, optimizers=[optimizer], readout=ClassificationReadout())
    rows = (module.head.weight != before).any(1)
    state, old = optimizer.state[module.head.weight], held[id(module.head.weight)]
    assert 0 < int(rows.sum()) < len(rows)
    for name in ("exp_avg", "exp_avg_sq"):
        assert bool((state[name][rows] == 0).all()) is not isinstance(getattr(edit, "edit", edit), Halfway)
        assert torch.equal(state[name][~rows], old[name][~rows])
    assert state["step"] == old["step"]
    other = optimizer.state[module.body[0].weight]
    assert torch.equal(other["exp_avg"], held[id(module.body[0].weight)]["exp_avg"])


def test_apply_edit_hands_the_optimizers_over() -> None:
    module, callback = SomebodysModule(), ApplyEdit(ResetNeurons(1.0, "head"), when="end")
    trainer = quiet(max_steps=3, callbacks=[callback])
    trainer.fit(module, loader(seed=1))
    state = trainer.optimizers[0].state
    assert not state[module.head.weight]["exp_avg"].any()
    assert state[module.body[0].weight]["exp_avg"].any()


# ProjectNeurons


def outputs(net: nn.Module, layer: str, batch: Any) -> Tensor:
    seen: list[Tensor] = []
    handle = net.get_submodule(layer).register_forward_hook(lambda m, a, out: seen.append(out.detach()))
    net(batch[0])
    handle.remove()
    return seen[0].double()


def batch(seed: int, n: int = 5) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 6, generator=generator), torch.randint(0, 3, (n,), generator=generator)


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 3)).eval()


@pytest.mark.parametrize("energy", [0.6, 1.0])
def test_outputs_along_the_directions_are_zero_for_every_input(net: nn.Module, energy: float) -> None:
    """Selected and projected by eigenvectors of the directions' covariance, in float64."""
    forget, retain = [batch(1), batch(2), batch(3)], [batch(4), batch(5, n=9)]
    here = [outputs(net, "0", b) for b in forget]
    there = torch.cat([outputs(net, "0", b) for b in retain])
    score = torch.stack([h.abs().mean(0) for h in here]).mean(0) - there.abs().mean(0)
    chosen = score.sort(descending=True).indices[:8]
    ways = torch.stack([(h.mean(0) - there.mean(0))[chosen] for h in here])
    ways = ways / ways.norm(dim=1, keepdim=True)
    values, vectors = torch.linalg.eigh(ways.T @ ways)
    share = values.flip(0).cumsum(0) / values.sum()
    rank = int((share < energy - 1e-9).sum()) + 1
    basis = vectors.flip(1)[:, :rank]
    assert rank < 3 or energy == 1

    before = deepcopy(net)
    ProjectNeurons("0", share=0.4, energy=energy)(net, forget=forget, retain=retain, readout=ClassificationReadout())
    assert (basis.T @ net[0].weight[chosen].double()).norm() < 1e-6
    assert (basis.T @ outputs(net, "0", batch(7))[:, chosen].T).norm() < 1e-5
    expected = before[0].weight[chosen].double() - basis @ (basis.T @ before[0].weight[chosen].double())
    assert_close(net[0].weight[chosen].double(), expected, rtol=0, atol=1e-6)
    others = [i for i in range(20) if i not in chosen]
    assert torch.equal(net[0].weight[others], before[0].weight[others])
    assert torch.equal(net[0].bias[others], before[0].bias[others])
    assert torch.equal(net[2].weight, before[2].weight)


def test_it_is_a_projection_twice_is_once(net: nn.Module) -> None:
    data = {"forget": [batch(1)], "retain": [batch(2)], "readout": ClassificationReadout()}
    ProjectNeurons("0", share=1.0)(net, **data)
    once = deepcopy(net)
    ProjectNeurons("0", share=1.0)(net, **data)
    assert_close(net[0].weight, once[0].weight, rtol=0, atol=1e-6)


def test_padding_does_not_count() -> None:
    torch.manual_seed(0)
    tokens = torch.randint(5, 600, (2, 6))
    labels = torch.tensor([[-100, 1, 2, 3, 4, 5], [-100, 1, 2, 3, 4, 5]])
    plain = {"input_ids": tokens, "labels": labels, "attention_mask": torch.ones(2, 6, dtype=torch.long)}
    padded = {
        "input_ids": nn.functional.pad(tokens, (0, 4), value=3),
        "labels": nn.functional.pad(labels, (0, 4), value=-100),
        "attention_mask": nn.functional.pad(plain["attention_mask"], (0, 4)),
    }
    retain = {name: value.flip(0) + (7 if name == "input_ids" else 0) for name, value in plain.items()}
    nets = [TinyCausalLM(**SIZES) for _ in range(2)]
    for one, seen in zip(nets, (plain, padded), strict=True):
        ProjectNeurons()(one, forget=[seen], retain=[retain], readout=CausalLMReadout())
    changed = moved(nets[0], TinyCausalLM(**SIZES))
    assert {name.split(".")[3] for name in changed} == {"mlp"}
    for (_, p), (_, q) in zip(nets[0].named_parameters(), nets[1].named_parameters(), strict=True):
        assert_close(p, q, rtol=1e-4, atol=1e-6)


def bert() -> Any:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BertForSequenceClassification(BertConfig(vocab_size=60, **sizes))


def t5() -> Any:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return T5ForConditionalGeneration(T5Config(vocab_size=60, decoder_start_token_id=0, **sizes))


@pytest.mark.parametrize(
    ("make", "readout", "labels", "layers"),
    [
        (bert, ClassificationReadout(), [0, 1], "intermediate"),
        (t5, EncoderDecoderReadout(), [[8, 1], [9, 1]], "encoder*wi"),
    ],
    ids=["classifier", "encoder and decoder"],
)
def test_padding_of_an_encoder_does_not_count(make: Any, readout: Any, labels: Any, layers: str) -> None:
    torch.manual_seed(0)
    tokens = torch.randint(5, 50, (2, 6))
    plain = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": torch.tensor(labels)}
    padded = {n: v if n == "labels" else nn.functional.pad(v, (0, 4)) for n, v in plain.items()}
    retain = {**plain, "input_ids": tokens.flip(0) + 7}
    nets = [make() for _ in range(2)]
    for one, seen in zip(nets, (plain, padded), strict=True):
        ProjectNeurons(layers)(one, forget=[seen], retain=[retain], readout=readout)
    assert moved(nets[0], make())
    for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert_close(p, q, rtol=1e-4, atol=1e-6)


def test_no_hook_is_left_also_if_a_batch_fails(net: nn.Module) -> None:
    data = {"retain": [batch(2)], "readout": ClassificationReadout()}
    with pytest.raises(ValueError, match="A batch should hold"):
        ProjectNeurons("0")(net, forget=["broken"], **data)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    ProjectNeurons("0")(net, forget=[batch(1)], **data)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_where_forget_data_do_not_stand_out_nothing_changes(net: nn.Module) -> None:
    before = deepcopy(net)
    same = batch(1)
    record = ProjectNeurons("0")(net, forget=[same], retain=[same], readout=ClassificationReadout())
    assert record.elements == 0
    assert not moved(net, before)
