"""A fit that goes on from a checkpoint of ours with other settings says so, and which network is the original."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from _modules import SomebodysModule, examples, quiet
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.data import ConcatDataset, DataLoader, Subset

from lightning_unlearn import (
    NPO,
    Bounded,
    CachedLogLikelihood,
    ClassificationReadout,
    CyclicOrder,
    ForgetRetainData,
    FrozenCopy,
    GradientAscent,
    KLToReference,
    PCGrad,
    SimNPO,
    Unlearn,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]
FORGET = examples(2, n=10)


def first_phase(unlearn: Unlearn, *others: Unlearn) -> str:
    fit(unlearn, *others, max_steps=4)
    return "first/step=4.ckpt"


def fit(*unlearn: Unlearn, ckpt_path: str | None = None, max_steps: int = 8, forget: Any = FORGET) -> SomebodysModule:
    module = SomebodysModule("sgd")
    loaders = {"retain": DataLoader(examples(1), batch_size=4), "forget": DataLoader(forget, batch_size=3)}
    data = ForgetRetainData(**loaders, order=CyclicOrder())  # by which a fit goes on inside an epoch
    callbacks = [*unlearn, ModelCheckpoint("first", every_n_train_steps=4, save_top_k=-1, filename="{step}")]
    trainer = quiet(callbacks=callbacks, enable_checkpointing=True, max_epochs=3, max_steps=max_steps)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return module


def nll_under(weights: dict[str, Tensor]) -> Tensor:
    """What a network with these weights says of the forget data; the oracle."""
    module = SomebodysModule("sgd")
    module.load_state_dict(weights)
    x, y = FORGET.tensors
    with torch.no_grad():
        return F.cross_entropy(module.eval()(x), y, reduction="none")


def original_nll(unlearn: Unlearn) -> Tensor:
    """What this fit takes the original to say."""
    with torch.no_grad():
        return unlearn._original.loss.reference(ClassificationReadout(), FORGET.tensors).token_nll()


def weights_in(path: str) -> dict[str, Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


START = SomebodysModule("sgd").state_dict()


def test_another_objective_keeps_the_original_that_the_checkpoint_knows() -> None:
    path = first_phase(Unlearn(NPO(beta=0.5)))
    second = Unlearn(Bounded(NPO(beta=1.0), bound=9.0))
    with pytest.warns(
        UserWarning,
        match=r"`objective` was `NPO\(beta=0.5\)`, is `Bounded\(.*The original is still the one of the first",
    ):
        fit(second, ckpt_path=path)
    assert_close(original_nll(second), nll_under(START))
    assert (nll_under(weights_in(path)) - nll_under(START)).abs().max() > 0.01  # the test could fail
    assert second._stream.position == 8
    assert second._steps == {"merged": 8, "taken": 8}


def test_another_setting_of_the_same_objective_is_another_objective() -> None:
    path = first_phase(Unlearn(NPO(beta=0.5)))
    second = Unlearn(NPO(beta=0.1))
    with pytest.warns(UserWarning, match=r"`objective` was `NPO\(beta=0.5\)`, is `NPO\(beta=0.1\)`"):
        fit(second, ckpt_path=path)
    assert_close(original_nll(second), nll_under(START))


def test_where_the_checkpoint_knows_no_original_this_is_said() -> None:
    path = first_phase(Unlearn(GradientAscent()))
    second = Unlearn(NPO())
    with pytest.warns(
        UserWarning, match=r"from now on it is the network in the checkpoint.*`reference=FrozenCopy\(\)`"
    ):
        fit(second, ckpt_path=path)
    assert_close(original_nll(second), nll_under(weights_in(path)))


@pytest.mark.parametrize("first", [GradientAscent, NPO])
def test_a_frozen_copy_keeps_the_original_that_the_module_loads(first: Any) -> None:
    path = first_phase(Unlearn(first()))
    second = Unlearn(KLToReference(), reference=FrozenCopy())
    with pytest.warns(UserWarning, match="The original is what the module held before the checkpoint was restored"):
        fit(second, ckpt_path=path)
    assert_close(original_nll(second), nll_under(START))


def test_another_reference_is_said_by_name() -> None:
    path = first_phase(Unlearn(NPO()))
    with pytest.warns(UserWarning, match="`reference` was `CachedLogLikelihood`, is `FrozenCopy`"):
        fit(second := Unlearn(NPO(), reference=FrozenCopy()), ckpt_path=path)
    assert_close(original_nll(second), nll_under(START))


def test_the_way_back_from_a_copy_to_a_cache_needs_a_new_look() -> None:
    path = first_phase(Unlearn(NPO(), reference=FrozenCopy()))
    with pytest.warns(
        UserWarning, match="`reference` was `FrozenCopy`, is `CachedLogLikelihood`.*network in the checkpoint"
    ):
        fit(second := Unlearn(NPO()), ckpt_path=path)
    assert_close(original_nll(second), nll_under(weights_in(path)))


def test_an_objective_without_a_reference_has_no_original_to_speak_of() -> None:
    path = first_phase(Unlearn(NPO()))
    with pytest.warns(UserWarning, match="is `SimNPO") as said:
        fit(Unlearn(SimNPO()), ckpt_path=path)
    assert not any("original" in str(warning.message) for warning in said)


class Same(ClassificationReadout):
    """The same, by another name."""


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"readout": Same()}, "`readout` was `ClassificationReadout`, is `Same`"),
        ({"projector": PCGrad()}, "`projector` was `NoneType`, is `PCGrad`"),
    ],
)
def test_other_parts_are_said_by_name(changes: dict[str, Any], match: str) -> None:
    path = first_phase(Unlearn(NPO()))
    with pytest.warns(UserWarning, match=match):
        fit(second := Unlearn(NPO(), **changes), ckpt_path=path)
    assert_close(original_nll(second), nll_under(START))


def test_weight_and_seed_may_change_without_a_word() -> None:
    path = first_phase(Unlearn(NPO()))
    fit(second := Unlearn(NPO(), weight=0.1, seed=7), ckpt_path=path)
    assert_close(original_nll(second), nll_under(START))


@pytest.mark.parametrize(
    ("forget", "found"),
    [
        (examples(3, n=10), "Found 10 of 10 examples"),
        (ConcatDataset([FORGET, examples(3, n=2)]), "Found 2 of 12 examples"),
    ],
)
def test_forget_data_that_the_cache_does_not_know_are_refused_before_the_first_step(forget: Any, found: str) -> None:
    path = first_phase(Unlearn(NPO()))
    unlearn = Unlearn(NPO())
    warnings.filterwarnings("ignore", message=".*`rows of the forget data` was `10`, is `12`")
    with pytest.raises(ValueError, match=rf"{found} that it does not know.*without `ckpt_path`"):
        fit(unlearn, ckpt_path=path, forget=forget)
    assert unlearn._stream.position == 4


def test_fewer_forget_data_are_said() -> None:
    path = first_phase(Unlearn(NPO()))
    with pytest.warns(UserWarning, match="`rows of the forget data` was `10`, is `6`"):
        fit(second := Unlearn(NPO()), ckpt_path=path, forget=Subset(FORGET, range(6)))
    assert_close(original_nll(second), nll_under(START))


def test_which_of_several_is_followed_is_not_guessed() -> None:
    fit(Unlearn(NPO(), reference=CachedLogLikelihood()), max_steps=4)
    checkpoint = torch.load("first/step=4.ckpt", weights_only=True)
    (key,) = [key for key in checkpoint["callbacks"] if key.startswith("Unlearn")]
    checkpoint["callbacks"]["Unlearn[GradientAscent()]"] = checkpoint["callbacks"][key]
    torch.save(checkpoint, "two.ckpt")
    with pytest.raises(ValueError, match=r"Found `Unlearn\[NPO.*`, `Unlearn\[GradientAscent\(\)\]`.*Resume with these"):
        fit(Unlearn(SimNPO()), ckpt_path="two.ckpt")
    with pytest.warns(UserWarning, match="Found a second phase"):  # one of them is there: the other is followed
        fit(Unlearn(SimNPO()), Unlearn(GradientAscent()), ckpt_path="two.ckpt")
