"""A world of one under NCCL, which takes tensors of the device only: every collective we have is handed such tensors."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from _modules import SomebodysModule, examples, loader, quiet
from _sharded_fits import Sharded
from _vantage import forgetting
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_unlearn import (
    GPTQ,
    NPO,
    BilevelUnlearn,
    Bounded,
    CachedLogLikelihood,
    CyclicOrder,
    DisruptionBudget,
    ForgetRetainData,
    FrozenCopy,
    GradientAscent,
    Interpolate,
    KLToReference,
    NeuralVariability,
    Noise,
    PenalizedUnlearn,
    Prune,
    Quantize,
    RecoveryCheck,
    Relearn,
    RoundingNoise,
    Sharpen,
    SignGate,
    SpectralCollapse,
    StepGuard,
    SubspaceGuard,
    TrainingStepReadout,
    TrainOnly,
    TruncateUpdate,
    Unlearn,
    Wanda,
)
from lightning_unlearn.audits import AnswerRank, BucketFlips, Calibration, Measure, Membership, Specificity
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.guards import (
    History,
    InputSubspace,
    Int8,
    MainMemory,
    NoChange,
    NullSpace,
    OptimizerMetric,
    PerExample,
)
from lightning_unlearn.selectors import Random, TopShare

BOUND = 3.0


class Used(SomebodysModule):
    """No unused parameter: of FSDP1's flat ones each must have a gradient."""

    def __init__(self) -> None:
        super().__init__()
        del self.unused

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([*self.body.parameters(), *self.head.parameters()], lr=1e-2)


class UsedSharded(Used, Sharded):
    pass


STRATEGIES: dict[str, Any] = {
    "ddp": (Used, DDPStrategy),
    "fsdp1": (Used, lambda: FSDPStrategy(auto_wrap_policy={nn.Linear})),
    "fsdp2": (
        UsedSharded,
        lambda: ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=1, save_distributed_checkpoint=False),
    ),
}


class Several(int):
    """One process that does not know it: no shortcut for a single one is taken."""

    def __eq__(self, other: object) -> bool:
        return False

    def __ne__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


@pytest.fixture
def one_rank(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As `torchrun` would start it; the process group is given up afterwards."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    names = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 1, "GROUP_RANK": 0, "MASTER_PORT": port}
    for name, value in {**names, "MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test"}.items():
        monkeypatch.setenv(name, str(value))
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.fixture
def no_shortcuts(monkeypatch: pytest.MonkeyPatch, one_rank: None) -> None:
    monkeypatch.setattr(GradientEngine, "world_size", Several(1))


def ascent(**kwargs: Any) -> Unlearn:
    return forgetting(**kwargs)


PARTS: dict[str, Any] = {
    "plain": lambda: [ascent()],
    "spectral": lambda: [ascent(transforms=[SpectralCollapse()])],
    "private": lambda: [ascent(optimizer=lambda params: torch.optim.AdamW(params, lr=5e-3))],
    "cached": lambda: [Unlearn(NPO(beta=0.5), forget=loader(seed=2, n=12), reference=CachedLogLikelihood())],
    "frozen": lambda: [Unlearn(KLToReference(), forget=loader(seed=2, n=12), reference=FrozenCopy())],
    "own loss": lambda: [ascent(readout=TrainingStepReadout())],
    "under": lambda: [ascent(under={"full": Relearn(steps=2, lr=1e-2, mode="full"), "int4": Quantize(4)})],
    "guard": lambda: [ascent(), StepGuard(NoChange(), History(4), scope="parameter")],
    "guard per example": lambda: [ascent(), StepGuard(NoChange(), PerExample(limit=2), OptimizerMetric())],
    "guard int8": lambda: [ascent(), StepGuard(NoChange(), History(4), storage=Int8())],
    "guard in main memory": lambda: [ascent(), StepGuard(NoChange(), History(4), storage=MainMemory())],
    "subspace": lambda: [ascent(), SubspaceGuard(NullSpace(0), retain=loader(seed=1, n=4), batches=1)],
    "sketch": lambda: [ascent(), SubspaceGuard(InputSubspace(0.9, width=6), retain=loader(seed=1, n=8), batches=2)],
    "sign gate": lambda: [ascent(), SignGate()],
    "train only": lambda: [ascent(), TrainOnly(selector=Random(), choice=TopShare(0.5))],
    "variability": lambda: [ascent(), NeuralVariability(0.02)],
    "bilevel": lambda: [BilevelUnlearn(Bounded(GradientAscent(), bound=BOUND), forget=loader(seed=2, n=12))],
    "penalized": lambda: [PenalizedUnlearn(Bounded(GradientAscent(), bound=BOUND), forget=loader(seed=2, n=12))],
    "budget": lambda: [ascent(), DisruptionBudget(loader(seed=5), kl=0.3, every=2)],
}
NOT_UNDER = {
    # Refused by name, with reasons of their own.
    "fsdp1": {"frozen", "spectral", "under", "guard", "guard per example", "guard int8", "guard in main memory"}
    | {"subspace", "sketch", "sign gate", "train only", "variability", "bilevel", "penalized", "private", "budget"},
    "fsdp2": {"bilevel", "penalized"},
    "ddp": set(),
}
CASES = [(kind, part) for kind in STRATEGIES for part in PARTS if part not in NOT_UNDER[kind]]


def fit(kind: str, *callbacks: Any, **kwargs: Any) -> Any:
    made, strategy = STRATEGIES[kind]
    module = made()
    trainer = quiet(strategy=strategy(), callbacks=list(callbacks), use_distributed_sampler=False, **kwargs)
    trainer.fit(module, loader(seed=1))
    return module, trainer


def whole(module: Any, kind: str) -> list[Tensor]:
    if kind == "fsdp1":
        with FullyShardedDataParallel.summon_full_params(module._trainer.strategy.model):
            return [p.detach().cpu().clone() for p in module.parameters()]
    return [(p.full_tensor() if isinstance(p, DTensor) else p).detach().cpu() for p in module.parameters()]


def backend_of(device: torch.device) -> str:
    return "nccl" if device.type == "cuda" else "gloo"


@pytest.mark.parametrize(("kind", "part"), CASES)
def test_a_world_of_one_is_a_single_process(kind: str, part: str, device: torch.device, no_shortcuts: None) -> None:
    if kind == "fsdp1" and device.type == "cpu":
        pytest.skip("torch refuses FSDP1 without an accelerator")
    module, trainer = fit(kind, *PARTS[part]())
    assert backend_of(device) in str(torch.distributed.get_backend())
    assert trainer.global_step == 6
    found = whole(module, kind)
    single = Used()
    quiet(callbacks=PARTS[part]()).fit(single, loader(seed=1))
    assert share_close(found, [p.detach().cpu() for p in single.parameters()]) > 0.9


def share_close(found: list[Tensor], expected: list[Tensor]) -> float:
    """Of all elements: Adam's first steps go by signs, which rounding may turn where a gradient is all but zero."""
    a, b = (torch.cat([t.flatten() for t in tensors]) for tensors in (found, expected))
    return float(((a - b).abs() <= 1e-3 + 1e-2 * b.abs()).float().mean())


ATTACKS: dict[str, Any] = {
    "int4": lambda: Quantize(bits=4),
    "adapter": lambda: Relearn(steps=2, lr=1e-2),
    "full": lambda: Relearn(steps=2, lr=1e-2, mode="full"),
    "full on cpu": lambda: Relearn(steps=2, lr=1e-2, mode="full", store="cpu"),
    "noise": Noise,
    "rounding": RoundingNoise,
    "sharpen": Sharpen,
    "prune": Prune,
    "wanda": lambda: Wanda(head=True),
    "gptq": lambda: GPTQ(4, head=True),
    "back": Interpolate,
    "truncate": lambda: TruncateUpdate(1),
}
AUDITS: dict[str, Any] = {
    "measure": Measure,
    "specificity": Specificity,
    "membership": lambda: Membership(holdout="retain"),
    "rank": lambda: AnswerRank(alternates=2, holdout="retain"),
    "flips": BucketFlips,
    "calibration": Calibration,
}


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_no_attack_and_no_audit_fails(kind: str, no_shortcuts: None) -> None:
    check = RecoveryCheck(
        {name: make() for name, make in ATTACKS.items()},
        audits=[make() for make in AUDITS.values()],
        every_n_steps=6,
        probes={"retain": DataLoader(examples(1, n=12), 4)},
    )
    watched, _ = fit(kind, ascent(), check)
    assert [(f.attack, f.audit, f.error, f.message) for f in check.failures] == []
    assert {o.attack for o in check.observations} == {"none", *ATTACKS}
    assert check.restored
    torch.distributed.destroy_process_group()
    plain, _ = fit(kind, ascent())
    for a, b in zip(whole(watched, kind), whole(plain, kind), strict=True):
        assert_close(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_states_are_gathered_and_taken_up_again(kind: str, one_rank: None, tmp_path: Any) -> None:
    """Guards and private optimizers keep shards of their own, which travel through collectives."""

    def run(folder: str, ckpt_path: Any = None, **kwargs: Any) -> list[Tensor]:
        made, strategy = STRATEGIES[kind]
        unlearn = Unlearn(
            Bounded(GradientAscent(), bound=BOUND), optimizer=lambda params: torch.optim.AdamW(params, lr=5e-3)
        )
        saving = ModelCheckpoint(tmp_path / folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        callbacks = [unlearn, StepGuard(NoChange(), History(3)), saving]
        trainer = quiet(
            strategy=strategy(),
            callbacks=callbacks,
            enable_checkpointing=True,
            **{"max_epochs": 2, **kwargs},
        )
        data = ForgetRetainData(retain=loader(seed=1), forget=loader(seed=2, n=12), order=CyclicOrder())
        module = made()
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
        found = whole(module, kind)
        torch.distributed.destroy_process_group()
        return found

    expected = run("whole")
    run("first", max_steps=4)
    for a, b in zip(run("second", tmp_path / "first" / "step=4.ckpt"), expected, strict=True):
        assert_close(a, b, rtol=0, atol=1e-6)
