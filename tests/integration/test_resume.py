"""Interrupted and resumed equals uninterrupted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from _modules import SomebodysModule, examples, quiet, same
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from lightning_unlearn import (
    NPO,
    Bounded,
    CachedLogLikelihood,
    CyclicOrder,
    ForgetRetainData,
    FrozenCopy,
    GradientAscent,
    KLToReference,
    Quantize,
    RecoveryCheck,
    Unlearn,
)
from lightning_unlearn.objectives import RandomLabel
from lightning_unlearn.projectors import LinearSchedule, PrimalDual

pytestmark = [
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]
OBJECTIVES: dict[str, Any] = {
    "none": lambda: {"objective": GradientAscent()},
    "cache": lambda: {"objective": NPO(beta=0.5)},
    "copy": lambda: {"objective": KLToReference(), "reference": FrozenCopy(), "weight": 2.0},
}


def parts(objective: str, folder: Path) -> dict[str, Any]:
    data = ForgetRetainData(
        retain=DataLoader(examples(1, n=24), batch_size=4),
        forget=DataLoader(examples(2, n=10), batch_size=3),
        order=CyclicOrder(),
    )
    callbacks = [
        Unlearn(**OBJECTIVES[objective]()),
        RecoveryCheck({"int4": Quantize(bits=4)}, every_n_steps=2),
        ModelCheckpoint(folder / "ckpt", every_n_train_steps=1, save_top_k=-1, filename="{step}"),
    ]
    return {"data": data, "callbacks": callbacks}


def fit(objective: str, folder: Path, ckpt_path: Path | None = None, **kwargs: Any) -> Any:
    built = parts(objective, folder)
    module = SomebodysModule("adamw")
    trainer = quiet(callbacks=built["callbacks"], enable_checkpointing=True, max_epochs=3, **kwargs)
    trainer.fit(module, datamodule=built["data"], ckpt_path=ckpt_path)
    return module, built["callbacks"]


@pytest.mark.parametrize("interrupted_at", [3, 6, 10])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_resumed_equals_uninterrupted(objective: str, interrupted_at: int, tmp_path: Path) -> None:
    """Six steps an epoch: within the first, at its end, within the second."""
    whole, (unlearn, check, _) = fit(objective, tmp_path / "whole")
    fit(objective, tmp_path / "first", max_steps=interrupted_at)
    resumed, again = fit(objective, tmp_path / "second", tmp_path / "first" / "ckpt" / f"step={interrupted_at}.ckpt")

    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    assert again[0]._steps == unlearn._steps
    assert again[0]._stream.position == unlearn._stream.position
    assert {look.step for look in check.observations} <= {look.step for look in again[1].observations}


def test_the_position_matters(tmp_path: Path) -> None:
    """Without it the resumed run differs: the test above could fail."""
    whole, _ = fit("none", tmp_path / "whole")
    fit("none", tmp_path / "first", max_steps=6)
    path = tmp_path / "first" / "ckpt" / "step=6.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    (state,) = [v for k, v in checkpoint["callbacks"].items() if k.startswith("Unlearn")]
    assert state["position"] == 6
    state["position"] = 3  # 0 is where the next cycle starts, too
    torch.save(checkpoint, path)
    resumed, _ = fit("none", tmp_path / "second", path)
    assert any(not torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize("every_n_epochs", [1, 2])
def test_a_check_that_an_interruption_swallowed_is_made_good(every_n_epochs: int, tmp_path: Path) -> None:
    """The checkpoint of an epoch's last step is older than the epoch's end, to which Lightning does not come back."""

    def observed(folder: str, ckpt_path: Path | None = None, **kwargs: Any) -> list[Any]:
        built, module = parts("none", tmp_path / folder), SomebodysModule("adamw")
        check = RecoveryCheck({"int4": Quantize(bits=4)}, every_n_epochs=every_n_epochs)
        callbacks = [built["callbacks"][0], check, built["callbacks"][2]]
        trainer = quiet(callbacks=callbacks, enable_checkpointing=True, max_epochs=3, **kwargs)
        trainer.fit(module, datamodule=built["data"], ckpt_path=ckpt_path)
        return check.observations

    whole = observed("whole")
    for step in (6, 12):
        observed(f"first{step}", max_steps=step)
        assert observed(f"second{step}", tmp_path / f"first{step}" / "ckpt" / f"step={step}.ckpt") == whole
    assert {o.step for o in whole} == {0, *range(6 * every_n_epochs, 18, 6 * every_n_epochs), 18}


def test_truncated_checkpoint_gives_one_clear_error(tmp_path: Path) -> None:
    fit("none", tmp_path / "first", max_steps=3)
    path = tmp_path / "first" / "ckpt" / "step=3.ckpt"
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=r"should be a whole file\. Found one that ends in its middle"):
        fit("none", tmp_path / "second", path)


def test_checkpoint_of_another_objective_is_not_mistaken_for_ours(tmp_path: Path) -> None:
    fit("none", tmp_path / "first", max_steps=3)
    with pytest.warns(UserWarning, match=r"Found a second phase: `objective` was `GradientAscent\(\)`, is `NPO"):
        _, (unlearn, *_) = fit("cache", tmp_path / "second", tmp_path / "first" / "ckpt" / "step=3.ckpt")
    assert len(unlearn._original.loss.reference) == 10  # cached anew, from the weights it was given


def test_a_second_fit_does_not_go_back_to_the_checkpoint(tmp_path: Path) -> None:
    fit("none", tmp_path / "first", max_steps=3)
    module, (unlearn, *_) = fit("none", tmp_path / "second", tmp_path / "first" / "ckpt" / "step=3.ckpt")
    data = parts("none", tmp_path / "third")["data"]
    quiet(callbacks=[unlearn], max_steps=2).fit(module, datamodule=data)
    assert unlearn._stream.position == 2
    assert unlearn._steps == {"merged": 2, "taken": 2}


# A part with a state of its own joins here.
PARTS: dict[str, Any] = {
    "schedule": lambda: {"projector": LinearSchedule(steps=3)},
    "multiplier": lambda: {"projector": PrimalDual(eps=0.0)},
    "draws": lambda: {"objective": Bounded(RandomLabel(), bound=5.0)},
}


@pytest.mark.parametrize("part", PARTS)
def test_a_second_fit_equals_the_first_to_the_bit(part: str, tmp_path: Path) -> None:
    """What a part has counted or drawn belongs to one fit: a second one starts anew, also after one that was resumed."""
    built = parts("none", tmp_path)
    unlearn, fitted = Unlearn(**{"objective": GradientAscent(), **PARTS[part]()}), []
    for ckpt_path in (None, None, tmp_path / "ckpt" / "step=2.ckpt", None):
        module = SomebodysModule("adamw")
        callbacks = [unlearn, *(built["callbacks"][2:] if not fitted else ())]
        trainer = quiet(callbacks=callbacks, enable_checkpointing=not fitted, max_steps=3, max_epochs=-1)
        trainer.fit(module, datamodule=built["data"], ckpt_path=ckpt_path)
        fitted.append(module)
    assert all(same(fitted[0], module) for module in fitted[1:])


@pytest.mark.parametrize("reference", [None, CachedLogLikelihood, FrozenCopy])
def test_a_second_fit_measures_from_the_network_it_finds(reference: Any) -> None:
    forget = DataLoader(examples(2, n=10), batch_size=10)
    module = SomebodysModule("adamw")
    unlearn = Unlearn(NPO(beta=0.5), reference=None if reference is None else reference())
    ends = []
    for steps in (5, 5, 1):
        seen = []
        take = unlearn.forget_loss
        unlearn.forget_loss = lambda batch, seen=seen, take=take: seen.append((loss := take(batch)).item()) or loss
        data = ForgetRetainData(retain=DataLoader(examples(1, n=24), batch_size=4), forget=forget, order=CyclicOrder())
        quiet(callbacks=[unlearn], max_steps=steps, max_epochs=-1).fit(module, datamodule=data)
        unlearn.forget_loss = take
        assert seen[0] == pytest.approx(4 * math.log(2), abs=1e-5)  # a ratio of one
        ends.append(seen[-1])
    assert max(ends[:2]) < 4 * math.log(2) - 1e-3
