"""A control is attacked and audited as the model of the fit is, once, and the fit does not notice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from _modules import SomebodysModule, examples, loader, quiet
from _ranks import run_ranks
from _sharded_fits import STRATEGIES
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler

from lightning_unlearn import (
    AnswerProbability,
    Attack,
    Bounded,
    Encoding,
    FileRecords,
    FinetuneFirst,
    ForgetRetainData,
    GradientAscent,
    LoaderSettings,
    Quantize,
    QuestionAnswerData,
    RecoveryCheck,
    Relearn,
    SequentialOrder,
    TinyCausalLM,
    Unlearn,
    UnlearningModule,
    WriteReport,
)
from lightning_unlearn.audits import Measure
from lightning_unlearn.observation import Observation


def control_file() -> str:
    never_taught = SomebodysModule()
    with torch.no_grad():
        for p in never_taught.parameters():
            p.mul_(-0.5).add_(0.01)
    torch.save({"state_dict": never_taught.state_dict()}, "control.ckpt")
    return "control.ckpt"


def attacks() -> dict[str, Attack]:
    return {
        "int4": Quantize(bits=4),
        "adapter": Relearn(steps=2, lr=1e-1),
        "full": Relearn(steps=2, lr=1e-1, mode="full"),
    }


def check(**kwargs: Any) -> RecoveryCheck:
    return RecoveryCheck(
        attacks(),
        probes={"forget": loader(seed=2, n=12), "retain": loader(seed=1)},
        attack_data=loader(seed=2, n=12),
        **kwargs,
    )


def fit(checked: RecoveryCheck | None, *callbacks: Any, **kwargs: Any) -> SomebodysModule:
    module = SomebodysModule()
    unlearn = Unlearn(Bounded(GradientAscent(), bound=6.0), forget=loader(seed=2, n=12))
    kwargs = {"max_epochs": 2, **kwargs}
    ckpt_path = kwargs.pop("ckpt_path", None)
    trainer = quiet(callbacks=[unlearn, *([checked] if checked else []), *callbacks], **kwargs)
    trainer.fit(module, loader(seed=1), ckpt_path=ckpt_path)
    return module


def of_control(checked: RecoveryCheck) -> list[Observation]:
    return [o for o in checked.observations if o.subject == "control"]


def comparable(o: Observation) -> tuple[Any, ...]:
    return o.attack, o.point, o.unit, o.family, o.split, o.metric, o.scores, o.attack_config


def test_it_is_observed_as_if_it_were_the_model_of_the_fit() -> None:
    """The oracle: another trainer validates a module that has the control's weights."""

    class Evaluated(SomebodysModule):
        def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    within, alone = check(control=control_file()), check()
    fit(within)
    module = Evaluated()
    module.load_state_dict(torch.load("control.ckpt")["state_dict"])
    quiet(callbacks=[alone]).validate(module, loader(seed=1), verbose=False)
    assert list(map(comparable, of_control(within))) == list(map(comparable, alone.observations))
    assert {o.attack for o in of_control(within)} == {"none", "int4", "adapter", "full"}
    assert {o.point for o in of_control(within) if o.attack == "full"} == {0, 1, 2}


def test_the_fit_is_the_same_to_the_bit_and_it_is_observed_once() -> None:
    with_control = check(control=control_file(), every_n_steps=1)
    there, back = fit(with_control).state_dict(), fit(None).state_dict()
    assert all(torch.equal(there[name], back[name]) for name in back)
    assert len({(o.attack, o.point, o.split, o.metric) for o in of_control(with_control)}) == len(
        of_control(with_control)
    )
    assert with_control.restored
    steps = {subject: {o.step for o in with_control.observations if o.subject == subject} for subject in SUBJECTS}
    assert steps == {"original": {0}, "control": {0}, "unlearned": set(range(1, 13))}


SUBJECTS = ("original", "unlearned", "control")


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_resumed_fit_does_not_repeat_it(tmp_path: Path) -> None:
    first, path = check(control=control_file()), tmp_path / "checkpoints" / "last.ckpt"
    fit(first, ModelCheckpoint(path.parent, save_last=True), max_epochs=1, enable_checkpointing=True)
    Path("control.ckpt").write_text("gone")  # would be noticed
    resumed = check(control="control.ckpt")
    fit(resumed, ckpt_path=path)
    assert of_control(resumed) == of_control(first)
    assert resumed.control_source == "the weights in control.ckpt"
    assert {o.step for o in resumed.observations} == {0, 6, 12}


def test_a_second_check_before_the_first_step_does_not_erase_the_original() -> None:
    class Edit(RecoveryCheck):
        """Observes again what was changed before the first step."""

        def see_original(self, trainer: Any, pl_module: Any) -> None:
            is_first = not self.observations
            super().see_original(trainer, pl_module)
            if is_first:
                with torch.no_grad():
                    pl_module.head.weight.mul_(0.1)
                self.check(trainer, pl_module)

    checked = Edit(probes={"forget": loader(seed=2)}, audits=[Measure({"p": AnswerProbability()})])
    fit(checked, max_epochs=1)
    at_start = {o.subject: o for o in checked.observations if (o.step, o.split) == (0, "forget")}
    assert set(at_start) == {"original", "unlearned"}
    assert at_start["original"].value != at_start["unlearned"].value
    assert at_start["original"].scores  # which the report compares with


def test_any_number_of_splits_under_any_name() -> None:
    checked = RecoveryCheck({"int4": Quantize(bits=4)}, probes={"neighbours": loader(seed=7, n=8)})
    module = SomebodysModule()
    unlearn = Unlearn(Bounded(GradientAscent(), bound=6.0), forget=loader(seed=2, n=12))
    trainer = quiet(callbacks=[unlearn, checked])
    trainer.fit(module, loader(seed=1))
    assert {o.split for o in checked.observations} == {"forget", "retain", "neighbours"}
    by_hand = [torch.softmax(module.eval()(x), -1).gather(1, y[:, None])[:, 0] for x, y in loader(seed=7, n=8)]
    logged = trainer.callback_metrics["recovery/none/neighbours_probability"].item()
    assert logged == pytest.approx(torch.cat(by_hand).mean().item(), abs=1e-6)


def test_an_attack_that_fails_on_it_leaves_no_trace() -> None:
    class FailsOnAnythingElse(Quantize):
        calls = 0

        def __call__(self, network: nn.Module, **kwargs: Any) -> Any:
            type(self).calls += 1
            if self.calls == 2:  # the original, the control, and so on
                raise RuntimeError("not this one")
            return super().__call__(network, **kwargs)

    checked = RecoveryCheck({"int4": FailsOnAnythingElse(bits=4)}, control=control_file())
    with pytest.warns(UserWarning, match="`int4` failed, and the fit goes on without it: RuntimeError: not this one"):
        there = fit(checked).state_dict()
    back = fit(None).state_dict()
    assert all(torch.equal(there[name], back[name]) for name in back)
    assert {o.attack for o in of_control(checked)} == {"none"}


def test_the_report_says_where_it_came_from_and_what_its_metrics_mean(tmp_path: Path) -> None:
    fit(check(control=control_file()), WriteReport(str(tmp_path)))
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["run"]["control"] == "the weights in control.ckpt"
    assert set(report["definitions"]) == {"probability", "token_nll", "specificity"}
    assert any(recovery["adjusted"] for recovery in report["recoveries"])
    fit(check(), WriteReport(str(tmp_path)))
    assert "control" not in json.loads((tmp_path / "report.json").read_text())["run"]


def people(**where: Any) -> QuestionAnswerData:
    records = FileRecords("bundled:people", entity="entity", **where)
    return QuestionAnswerData(records, Encoding("bundled"), LoaderSettings(batch_size=6))


Taught = tuple[dict[str, Tensor], FinetuneFirst, RecoveryCheck]


def taught(folder: str | None, *, control: bool, epochs: int) -> Taught:
    data = ForgetRetainData(retain=people(rows=(60, 72)), forget=people(rows=(0, 6)), order=SequentialOrder())
    teach = FinetuneFirst(epochs=epochs, lr=4e-3, batch_size=6, folder=folder, control=control)
    checked = RecoveryCheck(every_n_epochs=0)
    module = UnlearningModule(TinyCausalLM(hidden_size=64, num_hidden_layers=2))
    callbacks = [teach, Unlearn(Bounded(GradientAscent(), bound=6.0)), checked]
    quiet(callbacks=callbacks, limit_val_batches=0).fit(module, datamodule=data)
    return module.state_dict(), teach, checked


def test_what_finetune_first_makes_knows_what_stays_and_not_what_goes() -> None:
    _, teach, checked = taught(None, control=True, epochs=40)
    assert isinstance(teach.control_weights, dict)
    assert "fine-tuned on the retain data alone" in (checked.control_source or "")
    found = {(o.subject, o.split): o.value for o in checked.observations if o.metric == "probability"}
    assert found["control", "retain"] > 0.5 * found["original", "retain"] > 0.3
    assert found["control", "forget"] < 0.3 * found["original", "forget"]


@pytest.mark.parametrize("folder", [None, "kept"])
def test_what_finetune_first_makes_changes_nothing_and_is_found_again(folder: str | None) -> None:
    plain, _, without = taught(folder, control=False, epochs=2)
    fitted, _, checked = taught(folder, control=True, epochs=2)
    again, teach, checked_again = taught(folder, control=True, epochs=2)
    assert all(torch.equal(plain[name], fitted[name]) and torch.equal(plain[name], again[name]) for name in plain)
    assert not of_control(without)
    assert list(map(comparable, of_control(checked_again))) == list(map(comparable, of_control(checked)))
    assert isinstance(teach.control_weights, str if folder else dict)
    assert folder is None or len(list(Path(folder).glob("control-*.safetensors"))) == 1


def test_a_path_that_leads_nowhere_is_found_out_before_the_fit() -> None:
    with pytest.raises(FileNotFoundError, match=r"existing file or folder. Found nothing at 'nowhere.ckpt'"):
        fit(check(control="nowhere.ckpt"))


def test_weights_of_another_model_are_refused() -> None:
    torch.save(SomebodysModule(width=7).state_dict(), "other.pt")
    with pytest.raises(ValueError, match=r"Found in `other.pt`: 1 of another shape \(body.0.weight"):
        fit(check(control="other.pt"))


@pytest.mark.filterwarnings("ignore")  # torch's own, about its first FSDP
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_observe_it_as_one_does(kind: str) -> None:
    path = str(Path(control_file()).resolve())
    alone = check(control=path)
    fit(alone, max_epochs=1)
    make, strategy = STRATEGIES[kind]

    def on_rank(rank: int, world_size: int) -> tuple[list[Observation], bool | None]:
        checked, retain = check(control=path), examples(1)
        unlearn = Unlearn(Bounded(GradientAscent(), bound=6.0), forget=loader(seed=2, n=12))
        trainer = quiet(
            strategy=strategy(), devices=world_size, callbacks=[unlearn, checked], use_distributed_sampler=False
        )
        sampler: Any = DistributedSampler(retain, world_size, rank, shuffle=False)
        trainer.fit(make(), DataLoader(retain, 4, sampler=sampler))
        return of_control(checked), checked.restored

    for observed, restored in run_ranks(on_rank):
        assert restored
        for mine, theirs in zip(of_control(alone), observed, strict=True):
            assert (mine.attack, mine.point, mine.metric) == (theirs.attack, theirs.point, theirs.metric)
            if mine.metric != "specificity":  # whose steps of a quarter hang on ties
                assert theirs.scores == pytest.approx(mine.scores, abs=1e-4)


def test_flattened_parameters_are_refused_by_name() -> None:
    trainer = quiet(callbacks=[check(control=control_file())])
    # The real one cannot be made without a device; strategies are told by the names of their classes.
    trainer.strategy.__class__ = type("FSDPStrategy", (type(trainer.strategy),), {})
    with pytest.raises(NotImplementedError, match=r"Found `FSDPStrategy`, which flattens them. Use DDP or"):
        trainer.callbacks[0].setup(trainer, SomebodysModule(), "fit")


def test_metrics_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match=r"from one of `audits`. Found `probability` more than once"):
        RecoveryCheck(audits=[Measure(), Measure({"probability": AnswerProbability()})])
