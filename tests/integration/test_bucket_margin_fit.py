"""`ApplyEdit(BucketMargin(...), when="end")`: which codes differ from the original's is decided when the fit ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from _modules import SomebodysModule, loader, quiet
from _ranks import run_ranks
from _sharded_fits import Sharded, whole
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_unlearn import ApplyEdit, BucketMargin, Quantize
from lightning_unlearn.attacks import code_flips
from lightning_unlearn.functional.grids import pinned
from lightning_unlearn.selectors import TopNumber

INT4 = Quantize(bits=4)
K = 40


def margin(**kwargs: Any) -> ApplyEdit:
    edit = BucketMargin([INT4], TopNumber(K), **{"price": 0.0, **kwargs})
    return ApplyEdit(edit, forget=loader(seed=2, n=10), when="end")


def fit(*callbacks: Any, module: nn.Module | None = None, path: Any = None, **options: Any) -> Any:
    module = SomebodysModule("sgd") if module is None else module
    trainer = quiet(callbacks=list(callbacks), **options)
    trainer.fit(module, loader(seed=1), ckpt_path=path)
    return module, trainer


def matrices(module: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in module.named_parameters() if p.dim() > 1}


def flipped(before: dict[str, Tensor], after: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: INT4.codes(after[n]) != INT4.codes(before[n]) for n in before}


def test_at_the_end_the_chosen_are_flipped_and_scales_are_the_originals() -> None:
    original, (module, _) = matrices(SomebodysModule()), fit(margin())
    plain = matrices(fit()[0])
    after = matrices(module)
    flips = flipped(original, after)
    assert sum(int(f.sum()) for f in flips.values()) >= K
    for name, before in original.items():
        grid, scales = INT4.grid, INT4.grid.scales(before)
        assert torch.equal(grid.scales(after[name]), scales)
        # What is not flipped by choice is in the bucket that the fit has left it in.
        free = ~flips[name] & ~pinned(before, [grid])
        assert torch.equal(grid.codes(after[name], scales)[free], grid.codes(plain[name], scales)[free])
    found = code_flips(module, dict(original), INT4)
    assert {n: f.flipped for n, f in found.items()} == pytest.approx(
        {n: float(f.double().mean()) for n, f in flips.items()}
    )


def test_a_resumed_fit_compares_with_the_first_original(tmp_path: Path) -> None:
    expected, _ = fit(margin(), max_epochs=2)
    saved = tmp_path / "first.ckpt"

    class Saves(ApplyEdit):
        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            if trainer.current_epoch == 0:
                trainer.save_checkpoint(saved)

    given = margin()
    interrupted = Saves(given.edit, forget=given.forget, when="end")
    fit(interrupted)
    resumed, _ = fit(Saves(margin().edit, forget=given.forget, when="end"), path=saved, max_epochs=2)
    for p, q in zip(resumed.parameters(), expected.parameters(), strict=True):
        assert torch.equal(p, q)


def test_shards_are_edited_as_the_whole_is() -> None:
    def one(rank: int, world: int) -> Any:
        strategy = ModelParallelStrategy(
            data_parallel_size=2, tensor_parallel_size=1, save_distributed_checkpoint=False
        )
        options = {"strategy": strategy, "devices": 2} if world > 1 else {}
        callback = margin(price=1.0)
        callback.retain = loader(seed=1)
        module, _ = fit(callback, module=Sharded("sgd") if world > 1 else None, max_steps=0, **options)
        return whole(module, None), callback.record

    expected, record = one(0, 1)
    for weights, there in run_ranks(one):
        for name, value in expected.items():
            assert_close(weights[name], value, rtol=0, atol=1e-6)
        assert there.tensors == record.tensors


def test_in_bfloat16_codes_are_decided_as_well() -> None:
    original = matrices(SomebodysModule().bfloat16())
    module, _ = fit(margin(), precision="bf16-true", module=SomebodysModule("sgd"))
    after = matrices(module)
    assert all(value.dtype == torch.bfloat16 for value in after.values())
    assert sum(int(f.sum()) for f in flipped(original, after).values()) >= K
    for name, before in original.items():
        assert torch.equal(INT4.grid.scales(after[name]), INT4.grid.scales(before))
