"""A checkpoint that is damaged, empty or of another kind gives one clear message, wherever it is given."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _modules import SomebodysModule, loader, quiet
from safetensors.torch import save_model

from lightning_unlearn import (
    NPO,
    ApplyEdit,
    DisruptionBudget,
    FrozenCopy,
    GradientAscent,
    Interpolate,
    RecoveryCheck,
    Unlearn,
)
from lightning_unlearn.edits import Corrupt
from lightning_unlearn.models import explain_checkpoint, load_weights

CHECKPOINT = Path("first.ckpt")


def made() -> Path:
    module = SomebodysModule()
    trainer = quiet(callbacks=[Unlearn(GradientAscent(), forget=loader(2))], max_steps=2)
    trainer.fit(module, loader(1))
    trainer.save_checkpoint(CHECKPOINT)
    return CHECKPOINT


def resume(path: Path = CHECKPOINT) -> int:
    """How many steps there were in the end."""
    trainer = quiet(callbacks=[Unlearn(GradientAscent(), forget=loader(2))], max_epochs=2)
    trainer.fit(SomebodysModule(), loader(1), ckpt_path=path)
    return trainer.global_step


WATCHING: dict[str, Callable[[], pl.Callback]] = {
    "budget": lambda: DisruptionBudget(loader(5)),
    "edit": lambda: ApplyEdit(Corrupt(), when="end"),
    "check": lambda: RecoveryCheck({"between": Interpolate(0.3)}, probes={"forget": loader(2), "retain": loader(1)}),
    "forgetting": lambda: Unlearn(NPO(), forget=loader(2), reference=FrozenCopy()),
}


@pytest.mark.parametrize("name", WATCHING)
def test_a_fit_that_fails_before_it_starts_leaves_nothing_on_the_module(name: str) -> None:
    module, callback = SomebodysModule(), WATCHING[name]()
    hooks = [len(module._load_state_dict_pre_hooks), len(module._state_dict_pre_hooks)]
    with pytest.raises(FileNotFoundError):
        quiet(callbacks=[callback], max_steps=2).fit(module, loader(1), ckpt_path="not there.ckpt")
    assert [len(module._load_state_dict_pre_hooks), len(module._state_dict_pre_hooks)] == hooks
    module.trainer = None
    pickle.dumps(module)
    again = quiet(callbacks=[callback], max_steps=2)
    again.fit(module, loader(1))
    assert again.global_step == 2


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def without(path: Path, key: str) -> None:
    content = torch.load(path, weights_only=True)
    del content[key]
    torch.save(content, path)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no bytes": (lambda path: path.write_bytes(b""), "Found an empty one: `first.ckpt`.*Resume from the one before"),
    "half of it": (lambda path: cut(path, 0.5), "Found one that ends in its middle: `first.ckpt`"),
    "all but the end": (lambda path: cut(path, 0.999), "Found one that ends in its middle"),
    "garbage": (lambda path: path.write_bytes(bytes(range(256)) * 40), "is no checkpoint.*Resume from another one"),
    "a page": (lambda path: path.write_text("<html>login</html>"), "is no checkpoint"),
    "a state dict": (
        lambda path: torch.save(SomebodysModule().state_dict(), path),
        r"without the state of a fit.*load them into the module \(`module.load_state_dict\(torch.load\(path\)\)`\)",
    ),
    "safetensors": (
        lambda path: save_model(SomebodysModule(), str(path)),
        r"without the state of a fit.*`safetensors.torch.load_model\(module, path\)`",
    ),
    "a tensor": (lambda path: torch.save(torch.ones(3), path), "without the state of a fit"),
    "no version": (lambda path: without(path, "pytorch-lightning_version"), "without the state of a fit"),
    "no weights": (lambda path: without(path, "state_dict"), "without the state of a fit"),
    "the old format": (
        lambda path: torch.save(SomebodysModule().state_dict(), path, _use_new_zipfile_serialization=False),
        "without the state of a fit",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_fit_is_not_resumed_from_it_and_says_why(what: str) -> None:
    damage, match = DAMAGE[what]
    damage(made())
    with pytest.raises(ValueError, match=rf"(?s)The checkpoint should be a whole file\. .*{match}"):
        resume()


def test_a_whole_one_is_nothing_to_complain_of() -> None:
    explain_checkpoint(made())
    assert resume() == 2 + 6  # the second epoch


def test_an_error_of_the_fit_itself_is_not_blamed_on_the_checkpoint() -> None:
    """As when the last checkpoint is being written again, and the disk is full: that is the error to see."""

    class Failing(SomebodysModule):
        def on_train_batch_end(self, *args: Any) -> None:
            CHECKPOINT.write_bytes(b"")
            raise OSError(28, "No space left on device")

    path = made()
    with pytest.raises(OSError, match="No space left on device"):
        quiet(callbacks=[Unlearn(GradientAscent(), forget=loader(2))], max_epochs=3).fit(
            Failing(), loader(1), ckpt_path=path
        )


UNREADABLE = {
    "no bytes": "Found an empty one",
    "half of it": "which cannot be read",
    "garbage": "which cannot be read",
    "a page": "which cannot be read",
    "a tensor": "Found none in",
}


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("what", UNREADABLE)
def test_neither_is_a_control(what: str, suffix: str) -> None:
    path = Path(f"control{suffix}")
    made().rename(path)
    DAMAGE[what][0](path)
    match = "which cannot be read" if suffix == ".safetensors" and what == "a tensor" else UNREADABLE[what]
    with pytest.raises(ValueError, match=rf"Weights|weights|tensors.*{match}"):
        load_weights(path, SomebodysModule())
    check = RecoveryCheck(control=str(path), probes={"forget": loader(2), "retain": loader(1)})
    with pytest.raises(ValueError, match=match):
        quiet(callbacks=[Unlearn(GradientAscent(), forget=loader(2)), check], max_steps=1).fit(
            SomebodysModule(), loader(1)
        )


@pytest.mark.parametrize("seed", range(40))
def test_random_damage_never_ends_in_a_riddle(seed: int) -> None:
    """Whatever the bytes are: a control is read, or refused in one sentence."""
    torch.save(SomebodysModule().state_dict(), path := Path("control.pt"), _use_new_zipfile_serialization=seed % 2 == 0)
    content = bytearray(path.read_bytes())
    generator = torch.Generator().manual_seed(seed)
    for _ in range(30):
        content[int(torch.randint(len(content), (), generator=generator))] = seed * 7 % 256
    path.write_bytes(content)
    said = refusal(path)
    assert said is None or "should" in said


def refusal(path: Path) -> str | None:
    try:
        load_weights(path, SomebodysModule())
    except ValueError as error:
        return str(error)
    return None
