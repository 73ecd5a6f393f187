"""A guarded fit in two real processes resumes from a checkpoint as if it had not stopped, past gradients included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from _modules import quiet
from _ranks import run_ranks
from _sharded_fits import SAVING, data, loader
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_unlearn import Bounded, GradientAscent, Unlearn
from lightning_unlearn.callbacks import StepGuard
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.engine._sharded_state import own_share, with_all_ranks
from lightning_unlearn.guards import History, Int8, NoChange
from lightning_unlearn.runtime import local


def run(kind: str, storage: Any, folder: Path, ckpt_path: Path | None = None) -> list[tuple[list[Tensor], Any]]:
    """What each process holds of the weights after the fit, and of past gradients."""

    def one(rank: int, world_size: int) -> tuple[list[Tensor], Any]:
        module_class, strategy = SAVING[kind]
        module, guard = module_class(), StepGuard(NoChange(), History(4), storage=storage)
        forget = DataLoader(data(2, 12, exact=False), batch_size=8 // world_size)
        saved = ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        trainer = quiet(
            strategy=strategy(),
            devices=world_size,
            callbacks=[guard, Unlearn(Bounded(GradientAscent(), bound=4.0), forget=forget, weight=3.0), saved],
            use_distributed_sampler=False,
            enable_checkpointing=True,
            max_epochs=2,
        )
        trainer.fit(module, loader(data(1, 32, exact=False), rank, world_size), ckpt_path=ckpt_path)
        assert guard._steps == {"taken": 8, "transformed": 8, "fallbacks": 0}
        return [local(p).detach().clone() for p in module.parameters()], guard.directions.state_dict()["past"]

    return run_ranks(one)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own, about its first FSDP
@pytest.mark.parametrize(("kind", "storage"), [(k, None) for k in SAVING if k != "single"] + [("fsdp2", Int8())])
@pytest.mark.usefixtures("device_semantics")
def test_resumed_equals_uninterrupted(kind: str, storage: Any, tmp_path: Path) -> None:
    uninterrupted = run(kind, storage, tmp_path / "whole")
    resumed = run(kind, storage, tmp_path / "resumed", tmp_path / "whole" / "step=4.ckpt")
    for (weights, past), (again, past_again) in zip(uninterrupted, resumed, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(weights, again, strict=True))
        assert len(past) == len(past_again) == 3
        for row, other in zip(past, past_again, strict=True):
            assert [t is None for t in row] == [
                t is None for t in other
            ]  # a flat shard may hold nothing of a parameter
            assert all(torch.equal(x, y) for x, y in zip(row, other, strict=True) if x is not None)


def engine(kind: Any) -> GradientEngine:
    made = GradientEngine(nn.Linear(1, 1))
    made.kind = kind
    return made


WHOLE = {"past": [[torch.ones(2)]]}


@pytest.mark.parametrize(
    ("state", "kind", "found"),
    [
        ({"ranks": [WHOLE, WHOLE]}, "single", "in 2 shards.*`single`"),
        ({"ranks": [WHOLE, WHOLE]}, "fsdp2", "in 2 shards.*`fsdp2` with `world_size = 1`"),
        (WHOLE, "fsdp2", "whole.*`fsdp2`"),
    ],
)
def test_shards_of_another_kind_are_left_out_with_a_warning(state: Any, kind: str, found: str) -> None:
    with pytest.warns(UserWarning, match=f"should be resumed under the strategy.*Found them {found}"):
        assert own_share(state, engine(kind), "Past gradients") == {}


@pytest.mark.parametrize("state", [{}, {"past": []}])
@pytest.mark.parametrize("kind", ["single", "ddp", "fsdp1", "fsdp2"])
def test_where_there_is_nothing_nothing_is_asked(state: Any, kind: str) -> None:
    assert with_all_ranks(state, engine(kind)) == state
    assert own_share(state, engine(kind), "Past gradients") == state
