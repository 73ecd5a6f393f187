"""Auditing finished models: who is observed, how they are found, and that an interrupted audit goes on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as pl
import pytest
import torch
from safetensors.torch import save_model
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from lightning_unlearn import (
    Encoding,
    FileRecords,
    Prediction,
    Quantize,
    Readout,
    Relearn,
    TinyCausalLM,
    UnlearningModule,
)
from lightning_unlearn.attacks import Attack, expanded
from lightning_unlearn.auditing import (
    Given,
    Preset,
    _progress,
    _standalone_check,
    audit,
    preset_attacks,
    preset_audits,
)
from lightning_unlearn.audits import Audit, LayerProbe, Measure, Membership, Unattacked
from lightning_unlearn.checks import _audits_under_attack, _costs
from lightning_unlearn.metrics import ExactMemorization
from lightning_unlearn.observation import Observation
from lightning_unlearn.readouts import content_key
from lightning_unlearn.report import RobustnessReport
from lightning_unlearn.runtime import Misfit

SEEDS = {"original": 0, "control": 1, "unlearned": 2}


def network(seed: int = 7) -> nn.Module:
    return TinyCausalLM(hidden_size=32, num_hidden_layers=1, seed=seed)


def people(group: str) -> FileRecords:
    return FileRecords("bundled:people", entity="entity", where={"group": group}, rows=(0, 20))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("weights")
    files = {who: str(folder / f"{who}.safetensors") for who in SEEDS}
    for who, seed in SEEDS.items():
        save_model(network(seed), files[who])
    return files


def audited(weights: dict[str, str], folder: Path, **arguments: Any) -> RobustnessReport:
    given = {
        "attacks": {"int4": Quantize(bits=4)},
        "audits": [Measure()],
        "network": network(),
        "progress": False,
        **arguments,
    }
    model = given.pop("model", weights["unlearned"])
    return audit(
        model,
        people("forget"),
        people("retain"),
        **{"original": weights["original"], "control": weights["control"], "encoding": Encoding("bundled"), **given},
        folder=str(folder),
        accelerator="cpu",
    )


def levels(report: RobustnessReport) -> dict[str, float]:
    return {
        o.subject: o.value
        for o in report.observations
        if (o.metric, o.split, o.attack) == ("probability", "forget", "none")
    }


def test_each_model_is_observed_with_its_own_weights(weights: dict[str, str], tmp_path: Path) -> None:
    report = audited(weights, tmp_path / "all")
    assert set(levels(report)) == set(SEEDS)
    for who, path in weights.items():
        alone = audited(weights, tmp_path / who, model=path, original=None, control=None)
        assert levels(report)[who] == levels(alone)["unlearned"]


def test_the_original_is_not_attacked_and_the_others_are(weights: dict[str, str], tmp_path: Path) -> None:
    report = audited(weights, tmp_path, attacks={"int4": Quantize(bits=4), "relearn": Relearn(steps=2)})
    attacked = {(o.subject, o.attack) for o in report.observations if o.attacked}
    assert attacked == {(who, attack) for who in ("control", "unlearned") for attack in ("int4", "relearn")}
    assert not report.failures
    assert report.run["control"] == f"the weights in {weights['control']}"


def test_a_network_that_is_given_stays_as_it_was(weights: dict[str, str], tmp_path: Path) -> None:
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    report = audited(weights, tmp_path, model=net, network=None, attacks={"relearn": Relearn(steps=2, mode="full")})
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert any(o.attack == "relearn" and o.subject == "unlearned" for o in report.observations)


class Counted(Attack):
    """Does nothing, counts how often it is made, and can be interrupted."""

    family: ClassVar[str] = "quant"
    unit: ClassVar[str] = "bits"

    def __init__(self, log: list[str], name: str, interrupts: bool = False) -> None:
        self._log, self.name, self._interrupts = log, name, interrupts

    @contextmanager
    def __call__(self, network: nn.Module, *, batches: Iterable[Any] = (), **_: Any) -> Iterator[Iterator[float]]:
        self._log.append(self.name)
        yield self._points()

    def _points(self) -> Iterator[float]:
        yield 1
        if self._interrupts:
            raise KeyboardInterrupt
        yield 2


def both(log: list[str], interrupts: bool) -> dict[str, Attack]:
    return {"first": Counted(log, "first"), "second": Counted(log, "second", interrupts)}


def test_an_interrupted_audit_goes_on_after_the_last_finished_attack(weights: dict[str, str], tmp_path: Path) -> None:
    log: list[str] = []
    with pytest.raises(SystemExit):  # Lightning's, of Ctrl-C
        audited(weights, tmp_path / "two", attacks=both(log, interrupts=True))
    assert log == ["first", "second"]  # of the control
    resumed = audited(weights, tmp_path / "two", attacks=both(log, interrupts=False))
    assert log == ["first", "second", "second", "first", "second"]
    whole = audited(weights, tmp_path / "one", attacks=both([], interrupts=False))
    assert resumed.observations == whole.observations
    assert resumed.recoveries == whole.recoveries


def test_how_long_it_takes_is_said_of_what_is_left(
    weights: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audited(weights, tmp_path, attacks={"int4": Quantize(bits=4)}, progress=True)
    assert re.search(r"About \d+ seconds?: 2 attacks, 4 looks, 0 training steps\.", capsys.readouterr().out)
    audited(weights, tmp_path, attacks={"int4": Quantize(bits=4), "relearn": Relearn(steps=2)}, progress=True)
    assert re.search(r"About \d+ seconds?: 2 attacks, 6 looks, 4 training steps\.", capsys.readouterr().out)
    audited(weights, tmp_path, attacks={"int4": Quantize(bits=4), "relearn": Relearn(steps=2)}, progress=True)
    assert "About" not in capsys.readouterr().out


class Clock:
    """Stands in for the module `time`: nothing takes time but what says so."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


class Slow(Audit):
    """Takes ``seconds``, and says one thing."""

    def __init__(self, metric: str, clock: Clock, seconds: float) -> None:
        self.metric, self._clock, self._seconds, self._runs = metric, clock, seconds, list[float]()

    def __call__(self, network: nn.Module, **given: Any) -> list[Observation]:
        self._clock.now += self._seconds
        self._runs.append(self._clock.now)
        return [Observation(self.metric, "forget", 0.5)]

    def definitions(self) -> dict[str, str]:
        return {self.metric: "A number."}


@pytest.mark.parametrize("again", [False, True])
def test_what_is_not_asked_under_attack_is_not_counted_there_nor_tried_for_the_forecast(
    again: bool, weights: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, said = Clock(), list[str]()
    for module in (_costs, _standalone_check):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(_audits_under_attack, "Meter", lambda: _costs.Meter(started=clock.now))
    monkeypatch.setattr(_progress, "in_minutes", lambda seconds: said.append(f"{seconds:g}") or "")
    log: list[str] = []
    if again:  # after it was interrupted in the second attack on the control
        with pytest.raises(SystemExit):
            dear = Unattacked(Slow("dear", clock, 1000))
            audited(weights, tmp_path, attacks=both(log, interrupts=True), audits=[Slow("cheap", clock, 1), dear])
        said.clear()
    dear = Slow("dear", clock, 1000)
    audits = [Slow("cheap", clock, 1), Unattacked(dear)]
    audited(weights, tmp_path, attacks=both(log, interrupts=False), audits=audits, progress=True)
    # Two more models without an attack, or one; four attacks, or three, under which the dear audit asks nothing.
    assert said == (["1004"] if again else ["2006"])
    assert len(dear._runs) == (1 if again else 3)


def test_a_probe_of_entities_that_are_in_both_splits_is_refused_before_any_look(
    weights: dict[str, str], tmp_path: Path
) -> None:
    first = Slow("first", Clock(), 1)
    with pytest.raises(Misfit, match="should be about different entities. Found `Maribel Okonvane` in both"):
        audited(weights, tmp_path, audits=[first, Unattacked(LayerProbe())], further={"holdout": people("forget")})
    assert first._runs == []


def test_a_holdout_of_another_form_is_refused_before_any_look(weights: dict[str, str], tmp_path: Path) -> None:
    rows = [{"question": f"Say {n}{n}", "answer": f"{n} {n} {n}", "entity": n} for n in range(20)]
    (tmp_path / "other.jsonl").write_text("\n".join(map(json.dumps, rows)))
    first = Slow("first", Clock(), 1)
    with pytest.raises(Misfit, match="membership could not be told from form"):
        audited(
            weights,
            tmp_path / "report",
            audits=[first, Unattacked(Membership(most_blind=0.5))],
            further={"holdout": FileRecords(str(tmp_path / "other.jsonl"), entity="entity")},
        )
    assert first._runs == []


@pytest.mark.slow
@pytest.mark.timeout(1800)  # everything that there is, on a core that others may use, too
@pytest.mark.parametrize("preset", ["standard", "thorough"])
def test_a_preset_runs_to_its_end_and_says_beforehand_how_long(
    preset: Preset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything that a preset can have: an original, a control, a holdout, words and a tokenizer."""
    for who, seed in SEEDS.items():
        model: Any = network(seed)
        model.save_pretrained(tmp_path / who)
    rows = {"forget": (0, 12), "retain": (18, 30), "holdout": (60, 72)}  # two people each
    some = {split: FileRecords("bundled:people", entity="entity", rows=each) for split, each in rows.items()}
    report = audit(
        str(tmp_path / "unlearned"),
        some["forget"],
        some["retain"],
        original=str(tmp_path / "original"),
        control=str(tmp_path / "control"),
        further={"holdout": some["holdout"]},
        preset=preset,
        encoding=Encoding("bundled"),
        folder=str(tmp_path / "report"),
        accelerator="cpu",
    )
    given = Given(words=True, original=True, holdout=True, tokenizer="bundled")
    assert report.failures == []
    assert {r.attack for r in report.recoveries} == set(expanded(preset_attacks(preset, given)))
    measured = {metric for a in preset_audits(preset, given) for metric in a.definitions()}
    # A loss of one's own needs a module that has one, and depth a network that knows something: these have neither.
    assert measured - {o.metric for o in report.observations} <= {"loss", "depth_kept"}
    said = capsys.readouterr().out
    assert re.search(r"About \S+ (seconds?|minutes?|hours): \d+ attacks, \d+ looks, \d+ training steps", said)
    assert said.index("About ") < said.index("100 %")


def test_what_has_changed_is_observed_again_and_nothing_else_is(weights: dict[str, str], tmp_path: Path) -> None:
    log: list[str] = []
    audited(weights, tmp_path, attacks=both(log, interrupts=False))
    log.clear()
    audited(weights, tmp_path, attacks=both(log, interrupts=False))
    assert log == []
    changed = audited(weights, tmp_path, attacks=both(log, interrupts=False), model=weights["control"])
    assert log == ["first", "second"]
    assert levels(changed)["unlearned"] == levels(changed)["control"]
    log.clear()
    audited(
        weights,
        tmp_path,
        attacks={**both(log, interrupts=False), "second": Counted(log, "another")},
        model=weights["control"],
    )
    assert log == ["another", "another"]


def test_other_questions_start_anew(weights: dict[str, str], tmp_path: Path) -> None:
    log: list[str] = []
    audited(weights, tmp_path, attacks=both(log, interrupts=False))
    log.clear()
    audited(weights, tmp_path, attacks=both(log, interrupts=False), further={"others": people("retain")})
    assert log == ["first", "second"] * 2


def test_other_metrics_start_anew(weights: dict[str, str], tmp_path: Path) -> None:
    audited(weights, tmp_path)
    other = audited(weights, tmp_path, audits=[Measure({"memorised": ExactMemorization()})])
    assert {o.metric for o in other.observations} == {"memorised"}


def test_entities_that_are_named_now_start_anew(weights: dict[str, str], tmp_path: Path) -> None:
    """The questions are the same, and what intervals are made of is not."""
    nobody = FileRecords("bundled:people", where={"group": "forget"}, rows=(0, 20))
    about: dict[str, Any] = {
        "original": weights["original"],
        "control": weights["control"],
        "encoding": Encoding("bundled"),
    }
    about |= {"attacks": {}, "audits": [Measure()], "network": network(), "progress": False, "accelerator": "cpu"}
    found = [
        audit(weights["unlearned"], forget, people("retain"), folder=str(tmp_path), **about)
        for forget in (nobody, people("forget"))
    ]
    named = [len({e for o in report.observations if o.split == "forget" for e in o.entities}) for report in found]
    assert named == [18, 3]


def test_another_seed_starts_anew(weights: dict[str, str], tmp_path: Path) -> None:
    log: list[str] = []
    audited(weights, tmp_path, attacks=both(log, interrupts=False))
    log.clear()
    audited(weights, tmp_path, attacks=both(log, interrupts=False), seed=1)
    assert log == ["first", "second"] * 2


def test_a_lightning_checkpoint_and_a_huggingface_folder_are_found(weights: dict[str, str], tmp_path: Path) -> None:
    original: Any = network(SEEDS["original"])
    original.save_pretrained(tmp_path / "hub")
    torch.save({"state_dict": UnlearningModule(network(SEEDS["unlearned"])).state_dict()}, tmp_path / "last.ckpt")
    expected = audited(weights, tmp_path / "plain", network=str(tmp_path / "hub"))
    assert levels(expected) == levels(audited(weights, tmp_path / "given"))
    found = audited(
        weights, tmp_path / "report", model=str(tmp_path / "last.ckpt"), original=str(tmp_path / "hub"), network=None
    )
    assert levels(found) == levels(expected)


def test_an_adapter_is_merged_and_compared_with_its_base(weights: dict[str, str], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base: Any = network(SEEDS["original"])
    base.save_pretrained(tmp_path / "base")
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    adapted.save_pretrained(tmp_path / "adapter")
    report = audited(
        weights,
        tmp_path / "report",
        model=str(tmp_path / "adapter"),
        original=None,
        control=None,
        network=None,
        attacks={"relearn": Relearn(steps=1, mode="full")},
    )
    assert levels(report)["original"] == levels(audited(weights, tmp_path / "plain"))["original"]
    assert levels(report)["unlearned"] != levels(report)["original"]
    assert {o.attack_config["share_reached"] for o in report.observations if o.attacked} == {1.0}


def test_weights_alone_ask_for_a_network(weights: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="should be a whole model.*Give the base model as `original`"):
        audited(weights, tmp_path, network=None)


def test_text_without_a_tokenizer_asks_for_one(weights: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="should be encoded by the tokenizer.*Give `encoding="):
        audited(weights, tmp_path, encoding=None)


class Logs(Dataset[Any]):
    """Somebody's rows, and whom each is about."""

    def __init__(self, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.events = torch.randint(0, 9, (12, 5), generator=draw)
        self.tags = torch.randint(0, 3, (12, 5), generator=draw)
        self.tags[::2, 3:] = -100
        self.entities = [f"device {number // 2}" for number in range(12)]

    def __len__(self) -> int:
        return len(self.events)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"events": self.events[index], "tags": self.tags[index]}


class Tagger(pl.LightningModule):
    """Somebody's module: of dictionaries, without a `validation_step`."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = nn.Sequential(nn.Embedding(9, 16), nn.Linear(16, 3))

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        tags: torch.Tensor = self.net(batch["events"])
        return tags


class Tags(Readout):
    """One row per tag."""

    def __call__(self, network: nn.Module, batch: Any) -> Prediction:
        said = batch["tags"] != -100
        return Prediction(network(batch)[said], batch["tags"][said], said.nonzero()[:, 0], batch_size=len(said))

    def keys(self, batch: Any) -> list[str]:
        return [content_key(*row) for row in zip(batch["events"], batch["tags"], strict=True)]


def test_a_module_of_ones_own_is_audited_by_its_checkpoints_and_data(tmp_path: Path) -> None:
    paths = {who: tmp_path / f"{who}.ckpt" for who in ("original", "unlearned")}
    for who, path in paths.items():
        torch.save({"state_dict": Tagger(SEEDS[who]).state_dict()}, path)
    forget, retain = (DataLoader(Logs(seed), batch_size=4) for seed in (1, 2))
    report = audit(
        str(paths["unlearned"]),
        forget,
        retain,
        original=str(paths["original"]),
        network=Tagger(seed=9),
        readout=Tags(),
        preset="quick",
        folder=str(tmp_path / "audit"),
        accelerator="cpu",
        progress=False,
    )
    rows = next(iter(DataLoader(Logs(1), batch_size=12)))
    for who in paths:
        with torch.no_grad():
            nll = F.cross_entropy(Tagger(SEEDS[who])(rows).mT, rows["tags"], reduction="none").sum(1)
        expected = (-nll / (rows["tags"] != -100).sum(1)).exp().mean().item()
        assert levels(report)[who] == pytest.approx(expected, rel=1e-4)
    assert {level.interval.entities for level in report.levels if level.metric == "probability"} == {6}
    assert {"int4", "relearn"} <= {found.attack for found in report.recoveries}


def test_weights_alone_say_where_modules_of_ones_own_are_audited(weights: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"is audited in Python, by `lightning_unlearn.auditing.audit"):
        audit(weights["unlearned"], "forget.jsonl", "retain.jsonl")
