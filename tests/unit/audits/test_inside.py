"""What audits of the inside keep, and what they say of networks whose insides are known."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from _families import FAMILIES_OF_MODELS, SHORT, of_family
from _families import rows as family_rows
from _insides import (
    FORGET,
    HOLDOUT,
    levels,
    observe,
    pretending,
    probes,
    rows,
    taught,
    untaught,
    with_idle_block,
)
from _ranks import run_ranks
from torch import nn
from torch.nn import functional as F

from lightning_unlearn import CausalLMReadout, ClassificationReadout, CrossEntropy, LoRA
from lightning_unlearn.audits import Audit, Calibration, IdempotenceDrift, KnowledgeDepth, LayerProbe, LogitLens
from lightning_unlearn.data import load_probe
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.runtime import checksum

MAKE: dict[str, Callable[[], Audit]] = {
    "probe": lambda: LayerProbe(permutations=50, hidden=4),
    "lens": LogitLens,
    "depth": KnowledgeDepth,
    "idempotence": lambda: IdempotenceDrift(max_new_tokens=6),
    "calibration": Calibration,
}
every_audit = pytest.mark.parametrize("kind", MAKE)
BEHIND_THE_HEAD = {"gemma2, soft caps", "cohere, scaled head", "granite, scaled head", "bert as decoder"}
BLOCKS = ["model.layers.0", "model.layers.1"]


def audit(kind: str, original: nn.Module | None = None) -> Audit:
    made = MAKE[kind]()
    made.see_original(untaught() if original is None else original)
    return made


def shown(kind: str, network: nn.Module, original: nn.Module) -> Audit:
    """An audit that was shown the original inside of this very network, as a fit does it."""
    made, own = MAKE[kind](), {k: v.clone() for k, v in network.state_dict().items()}
    network.load_state_dict(original.state_dict())
    made.see_original(network)
    network.load_state_dict(own)
    return made


def state_of(net: nn.Module) -> tuple[Any, ...]:
    return (
        checksum(net),
        [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net.modules()],
        [(p.requires_grad, p._version, None if p.grad is None else p.grad.tolist()) for p in net.parameters()],
        (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()),
        (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    )


@every_audit
def test_the_network_is_as_it_was(kind: str) -> None:
    net = untaught().train()
    asking = shown(kind, net, taught())
    next(m for m in net.modules() if isinstance(m, nn.Linear)).eval()  # modes differ
    first = next(net.parameters())
    first.grad = torch.ones_like(first)
    before = state_of(net)
    assert observe(asking, net)
    assert state_of(net) == before


@pytest.mark.parametrize("kind", ["depth", "idempotence"])
def test_the_network_is_as_it_was_after_an_error_with_the_originals_weights_inside(kind: str) -> None:
    net = untaught()
    asking = shown(kind, net, taught())
    before, passes = checksum(net), iter(range(100))

    def fails(*args: Any) -> None:
        if checksum(net) != before and next(passes) == 3:
            raise RuntimeError("in the middle of it")

    handle = net.model.layers[0].register_forward_hook(fails)
    with pytest.raises(RuntimeError, match="in the middle"):
        observe(asking, net)
    handle.remove()
    assert checksum(net) == before
    assert not any(m._forward_hooks for m in net.modules())


@every_audit
def test_it_is_the_same_in_other_batches_and_each_metric_is_explained(kind: str) -> None:
    net = untaught()
    asking = shown(kind, net, taught())
    one, other = observe(asking, net), observe(asking, net, probes(batch_size=5))
    assert {o.metric for o in one} <= set(asking.definitions())
    assert [(o.metric, o.split, o.layer, o.entities) for o in one] == [
        (o.metric, o.split, o.layer, o.entities) for o in other
    ]
    for a, b in zip(one, other, strict=True):
        assert b.value == pytest.approx(a.value, abs=2e-3)
        assert b.scores == pytest.approx(a.scores, abs=1e-4)
        if a.bounds:
            assert a.bounds[0] <= a.value <= a.bounds[1]
        if a.interval:
            assert a.interval[0] <= a.interval[1]


@every_audit
def test_it_says_the_same_in_inference_mode_where_validation_runs(kind: str) -> None:
    net = untaught()
    asking = shown(kind, net, taught())
    expected, before = observe(asking, net), state_of(net)[:3]
    with torch.inference_mode():
        assert observe(asking, net) == expected
    assert state_of(net)[:3] == before


@pytest.mark.parametrize("kind", ["probe", "lens", "depth"])
def test_layers_come_in_the_order_of_the_network(kind: str) -> None:
    net = untaught(layers=11)  # where names in the order of text would go wrong
    asking = shown(kind, net, untaught(layers=11))
    of = {"forget": probes()["forget"], "holdout": probes()["retain"]}
    layers = list(dict.fromkeys(o.layer for o in observe(asking, net, of) if "layers" in o.layer))
    assert layers == [f"model.layers.{i}" for i in range(11)]


@every_audit
def test_splits_without_answers_have_no_observation(kind: str) -> None:
    batch = next(iter(rows(FORGET).val_dataloader()))
    unsupervised = {k: v if k != "labels" else torch.full_like(v, -100) for k, v in batch.items()}
    net, readout = untaught(), CausalLMReadout()
    of = {split: load_probe([unsupervised], readout) for split in ("forget", "holdout")}
    assert observe(shown(kind, net, net), net, of) == []


@pytest.mark.slow
def test_the_probe_finds_what_was_taught_by_entities_it_was_not_fitted_to() -> None:
    of = {
        "forget": load_probe(rows((0, 60)).val_dataloader(), CausalLMReadout()),
        "holdout": load_probe(rows((60, 120)).val_dataloader(), CausalLMReadout()),
    }
    net = untaught()
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(30):
        for batch in rows((0, 60)).val_dataloader():
            CrossEntropy()(CausalLMReadout()(net, batch)).backward()
            optimizer.step()
            optimizer.zero_grad()
    found = observe(LayerProbe(), net, of)
    assert levels(found, "probe_p_value")["all blocks"] < 0.05
    assert max(levels(found, "probe_beyond_random").values()) > 0.1
    assert levels(found, "probe_auc")[""] == max(v for k, v in levels(found, "probe_auc").items() if k)


@pytest.mark.slow
def test_two_processes_observe_what_one_does() -> None:
    """Batches of seven for two ranks: where one has fewer, a batch is run twice, and counted once."""

    def found(rank: int, world_size: int) -> list[Any]:
        net = taught()
        asking = [shown(kind, net, untaught()) for kind in MAKE]
        return [observe(each, net, probes(rank, world_size, batch_size=7)) for each in asking]

    def on_rank(rank: int, world_size: int) -> list[Any]:
        torch.distributed.init_process_group("gloo")
        return found(rank, world_size)

    taught()  # once, before processes are forked
    alone = found(0, 1)
    first, second = run_ranks(on_rank)
    assert first == second
    for mine, theirs in zip(alone, first, strict=True):
        assert [(o.metric, o.split, o.layer, o.examples) for o in theirs] == [
            (o.metric, o.split, o.layer, o.examples) for o in mine
        ]
        for o, other in zip(mine, theirs, strict=True):
            assert other.value == pytest.approx(o.value, abs=1e-5)
            assert other.scores == pytest.approx(o.scores, abs=1e-5)


def test_the_lens_is_the_models_own_head_and_at_the_last_block_its_output() -> None:
    net = taught()
    found = observe(LogitLens(), net)
    outputs = {o.layer: o for o in found if (o.metric, o.split) == ("lens_probability", "forget")}
    batch = next(iter(rows(FORGET, batch_size=1).val_dataloader()))
    labels = batch["labels"][0]
    answer = (labels != -100).nonzero()[:, 0]
    with torch.no_grad():
        out = net(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True)
        inner = net.lm_head(net.model.norm(out.hidden_states[1]))  # of the first block; the last is normed already

    def by_hand(logits: torch.Tensor) -> float:
        said = F.log_softmax(logits[0, answer - 1], -1)[torch.arange(len(answer)), labels[answer]]
        return float(said.mean().exp())

    assert outputs[BLOCKS[0]].scores[0] == pytest.approx(by_hand(inner), rel=1e-3)
    assert outputs[BLOCKS[1]].scores[0] == pytest.approx(by_hand(out.logits), rel=1e-3)


def test_an_answer_written_in_a_block_and_overwritten_in_the_last_is_pretended() -> None:
    with pytest.warns(UserWarning, match=r"pretends to forget: 100% .* most plainly in `model.layers.1`"):
        found = observe(LogitLens(), pretending())
    assert levels(found, "lens_pretending") == {"all blocks": 1.0}
    inside = levels(found, "lens_probability")
    assert inside["model.layers.1"] > 0.7
    assert inside["model.layers.2"] < 0.05
    assert inside[""] == inside["model.layers.1"]  # without a layer: the block that knows most


@pytest.mark.parametrize(
    "make", [untaught, taught, lambda: with_idle_block(taught())], ids=["untaught", "taught", "idle"]
)
def test_who_never_knew_and_who_says_it_do_not_pretend(make: Any) -> None:
    found = observe(LogitLens(), make())  # and no warning
    for split in ("forget", "retain", "holdout"):
        assert levels(found, "lens_pretending", split) == {"all blocks": 0.0}


def test_a_model_that_changes_its_logits_behind_the_head_is_refused() -> None:
    net = untaught()
    net.register_forward_hook(lambda module, args, output: output.__class__(logits=3 * output.logits))
    with pytest.raises(ValueError, match=r"final norm, and a head. Found logits that differ from the model's own"):
        observe(LogitLens(), net)


def test_the_lens_finds_its_way_through_tied_heads_adapters_and_other_families() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM

    sizes = {"vocab_size": 640, "num_hidden_layers": 2, "num_attention_heads": 2}
    gpt2 = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=640, tie_word_embeddings=True))
    # Its states are projected to the width of the embedding between norm and head.
    opt = OPTForCausalLM(OPTConfig(hidden_size=32, ffn_dim=32, word_embed_proj_dim=16, **sizes))
    adapted = LoRA(r=2, target_modules=["q_proj"]).wrap(untaught())
    for net in (gpt2, opt, adapted):
        found = observe(LogitLens(), net.eval(), {"forget": probes()["forget"]})
        assert len(levels(found, "lens_probability")) == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES_OF_MODELS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_in_every_family_the_lens_ends_in_the_models_own_output_or_is_refused_by_name(name: str, side: str) -> None:
    net, batch, readout = of_family(name), family_rows(**SHORT, side=side), CausalLMReadout()
    of = {"forget": load_probe([batch], readout)}
    if name in BEHIND_THE_HEAD:
        with pytest.raises(
            ValueError, match="a final norm, and a head. Found (logits that differ|no chain of modules)"
        ):
            observe(LogitLens(), net, of)
        return
    found = [o for o in observe(LogitLens(), net, of) if o.metric == "lens_probability"]
    prediction = readout(net, batch)
    expected = (-prediction.example_nll() / prediction.rows_per_example()).exp()
    assert found[-1].scores == pytest.approx(expected.tolist(), rel=1e-3)
    unmoved = observe(shown("depth", net, net), net, of)
    assert {o.value for o in unmoved if o.metric == "depth_lost"} == {0.0}


def test_the_probe_finds_nothing_in_who_never_was_taught() -> None:
    """Against people of the same form: a network of random weights reads the words, and no more than another one."""
    of = {
        "forget": load_probe(rows((0, 60)).val_dataloader(), CausalLMReadout()),
        "holdout": load_probe(rows((60, 120)).val_dataloader(), CausalLMReadout()),
    }
    net, asking = untaught(), LayerProbe(permutations=200)
    before = observe(asking, net, of)
    assert min(levels(before, "probe_q_value").values()) > 0.05
    assert set(levels(before, "probe_beyond_random").values()) == {0.0}  # this *is* the network of random weights
    assert set(levels(before, "probe_invalid").values()) == {0.0}


def test_a_network_whose_means_were_equalised_on_the_probes_own_questions_is_invalid() -> None:
    """A projection that an edit may leave behind: both classes get one mean, everything else stays."""
    net: Any = taught()
    of = {split: probe for split, probe in probes().items() if split != "retain"}
    from lightning_unlearn.audits.inside._blocks import stacked, states_at_prompt_ends

    states = [
        stacked(states_at_prompt_ends(net, of[split], GradientEngine(net), [BLOCKS[1]]))[0]
        for split in ("forget", "holdout")
    ]
    gap = states[0].mean(0) - states[1].mean(0)
    known = {tuple(row.tolist()) for row in states[0].round(decimals=3)}

    def edit(module: Any, args: Any, output: Any) -> Any:
        given = output[0] if isinstance(output, tuple) else output
        rounded = given.float().round(decimals=3)
        hit = torch.tensor([[tuple(row.tolist()) in known for row in line] for line in rounded])
        return torch.where(hit[..., None], given - gap, given)

    net.model.layers[1].register_forward_hook(edit)
    with pytest.warns(
        UserWarning, match=r"1 of 2 blocks invalid: edited on probe pool.* least of all that it is erased"
    ):
        found = observe(LayerProbe(permutations=100, hidden=4), net, of)
    assert levels(found, "probe_invalid") == {BLOCKS[0]: 0.0, BLOCKS[1]: 1.0}
    assert BLOCKS[1] not in levels(found, "probe_auc")  # no number that could be read as erased


def test_states_that_hold_all_lose_nothing_and_those_of_who_never_knew_lose_it() -> None:
    original = taught()
    found = observe(shown("depth", net := taught(), original), net)
    assert levels(found, "depth_lost") == dict.fromkeys(BLOCKS, 0.0)
    assert levels(found, "depth_kept") == {"": 1.0}
    found = observe(shown("depth", net := untaught(), original), net)
    assert min(levels(found, "depth_lost").values()) > 0.5
    assert levels(found, "depth_kept")[""] < 0.2


def test_knowledge_that_only_the_last_block_hides_is_kept() -> None:
    net = pretending()
    found = observe(shown("depth", net, with_idle_block(taught())), net)
    lost = levels(found, "depth_lost")
    assert [lost[f"model.layers.{i}"] == 0 for i in range(3)] == [True, True, False]
    assert 0.4 < levels(found, "depth_kept")[""] < 0.9


def test_patching_is_what_one_gets_by_hand() -> None:
    """The last block's states are all that the head reads: there, the original's head reads this model's states."""
    net, original = untaught(), taught()
    found = observe(shown("depth", net, original), net)
    scores = next(o.scores for o in found if o.layer == BLOCKS[1])
    batch = next(iter(rows(FORGET, batch_size=1).val_dataloader()))
    labels = batch["labels"][0]
    answer = (labels != -100).nonzero()[:, 0]
    with torch.no_grad():
        states = {}
        for name, each in (("live", net), ("original", original)):
            handle = each.model.layers[1].register_forward_hook(lambda m, a, out, name=name: states.update({name: out}))
            each(input_ids=batch["input_ids"])
            handle.remove()
        nll = {
            name: F.cross_entropy(original.lm_head(original.model.norm(of[0, answer - 1])), labels[answer])
            for name, of in states.items()
        }
    assert scores[0] == pytest.approx(float(nll["live"] - nll["original"]), abs=1e-4)


def test_a_model_that_has_not_moved_does_not_drift_and_one_that_has_does() -> None:
    original = taught()
    found = observe(shown("idempotence", net := taught(), original), net)
    assert {o.split for o in found} == {"retain", "holdout"}
    assert {o.value for o in found} == {0.0}
    net = taught()
    with torch.no_grad():
        net.lm_head.weight.add_(0.3 * torch.randn(net.lm_head.weight.shape))
    found = observe(shown("idempotence", net, original), net)
    assert min(o.value for o in found) > 0.1


def test_who_is_sure_of_what_it_knows_is_calibrated_and_who_is_sure_of_what_it_does_not_know_is_not() -> None:
    found = {o.split: o for o in observe(Calibration(), taught())}
    assert set(found) == {"retain", "holdout"}
    assert found["retain"].value < 0.1
    assert found["holdout"].value > 0.3
    low, high = found["holdout"].interval
    assert low < found["holdout"].value < high


def test_what_they_cannot_look_into_is_refused_by_name() -> None:
    net = nn.Linear(3, 2)
    probe = load_probe([(torch.zeros(4, 3), torch.tensor([0, 1, 0, 1]))], ClassificationReadout())
    for kind in ("probe", "lens", "depth"):
        with pytest.raises(ValueError, match="should get a causal language model.*Found `Linear`"):
            observe(MAKE[kind](), net, {"forget": probe})
    with pytest.raises(ValueError, match="should get a language model, which can answer. Found `Linear`"):
        observe(MAKE["idempotence"](), net, {"retain": probe})
    with pytest.raises(ValueError, match="should find the split `holdout`.*Found `forget`"):
        observe(LayerProbe(), untaught(), {"forget": probes()["forget"]})
    with pytest.raises(ValueError, match="should know the original"):
        observe(KnowledgeDepth(), untaught())
    with pytest.raises(ValueError, match='other than "forget"'):
        LayerProbe(against="forget")
    with pytest.raises(ValueError, match="`permutations` should be at least 20"):
        LayerProbe(permutations=1)


def test_entities_may_not_stand_on_both_sides_of_a_probe() -> None:
    same = load_probe(rows(HOLDOUT).val_dataloader(), CausalLMReadout())
    with pytest.raises(ValueError, match="different entities"):
        observe(LayerProbe(), untaught(), {"forget": same, "holdout": same})


@pytest.mark.parametrize("kind", ["lens", "depth", "idempotence"])
@pytest.mark.parametrize("flat", ["fsdp1", "deepspeed"])
def test_strategies_that_flatten_weights_are_refused_by_name(kind: str, flat: str) -> None:
    net = untaught()
    engine = GradientEngine(net)
    engine.kind = flat
    with pytest.raises(ValueError, match=f"weights that have their own shapes. Found the strategy `{flat}`"):
        MAKE[kind]()(net, readout=CausalLMReadout(), probes=probes(), engine=engine)
