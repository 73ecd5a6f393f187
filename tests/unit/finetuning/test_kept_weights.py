"""Kept weights are used only if they are whole and ours; whatever else is there is named, and made anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from _full_disk import room_for
from _modules import SomebodysModule, loader, quiet, same
from _ranks import run_ranks
from lightning.pytorch.strategies import DDPStrategy
from safetensors.torch import save_model
from torch import nn

from lightning_unlearn import FinetuneFirst, ForgetRetainData, GradientAscent, RecoveryCheck, Unlearn
from lightning_unlearn.finetuning._kept_weights import KeptWeights


def taught(folder: str | None = "kept", *, control: bool = False) -> tuple[nn.Module, FinetuneFirst]:
    """The network as it was taught, before anything is forgotten."""
    module = SomebodysModule()
    teach = FinetuneFirst(epochs=1, lr=1e-2, batch_size=6, folder=folder, control=control)
    data = ForgetRetainData(retain=loader(seed=1), forget=loader(seed=2, n=12))
    quiet(callbacks=[teach], limit_train_batches=0).fit(module, datamodule=data)
    return module, teach


def files(name: str = "taught") -> list[Path]:
    return sorted(Path("kept").glob(f"{name}-*.safetensors"))


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def another_network(path: Path) -> None:
    other = SomebodysModule()
    with torch.no_grad():
        other.head.weight.add_(1)
    save_model(other, str(path))


def one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "cut off in its head": lambda path: path.write_bytes(path.read_bytes()[:5]),
    "no bytes": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(bytes(range(256)) * 20),
    "one bit": one_bit,
    "another network": another_network,
    "a text": lambda path: path.write_text("<html>login required</html>"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_file_is_named_and_made_anew(what: str) -> None:
    whole, _ = taught()
    (path,) = files()
    content = path.read_bytes()
    DAMAGE[what](path)
    with pytest.warns(UserWarning, match=rf"`{path}` should hold weights .* Found other content than its name says"):
        again, _ = taught()
    assert same(whole, again)
    assert [file.read_bytes() for file in files()] == [content]  # and the next run finds it
    assert not same(whole, SomebodysModule())


def test_a_directory_in_its_place_is_named_and_left_alone() -> None:
    whole, _ = taught()
    (path,) = files()
    directory(path)
    with pytest.warns(UserWarning, match=str(path)) as said:
        again, _ = taught()
    assert same(whole, again)
    assert path.is_dir()
    assert [str(path) in str(warning.message) for warning in said] == [True, True]  # when read, and when written


def test_a_whole_file_is_found_and_private() -> None:
    whole, _ = taught()
    (path,) = files()
    before = path.stat().st_mtime_ns
    assert path.stat().st_mode & 0o777 == 0o600
    assert same(whole, taught()[0])
    assert path.stat().st_mtime_ns == before
    assert [file.name for file in Path("kept").iterdir()] == [path.name]


def test_a_disk_that_fills_up_costs_the_file_and_not_the_fit() -> None:
    whole, _ = taught(None)
    with room_for(500), pytest.warns(UserWarning, match=r"should be kept in `kept`. Found .*File too large"):
        again, _ = taught()
    assert same(whole, again)
    assert files() == []


def test_a_control_that_could_not_be_kept_stays_in_memory() -> None:
    with room_for(500), pytest.warns(UserWarning, match="should be kept"):
        _, teach = taught(control=True)
    assert isinstance(teach.control_weights, dict)
    assert isinstance(taught(control=True)[1].control_weights, str)


def test_a_control_in_a_damaged_file_is_made_anew() -> None:
    taught(control=True)
    (path,) = files("control")
    content = path.read_bytes()
    path.write_bytes(content[:1000])
    with pytest.warns(UserWarning, match="other content"):
        _, teach = taught(control=True)
    assert path.read_bytes() == content
    assert teach.control_weights == str(path)
    data = ForgetRetainData(retain=loader(seed=1), forget=loader(seed=2, n=12))
    callbacks = [teach, Unlearn(GradientAscent()), check := RecoveryCheck(every_n_epochs=0)]
    quiet(callbacks=callbacks, max_steps=1).fit(SomebodysModule(), datamodule=data)
    assert any(o.subject == "control" for o in check.observations)


def test_files_of_another_origin_are_not_looked_at() -> None:
    layer = nn.Linear(2, 1)
    KeptWeights(Path("kept"), "taught-1").save(layer)
    (path,) = files()
    path.write_bytes(b"")
    assert KeptWeights(Path("kept"), "taught-2").find() is None


@pytest.mark.parametrize("share_a_disk", [True, False])
def test_ranks_make_or_find_the_same_together(share_a_disk: bool, tmp_path: Path) -> None:
    """On machines that do not share a disk, only the first one has the file: all make the weights, and the same ones."""

    def on_rank(rank: int, world_size: int) -> tuple[dict[str, torch.Tensor], str]:
        folder = tmp_path if share_a_disk else tmp_path / str(rank)
        module = SomebodysModule()
        teach = FinetuneFirst(epochs=1, lr=1e-2, batch_size=6, folder=str(folder), control=True)
        data = ForgetRetainData(retain=loader(seed=1), forget=loader(seed=2, n=12))
        strategy = DDPStrategy(find_unused_parameters=True)
        quiet(callbacks=[teach], max_steps=1, devices=world_size, strategy=strategy, limit_train_batches=0).fit(
            module, datamodule=data
        )
        return module.state_dict(), type(teach.control_weights).__name__

    first, second = run_ranks(on_rank), run_ranks(on_rank)
    for weights, _ in (*first, *second):
        assert all(torch.equal(weights[name], first[0][0][name]) for name in weights)
    assert [kind for _, kind in (*first, *second)] == ["str"] * 4
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2  # no second file where the weights were made again
