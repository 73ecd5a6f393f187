"""Auditing finished models: who is observed, how they are found, and that an interrupted audit goes on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import save_model
from torch import nn

from lightning_unlearn import Encoding, FileRecords, Quantize, Relearn, TinyCausalLM, UnlearningModule
from lightning_unlearn.attacks import Attack
from lightning_unlearn.auditing import audit
from lightning_unlearn.audits import Measure
from lightning_unlearn.report import RobustnessReport

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
    assert "1 minute: 2 attacks, 5 looks, 0 training steps." in capsys.readouterr().out
    audited(weights, tmp_path, attacks={"int4": Quantize(bits=4), "relearn": Relearn(steps=2)}, progress=True)
    assert "1 minute: 2 attacks, 6 looks, 4 training steps." in capsys.readouterr().out
    audited(weights, tmp_path, attacks={"int4": Quantize(bits=4), "relearn": Relearn(steps=2)}, progress=True)
    assert "About" not in capsys.readouterr().out


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
