"""What attackers train on in a check: by name, without the facts by which they are judged, and what it tells of these."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from _modules import SomebodysModule, loader, quiet

from lightning_unlearn import (
    AttackGrid,
    Bounded,
    ConceptShift,
    CyclicOrder,
    Encoding,
    FactSplit,
    FileRecords,
    ForgetRetainData,
    GradientAscent,
    LoaderSettings,
    PassiveRecovery,
    QuestionAnswerData,
    RecoveryCheck,
    Relearn,
    TinyCausalLM,
    Unlearn,
    UnlearningModule,
    WriteReport,
)
from lightning_unlearn.audits import Audit, Measure
from lightning_unlearn.cli import main
from lightning_unlearn.data import Records, Rephrased
from lightning_unlearn.observation import Observation


class Given(Relearn):
    """Keeps what it is given."""

    def stream(self, batches: Any, loss: Any) -> Any:
        self.given = list(batches)
        return super().stream(self.given, loss)


def first(given: list[Any]) -> list[float]:
    return [float(x[0]) for batch, _ in given for x in batch]


def rows(data: Any) -> list[float]:
    return first(list(data))


def look(check: RecoveryCheck, datamodule: Any = None) -> RecoveryCheck:
    """A fit of one step."""
    trainer = quiet(callbacks=[Unlearn(Bounded(GradientAscent(), bound=6.0)), check], max_steps=1)
    trainer.fit(SomebodysModule(), datamodule=datamodule or ForgetRetainData(loader(seed=1), loader(seed=2, n=12)))
    return check


def test_each_attack_trains_on_the_data_that_it_names() -> None:
    attacks = {name: Given(steps=20, data=name) for name in ("here", "there")} | {"default": Given(steps=20)}
    data = ForgetRetainData(
        loader(seed=1), loader(seed=2, n=12), attack={"there": loader(seed=6), "else": loader(seed=7)}
    )
    look(RecoveryCheck(dict(attacks), attack_data={"here": loader(seed=5)}), data)
    found = {name: first(attack.given) for name, attack in attacks.items()}
    assert found == {"here": rows(loader(seed=5)), "there": rows(loader(seed=6)), "default": rows(loader(seed=2, n=12))}


def test_one_source_is_for_all_as_before() -> None:
    attack = Given(steps=20)
    look(RecoveryCheck({"a": attack}, attack_data=loader(seed=5)))
    assert first(attack.given) == rows(loader(seed=5))


def test_no_more_is_loaded_than_is_trained_on() -> None:
    attack = Given(steps=2)
    look(RecoveryCheck({"a": attack}))
    assert len(attack.given) == 2


@pytest.mark.parametrize("attack", [lambda: Relearn(data="news"), lambda: ConceptShift("news")])
@pytest.mark.parametrize(
    ("given", "theirs", "there"),
    [
        (None, None, "There are none with names"),
        (loader(seed=5), None, "There are none with names"),
        ({"b": loader(seed=5), "a": loader(seed=5)}, {"c": loader(seed=5)}, "There are `a`, `b`, `c`"),
    ],
)
def test_a_name_that_is_not_there_is_refused_before_the_fit(attack: Any, given: Any, theirs: Any, there: str) -> None:
    data = ForgetRetainData(loader(seed=1), loader(seed=2), attack=theirs)
    with pytest.raises(
        ValueError, match=f"The data of the attack `it` should be there. Found none named `news`. {there}"
    ):
        look(RecoveryCheck({"it": attack()}, attack_data=given), data)


def test_streams_get_the_retain_data_or_others_beside_their_own() -> None:
    seen: dict[str, Any] = {}

    class Watched(PassiveRecovery):
        def stream(self, batches: Any, loss: Any) -> Any:
            seen[self.beside] = {name: first(list(part)) for name, part in batches.items()}
            return super().stream(batches, loss)

    attacks: Any = {name: Watched(0.5, beside=name, steps=2) for name in ("retain", "other")}
    look(RecoveryCheck(attacks, attack_data={"other": loader(seed=5)}))
    assert seen["retain"]["beside"] == rows(loader(seed=1))
    assert seen["other"]["beside"] == rows(loader(seed=5))
    assert seen["other"]["attack"] == rows(loader(seed=2, n=12))[:8]  # two steps read two batches at most


def test_a_grid_stands_for_its_cells() -> None:
    check = look(RecoveryCheck({"relearn": AttackGrid(Relearn(steps=1), {"lr": [0.01, 0.1], "seed": [0, 1]})}))
    attacked = [o for o in check.observations if o.attacked]
    assert {o.attack for o in attacked} == {f"relearn_lr{lr}_seed{seed}" for lr in (0.01, 0.1) for seed in (0, 1)}
    assert {(o.attack_config["of_grid"], o.attack_config["steps"]) for o in attacked} == {("relearn", 1)}


def people(group: str = "forget", **kwargs: Any) -> FileRecords:
    return FileRecords("bundled:people", entity="entity", where={"group": [group]}, **kwargs)


def asked(records: Records, shuffle: bool = True) -> QuestionAnswerData:
    return QuestionAnswerData(records, Encoding("bundled"), LoaderSettings(batch_size=6, shuffle=shuffle))


def read(attacks: Any, *callbacks: Any, probes: Any = None, audits: Any = None, **sources: Any) -> RecoveryCheck:
    """A fit of one step of a language model on the bundled people."""
    module = UnlearningModule(TinyCausalLM(hidden_size=32, num_hidden_layers=1))
    data = ForgetRetainData(asked(people("retain", rows=(0, 12))), asked(people()), order=CyclicOrder())
    check = RecoveryCheck(attacks, audits or [Measure()], probes=probes, attack_data=sources or None, every_n_epochs=0)
    unlearn = Unlearn(Bounded(GradientAscent(), bound=6.0))
    quiet(callbacks=[unlearn, check, *callbacks], max_steps=1, limit_val_batches=0).fit(module, datamodule=data)
    return check


def of(check: RecoveryCheck, attack: str, split: str = "forget", point: float = 0) -> Observation:
    (found,) = [
        o
        for o in check.observations
        if (o.attack, o.split, o.metric, o.point) == (attack, split, "probability", point) and o.subject == "unlearned"
    ]
    return found


@pytest.mark.parametrize("by", ["entity", "fact"])
def test_who_has_some_of_the_facts_is_judged_by_the_others(by: Any) -> None:
    attack = Given(steps=20, lr=0.01, facts=FactSplit(0.4, by=by))
    check = read({"half": attack, "all": Relearn(steps=2)})
    whole, half = of(check, "none"), of(check, "half")
    entities, questions = [row.entity for row in people().questions()], asked(people(), shuffle=False).dataset
    known = {tuple(row[row > 0].tolist()) for batch in attack.given for row in batch["input_ids"]}
    has = {i for i in range(18) if tuple(questions[i]["input_ids"].tolist()) in known}
    assert len(has) == (6 if by == "entity" else 7)
    assert set(half.examples) == set(range(18)) - has
    assert half.entities == [entities[i] for i in half.examples]
    if by == "entity":
        assert not {entities[i] for i in has} & set(half.entities)
    assert half.scores == pytest.approx([whole.scores[i] for i in half.examples], abs=1e-6)  # point 0: as it was
    assert half.value == pytest.approx(sum(half.scores) / len(half.scores))
    assert of(check, "half", "retain").examples == []
    assert of(check, "all").examples == []
    assert (half.attack_config["facts_share"], half.attack_config["facts_by"]) == (0.4, by)
    assert not check.failures


def test_the_report_compares_the_same_examples(tmp_path: Path) -> None:
    check = read({"half": Relearn(steps=1, facts=FactSplit(0.3))}, report := WriteReport(str(tmp_path)))
    judged = of(check, "half").examples
    (recovery,) = [r for r in report.report.recoveries if (r.metric, r.point) == ("probability", 0)]
    original = [o for o in check.observations if (o.subject, o.attack, o.metric) == ("original", "none", "probability")]
    before, after = (o.at(judged).estimate for o in (original[0], of(check, "none")))
    assert recovery.forget.examples == len(judged) == 12
    assert recovery.forget.value == pytest.approx(after, abs=1e-6)
    assert before != original[0].estimate


def test_other_splits_about_the_same_entities_leave_out_what_he_has_too() -> None:
    probes = {"paraphrase": asked(people(question="paraphrase"), shuffle=False)}
    check = read({"half": Relearn(steps=1, facts=FactSplit())}, probes=probes)
    assert of(check, "half", "paraphrase").examples == of(check, "half").examples != []
    assert len(of(check, "none", "paraphrase").scores) == 18


class Ranking(Audit):
    """A number of all examples together."""

    def definitions(self) -> dict[str, str]:
        return {"auc": "A number."}

    def __call__(self, network: Any, **kwargs: Any) -> list[Observation]:
        return [Observation("auc", "forget", 0.5, interval=(0.4, 0.6)), Observation("auc", "retain", 0.5)]


def test_a_number_of_all_examples_is_left_out() -> None:
    check = read({"half": Relearn(steps=1, facts=FactSplit())}, audits=[Measure(), Ranking()])
    found = {(o.attack, o.split) for o in check.observations if o.metric == "auc"}
    assert found == {("none", "forget"), ("none", "retain"), ("half", "retain")}


def test_facts_that_cannot_be_told_apart_are_refused_before_the_first_step() -> None:
    with pytest.raises(ValueError, match='Found 0 entities. Name them.*`by="fact"`'):
        look(RecoveryCheck({"half": Relearn(facts=FactSplit())}))


def test_what_the_data_tell_of_the_answers_is_said_with_each_attack() -> None:
    check = read(
        {
            "all": Relearn(steps=3),
            "few": Relearn(steps=1),
            "half": Relearn(steps=9, facts=FactSplit(0.3)),
            "rephrased": Relearn(steps=3, data="rephrased"),
            "retain": Relearn(steps=3, data="retain"),
        },
        rephrased=asked(Rephrased(people())),
        retain=asked(people("retain")),
    )
    told = {name: of(check, name).attack_config for name in ("all", "few", "half", "rephrased", "retain")}
    assert {name: config["data_examples"] for name, config in told.items()} == {
        "all": 18,
        "few": 6,
        "half": 6,
        "rephrased": 18,
        "retain": 18,
    }
    contained = {name: config["data_answers_contained"] for name, config in told.items()}
    assert contained["all"] == contained["rephrased"] == 1
    assert contained["few"] == pytest.approx(6 / 18)
    assert contained["half"] == contained["retain"] == 0
    assert told["all"]["data_similarity"] == 1 > told["rephrased"]["data_similarity"] > told["half"]["data_similarity"]


def test_without_words_tokens_are_compared_and_classes_only_counted() -> None:
    examples = list(asked(people(), shuffle=False).train_dataloader())
    check = read({"own": Relearn(steps=9, data="own")}, own=examples)  # batches, and no data set
    config = of(check, "own").attack_config
    assert (config["data_answers_contained"], config["data_similarity"], config["data_examples"]) == (1, 1, 18)
    check = look(RecoveryCheck({"relearn": Relearn(steps=2)}))
    config = of(check, "relearn").attack_config
    assert {name for name in config if name.startswith("data_")} == {"data_examples"}
    assert config["data_examples"] == 8


TINY = {"class_path": "lightning_unlearn.TinyCausalLM", "init_args": {"hidden_size": 32, "num_hidden_layers": 1}}
RELEARN = "lightning_unlearn.Relearn"
PEOPLE: dict[str, Any] = {
    "class_path": "lightning_unlearn.QuestionAnswerData",
    "init_args": {
        "records": {"path": "bundled:people", "entity": "entity", "where": {"group": ["forget"]}},
        "encoding": {"tokenizer": "bundled"},
        "loader": {"batch_size": 6},
    },
}


def of_records(kind: str, **init_args: Any) -> dict[str, Any]:
    made = {"class_path": f"lightning_unlearn.data.{kind}", "init_args": init_args}
    return {**PEOPLE, "init_args": {**PEOPLE["init_args"], "records": made}}


def test_all_of_it_from_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn"])
    forget = PEOPLE["init_args"]["records"]
    attacks = {
        "rephrased": {"class_path": RELEARN, "init_args": {"steps": 2, "data": "rephrased"}},
        "half": {"class_path": RELEARN, "init_args": {"steps": 2, "facts": {"share": 0.5, "by": "entity", "seed": 1}}},
        "top": {"class_path": RELEARN, "init_args": {"steps": 1, "layers": ["mlp"], "data": "random"}},
        "shift": {"class_path": "lightning_unlearn.ConceptShift", "init_args": {"beside": "swapped", "steps": 2}},
        "grid": {
            "class_path": "lightning_unlearn.AttackGrid",
            "init_args": {
                "attack": {"class_path": "lightning_unlearn.PassiveRecovery", "init_args": {"steps": 1}},
                "over": {"frequency": [0.5, 1.0]},
            },
        },
    }
    settings = {
        "base": "bundled:base",
        "finetune_first": None,
        "unlearn": {"objective": {"class_path": "lightning_unlearn.GradientAscent"}},
        "model": {"init_args": {"network": TINY}},
        "data": {
            "init_args": {
                "retain": {"init_args": {"records": {"rows": [0, 12]}}},
                "attack": {"random": of_records("RandomText", count=6)},
            }
        },
        "recovery": {
            "attacks": attacks,
            "attack_data": {
                "rephrased": of_records("Rephrased", records=forget),
                "swapped": of_records("SwappedAnswers", records=forget),
            },
            "audits": [{"class_path": "lightning_unlearn.audits.Measure"}],
            "every_n_epochs": 0,
        },
        "trainer": {
            "max_steps": 1,
            "limit_val_batches": 0,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
    }
    Path("run.yaml").write_text(yaml.safe_dump(settings))
    cli = main(["fit", "--config", "run.yaml"])
    (check,) = [c for c in cli.trainer.callbacks if isinstance(c, RecoveryCheck)]
    assert not check.failures
    found = {o.attack: o.attack_config for o in check.observations if o.attacked}
    assert set(found) == {"int4", "rephrased", "half", "top", "shift", "grid_frequency0.5", "grid_frequency1"}
    assert found["rephrased"]["data_answers_contained"] > 0.5
    assert found["top"]["data_answers_contained"] == 0
    assert len(of(check, "half").examples) in (6, 12)
