"""Data and settings that cannot work are refused before anything is trained, with the way out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _modules import CLASSES, SomebodysModule, loader, quiet
from torch.utils.data import DataLoader, TensorDataset

from lightning_unlearn import (
    NPO,
    Bounded,
    ClassificationReadout,
    CyclicOrder,
    FinetuneFirst,
    ForgetRetainData,
    FrozenCopy,
    GradientAscent,
    Quantize,
    RecoveryCheck,
    Relearn,
    StepGuard,
    TinyCausalLM,
    Unlearn,
    WriteReport,
)
from lightning_unlearn.audits import Measure, Specificity
from lightning_unlearn.guards import History, NoChange
from lightning_unlearn.metrics import AnswerProbability, TokenNLL

INT4 = {"int4": Quantize(bits=4)}


def labelled(*labels: int, inputs: float | None = None) -> DataLoader[Any]:
    torch.manual_seed(3)
    x = torch.randn(len(labels), 8) if inputs is None else torch.full((len(labels), 8), inputs)
    return DataLoader(TensorDataset(x, torch.tensor(labels)), batch_size=4)


def fit(*callbacks: Any, module: Any = None, retain: Any = None, **kwargs: Any) -> pl.Trainer:
    trainer = quiet(callbacks=list(callbacks), **{"max_epochs": 1, **kwargs})
    trainer.fit(module or SomebodysModule(), retain if retain is not None else loader(seed=1))
    return trainer


def unlearn(forget: Any = None, **kwargs: Any) -> Unlearn:
    return Unlearn(Bounded(GradientAscent(), bound=4.0), forget=forget or loader(seed=2), **kwargs)


# Names and kinds


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"attacks": {4: Quantize(bits=4)}},
            r'`attacks` should have names that are text.* Found 4\. Put it in quotes: "4"',
        ),
        ({"attacks": {None: Quantize()}}, "`attacks` should have names that are text.* Found None"),
        ({"attacks": {"": Quantize()}}, "`attacks` should have names that are text.* Found ''"),
        ({"attacks": {" ": Quantize()}}, "`attacks` should have names that are text.* Found ' '"),
        ({"attacks": {"a/b": Quantize()}}, "`attacks` should have names that are text without a `/`.* Found 'a/b'"),
        (
            {"attacks": {"q": Quantize}},
            r"`attacks\['q'\]` should be an `Attack`.* the class `Quantize` itself: call",
        ),
        ({"attacks": {"q": 4}}, r"`attacks\['q'\]` should be an `Attack`.* Found `4`"),
        (
            {"attacks": [Quantize()]},
            r"`attacks` should be a mapping from names, such as `{\"int4\": Quantize\(bits=4\)}`",
        ),
        ({"attacks": Quantize()}, "`attacks` should be a mapping from names"),
        ({"probes": [loader(1)]}, "`probes` should be a mapping from names"),
        ({"probes": loader(1)}, "`probes` should be a mapping from names"),
        ({"probes": {3: loader(1)}}, "`probes` should have names that are text.* Found 3"),
        ({"audits": []}, "`audits` should hold at least one audit.* Leave it out"),
        ({"audits": Measure()}, r"`audits` should be a list, such as `\[Measure\(\)\]`"),
        ({"audits": {"a": Measure()}}, "`audits` should be a list"),
        ({"audits": [Measure]}, "`audits` should be an `Audit`.* Found the class `Measure` itself: call it"),
        (
            {"readout": ClassificationReadout},
            "`readout` should be a `Readout`.* the class `ClassificationReadout` itself",
        ),
        ({"control": Path("control.ckpt")}, "`control` should be the path of weights, as text. Found"),
        ({"control": 5}, "`control` should be the path of weights, as text. Found `control = 5`"),
        ({"every_n_steps": 2.5}, "`every_n_steps` should be a whole number. Found `every_n_steps = 2.5`"),
    ],
)
def test_a_check_refuses_names_and_kinds(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        RecoveryCheck(**arguments)


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({}, "`metrics` should hold at least one metric. Found none. Leave it out"),
        ({"a/b": AnswerProbability()}, "`metrics` should have names that are text without a `/`.* Found 'a/b'"),
        ({"": AnswerProbability()}, "`metrics` should have names that are text"),
        ({3: AnswerProbability()}, "`metrics` should have names that are text.* Found 3"),
        (
            {"p": AnswerProbability},
            r"`metrics\['p'\]` should be a `KnowledgeMetric`.* Found the class .* itself: call it",
        ),
        ([AnswerProbability()], "`metrics` should be a mapping from names"),
    ],
)
def test_metrics_are_named_objects(metrics: Any, said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        Measure(metrics)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"objective": NPO},
            r"`objective` should be an `Objective`, such as `NPO\(\)`. Found the class `NPO` itself",
        ),
        ({"objective": None}, "`objective` should be an `Objective`.* Found `None`"),
        ({"readout": ClassificationReadout}, "`readout` should be a `Readout`"),
        ({"projector": "pcgrad"}, "`projector` should be a `Projector`.* Found `'pcgrad'`"),
        ({"reference": FrozenCopy}, "`reference` should be a `Reference`.* the class `FrozenCopy` itself"),
    ],
)
def test_unlearn_takes_objects(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        Unlearn(**{"objective": NPO(), **arguments})


def test_metrics_that_would_share_a_log_key() -> None:
    metrics = {"x": AnswerProbability(), "retain_x": TokenNLL(), "near_x": TokenNLL()}
    with pytest.raises(ValueError, match="`retain_x` on the split `forget` and `x` on the split `retain`, both logged"):
        RecoveryCheck(audits=[Measure({name: metrics[name] for name in ("x", "retain_x")})])
    with pytest.raises(ValueError, match="`near_x` on the split `forget` and `x` on the split `near`"):
        RecoveryCheck(audits=[Measure({name: metrics[name] for name in ("x", "near_x")})], probes={"near": loader(1)})
    RecoveryCheck(audits=[Measure({name: metrics[name] for name in ("x", "near_x")})])  # without that split they do not


class WithMoreProbes(ForgetRetainData):
    def probe_dataloaders(self) -> dict[str, Any]:
        return {**super().probe_dataloaders(), "near": loader(5)}


def test_splits_that_only_the_datamodule_knows_are_compared_before_the_first_step() -> None:
    check = RecoveryCheck(audits=[Measure({"x": AnswerProbability(), "near_x": TokenNLL()})])
    trainer = quiet(callbacks=[Unlearn(GradientAscent()), check])
    with pytest.raises(ValueError, match="both logged as `recovery/<attack>/near_x`"):
        trainer.fit(SomebodysModule(), datamodule=WithMoreProbes(loader(1), loader(2)))
    assert trainer.global_step == 0


# Several callbacks


def two(first: dict[str, Any], second: dict[str, Any]) -> list[RecoveryCheck]:
    """Two checks that a trainer takes, whatever their states are called."""

    class Second(RecoveryCheck):
        pass

    return [RecoveryCheck(**first), Second(**second)]


def test_two_checks_with_an_attack_of_one_name() -> None:
    with pytest.raises(ValueError, match=r"name of its own. Found `int4` in two `RecoveryCheck`s of the trainer"):
        fit(unlearn(), *two({"attacks": INT4}, {"attacks": INT4}))


@pytest.mark.parametrize(
    "other",
    [
        {"probes": {"forget": labelled(1, 2)}},
        {"audits": [Measure({"probability": TokenNLL()})]},
        {"audits": [Specificity(2)]},
    ],
    ids=["probes", "metric", "audit"],
)
def test_two_checks_that_measure_one_metric_differently(other: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"A metric should be measured in one way. Found `.*` in two `RecoveryCheck`s"):
        fit(unlearn(), *two({"attacks": INT4}, {"attacks": {"int3": Quantize(bits=3)}, **other}))


# Data


@pytest.mark.parametrize("label", [CLASSES, 7, -1])
def test_forget_labels_out_of_range(label: int) -> None:
    with pytest.raises(ValueError, match=rf"Labels should be from 0 to 4: .* 5 logits. Found {label} \(1 of 4"):
        fit(unlearn(labelled(0, 1, 2, label)))


@pytest.mark.parametrize("split", ["forget", "retain", "neighbours"])
def test_probe_labels_out_of_range(split: str) -> None:
    with pytest.raises(ValueError, match=r"Labels should be from 0 to 4.* Found 7 \(1 of 4"):
        fit(unlearn(), RecoveryCheck(probes={split: labelled(0, 1, 2, 7)}))


@pytest.mark.parametrize("split", ["forget", "retain", "neighbours"])
@pytest.mark.parametrize(
    "nothing", [[], DataLoader(TensorDataset(torch.zeros(0, 8), torch.zeros(0, dtype=torch.long)))]
)
def test_empty_probes(split: str, nothing: Any) -> None:
    with pytest.raises(ValueError, match=f"The `{split}` probe set should hold at least one example. Found none"):
        fit(unlearn(), RecoveryCheck(probes={split: nothing}))


def test_probes_without_an_answer() -> None:
    probes = {split: labelled(-100, -100) for split in ("forget", "retain")}
    with pytest.raises(ValueError, match="should hold at least one supervised label. Found none in `forget`, `retain`"):
        fit(unlearn(), RecoveryCheck(probes=probes))


def test_nan_in_probes() -> None:
    probes = {"neighbours": labelled(0, 1, 2, inputs=float("nan"))}
    with pytest.raises(
        ValueError, match="`probability` should be a number.* `neighbours`. Found NaN for 3 of 3 examples"
    ):
        fit(unlearn(), RecoveryCheck(probes=probes))


def test_nan_that_appears_later_does_not_end_the_fit() -> None:
    """What an attack does to the network is a finding."""
    check = RecoveryCheck({"relearn": Relearn(steps=2, lr=1e30)}, audits=[Measure()])
    assert fit(unlearn(), check).global_step == 6
    assert any(math.isnan(o.value) for o in check.observations)


def texts(*rows: list[int], width: int = 6) -> DataLoader[Any]:
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    batch = {"input_ids": ids, "attention_mask": mask, "labels": torch.where(mask.bool(), ids, -100)}
    return DataLoader([batch], batch_size=None)  # type: ignore[arg-type]


class Talker(pl.LightningModule):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.model = NETWORKS[kind]()

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Any:
        return self.model(**batch).loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=2))


def opt() -> Any:
    from transformers import OPTConfig, OPTForCausalLM

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 8, "word_embed_proj_dim": 8}
    return OPTForCausalLM(OPTConfig(vocab_size=20, max_position_embeddings=8, **sizes))


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return LlamaForCausalLM(LlamaConfig(vocab_size=20, max_position_embeddings=8, **sizes))


def adapted() -> Any:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(llama(), LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"))


NETWORKS = {"gpt2": gpt2, "opt": opt, "llama": llama, "adapted": adapted}
FINE = texts([1, 2, 3], [4, 5, 6])


CASES = [(kind, where, 20) for kind in NETWORKS for where in ("forget", "retain", "probe")]


@pytest.mark.parametrize(("kind", "where", "token"), [*CASES, ("llama", "forget", 640), ("llama", "retain", -1)])
def test_a_tokenizer_larger_than_the_network(kind: str, where: str, token: int) -> None:
    wrong = texts([1, 2, token], [4, 5])
    data = {"forget": texts([7, 8], [9, 10]), "retain": FINE, where: wrong}
    checks = [RecoveryCheck(probes={"neighbours": wrong})] if where == "probe" else []
    said = rf"Token ids should be from 0 to 19: .* 20 rows. Found {token} \(1 of 12 ids\).*`network.resize_token_embeddings"
    with pytest.raises(ValueError, match=said):
        fit(unlearn(data["forget"]), *checks, module=Talker(kind), retain=data["retain"])


def test_also_where_a_reference_reads_all_forget_data_first() -> None:
    forget = DataLoader([*texts([7, 8], [9, 10]), *texts([1, 2, 20])], batch_size=None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Token ids should be from 0 to 19"):
        fit(Unlearn(NPO(), forget=forget), module=Talker("llama"), retain=FINE)


@pytest.mark.parametrize("kind", ["gpt2", "opt"])
@pytest.mark.parametrize("where", ["forget", "probe"])
def test_rows_longer_than_learned_positions(kind: str, where: str) -> None:
    long = texts(list(range(1, 11)), [1, 2], list(range(1, 13)), width=12)
    checks = [RecoveryCheck(probes={"neighbours": long})] if where == "probe" else []
    said = "at most the network's 8 positions. Found 2 of 3 rows longer, the longest of 12.*`Encoding.*max_length=8"
    with pytest.raises(ValueError, match=said):
        fit(unlearn(long if where == "forget" else texts([7, 8])), *checks, module=Talker(kind), retain=FINE)


@pytest.mark.filterwarnings("error")
def test_rows_longer_than_computed_positions_are_warned_about() -> None:
    from lightning_unlearn.readouts import refuse_foreign_tokens

    (long,) = texts(list(range(1, 11)), [1, 2], width=12)
    (padded,) = texts([1, 2, 3], width=12)
    with pytest.warns(
        UserWarning, match="Found 1 of 2 rows longer, the longest of 10, in a batch 12 wide. Beyond them"
    ):
        refuse_foreign_tokens(llama(), long)
    refuse_foreign_tokens(llama(), padded)  # only padding is beyond


@pytest.mark.parametrize("batch", [None, 3, (torch.ones(2), 1), {"input_ids": "text"}, {"input_ids": torch.rand(2, 3)}])
def test_batches_of_other_kinds_pass(batch: Any) -> None:
    from lightning_unlearn.readouts import refuse_foreign_tokens

    assert refuse_foreign_tokens(TinyCausalLM(hidden_size=8), batch) is None
    assert refuse_foreign_tokens(torch.nn.Linear(2, 2), {"input_ids": torch.full((2, 3), 10**6)}) is None


def test_teaching_with_a_tokenizer_larger_than_the_network(tmp_path: Path) -> None:
    batch = {"input_ids": torch.tensor([1, 2, 20]), "labels": torch.tensor([1, 2, 3])}
    data = ForgetRetainData(retain=DataLoader([batch] * 2, 2), forget=DataLoader([batch] * 2, 2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Token ids should be from 0 to 19"):
        quiet(callbacks=[FinetuneFirst(epochs=1), Unlearn(GradientAscent())]).fit(Talker("llama"), datamodule=data)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: StepGuard(NoChange), r"`rule` should be a `Rule`.* the class `NoChange` itself: call it"),
        (lambda: StepGuard(directions=History), "`directions` should be a `Directions`.* the class `History` itself"),
        (lambda: StepGuard(geometry="euclidean"), "`geometry` should be a `Geometry`.* Found `'euclidean'`"),
        (lambda: StepGuard(storage="int8"), "`storage` should be a `Storage`.* Found `'int8'`"),
        (
            lambda: ForgetRetainData([], [], order=CyclicOrder),
            "`order` should be an `Order`.* the class `CyclicOrder` itself",
        ),
        (
            lambda: Bounded(GradientAscent, bound=1.0),
            "`objective` should be an `Objective`.* the class `GradientAscent`",
        ),
    ],
)
def test_parts_of_parts_are_objects(make: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        make()


# What would end without a word


@pytest.mark.parametrize("callbacks", [[], [unlearn()]], ids=["alone", "with unlearn"])
def test_a_report_without_a_check(callbacks: list[Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`WriteReport` should find a `RecoveryCheck`.* in YAML `recovery: {}`"):
        fit(*callbacks, WriteReport(str(tmp_path / "report")))
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"folder": 5}, "`folder` should be the path of a folder. Found `folder = 5`"),
        ({"folder": ""}, "`folder` should be the path of a folder"),
        ({"notes": "one sentence"}, "`notes` should be a list of sentences.* Found `'one sentence'`"),
        ({"notes": [1]}, "`notes` should be a list of sentences"),
    ],
)
def test_arguments_of_a_report(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        WriteReport(**arguments)


def test_what_must_go_given_twice_says_which_counts() -> None:
    given, other = loader(2), loader(4)
    with pytest.warns(UserWarning, match=r"twice: `Unlearn\(forget=...\)`, which is used, and .* `ForgetRetainData`"):
        quiet(callbacks=[unlearn(given)], max_epochs=1).fit(
            SomebodysModule(), datamodule=ForgetRetainData(loader(1), other)
        )
    quiet(callbacks=[unlearn(given)], max_epochs=1).fit(
        SomebodysModule(), datamodule=ForgetRetainData(loader(1), given)
    )
