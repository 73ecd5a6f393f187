"""Bucket flips in a fit: of the original that the fit starts from, also when it is resumed, and what they foretell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _modules import SomebodysModule, loader, quiet
from _ranks import run_ranks
from _sharded_fits import SAVING
from _vantage import fitted, forgetting
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_unlearn import (
    Bounded,
    BucketFlips,
    GradientAscent,
    Interpolate,
    Quantize,
    RecoveryCheck,
    RobustnessReport,
    TruncateUpdate,
    Unlearn,
    WriteReport,
)
from lightning_unlearn.attacks import code_flips
from lightning_unlearn.audits import Measure
from lightning_unlearn.report.render._rows import columns_of

resuming = pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")


def checked() -> RecoveryCheck:
    grids = {"int4": Quantize(4, head=True), "int8": Quantize(8, head=True)}
    return RecoveryCheck({"int4": Quantize(4)}, audits=[Measure(), BucketFlips(grids)], every_n_steps=1)


def flips(check: RecoveryCheck) -> dict[tuple[int, str, str], float]:
    """By step, metric and layer."""
    return {(o.step, o.metric, o.layer): o.value for o in check.observations if o.split == "weights"}


def test_flips_are_between_the_first_weights_of_the_fit_and_those_of_each_step_and_are_not_asked_for_under_attack() -> (
    None
):
    module, check = SomebodysModule("sgd"), checked()
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    _, trainer = fitted(forgetting(), module, callbacks=[check])
    by_hand = code_flips(module, before, Quantize(8, head=True))
    found = flips(check)
    assert {step for step, _, _ in found} == set(range(7))
    assert {value for (step, _, _), value in found.items() if step == 0} == {0.0}
    for layer in ("body.0.weight", "head.weight"):
        assert found[6, "bucket_flips_int8", layer] == pytest.approx(by_hand[layer].flipped, abs=1e-7)
        assert found[6, "bucket_flips_int8", layer] > 0
    assert {o.attack for o in check.observations if o.split == "weights"} == {"none"}
    assert {o.attack for o in check.observations if o.split == "forget"} == {"none", "int4"}
    assert "recovery/none/weights_bucket_flips_int8/head.weight" in trainer.callback_metrics


@resuming
@pytest.mark.parametrize("kind", ["single", pytest.param("ddp", marks=pytest.mark.slow), "fsdp2"])
def test_a_resumed_fit_goes_on_with_the_original_of_the_interrupted_one(kind: str, tmp_path: Path) -> None:
    module_class, strategy = SAVING[kind]
    half = str(tmp_path / "half.ckpt")

    def fit(steps: int, world: int, path: str | None = None) -> Any:
        """All flips, those of the end by hand, and failures."""
        check, module = checked(), module_class()
        before = {n: p.detach().clone() for n, p in SomebodysModule().named_parameters()}
        trainer = quiet(callbacks=[forgetting(), check], strategy=strategy(), devices=world, max_steps=steps)
        trainer.fit_loop.max_epochs = 9
        trainer.fit(module, loader(seed=1), ckpt_path=path)
        trainer.save_checkpoint(half)
        by_hand = code_flips(module, before, Quantize(8, head=True))
        return flips(check), {name: of.flipped for name, of in by_hand.items()}, len(check.failures)

    def both(rank: int, world: int) -> Any:
        return fit(3, world), fit(6, world, half)

    for new, resumed in [both(0, 1)] if kind == "single" else run_ranks(both):
        for (found, by_hand, failures), last in ((new, 3), (resumed, 6)):
            assert failures == 0
            assert {step for step, _, _ in found} == set(range(last + 1))
            at_end = {layer: found[last, "bucket_flips_int8", layer] for layer in by_hand}
            assert at_end == pytest.approx(by_hand, abs=1e-7)
            assert at_end["head.weight"] > 0
        assert new[0].items() <= resumed[0].items()


def test_all_who_compare_with_the_original_share_one_copy_of_it() -> None:
    attacks = {"merge": Interpolate(0.5), "rank": TruncateUpdate(1), "file": Interpolate(0.5, original="original.ckpt")}
    module, audit = SomebodysModule(), BucketFlips()
    torch.save({"state_dict": module.state_dict()}, "original.ckpt")
    fitted(forgetting(), module, callbacks=[RecoveryCheck(attacks, audits=[Measure(), audit])])
    held = [{id(o.value) for o in part._seen} for part in (*attacks.values(), audit)]
    assert held[0] == held[1] == held[3]
    assert held[0]
    assert not held[2]


def test_outside_of_a_fit_it_fails_by_name_and_is_shown_by_a_file() -> None:
    module = SomebodysModule()
    torch.save({"state_dict": module.state_dict()}, "original.ckpt")
    with torch.no_grad():
        module.head.weight.mul_(1.5)
    module.validation_step = lambda *_: None  # type: ignore[assignment]
    for audit, failures in ((BucketFlips(), 1), (BucketFlips(original="original.ckpt"), 0)):
        check = RecoveryCheck({}, audits=[Measure(), audit])
        trainer = quiet(callbacks=[forgetting(), check])
        if failures:
            with pytest.warns(UserWarning, match="Audit `BucketFlips` failed.*should know the original"):
                trainer.validate(module, loader(seed=1), verbose=False)
        else:
            trainer.validate(module, loader(seed=1), verbose=False)
        assert len(check.failures) == failures


# What flips foretell


WIDTH = 21
FORGET, RETAIN = slice(0, 16), slice(16, 20)  # each has inputs of its own


class OnGrid(pl.LightningModule):
    """Its weights lie in the middle of int4's buckets. The last one of each row is the scale, and its input is always 0."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.net, self.lr = nn.Linear(WIDTH, 5, bias=False), lr
        codes = torch.randint(-6, 7, (5, WIDTH), generator=torch.Generator().manual_seed(4)).float()
        codes[:, -1] = 7
        with torch.no_grad():
            self.net.weight.copy_(codes / 7)

    def rows(self, part: slice) -> DataLoader[Any]:
        """Inputs that are large where the weights do not see them, so that small moves change all answers."""
        weight = self.net.weight.detach()[:, part].double()
        generator, classes = torch.Generator().manual_seed(part.start), torch.arange(12) % 5
        unseen = torch.linalg.svd(weight).Vh[5:]
        away = 20 * torch.randn(12, len(unseen), generator=generator, dtype=torch.float64) @ unseen
        inputs = torch.zeros(12, WIDTH)
        inputs[:, part] = (away + 3 * F.one_hot(classes, 5).double() @ torch.linalg.pinv(weight).T).float()
        return DataLoader(TensorDataset(inputs, classes), batch_size=4)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def forgotten(lr: float, folder: Path) -> tuple[RobustnessReport, dict[str, float]]:
    module = OnGrid(lr)
    attacks = {"int4": Quantize(4, head=True), "int8": Quantize(8, head=True)}
    check = RecoveryCheck(attacks, audits=[Measure(), BucketFlips(attacks)])
    unlearn = Unlearn(Bounded(GradientAscent(), bound=9.0), forget=module.rows(FORGET))
    trainer = quiet(callbacks=[unlearn, check, WriteReport(str(folder))], max_epochs=4)
    trainer.fit(module, module.rows(RETAIN))
    last = max(o.step for o in check.observations)
    shares = {m: v for (step, m, layer), v in flips(check).items() if step == last and not layer}
    return RobustnessReport.load(folder / "report.json"), shares


@pytest.mark.filterwarnings("ignore:.*should round a network that does not lie on its own grid")
def test_a_rounding_without_flips_recovers_exactly_and_one_with_flips_does_not(tmp_path: Path) -> None:
    for lr in (1e-3, 3e-3):
        report, shares = forgotten(lr, tmp_path)
        levels = {
            level.model: level.interval.value
            for level in report.levels
            if level.metric == "probability" and level.split == "forget"
        }
        assert levels["original"] - levels["unlearned"] > 0.4
        found = {r.attack: r for r in report.recoveries if r.metric == "probability"}
        assert not any(r.reasons for r in found.values())
        if lr == 1e-3:
            assert shares["bucket_flips_int4"] == shares["noise_flips_int4"] == 0
            assert found["int4"].rho.value == 1
            assert found["int4"].forget.value == levels["original"]
        else:
            assert shares["bucket_flips_int4"] > 0.1
            assert abs(found["int4"].rho.value) < 0.1
        assert shares["bucket_flips_int8"] > 0.4
        assert abs(found["int8"].rho.value) < 0.01
        assert columns_of(report).splits == ("forget", "retain")  # flips are no knowledge, and have no column beside it
