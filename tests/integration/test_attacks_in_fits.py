"""The attacks of `attacks`, as vantage points of forgetting and in checks, where a fit shows them what they need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from _attacks_and_audits import public_kinds
from _modules import SomebodysModule, loader, quiet, same
from _observed_fits import Validated
from _prompts import PROMPTS
from _ranks import run_ranks
from _sharded_fits import SAVING
from _vantage import assert_first_step_is, fitted, forget_loss, forgetting
from torch import nn
from torch.nn import functional as F

from lightning_unlearn import (
    GGUF,
    GPTQ,
    AblateDirection,
    ApplyEdit,
    Attack,
    BitsAndBytes,
    ConceptShift,
    FactSplit,
    Interpolate,
    LatentPerturbation,
    Merge,
    NegateTaskVector,
    Noise,
    PassiveRecovery,
    Prune,
    Quantize,
    Recalibrate,
    RecoveryCheck,
    Relearn,
    Sharpen,
    TokenwisePerturbation,
    TruncateUpdate,
    Unlearn,
    Wanda,
)
from lightning_unlearn.attacks import RoundingNoise
from lightning_unlearn.data import ForgetStream
from lightning_unlearn.edits import Corrupt, Dampen, Edited

pytestmark = [
    pytest.mark.filterwarnings("ignore:Found 1 module.s. in eval mode"),  # the frozen norm of `Normed`
    pytest.mark.filterwarnings("ignore:`Dampen` should have a small forget share"),
]


def sibling() -> str:
    torch.save(SomebodysModule().state_dict(), "sibling.pt")
    return "sibling.pt"


class Normed(SomebodysModule):
    """With rows of 32 weights, of which GGUF makes a block, and a frozen BatchNorm, whose statistics are used in a fit."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            self.body.extend([nn.Linear(16, 32), nn.BatchNorm1d(32).eval(), nn.Linear(32, 16)])


VANTAGE_POINTS: dict[str, Callable[[], Attack]] = {
    "concept-shift": lambda: ConceptShift("retain", every=1, steps=2, lr=1e-2),
    "edited": lambda: Edited(Dampen(alpha=0.5)),
    "edited-without-data": lambda: Edited(Corrupt(alpha=0.5)),
    "gguf": lambda: GGUF("Q4_0"),
    "recalibrate": Recalibrate,
    "rounding-noise": lambda: RoundingNoise(bits=3),
    "gptq": lambda: GPTQ(3, head=True),
    "int8-kernel": lambda: BitsAndBytes("int8", head=True),
    "interpolate": lambda: Interpolate(0.5),
    "merge": lambda: Merge(sibling(), 0.5),
    "nf4-kernel": lambda: BitsAndBytes("nf4", head=True),
    "wanda": lambda: Wanda(0.3),
    "ablate": lambda: AblateDirection([r"body\.0"]),
    "latent": lambda: LatentPerturbation(r"body\.0", eps=0.3, steps=2),
    "noise": lambda: Noise(0.1),
    "passive": lambda: PassiveRecovery(0.5, steps=2, lr=1e-2),
    "prune": lambda: Prune(0.3),
    "quantize": lambda: Quantize(3),
    "relearn": lambda: Relearn(steps=2, lr=1e-2),
    "relearn-full": lambda: Relearn(steps=2, lr=1e-2, mode="full"),
    "sharpen": lambda: Sharpen(0.3),
    "tokenwise": lambda: TokenwisePerturbation(r"body\.0", eps=0.3, steps=2),
    "truncate": lambda: TruncateUpdate(1),
}
"""Every attack that changes the network. A new one joins here."""

IN_NO_FIT = {"TorchAO": "needs torchao, which is not everywhere"}
"""Classes that are not in the list, and why."""


def module_for(name: str) -> SomebodysModule:
    return Normed() if name in ("gguf", "recalibrate") else SomebodysModule()


def test_every_public_attack_is_a_vantage_point_or_a_prompt_and_refused() -> None:
    met, refused = ({type(make()) for make in each.values()} for each in (VANTAGE_POINTS, PROMPTS))
    found = public_kinds(Attack)
    assert len(found) > 30
    assert {kind.__name__ for kind in found - met - refused} <= {"AllWordings", *IN_NO_FIT}


@pytest.mark.parametrize("name", PROMPTS)
def test_a_prompt_is_refused_by_name(name: str) -> None:
    attack = PROMPTS[name]()
    with pytest.raises(
        ValueError, match=f"change the network. Found `{type(attack).__name__}`, which only asks in other"
    ):
        forgetting(under={name: attack})


@pytest.mark.parametrize(
    ("setting", "attack"),
    [
        ("data = 'mine'", lambda: Relearn(data="mine")),
        ("data = 'mine'", lambda: Edited(Dampen(), data="mine")),
        ("beside = 'swapped'", lambda: ConceptShift("swapped")),
        ("beside = 'other'", lambda: PassiveRecovery(beside="other")),
        (r"facts = <?\S*FactSplit", lambda: Relearn(facts=FactSplit())),
    ],
)
def test_data_of_checks_are_refused_by_name(setting: str, attack: Callable[[], Attack]) -> None:
    with pytest.raises(ValueError, match=rf"`under\['it'\]` should take the data of the fit. Found `{setting}"):
        forgetting(under={"it": attack()})


def points(attack: Attack, module: SomebodysModule) -> list[float]:
    """Its strengths, on a network in evaluation mode."""
    attack.see_original(module.eval())
    data: Any = list(loader(seed=2, n=4 if attack.needs_data == "judged" else 24))
    given = {"attack": data, "beside": list(loader(seed=1))} if attack.needs_data == "both" else data
    with attack(module, batches=given, loss=lambda batch: F.cross_entropy(module(batch[0]), batch[1])) as found:
        return list(found)


def test_of_attacks_with_several_points_one_is_drawn() -> None:
    """Else they would always be met at their last one."""
    several = [name for name, make in VANTAGE_POINTS.items() if len(points(make(), module_for(name))) > 1]
    assert {"recalibrate", "relearn", "passive"} <= set(several)
    for name in several:
        draws = [VANTAGE_POINTS[name]().drawn(torch.Generator().manual_seed(seed)) for seed in range(12)]
        assert len({points(drawn, module_for(name))[-1] for drawn in draws}) > 1, name


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("name", VANTAGE_POINTS)
def test_each_is_a_vantage_point_of_forgetting(name: str, accumulate: int) -> None:
    """It never fails, moves the fit, and the same fit twice is the same to the bit."""
    fits = []
    for under in ({name: VANTAGE_POINTS[name]()}, {name: VANTAGE_POINTS[name]()}, None):
        unlearn = forgetting(under=under)
        fits.append(fitted(unlearn, module_for(name), accumulate_grad_batches=accumulate)[0])
        assert under is None or unlearn._vantage.counts[name] == {"met": 6 // accumulate, "failed": 0}
    one, two, plain = ([p.detach() for p in module.parameters()] for module in fits)
    assert all(map(torch.equal, one, two))
    assert not all(map(torch.equal, one, plain))


@pytest.mark.parametrize("name", [name for name in VANTAGE_POINTS if not name.startswith("relearn")])
def test_a_resumed_fit_meets_the_same(name: str, tmp_path: Path) -> None:
    """Met again at the same strength and from the same seed: the last weights are those of the fit in one go, to the bit."""

    def run(epochs: int, **kwargs: Any) -> tuple[SomebodysModule, Any, Unlearn]:
        unlearn = forgetting(under={name: VANTAGE_POINTS[name]()}, under_every=2)
        module, trainer = module_for(name), quiet(callbacks=[unlearn], max_epochs=epochs)
        trainer.fit(module, loader(seed=1, n=12), **kwargs)
        return module, trainer, unlearn

    whole, _, _ = run(2)
    half, trainer, _ = run(1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _, unlearn = run(2, ckpt_path=tmp_path / "half.ckpt", weights_only=False)
    assert same(whole, resumed)
    assert not same(whole, half)
    assert unlearn._vantage.counts[name] == {"met": 3, "failed": 0}


def test_where_norms_take_the_statistics_of_each_batch_recalibrating_fails_by_name() -> None:
    """There the gradient is the plain one, whatever the running statistics are."""
    module = Normed()
    module.body[4].train()
    with (
        pytest.warns(UserWarning, match="`norms` .* failed, .*Found all 1 in training mode.*Freeze norms"),
        pytest.raises(RuntimeError, match="`norms`. Found that it failed in each of the 6 steps"),
    ):
        fitted(forgetting(under={"norms": Recalibrate()}), module)


def test_under_sharpen_the_forget_row_is_that_of_sam_by_hand() -> None:
    r"""Half of it at :math:`\theta`, half at :math:`\theta - \rho g / |g|`, :math:`g` of the same batch."""
    module, judged = SomebodysModule("sgd"), next(ForgetStream(loader(seed=2, n=24), seed=5))
    params = [*module.body.parameters(), *module.head.parameters()]
    plain = torch.autograd.grad(forget_loss(module, judged), params)
    towards = torch.autograd.grad(F.cross_entropy(module(judged[0]), judged[1]), params)
    length = torch.cat([g.flatten() for g in towards]).norm()
    with torch.no_grad():
        for p, g in zip(params, towards, strict=True):
            p.sub_(0.5 * g / length)
    there = torch.autograd.grad(forget_loss(module, judged), params)
    row = [(a + b) / 2 for a, b in zip(plain, there, strict=True)]
    assert max((a - b).abs().max().item() for a, b in zip(plain, row, strict=True)) > 1e-3
    assert_first_step_is(row, {"sam": Sharpen(0.5)})


def values(check: RecoveryCheck, attack: str) -> dict[int, float]:
    """The loss on the forget set after each step."""
    return {
        o.step: o.value for o in check.observations if (o.metric, o.split, o.attack) == ("token_nll", "forget", attack)
    }


def checked() -> RecoveryCheck:
    return RecoveryCheck({"merge": Interpolate(1.0), "rank": TruncateUpdate(0)}, every_n_steps=1)


def assert_all_is_brought_back(check: RecoveryCheck, steps: set[int]) -> None:
    """At the end of the way the network is the original, whatever was forgotten."""
    merged, alone = values(check, "merge"), values(check, "none")
    assert set(merged) == set(alone) == steps
    assert merged == pytest.approx(dict.fromkeys(steps, alone[0]), abs=1e-6)
    assert abs(alone[max(steps)] - alone[0]) > 0.01
    assert not check.failures


def test_a_check_shows_attacks_the_original_before_the_first_step_also_if_weights_come_late() -> None:
    class Late(SomebodysModule):
        def on_train_start(self) -> None:
            with torch.no_grad():
                self.head.weight.mul_(3)

    check = checked()
    fitted(forgetting(), Late(), callbacks=[check])
    assert_all_is_brought_back(check, set(range(7)))


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_a_check_in_a_resumed_fit_shows_them_the_original_before_it_is_gone(tmp_path: Path) -> None:
    trainer = quiet(callbacks=[forgetting(), checked()], max_steps=3)
    trainer.fit(SomebodysModule(), loader(seed=1))
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    check = checked()
    resumed = quiet(callbacks=[forgetting(), check], max_epochs=2, max_steps=6)
    resumed.fit(SomebodysModule(), loader(seed=1), ckpt_path=str(tmp_path / "half.ckpt"))
    assert_all_is_brought_back(check, set(range(7)))


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.filterwarnings("ignore:Attack `rank` failed")
def test_a_resumed_fit_that_starts_from_other_weights_does_not_take_them_for_the_original(tmp_path: Path) -> None:
    module = SomebodysModule()
    trainer = quiet(callbacks=[forgetting(), checked()], max_steps=3)
    trainer.fit(module, loader(seed=1))
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    check = checked()
    resumed = quiet(callbacks=[forgetting(), check], max_epochs=2, max_steps=6)
    with pytest.warns(UserWarning, match="Attack `merge` failed.*resume a fit with the weights that it started from"):
        resumed.fit(module, loader(seed=1), ckpt_path=str(tmp_path / "half.ckpt"))  # it has moved already
    assert {f.step for f in check.failures if f.attack == "merge"} == {4, 5, 6}


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize("kind", [pytest.param("ddp", marks=pytest.mark.slow), "fsdp2"])
def test_so_it_does_in_two_processes_in_a_new_fit_and_in_a_resumed_one(kind: str, tmp_path: Path) -> None:
    module_class, strategy = SAVING[kind]

    def run(rank: int, world: int) -> list[Any]:
        seen = []
        for steps, path in ((3, None), (6, str(tmp_path / "half.ckpt"))):
            check = checked()
            trainer = quiet(callbacks=[forgetting(), check], strategy=strategy(), devices=world, max_steps=steps)
            trainer.fit_loop.max_epochs = 9
            trainer.fit(module_class(), loader(seed=1), ckpt_path=path)
            trainer.save_checkpoint(tmp_path / "half.ckpt")
            seen.append((values(check, "merge"), values(check, "rank"), values(check, "none"), len(check.failures)))
        return seen

    for new, resumed in run_ranks(run):
        for (merged, rank, alone, failures), steps in ((new, 4), (resumed, 7)):
            assert failures == 0
            assert len(alone) == steps
            assert merged == pytest.approx(dict.fromkeys(alone, alone[0]), abs=1e-6)
            assert rank.keys() == merged.keys()
            assert abs(alone[steps - 1] - alone[0]) > 0.01


def test_a_check_shows_them_the_original_before_an_edit() -> None:
    module, check = SomebodysModule(), checked()
    torch.save({"state_dict": {n: 0.5 * p for n, p in module.state_dict().items()}}, "base.ckpt")
    edit = ApplyEdit(NegateTaskVector(base="base.ckpt", scale=0.5))
    fitted(forgetting(), module, callbacks=[check, edit])
    assert_all_is_brought_back(check, set(range(7)))


def test_outside_of_a_fit_the_attack_fails_by_name() -> None:
    check = RecoveryCheck({"merge": Interpolate(1.0)})
    trainer = quiet(callbacks=[forgetting(), check])
    with pytest.warns(UserWarning, match="Attack `merge` failed.*`Interpolate` should know the original"):
        trainer.validate(Validated(), loader(seed=1))


def test_a_perturbation_of_one_batch_fails_in_a_check_by_name_and_the_fit_goes_on() -> None:
    check = RecoveryCheck({"tokenwise": TokenwisePerturbation(r"body\.0")})
    with pytest.warns(UserWarning, match="Attack `tokenwise` failed.*should get the one batch that is judged. Found 6"):
        fitted(forgetting(), callbacks=[check])
    assert {f.attack for f in check.failures} == {"tokenwise"}


def test_points_that_are_fractions_stay_so_in_a_report(tmp_path: Path) -> None:
    from lightning_unlearn import RobustnessReport, WriteReport

    check = RecoveryCheck({"prune": Prune(0.25), "merge": Interpolate(0.5)})
    fitted(forgetting(), callbacks=[check, WriteReport(str(tmp_path))])
    report = RobustnessReport.load(tmp_path / "report.json")
    assert {(r.attack, r.point, r.unit) for r in report.recoveries} == {
        ("prune", 0.25, "fraction"),
        ("merge", 0.5, "alpha"),
    }
    page = (tmp_path / "report.html").read_text()
    assert "fraction 0.25" in page
    assert "alpha 0.5" in page
