"""A new adapter that keeps off what earlier ones have changed: entries, their gradient, and adapters in turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from _modules import quiet
from _ranks import run_ranks
from _scaled import scaled
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

from lightning_unlearn import LoRA, RegLoRA, TinyCausalLM, UnlearningModule
from lightning_unlearn.functional import entries as entries_module
from lightning_unlearn.functional.entries import largest_entries, mean_size_of_entries
from lightning_unlearn.models import fold_adapter_
from lightning_unlearn.readouts import CausalLMReadout
from lightning_unlearn.transforms import protected_by, protected_entries

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")


def factors(seed: int = 0, out: int = 7, inputs: int = 5, rank: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(out, rank, generator=generator), torch.randn(rank, inputs, generator=generator)


# Entries


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 1.0])
def test_the_largest_entries_are_those_of_the_dense_product(share: float) -> None:
    b, a = factors()
    found = largest_entries(b, a, share)
    sizes = (b @ a).abs().flatten().sort(descending=True).values
    number = -(-share * 35 // 1)
    assert len(found) == number
    chosen = (b @ a).abs()[found[:, 0], found[:, 1]]
    assert_close(chosen.sort(descending=True).values, sizes[: int(number)])


@pytest.mark.parametrize("chunk", [3, 1 << 18])
def test_gathered_it_is_the_dense_penalty_and_its_gradient(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask and automatic differentiation; entries in two lists count twice."""
    monkeypatch.setattr(entries_module, "_CHUNK", chunk)
    b, a = (f.requires_grad_() for f in factors())
    chosen = torch.cat([largest_entries(*factors(1), 0.3), largest_entries(*factors(2), 0.2)])
    times = torch.zeros(7, 5).index_put((chosen[:, 0], chosen[:, 1]), torch.ones(len(chosen)), accumulate=True)
    assert times.max() == 2
    dense = (times * (b @ a).abs()).sum() / times.sum()
    expected = torch.autograd.grad(dense, [b, a])
    value, *gradients = mean_size_of_entries(b, a, chosen)
    assert_close(value, dense.detach())
    for found, wanted in zip(gradients, expected, strict=True):
        assert_close(found, wanted)


def test_the_gradient_by_the_product_is_its_sign_over_the_number_and_nothing_elsewhere() -> None:
    """With a factor that is the identity, the gradient by the other one is that by the product."""
    b, a = factors()[0] @ factors()[1], torch.eye(5)
    chosen = largest_entries(b, a, 0.2)
    _, by_product, _ = mean_size_of_entries(b, a, chosen)
    expected = torch.zeros(7, 5)
    expected[chosen[:, 0], chosen[:, 1]] = b[chosen[:, 0], chosen[:, 1]].sign() / len(chosen)
    assert torch.equal(by_product, expected)


def test_no_entries_cost_nothing() -> None:
    b, a = factors()
    value, *gradients = mean_size_of_entries(b, a, torch.zeros(0, 2, dtype=torch.int64))
    assert value == 0
    assert not any(g.any() for g in gradients)


# In fits


def adapted(seed: int = 0) -> Any:
    lora = LoRA(r=2, target_modules=["up_proj", "down_proj"], seed=seed)
    return lora.wrap(TinyCausalLM(hidden_size=16, num_hidden_layers=2))


def rows(seed: int) -> Any:
    tokens = torch.randint(5, 600, (8, 6), generator=torch.Generator().manual_seed(seed))
    return torch.utils.data.DataLoader([{"input_ids": row, "labels": row} for row in tokens], batch_size=2)


def fit(network: Any, callback: Any, seed: int = 0, lr: float = 1e-2, **kwargs: Any) -> Any:
    readout = CausalLMReadout()
    module = UnlearningModule(network, readout=readout, optimizer=lambda p: torch.optim.SGD(p, lr=lr))
    ckpt_path = kwargs.pop("ckpt_path", None)
    callbacks = [callback, *kwargs.pop("more", [])]
    trainer = quiet(callbacks=callbacks, **{"max_steps": 3, **kwargs})
    trainer.fit(module, rows(seed), ckpt_path=ckpt_path)
    return trainer


def deltas(network: Any) -> dict[str, Tensor]:
    layers = network.base_model.model.model.layers
    pairs = {f"model.layers.{i}.mlp.{n}": getattr(layers[i].mlp, n) for i in range(2) for n in ("up_proj", "down_proj")}
    return {n: (m.lora_B.default.weight @ m.lora_A.default.weight).detach() for n, m in pairs.items()}


def test_nothing_protected_is_a_fit_as_without() -> None:
    one, other = adapted(), adapted()
    fit(one, RegLoRA())
    fit(other, ModelCheckpoint(monitor=None, save_top_k=0), enable_checkpointing=True)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


def test_a_step_is_that_of_the_loss_with_the_penalty_in_it() -> None:
    """One step of SGD, with the penalty as the paper writes it."""
    protected = {name: largest_entries(*factors(i, *delta.shape), 0.1) for i, (name, delta) in enumerate(START)}
    network, by_hand, lr = spread(), spread(), 1e-2
    callback = RegLoRA(weight=5.0)
    callback.protected = protected
    trainer = fit(network, callback, lr=lr, max_steps=1)
    (batch, *_) = rows(0)
    loss = CausalLMReadout()(by_hand, batch).token_nll().mean()
    layers = by_hand.base_model.model.model.layers
    penalty = torch.zeros(())
    for name, entries in protected.items():
        layer = getattr(layers[int(name.split(".")[2])].mlp, name.split(".")[-1])
        product = layer.lora_B.default.weight @ layer.lora_A.default.weight
        penalty = penalty + product[entries[:, 0], entries[:, 1]].abs().mean() / len(protected)
    (loss + 5.0 * penalty).backward()
    for p, q in zip(network.parameters(), by_hand.parameters(), strict=True):
        expected = q if q.grad is None else q - lr * q.grad
        assert_close(p.detach(), expected.detach(), rtol=1e-4, atol=1e-6)
    assert trainer.callback_metrics["reg_lora/penalty"] == pytest.approx(5.0 * penalty.item(), rel=1e-4)


def spread() -> Any:
    network = adapted()
    with torch.no_grad():
        for i, (name, p) in enumerate(network.named_parameters()):
            if "lora_B" in name:
                p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) * 0.2)
    return network


START = list(deltas(adapted()).items())
STARTED = list(deltas(spread()).items())


@pytest.mark.parametrize("fused", [False, True])
def test_a_loss_scale_leaves_the_penalty_as_it_is(fused: bool) -> None:
    """Fused optimizers unscale inside their step, others before it. Both factors move by the penalty alone."""
    moved = []
    for kwargs in ({}, scaled(2.0**16)):
        network, callback = spread(), RegLoRA(weight=1.0)
        callback.protected = protected_entries(spread(), 0.05)
        module = OnlyPenalty(
            network, readout=CausalLMReadout(), optimizer=lambda p: torch.optim.SGD(p, lr=1.0, fused=fused)
        )
        quiet(callbacks=[callback], max_steps=1, **kwargs).fit(module, rows(0))
        moved.append(
            {name: delta - before for (name, before), delta in zip(STARTED, deltas(network).values(), strict=True)}
        )
    assert all(change.any() for change in moved[0].values())
    assert_close(moved[1], moved[0])


class OnlyPenalty(UnlearningModule):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return 0.0 * sum(p.float().sum() for p in self.parameters() if p.requires_grad)


def test_the_more_weight_the_less_protected_entries_move() -> None:
    moved = []
    for weight in (0.0, 0.1, 0.3):
        network, callback = adapted(), RegLoRA(weight=weight)
        callback.protected = protected_entries(spread(), 0.05)
        before = {name: entries.clone() for name, entries in callback.protected.items()}
        fit(network, callback, lr=0.05, max_steps=12, max_epochs=4)
        after = deltas(network)
        moved.append(sum(float(after[n][e[:, 0], e[:, 1]].abs().sum()) for n, e in before.items()))
    assert moved == sorted(moved, reverse=True)
    assert moved[0] > 1.5 * moved[2]


def test_a_file_in_the_home_folder_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    fit(adapted(), RegLoRA("~/protected.safetensors"))
    assert load_file(tmp_path / "home" / "protected.safetensors")
    assert not (tmp_path / "~").exists()


def test_requests_in_turn_protect_what_all_of_them_changed(tmp_path: Path) -> None:
    network, file = adapted(), str(tmp_path / "of" / "protected.safetensors")
    said = []
    for turn in range(3):
        callback = RegLoRA(file, weight=1.0, share=0.05)
        fit(network, callback, seed=turn, lr=0.1)
        entries = load_file(file)
        assert set(entries) == {name for name, _ in START}
        for name, delta in START:
            assert len(entries[name]) == (turn + 1) * -(-0.05 * delta.numel() // 1)
        last = protected_entries(network, 0.05)
        assert all(torch.equal(entries[name][-len(e) :], e) for name, e in last.items())
        before = network(input_ids=torch.arange(5, 12)[None]).logits
        fold_adapter_(network, seed=turn)
        after = network(input_ids=torch.arange(5, 12)[None]).logits
        assert_close(after, before, rtol=1e-4, atol=1e-4)
        said.append(after)
    assert not torch.equal(said[0], said[2])


def test_adapters_in_files_protect_what_they_did_in_the_network(tmp_path: Path) -> None:
    network, files, expected = spread(), [], {}
    for turn in range(2):
        network.save_pretrained(tmp_path / str(turn))
        files.append(tmp_path / str(turn) / "adapter_model.safetensors")
        expected = protected_entries(network, 0.05, before=expected)
        with torch.no_grad():
            for name, p in network.named_parameters():
                if "lora_" in name:
                    p.copy_(p.roll(1, 0))
    found = protected_by(files, 0.05)
    assert found.keys() == expected.keys() == {name for name, _ in START}
    assert all(torch.equal(found[name], entries) for name, entries in expected.items())
    save_file({"weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"should hold the factors of a LoRA adapter.*Found \['weight'\]"):
        protected_by([tmp_path / "other.safetensors"])


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_resumed_fit_is_the_uninterrupted_one_and_protects_what_it_did(tmp_path: Path) -> None:
    file = str(tmp_path / "protected.safetensors")

    def run(folder: str, **kwargs: Any) -> Any:
        network, callback = adapted(), RegLoRA(file, weight=2.0)
        saves = ModelCheckpoint(tmp_path / folder, filename="{step}", save_top_k=-1, every_n_epochs=1)
        callback.protected = protected_entries(spread(), 0.05)
        fit(network, callback, more=[saves], enable_checkpointing=True, max_steps=-1, max_epochs=2, **kwargs)
        Path(file).unlink()
        return network, callback

    whole, first = run("whole")
    resumed, again = run("again", ckpt_path=str(tmp_path / "whole" / "step=4.ckpt"))
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert all(torch.equal(e, again.protected[n]) for n, e in first.protected.items())


def test_a_fit_that_goes_on_after_its_end_does_not_keep_off_its_own_adapter(tmp_path: Path) -> None:
    def run(epochs: int, **kwargs: Any) -> Any:
        network, callback = adapted(), RegLoRA(weight=2.0)
        callback.protected = protected_entries(spread(), 0.05)
        return network, fit(network, callback, max_steps=-1, max_epochs=epochs, **kwargs)

    whole, _ = run(2)
    _, ended = run(1)
    ended.save_checkpoint(tmp_path / "ended.ckpt")
    resumed, _ = run(2, ckpt_path=str(tmp_path / "ended.ckpt"))
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), resumed.parameters(), strict=True))


@pytest.mark.slow
def test_two_processes_add_the_penalty_once() -> None:
    def run(rank: int, world: int) -> Any:
        network, callback = adapted(), RegLoRA(weight=2.0)
        callback.protected = protected_entries(spread(), 0.05)
        strategy: Any = DDPStrategy() if world > 1 else "auto"
        batches = torch.utils.data.DataLoader(list(rows(0).dataset)[:4] * 2, batch_size=4 // world)
        module = UnlearningModule(network, readout=CausalLMReadout(), optimizer=lambda p: torch.optim.SGD(p, lr=1e-2))
        trainer = quiet(callbacks=[callback], strategy=strategy, devices=world, max_steps=2)
        trainer.fit(module, batches)
        return deltas(network), callback.protected

    expected, protected = run(0, 1)
    one, other = run_ranks(run)
    for name, delta in expected.items():
        assert torch.equal(one[0][name], other[0][name])
        assert torch.equal(one[1][name], other[1][name])
        assert one[0][name].shape == delta.shape
        assert one[1][name].shape == protected[name].shape


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ValueError, match="a plain LoRA adapter on linear layers. Found none"):
        fit(TinyCausalLM(hidden_size=16, num_hidden_layers=1), RegLoRA())
    callback = RegLoRA()
    callback.protected = {"model.layers.7.mlp.up_proj": torch.zeros(1, 2, dtype=torch.int64)}
    with pytest.raises(ValueError, match="Found `model.layers.7.mlp.up_proj`, which has none"):
        fit(adapted(), callback)
    callback.protected = {"model.layers.0.mlp.up_proj": torch.tensor([[10**6, 0]])}
    with pytest.raises(ValueError, match="Found some of `model.layers.0.mlp.up_proj` outside of"):
        fit(adapted(), callback)


def test_sharding_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_unlearn.transforms._reg_lora.strategy_kind", lambda trainer: "fsdp2")
    with pytest.raises(NotImplementedError, match=r"both factors of each layer whole. Found a strategy .* \(fsdp2\)"):
        fit(adapted(), RegLoRA())
