"""Every reference says what the network said before it was trained, and leaves the network as it found it."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from _few_bits import in_bits
from _language_models import adapted, batch, family, train_adapter
from _ranks import run_ranks
from peft import PromptTuningConfig, get_peft_model
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.testing import assert_close

from lightning_unlearn import (
    NPO,
    AdapterDisabled,
    CachedLogLikelihood,
    CausalLMReadout,
    ClassificationReadout,
    CrossEntropy,
    FrozenCopy,
    KLToReference,
    LoRA,
    Prediction,
    Reference,
)
from lightning_unlearn.edits import Corrupt, ResetNeurons
from lightning_unlearn.readouts import Readout
from lightning_unlearn.references import choose_reference, why_adapter_is_not_enough
from lightning_unlearn.runtime import checksum

READOUT = CausalLMReadout()
DORA = LoRA(r=2, use_dora=True)


class Normed(nn.Sequential):
    """Dropout, running statistics and tied weights."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 4))
        self[3].weight = self[0].weight


def images(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(6, 4, generator=generator) + 2, torch.tensor([0, 1, -100, 3, 2, 1])


def train(network: nn.Module) -> None:
    """Move every weight and every running statistic."""
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.5)
    for seed in range(3):
        x, y = images(seed)
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()


def original(network: nn.Module, readout: Readout, data: Any) -> Prediction:
    mode = network.training
    with torch.no_grad():
        prediction = readout(network.eval(), data)
    network.train(mode)
    return prediction


CASES: dict[str, tuple[Callable[[], Reference], Callable[[], nn.Module], Any, Readout, Callable[[nn.Module], None]]] = {
    "adapter": (AdapterDisabled, lambda: adapted(family("llama"), lora_dropout=0.5), batch(), READOUT, train_adapter),
    "adapter_and_embedding": (
        AdapterDisabled,
        lambda: adapted(family("llama"), ["q_proj", "embed_tokens"], modules_to_save=["lm_head"]),
        batch(),
        READOUT,
        train_adapter,
    ),
    "dora": (AdapterDisabled, lambda: adapted(family("llama"), use_dora=True), batch(), READOUT, train_adapter),
    "adapter_over_nf4": (AdapterDisabled, lambda: in_bits("nf4"), batch(), READOUT, train_adapter),
    "adapter_over_int8": (AdapterDisabled, lambda: in_bits("int8"), batch(), READOUT, train_adapter),
    "copy_over_nf4": (FrozenCopy, lambda: in_bits("nf4", lora=DORA), batch(), READOUT, train_adapter),
    "copy_over_int8": (FrozenCopy, lambda: in_bits("int8"), batch(), READOUT, train_adapter),
    "cache_over_nf4": (CachedLogLikelihood, lambda: in_bits("nf4", lora=DORA), batch(), READOUT, train_adapter),
    "copy": (FrozenCopy, Normed, images(9), ClassificationReadout(), train),
    "copy_on_cpu": (lambda: FrozenCopy(on_cpu=True), Normed, images(9), ClassificationReadout(), train),
    "copy_of_language_model": (FrozenCopy, lambda: family("gpt2"), batch(), READOUT, train_adapter),
    "cache": (CachedLogLikelihood, Normed, images(9), ClassificationReadout(), train),
    "cache_of_language_model": (CachedLogLikelihood, lambda: family("llama"), batch(), READOUT, train_adapter),
}


@pytest.mark.parametrize("case", CASES)
def test_says_what_the_original_said(case: str) -> None:
    make, build, data, readout, move = CASES[case]
    reference, network = make(), build()
    expected = original(network, readout, data)
    reference.attach(network)
    if reference.needs_sweep:
        reference.sweep(readout, [data])
    move(network)
    assert (original(network, readout, data).token_nll() - expected.token_nll()).abs().max() > 0.05  # it did move
    prediction = reference(readout, data)
    assert torch.equal(prediction.token_nll(), expected.token_nll())
    assert torch.equal(prediction.example, expected.example)
    assert prediction.batch_size == expected.batch_size
    assert not prediction.token_nll().requires_grad
    if reference.gives_logits:
        assert torch.equal(prediction.logits, expected.logits)


@pytest.mark.parametrize("case", [case for case in CASES if "cache" not in case])  # whose values a sweep finds
def test_inside_one_long_autocast_original_and_network_each_keep_to_their_own_weights(case: str) -> None:
    make, build, data, readout, move = CASES[case]
    reference, network = make(), build().eval()
    mixed = partial(torch.autocast, "cpu", torch.bfloat16)
    with mixed():
        expected = original(network, readout, data)
    reference.attach(network)
    move(network)
    with mixed():
        now = original(network, readout, data)
    with mixed():
        seen = [each for _ in range(2) for each in (reference(readout, data), original(network, readout, data))]
    for each, wanted in zip(seen, [expected, now, expected, now], strict=True):
        assert torch.equal(each.token_nll(), wanted.token_nll())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("fails", [False, True])
def test_leaves_the_network_as_found(case: str, fails: bool) -> None:
    class Failing(type(CASES[case][3])):
        def __call__(self, network: nn.Module, data: Any) -> Prediction:
            super().__call__(network, data)
            raise RuntimeError("in the middle")

    make, build, data, readout, move = CASES[case]
    reference, network = make(), build()
    reference.attach(network)
    move(network)
    network[2].eval() if isinstance(network, Normed) else None
    some = next(p for p in network.parameters() if p.requires_grad)
    some.requires_grad_(False)  # as somebody who freezes a layer of an adapter
    grads = [p.grad for p in network.parameters()]

    def state() -> Any:
        flags = [p.requires_grad for p in network.parameters()], [m.training for m in network.modules()]
        rng = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()
        return checksum(network), flags, rng, torch.is_grad_enabled()

    before = state()
    if fails:
        with pytest.raises(RuntimeError, match="in the middle"):
            reference.sweep(Failing(), [data]) if reference.needs_sweep else reference(Failing(), data)
    else:
        reference.sweep(readout, [data])
        reference(readout, data)
    assert state() == before
    assert all(p.grad is grad for p, grad in zip(network.parameters(), grads, strict=True))


def test_adapter_remembers_nothing() -> None:
    reference, network = AdapterDisabled(), adapted(family("llama"))
    reference.attach(network)
    assert vars(reference) == {"network": network}
    assert reference.state_dict() == {}


def test_copy_holds_what_training_moves_and_nothing_else() -> None:
    network, reference = family("llama"), FrozenCopy()
    for name, parameter in network.named_parameters():
        parameter.requires_grad_("layers.0" in name)
    reference.attach(network)
    trained = {id(p) for p in network.parameters() if p.requires_grad}
    held = [copy.tensor() for copy in reference._originals]
    assert {id(t) for t in held if isinstance(t, nn.Parameter)} == trained
    tied = family("gpt2")
    reference.attach(tied)
    assert sum(isinstance(o.tensor(), nn.Parameter) for o in reference._originals) == len(list(tied.parameters()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_copy_survives_a_change_of_precision(dtype: torch.dtype) -> None:
    """A trainer moves and converts the module after `setup`; buffers are other tensors then."""
    network, reference = Normed(), FrozenCopy()
    reference.attach(network)
    network.to(dtype)
    x, y = images(9)
    data = x.to(dtype), y
    expected = original(network, ClassificationReadout(), data)
    with torch.no_grad():
        for tensor in [*network.parameters(), *(b for b in network.buffers() if b.is_floating_point())]:
            tensor.add_(1)
    assert torch.equal(reference(ClassificationReadout(), data).logits, expected.logits)


def test_copy_leaves_compiled_networks_valid() -> None:
    network, reference, data = Normed().eval(), FrozenCopy(), images(9)
    compiled = torch.compile(network, backend="eager")
    reference.attach(compiled)
    expected = original(compiled, ClassificationReadout(), data).logits
    train_adapter(network)
    assert torch.equal(reference(ClassificationReadout(), data).logits, expected)
    assert (compiled(data[0])[[0, 1, 3, 4, 5]] - expected).abs().max() > 0.05


def test_copy_may_be_asked_between_forward_and_backward() -> None:
    network, reference, data = Normed().eval(), FrozenCopy(), images(9)
    reference.attach(network)
    train_adapter(network)
    params = list(network.parameters())

    def gradient(ask: bool) -> Any:
        prediction = ClassificationReadout()(network, data)
        reference(ClassificationReadout(), data) if ask else None
        return torch.autograd.grad(CrossEntropy()(prediction), params)

    for asked, alone in zip(gradient(True), gradient(False), strict=True):
        assert torch.equal(asked, alone)


@pytest.mark.parametrize(
    ("build", "found"),
    [
        (lambda: nn.Linear(1, 1), "`Linear`, which has no adapter"),
        (
            lambda: family("llama", lora=True),
            r"an adapter that has been trained already \(`.*lora_B.*` is not where it starts",
        ),
        (
            lambda: _thawed(adapted(family("llama")), "input_layernorm"),
            "2 trained parameters outside the adapter, `.*layernorm",
        ),
        (lambda: adapted(family("gpt2"), ["c_attn"], bias="all"), "trained parameters outside the adapter, `.*bias"),
        (lambda: _moved(adapted(family("llama"), ["embed_tokens"]), "lora_embedding_A"), "trained already"),
        (lambda: _moved(adapted(family("llama"), modules_to_save=["lm_head"]), "modules_to_save"), "trained already"),
        (lambda: adapted(family("llama"), init_lora_weights=False), "trained already"),
        (
            lambda: get_peft_model(family("llama"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)),
            "1 trained parameters outside the adapter, `prompt_encoder",
        ),
    ],
)
def test_adapter_is_refused_where_switching_it_off_is_not_the_original(build: Any, found: str) -> None:
    network = build()
    with pytest.raises(ValueError, match=found):
        AdapterDisabled().attach(network)
    assert isinstance(choose_reference(NPO(), network), CachedLogLikelihood)
    assert isinstance(choose_reference(KLToReference(), network), FrozenCopy)


def _thawed(network: nn.Module, part: str) -> nn.Module:
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(parameter.requires_grad or part in name)
    return network


def _moved(network: nn.Module, part: str) -> nn.Module:
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.add_(0.1 if part in name else 0)
    return network


def test_sharded_adapters_are_seen_whole() -> None:
    """Rank 1 holds none of the row that was trained."""

    def on_rank(rank: int, world_size: int) -> Any:
        dist.init_process_group("gloo")
        network, data = adapted(family("llama")), batch()
        expected = original(network.get_base_model(), READOUT, data).token_nll()
        for layer in network.get_base_model().model.layers:
            fully_shard(layer)
        fully_shard(network)
        fresh, reference = why_adapter_is_not_enough(network), AdapterDisabled()
        reference.attach(network)
        factors = [p for name, p in network.named_parameters() if "lora_B" in name]
        with torch.no_grad():
            for factor in factors if rank == 0 else ():
                factor.to_local()[0] = 1.0
        said = reference(READOUT, data).token_nll()
        return fresh, why_adapter_is_not_enough(network), (said - expected).abs().max().item()

    for fresh, trained, error in run_ranks(on_rank):
        assert fresh is None
        assert "trained already" in trained
        assert error < 1e-6


def test_the_cheapest_that_serves_is_chosen() -> None:
    plain, adapter = family("llama"), adapted(family("llama"))
    assert choose_reference(CrossEntropy(), plain) is None
    assert choose_reference(CrossEntropy(), adapter) is None
    assert isinstance(choose_reference(NPO(), adapter), AdapterDisabled)
    assert isinstance(choose_reference(KLToReference(), adapter), AdapterDisabled)
    assert isinstance(choose_reference(NPO(), plain), CachedLogLikelihood)
    assert isinstance(choose_reference(KLToReference(), plain), FrozenCopy)


def test_copy_of_nothing_trainable_is_refused() -> None:
    for network in (nn.BatchNorm1d(2).requires_grad_(False), nn.Identity()):
        with pytest.raises(ValueError, match=r"a network with trainable parameters\. Found none"):
            FrozenCopy().attach(network)


@pytest.fixture
def cache() -> CachedLogLikelihood:
    reference = CachedLogLikelihood()
    reference.attach(family("llama"))
    reference.sweep(READOUT, [batch(rows=(0, 1)), batch(rows=(2,))])
    return reference


def test_padding_and_order_do_not_matter_to_the_cache(cache: CachedLogLikelihood) -> None:
    for data in (batch(rows=(1, 2, 0, 1), width=14), batch("left", rows=(2, 1), width=11)):
        expected = original(cache.network, READOUT, data)
        prediction = cache(READOUT, data)
        assert torch.equal(prediction.example, expected.example)
        assert prediction.batch_size == expected.batch_size
        assert_close(prediction.token_nll(), expected.token_nll(), rtol=0, atol=1e-6)
    assert len(cache) == 3


def test_interleaved_rows_are_sorted_into_their_examples() -> None:
    class Interleaved(CausalLMReadout):
        def __call__(self, network: nn.Module, data: Any) -> Prediction:
            prediction = super().__call__(network, data)
            order = torch.tensor([0, 6, 1, 2, 7, 3, 4, 5])
            return Prediction(
                prediction.logits[order], prediction.labels[order], prediction.example[order], prediction.batch_size
            )

    reference = CachedLogLikelihood()
    reference.attach(family("llama"))
    reference.sweep(Interleaved(), [batch()])
    assert torch.equal(
        reference(READOUT, batch()).token_nll(), original(reference.network, READOUT, batch()).token_nll()
    )


def test_cache_goes_through_a_safe_checkpoint(cache: CachedLogLikelihood) -> None:
    file = io.BytesIO()
    torch.save(cache.state_dict(), file)
    file.seek(0)
    restored = CachedLogLikelihood()
    restored.attach(family("llama"))
    restored.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(restored(READOUT, batch()).token_nll(), cache(READOUT, batch()).token_nll())
    assert cache.state_dict()["nll"].numel() == 8  # four bytes a supervised token
    empty = CachedLogLikelihood()
    empty.load_state_dict(CachedLogLikelihood().state_dict())
    assert len(empty) == 0


def test_cache_takes_over_what_another_process_knows(cache: CachedLogLikelihood) -> None:
    other = CachedLogLikelihood()
    other.attach(cache.network)
    other.add(cache.known)
    assert torch.equal(other(READOUT, batch()).token_nll(), cache(READOUT, batch()).token_nll())


def test_unknown_examples_get_one_clear_error(cache: CachedLogLikelihood) -> None:
    data = batch()
    data["input_ids"][:2, 0] += 1
    with pytest.raises(KeyError, match=r"Found 2 of 3 in this batch that were not: .* Use `FrozenCopy\(\)`"):
        cache(READOUT, data)


def test_shards_that_were_cut_in_another_way_are_taken_unless_some_parameters_joined_late() -> None:
    """Their hashes cannot be compared."""
    network, reference = Normed(), FrozenCopy()
    reference.attach(network)
    (rank,) = reference.state_dict()["ranks"]
    assert sorted(rank["hashes"]) == sorted(name for name, _ in network.named_parameters())
    other = {"hashes": dict.fromkeys(rank["hashes"], 0), "joined": {}}
    reference.load_state_dict({"ranks": [other, other], "sharded": True})
    other["joined"] = {next(iter(rank["hashes"])): torch.ones(1)}
    with pytest.raises(ValueError, match="Found others, or none, in 1 parameters"):
        reference.load_state_dict({"ranks": [other, other], "sharded": True})


def test_what_is_unfrozen_later_is_copied_then_and_saved() -> None:
    network, reference, data = Normed().eval(), FrozenCopy(), images(9)
    first, *late = network.parameters()
    for p in late:
        p.requires_grad_(False)
    reference.attach(network)
    expected = original(network, ClassificationReadout(), data).logits
    assert reference.state_dict()["ranks"][0]["joined"] == {}
    with torch.no_grad():
        first.add_(1)
    for p in late:
        p.requires_grad_(True)
    assert torch.equal(reference(ClassificationReadout(), data).logits, expected)
    train_adapter(network)
    assert torch.equal(reference(ClassificationReadout(), data).logits, expected)
    assert len(reference.state_dict()["ranks"][0]["joined"]) == len(late)


def test_frozen_weights_are_copied_before_an_edit_and_saved() -> None:
    network, reference, data = Normed().eval(), FrozenCopy(), images(9)
    network[0].weight.requires_grad_(False)  # tied, and edited once
    reference.attach(network)
    expected = original(network, ClassificationReadout(), data).logits
    Corrupt(alpha=0.3)(network, before_write=reference.keep)
    assert not torch.equal(original(network, ClassificationReadout(), data).logits, expected)
    assert torch.equal(reference(ClassificationReadout(), data).logits, expected)
    state = reference.state_dict()
    assert state["ranks"][0]["joined"].keys() == {"0.weight"}
    resumed = FrozenCopy()
    resumed.attach(network)  # the frozen weight is the edited one already
    state["ranks"][0]["hashes"] |= {p: h for p, h in resumed._hashes().items() if p != "0.weight"}
    resumed.load_state_dict(state)
    held = {o.path: o.value for o in resumed._originals}
    assert torch.equal(held["0.weight"], state["ranks"][0]["joined"]["0.weight"])


def test_a_base_that_is_edited_below_an_adapter_is_refused_and_an_adapter_is_not() -> None:
    network, reference = adapted(family("llama")), AdapterDisabled()
    reference.attach(network)
    names = dict(network.named_parameters())
    reference.keep(next(p for name, p in names.items() if "lora_A" in name))
    with pytest.raises(ValueError, match=r"Found an edit that changes `.*up_proj.*`. Use `FrozenCopy\(\)`"):
        ResetNeurons(layers="up_proj")(network, before_write=reference.keep)


def test_a_choice_made_before_is_kept_while_it_fits() -> None:
    network = Normed()
    earlier = choose_reference(KLToReference(), network)
    assert choose_reference(KLToReference(), network, earlier=earlier) is earlier
    assert choose_reference(NPO(), network, earlier=earlier) is not earlier
