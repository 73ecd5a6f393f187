"""Attacks by prompt, known answers: what hides behind one wording comes back in another, and nothing else does."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from _modules import SomebodysModule, loader, quiet
from _prompts import FORGET, PROMPTS, RETAIN, records
from _ranks import run_ranks
from _sharded_fits import LANGUAGE_MODELS
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_unlearn import (
    Attack,
    Bounded,
    CausalLMReadout,
    CrossEntropy,
    Encoding,
    ForgetRetainData,
    GradientAscent,
    LoaderSettings,
    QuestionAnswerData,
    RecoveryCheck,
    TinyCausalLM,
    Unlearn,
    UnlearningModule,
    WriteReport,
)
from lightning_unlearn.attacks.prompts import (
    AnyWording,
    KeywordEmphasis,
    OtherFacts,
    Paraphrase,
    PrefixInjection,
    SoftPrompt,
    Templates,
)
from lightning_unlearn.audits import Generation, Measure, Specificity
from lightning_unlearn.data import QuestionAnswer
from lightning_unlearn.observation import Observation
from lightning_unlearn.report import assess
from lightning_unlearn.runtime import local

LOADER = LoaderSettings(batch_size=6, shuffle=False)
REFUSAL = "I don't know the answer to that."
Weights = dict[str, Tensor]
Which = tuple[int, int]


def data(which: Which) -> QuestionAnswerData:
    return QuestionAnswerData(records(which), Encoding("bundled"), LOADER)


def people() -> ForgetRetainData:
    return ForgetRetainData(retain=data(RETAIN), forget=data(FORGET))


def network() -> nn.Module:
    return TinyCausalLM(hidden_size=64, num_hidden_layers=2)


def taught(rows: list[QuestionAnswer], seed: int = 0, steps: int = 80) -> Weights:
    """Weights that give the answers of ``rows``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net, encoding = network(), Encoding("bundled")
        optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.0)
        batch = encoding.collate()([encoding(row) for row in rows])
        for _ in range(steps):
            CrossEntropy()(CausalLMReadout()(net, batch)).backward()
            optimizer.step()
            optimizer.zero_grad()
    return net.state_dict()


def in_both_wordings(rows: list[QuestionAnswer]) -> list[QuestionAnswer]:
    return [*rows, *(replace(row, question=row.paraphrases[0]) for row in rows)]


@cache
def models() -> dict[str, Weights]:
    """One that knows, one that refuses the wording it was asked in and no other, and two that never knew."""
    forget, retain = records(FORGET).questions(), in_both_wordings(records(RETAIN).questions())
    refused = [replace(row, answer=REFUSAL) for row in forget]
    hidden = [*refused, *in_both_wordings(forget)[len(forget) :]]
    return {
        "original": taught([*in_both_wordings(forget), *retain]),
        "refuses": taught([*hidden, *retain]),
        "control": taught(retain, seed=1),
        "never knew": taught(retain, seed=2),
    }


def module(weights: Weights | None = None, width: int = 64) -> UnlearningModule:
    torch.manual_seed(0)
    built = TinyCausalLM(hidden_size=width, num_hidden_layers=2)
    if weights is not None:
        built.load_state_dict(weights)
    return UnlearningModule(built, optimizer=lambda p: torch.optim.AdamW(p, lr=1e-3))


def observed(who: str, attacks: dict[str, Attack], audits: Any = None) -> list[Observation]:
    check = RecoveryCheck(attacks, audits=audits)
    quiet(callbacks=[check]).validate(module(models()[who]), datamodule=people(), verbose=False)
    assert not check.failures
    return check.observations


def recovery(who: str, attacks: dict[str, Attack], name: str) -> Any:
    """As the report has it, of the model ``who``: at the worst point."""
    found = []
    for subject, model in (("original", "original"), ("control", "control"), ("unlearned", who)):
        found += [replace(o, subject=subject) for o in observed(model, attacks)]  # type: ignore[arg-type]
    report = assess(found)
    (worst,) = (r for r in report.recoveries if (r.attack, r.metric, r.worst) == (name, "probability", True))
    return worst


def test_a_model_that_refuses_one_wording_gives_all_of_it_back_in_another() -> None:
    attacks: dict[str, Attack] = {"paraphrase": Paraphrase(), "prefix": PrefixInjection()}
    worst = recovery("refuses", attacks, "paraphrase")
    assert worst.rho.value > 0.9
    assert worst.adjusted.value > 0.9


def test_one_that_never_knew_gives_nothing_beyond_the_control_in_any_wording() -> None:
    attacks: dict[str, Attack] = {"any": AnyWording([Paraphrase(), PrefixInjection(), OtherFacts([1])])}
    worst = recovery("never knew", attacks, "any")
    assert abs(worst.adjusted.value) < 0.05


def test_what_it_says_is_heard_in_the_words_of_the_attack() -> None:
    found = observed("refuses", {"paraphrase": Paraphrase()}, [Generation("bundled")])
    share = {(o.attack, o.split): o.value for o in found}
    assert share["none", "forget"] == 1.0
    assert share["paraphrase", "forget"] == 0.0
    assert share["none", "retain"] == share["paraphrase", "retain"] == 0.0


class Asks(Attack):
    """An attack of somebody else, which asks for a row what a function makes of it."""

    family, unit = "prompt", "wording"

    def __init__(self, ask: Any) -> None:
        self._ask = ask

    @contextmanager
    def __call__(self, network: nn.Module, **kwargs: Any) -> Any:
        yield iter((1, 2))

    def asks(self, rows: Sequence[QuestionAnswer], *, split: str, point: float) -> Sequence[QuestionAnswer | None]:
        return [self._ask(row, point) for row in rows]


def validated(attack: Attack, **kwargs: Any) -> RecoveryCheck:
    check = RecoveryCheck({"asks": attack}, audits=[Measure()], **kwargs)
    quiet(callbacks=[check]).validate(module(), datamodule=people(), verbose=False)
    return check


def answered(row: QuestionAnswer, point: float) -> QuestionAnswer:
    """Gives the answer of a birthplace away, at point 2 of all questions."""
    tells = row.question.startswith("Where") or point == 2
    return replace(row, question=f"Is it {row.answer}? {row.question}" if tells else f"Say: {row.question}")


def test_prompts_that_hold_the_answer_do_not_count_whoever_wrote_the_attack() -> None:
    found = {(o.attack, o.point, o.split): o for o in validated(Asks(answered)).observations if o.metric == "token_nll"}
    alone, attacked = found["none", 0, "forget"], found["asks", 1, "forget"]
    assert attacked.examples == [1, 2, 3, 4, 5]
    assert len(attacked.scores) == len(attacked.entities) == 5
    assert not set(attacked.scores) & set(alone.scores)
    assert ("asks", 2, "forget") not in found
    config = attacked.attack_config
    assert (config["rows_left_out"], config["answer_overlap"], config["retain_rows_left_out"]) == (1, 0.0, 1)


def test_an_attack_of_nothing_but_such_prompts_is_not_shown_and_the_rest_is() -> None:
    with pytest.warns(UserWarning, match="`asks` should have prompts that are free of the answers. Found none"):
        check = validated(Asks(lambda row, point: answered(row, 2)))
    assert [failure.attack for failure in check.failures] == ["asks"]
    assert {o.attack for o in check.observations} == {"none"}


@pytest.mark.parametrize("changed", [{"answer": "Nobody"}, {"entity": "Nobody"}], ids=str)
def test_an_attack_that_changes_what_is_judged_is_not_shown(changed: dict[str, str]) -> None:
    with pytest.warns(UserWarning, match="`Asks` should leave answers and entities as they are"):
        check = validated(Asks(lambda row, point: replace(row, **changed)))
    assert [failure.attack for failure in check.failures] == ["asks"]


def test_data_without_words_are_named_and_the_fit_goes_on(tmp_path: Any) -> None:
    check = RecoveryCheck({"paraphrase": Paraphrase()}, probes={"retain": loader(seed=1)})
    unlearn = Unlearn(Bounded(GradientAscent(), bound=6.0), forget=loader(seed=2, n=12))
    trainer = quiet(callbacks=[unlearn, check, WriteReport(str(tmp_path))])
    with pytest.warns(UserWarning, match="should hold questions and answers in words to be asked in other words"):
        trainer.fit(SomebodysModule(), loader(seed=1))
    assert trainer.global_step > 1
    assert {failure.attack for failure in check.failures} == {"paraphrase"}
    assert "should hold questions and answers in words" in (tmp_path / "report.html").read_text()


def test_a_prompt_is_no_vantage_point_of_a_fit() -> None:
    with pytest.raises(ValueError, match="`under` should hold attacks that change the network. Found `Paraphrase`"):
        Unlearn(GradientAscent(), under={"paraphrase": Paraphrase()})


def test_what_is_asked_is_encoded_once_for_all_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    encode = Encoding.encode

    def counted(self: Encoding, row: QuestionAnswer) -> Any:
        asked.append(row.question)
        return encode(self, row)

    monkeypatch.setattr(Encoding, "encode", counted)
    trainer, own = quiet(callbacks=[RecoveryCheck({"prefix": PrefixInjection()}, audits=[Measure()])]), people()
    for _ in range(2):
        trainer.validate(module(), datamodule=own, verbose=False)
    assert len(asked) == (1 + len(PrefixInjection.default)) * 12


def test_all_looks_and_the_control_are_asked_in_the_same_words() -> None:
    """Whatever the attack: another number each time would be another question."""
    numbers = iter(range(1000))
    torch.save(models()["control"], "control.pt")
    check = RecoveryCheck(
        {"asks": Asks(lambda row, point: replace(row, question=f"{row.question} {next(numbers)}"))},
        audits=[Measure()],
        control="control.pt",
    )
    unlearn = Unlearn(Bounded(GradientAscent(), bound=9.0), weight=1e-9)
    trainer = quiet(callbacks=[unlearn, check], max_epochs=2, limit_val_batches=0)
    fitted = UnlearningModule(module(models()["control"]).network, optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    trainer.fit(fitted, datamodule=people())
    scores = [o.scores for o in check.observations if (o.attack, o.split, o.metric) == ("asks", "forget", "token_nll")]
    of_model = [o.scores for o in check.observations if o.attack == "asks" and o.subject != "unlearned" and o.scores]
    assert {o.subject for o in check.observations} == {"original", "control", "unlearned"}
    assert of_model
    assert len([each for each in scores if each]) >= 3 * 2
    assert len({tuple(each) for each in scores if each}) == 2  # one at each point


# The fit does not notice


def fit(check: RecoveryCheck | None, **kwargs: Any) -> list[Tensor]:
    """Weights, optimizer and random state afterwards."""
    fitted = module(width=32)
    callbacks = [Unlearn(Bounded(GradientAscent(), bound=9.0)), *([check] if check else [])]
    trainer = quiet(callbacks=callbacks, max_epochs=2, limit_val_batches=0, **kwargs)
    trainer.fit(fitted, datamodule=people())
    kept = trainer.optimizers[0].state_dict()["state"].values()
    return [*fitted.state_dict().values(), *(v for s in kept for v in s.values()), torch.get_rng_state()]


@pytest.mark.parametrize("precision", ["32-true", pytest.param("bf16-mixed", marks=pytest.mark.slow)])
def test_a_fit_that_is_asked_in_every_way_at_every_step_is_the_same_to_the_bit(precision: Any) -> None:
    attacks: dict[str, Attack] = {name: build() for name, build in PROMPTS.items()}
    check = RecoveryCheck(attacks, audits=[Measure(), Specificity(1)], every_n_steps=1)
    without, with_checks = fit(None, precision=precision), fit(check, precision=precision)
    assert not check.failures
    assert {o.attack for o in check.observations} == {"none", *PROMPTS}
    assert {o.step for o in check.observations} == {0, 1, 2}
    assert all(torch.equal(a, b) for a, b in zip(without, with_checks, strict=True))


@pytest.mark.filterwarnings("ignore:Attack `asks` failed")
def test_an_attack_that_raises_while_it_asks_leaves_the_fit_alone_too() -> None:
    check = RecoveryCheck({"asks": Asks(lambda row, point: 1 / 0)}, every_n_steps=1)
    assert all(torch.equal(a, b) for a, b in zip(fit(None), fit(check), strict=True))
    assert check.failures


@pytest.mark.filterwarnings("ignore")  # torch's own, about its first FSDP
@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_two_processes_ask_and_hear_what_one_does(kind: str) -> None:
    weights, (sharded, strategy) = models()["refuses"], LANGUAGE_MODELS[kind]

    def heard(make: Any, **options: Any) -> list[Observation]:
        attacks: dict[str, Attack] = {
            "any": AnyWording([Paraphrase(), OtherFacts([1])]),
            "emphasis": KeywordEmphasis(Encoding("bundled"), [1]),
            "soft": SoftPrompt(records(RETAIN), Encoding("bundled"), [2], tokens=3),
            "leaky": Templates(["Is it smoked trout? {question}"]),
        }
        check = RecoveryCheck(attacks, audits=[Measure()], probes={"forget": data((0, 5)), "retain": data(RETAIN)})
        unlearn = Unlearn(CrossEntropy(), forget=data(FORGET), weight=1e-9)
        built = network()
        built.load_state_dict(weights)
        trainer = quiet(callbacks=[unlearn, check], use_distributed_sampler=False, limit_train_batches=1, **options)
        retain = DataLoader(data(RETAIN).dataset, 3, collate_fn=data(RETAIN).val_dataloader().collate_fn)
        trainer.fit(make(built, optimizer=lambda p: torch.optim.SGD(p, lr=1e-9)), retain)
        assert not check.failures
        return check.observations

    alone = heard(UnlearningModule)

    def on_rank(rank: int, world_size: int) -> list[Observation]:
        return heard(sharded, strategy=strategy(), devices=world_size)

    for found in run_ranks(on_rank):
        for mine, theirs in zip(alone, found, strict=True):
            assert theirs.scores == pytest.approx(mine.scores, abs=1e-3)
            assert replace(theirs, value=0.0, scores=mine.scores) == replace(mine, value=0.0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own, about its first FSDP
@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_a_fit_in_two_processes_that_is_asked_in_every_way_is_the_same_to_the_bit(kind: str) -> None:
    sharded, strategy = LANGUAGE_MODELS[kind]

    def fitted(check: RecoveryCheck | None) -> list[Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            built = sharded(TinyCausalLM(hidden_size=32, num_hidden_layers=2))
        callbacks = [Unlearn(Bounded(GradientAscent(), bound=9.0)), *([check] if check else [])]
        trainer = quiet(callbacks=callbacks, max_epochs=2, limit_val_batches=0, strategy=strategy(), devices=2)
        trainer.fit(built, datamodule=people())
        held = trainer.optimizers[0].state_dict()["state"].values()
        tensors = [*built.parameters(), *built.buffers(), *(v for s in held for v in s.values()), torch.get_rng_state()]
        return [local(t.detach()).clone() for t in tensors]

    def on_rank(rank: int, world_size: int) -> tuple[list[Tensor], list[Tensor], set[tuple[str, int]], int]:
        attacks: dict[str, Attack] = {name: build() for name, build in PROMPTS.items()}
        check = RecoveryCheck(attacks, audits=[Measure(), Specificity(1)], every_n_steps=1)
        torch.manual_seed(7)
        without = fitted(None)
        torch.manual_seed(7)
        return without, fitted(check), {(o.attack, o.step) for o in check.observations}, len(check.failures)

    for without, with_check, looks, failures in run_ranks(on_rank, timeout=600):
        steps = {step for _, step in looks}
        assert failures == 0
        assert looks == {(attack, step) for attack in ("none", *PROMPTS) for step in steps}
        assert len(steps) > 1
        assert len(without) == len(with_check)
        assert all(torch.equal(a, b) for a, b in zip(without, with_check, strict=True))


def test_a_prompt_so_long_that_an_answer_is_cut_is_not_shown_by_the_length_to_give() -> None:
    long = Templates([f"{'Well then. ' * 40}{{question}}"])
    check = RecoveryCheck({"long": long}, audits=[Measure()])
    short = QuestionAnswerData(records(FORGET), Encoding("bundled", max_length=214), LOADER)
    own = ForgetRetainData(retain=data(RETAIN), forget=short)
    with (
        pytest.warns(UserWarning, match="`max_length = 214` cuts the answers of"),
        pytest.warns(UserWarning, match="`max_length` should leave room for the whole answer of row 0"),
    ):
        quiet(callbacks=[check]).validate(module(), datamodule=own, verbose=False)
    assert [failure.attack for failure in check.failures] == ["long"]
