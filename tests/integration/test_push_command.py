"""From a fit to the hub: the folder loads as the model that was trained, its card tells what was found, and what failed."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from _fake_hub import fake_hub
from _modules import quiet
from huggingface_hub import HfApi, ModelCard
from safetensors.torch import save_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from lightning_unlearn import (
    NPO,
    Encoding,
    FileRecords,
    ForgetRetainData,
    LoaderSettings,
    LoRA,
    PretrainedCausalLM,
    Quantize,
    QuestionAnswerData,
    RecoveryCheck,
    SavePretrained,
    TinyCausalLM,
    Unlearn,
    UnlearningModule,
    WriteReport,
)
from lightning_unlearn.auditing import audit
from lightning_unlearn.audits import Measure
from lightning_unlearn.cli import script
from lightning_unlearn.publishing import Release, prepare, push
from lightning_unlearn.report import RobustnessReport
from lightning_unlearn.report.schema import Gate

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
SECTION = "## What was unlearned, and how well"


def people(group: str) -> QuestionAnswerData:
    records = FileRecords("bundled:people", where={"group": [group]})
    return QuestionAnswerData(records, Encoding("bundled"), LoaderSettings(batch_size=6))


def forgotten(folder: Path, network: Any) -> Any:
    """Two steps, a report in ``report``, and the network in ``model``."""
    module = UnlearningModule(network, optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2))
    data = ForgetRetainData(retain=people("retain"), forget=people("forget"))
    check = RecoveryCheck({"int4": Quantize(bits=4)}, every_n_epochs=0)
    written = [WriteReport(str(folder / "report")), SavePretrained(str(folder / "model"))]
    quiet(callbacks=[Unlearn(NPO()), check, *written], max_steps=2).fit(module, datamodule=data)
    return module.network


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, forgotten(folder, TinyCausalLM(hidden_size=32, num_hidden_layers=1))


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("adapted")
    TinyCausalLM(hidden_size=32, num_hidden_layers=1).save_pretrained(folder / "base")
    return folder, forgotten(folder, PretrainedCausalLM(str(folder / "base"), lora=LoRA(r=4)))


def report_of(folder: Path, *gates: Gate) -> RobustnessReport:
    """That of the fit, as if all was well but for these gates."""
    made = RobustnessReport.load(folder / "report")
    assert [gate.code for gate in made.gates][:2] == ["G2", "G6"]
    own = [replace(gate, status="pass") for gate in made.gates if gate.code not in {gate.code for gate in gates}]
    return replace(made, gates=[*own, *gates])


def logits(network: Any) -> torch.Tensor:
    with torch.no_grad():
        return network.eval()(torch.arange(8)[None]).logits


def test_the_folder_loads_as_the_model_that_was_trained(whole: Any, tmp_path: Path) -> None:
    folder, network = whole
    release = prepare(str(folder / "model"), folder / "report", tmp_path / "hub", license="mit", base="owner/base")
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "hub")), logits(network))
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "hub")("Who").input_ids
        == people("retain").encoding.tokenizer("Who").input_ids
    )
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(release.files)
    assert {str(p.relative_to(release.folder)) for p in release.folder.rglob("*") if p.is_file()} == set(release.files)
    assert "weights" not in release.objections


def test_an_adapter_loads_alone_or_merged(adapted: Any, tmp_path: Path) -> None:
    from peft import PeftModel

    folder, network = adapted
    alone = prepare(str(folder / "model"), folder / "report", tmp_path / "alone", form="adapter", base="owner/base")
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    assert torch.equal(logits(PeftModel.from_pretrained(base, tmp_path / "alone")), logits(network))
    assert (
        json.loads((tmp_path / "alone" / "adapter_config.json").read_text())["base_model_name_or_path"] == "owner/base"
    )
    assert not any(name == "model.safetensors" for name in alone.files)
    assert "weights" not in alone.objections
    merged = prepare(str(folder / "model"), folder / "report", tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(again), logits(network), rtol=0, atol=1e-5)
    assert "weights" not in merged.objections
    data = {name: ModelCard.load(tmp_path / name / "README.md").data for name in ("alone", "merged")}
    assert (data["alone"].library_name, data["alone"].base_model) == ("peft", "owner/base")
    assert (data["merged"].library_name, data["merged"].base_model) == ("transformers", None)


def test_no_path_of_this_machine_is_published(adapted: Any, tmp_path: Path) -> None:
    folder, _ = adapted
    for form in ("whole", "adapter"):
        release = prepare(str(folder / "model"), folder / "report", tmp_path / form, form=form, base="owner/base")
        texts = {name: (release.folder / name).read_bytes() for name in release.files}
        assert [name for name, text in texts.items() if str(folder.parent).encode() in text] == []


def test_the_card_of_an_adapter_is_its_owners_too(adapted: Any, tmp_path: Path) -> None:
    folder, _ = adapted
    (tmp_path / "README.md").write_text("---\nlicense: cc0-1.0\n---\n\n# Ours\n")
    prepare(str(folder / "model"), folder / "report", tmp_path, form="adapter", base="owner/base")
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data.license, card.data.base_model) == ("cc0-1.0", "owner/base")
    assert card.text.lstrip().startswith(f"# Ours\n\n{SECTION}")


def test_an_adapter_of_a_base_in_a_folder_should_be_given_the_bases_id(adapted: Any, tmp_path: Path) -> None:
    folder, _ = adapted
    with pytest.raises(ValueError, match=r"An adapter should name a base that others can load. Found `.*base`"):
        prepare(str(folder / "model"), folder / "report", tmp_path / "hub", form="adapter")
    with pytest.raises(ValueError, match=r"`base` should be an id on the hub, such as 'owner/name'. Found '/x/y'"):
        prepare(str(folder / "model"), folder / "report", tmp_path / "hub", form="adapter", base="/x/y")
    assert list((tmp_path / "hub").glob("*")) == []


def test_a_file_of_weights_is_published_as_a_whole_model(whole: Any, tmp_path: Path) -> None:
    folder, network = whole
    save_model(network, str(tmp_path / "weights.safetensors"))
    plain = str(folder / "model")
    prepare(str(tmp_path / "weights.safetensors"), folder / "report", tmp_path / "hub", network=plain, tokenizer=plain)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "hub")), logits(network))


def test_half_precision_stays_half(whole: Any, tmp_path: Path) -> None:
    folder, _ = whole
    half = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    plain = str(folder / "model")
    release = prepare(str(tmp_path / "half"), folder / "report", tmp_path / "hub", tokenizer=plain)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "hub", dtype="auto")
    assert again.dtype == torch.bfloat16
    assert torch.equal(logits(again), logits(half))
    assert "weights" in release.objections  # rounded, it is not the model that the report is of


def test_the_card_tells_what_was_found_and_its_metadata_can_be_read(whole: Any, tmp_path: Path) -> None:
    folder, _ = whole
    prepare(str(folder / "model"), folder / "report", tmp_path / "hub", license="mit", language="en", base="owner/base")
    card = ModelCard.load(tmp_path / "hub" / "README.md")
    assert card.data.to_dict() == {
        "base_model": "owner/base",
        "language": "en",
        "library_name": "transformers",
        "license": "mit",
        "pipeline_tag": "text-generation",
        "tags": ["unlearning", "lightning-unlearn"],
    }
    assert card.text.count(SECTION) == 1
    assert "| int4 | 4 bits |" in card.text


def test_a_card_that_is_there_keeps_what_its_owner_wrote(whole: Any, tmp_path: Path) -> None:
    folder, _ = whole
    given = str(folder / "model"), folder / "report", tmp_path / "hub"
    (tmp_path / "hub").mkdir()
    own = "---\nlicense: cc0-1.0\ntags: [ours]\n---\n\n# Ours\n\nBefore.\n\n"
    own += f"{SECTION}\n\nOld.\n\n### Sub\n\n## After\n\nLast.\n"
    (tmp_path / "hub" / "README.md").write_text(own)
    for _ in range(2):  # again: it is replaced, not added
        prepare(*given)
        card = ModelCard.load(tmp_path / "hub" / "README.md")
        assert card.data.license == "cc0-1.0"
        assert card.data.tags == ["ours", "unlearning", "lightning-unlearn"]
        assert card.text.count(SECTION) == 1
        assert "Old." not in card.text
        assert [line for line in card.text.splitlines() if line.startswith(("# ", "## "))] == [
            "# Ours",
            SECTION,
            "## After",
        ]
        assert card.text.rstrip().endswith("Last.")


FAILED = Gate("G2", "Unlearning left a working model", "fail", "retain probability is 0.10 of the original's")
COPY = Gate("G3", "The deployment left a working model", "fail", "0.5", attack="int2", point=2)


class Api:
    """In the place of ``HfApi``."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []

    def create_repo(self, repo_id: str, **given: Any) -> str:
        self.asked.append(("create_repo", given))
        return f"https://hub/{repo_id}"

    def create_branch(self, repo_id: str, **given: Any) -> None:
        self.asked.append(("create_branch", given))

    def upload_folder(self, **given: Any) -> None:
        self.asked.append(("upload_folder", given))


def test_a_failed_gate_keeps_a_model_from_being_pushed_unless_it_is_named(whole: Any, tmp_path: Path) -> None:
    folder, _ = whole
    release = prepare(str(folder / "model"), report_of(folder, FAILED, COPY), tmp_path / "hub")
    assert list(release.objections) == ["G2"]  # a copy that was rounded is not the model that is published
    api = Api()
    with pytest.raises(ValueError, match=r"(?s)- G2: Unlearning left a working model: no.*--despite G2"):
        push(release, "you/forgotten", api=api)
    with pytest.raises(ValueError, match=r"`despite` should name what stands against publishing. Found 'G1'"):
        push(release, "you/forgotten", api=api, despite=["G1"])
    assert api.asked == []
    assert push(release, "you/forgotten", api=api, despite=["G2"]) == "https://hub/you/forgotten"
    assert [name for name, _ in api.asked] == ["create_repo", "upload_folder"]
    assert api.asked[0][1]["private"] is True
    assert (
        "- G2: Unlearning left a working model: no. Found: retain probability"
        in (release.folder / "README.md").read_text()
    )


def test_a_report_of_another_model_keeps_it_from_being_pushed(whole: Any, tmp_path: Path) -> None:
    folder, _ = whole
    TinyCausalLM(hidden_size=32, num_hidden_layers=1).save_pretrained(tmp_path / "other")
    release = prepare(str(tmp_path / "other"), report_of(folder), tmp_path / "hub", tokenizer=str(folder / "model"))
    with pytest.raises(ValueError, match=r"(?s)- weights: The report is of these weights: no.*--despite weights"):
        push(release, "you/forgotten", api=Api())


def test_a_report_of_several_processes_with_all_weights_each_is_of_them(whole: Any, tmp_path: Path) -> None:
    folder, _ = whole
    made = report_of(folder)
    twice = {"unlearned": made.record.weights["unlearned"] * 2}
    made = replace(made, record=replace(made.record, weights=twice))
    assert prepare(str(folder / "model"), made, tmp_path / "hub").objections == {}
    shards = replace(made, record=replace(made.record, weights={"unlearned": [*twice["unlearned"], "0"]}))
    assert list(prepare(str(folder / "model"), shards, tmp_path / "hub").objections) == ["weights"]


def test_an_audit_of_the_merged_folder_is_a_report_of_it(adapted: Any, tmp_path: Path) -> None:
    folder, _ = adapted
    prepare(str(folder / "model"), folder / "report", tmp_path / "merged")
    found = audit(
        str(tmp_path / "merged"),
        people("forget"),
        people("retain"),
        original=str(folder / "base"),
        attacks={"int4": Quantize(bits=4)},
        audits=[Measure()],
        folder=str(tmp_path / "audit"),
        accelerator="cpu",
        progress=False,
    )
    again = prepare(str(tmp_path / "merged"), found, tmp_path / "hub")
    assert "weights" not in again.objections
    assert "weights" in prepare(str(tmp_path / "merged"), folder / "report", tmp_path / "hub").objections


def test_other_files_are_neither_published_nor_mixed_in(whole: Any, tmp_path: Path) -> None:
    folder, _ = whole
    given = str(folder / "model"), report_of(folder), tmp_path / "hub"
    release = prepare(*given)
    (tmp_path / "hub" / "report.json").write_text("what the model says")
    api = Api()
    push(release, "you/forgotten", api=api, revision="v2")
    assert api.asked[1] == ("create_branch", {"branch": "v2", "exist_ok": True})
    assert api.asked[2][1]["allow_patterns"] == release.files
    with pytest.raises(ValueError, match=r"`folder` should be empty, or hold what is replaced. Found `report.json`"):
        prepare(*given)


def test_it_arrives_on_a_hub_by_its_own_protocol(whole: Any, tmp_path: Path) -> None:
    folder, _ = whole
    release: Release = prepare(str(folder / "model"), report_of(folder), tmp_path / "hub", license="mit")
    (tmp_path / "hub" / "secret.txt").write_text("not to be published")
    with fake_hub() as hub:
        push(release, "you/forgotten", api=HfApi(endpoint=hub.endpoint, token="hf_none"))
    assert hub.made[0]["visibility"] == "private"
    assert hub.files == {name: (release.folder / name).read_bytes() for name in release.files}


def run(monkeypatch: pytest.MonkeyPatch, *words: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn", "push", *map(str, words)])
    script()


def test_the_command_leaves_a_folder_and_pushes_it_only_if_it_is_told_where(
    whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, network = whole
    api = Api()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: api)
    report = report_of(folder, FAILED)
    (tmp_path / "report.json").write_text(report.to_json())
    given = ("--model", folder / "model", "--report", tmp_path / "report.json", "--folder", tmp_path / "hub")
    run(monkeypatch, *given)
    run(monkeypatch, *given, "--repo", "you/forgotten", "--dry-run")
    told = capsys.readouterr().out
    assert told.count("model.safetensors") == 2
    assert "- G2: Unlearning left a working model: no." in told
    with pytest.raises(SystemExit, match="--despite G2"):
        run(monkeypatch, *given, "--repo", "you/forgotten")
    assert api.asked == []
    run(monkeypatch, *given, "--repo", "you/forgotten", "--public", "--despite", "G2")
    assert "Pushed to https://hub/you/forgotten." in capsys.readouterr().out
    assert api.asked[0] == ("create_repo", {"private": False, "exist_ok": True})
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "hub")), logits(network))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"form": "adapter"}, r"`form='adapter'` should be for a model with an adapter of PEFT. Found a `LlamaFor"),
        ({"form": "merged"}, r"`form` should be 'whole' or 'adapter'. Found `form = 'merged'`"),
    ],
)
def test_a_form_that_does_not_fit_is_refused(given: Any, words: str, whole: Any, tmp_path: Path) -> None:
    folder, _ = whole
    with pytest.raises(ValueError, match=words):
        prepare(str(folder / "model"), folder / "report", tmp_path / "hub", **given)


def test_a_model_without_a_tokenizer_is_refused(whole: Any, tmp_path: Path) -> None:
    folder, network = whole
    with pytest.raises(ValueError, match=r"`tokenizer` should be named where `model` is a network"):
        prepare(network, folder / "report", tmp_path / "hub")
    network.save_pretrained(tmp_path / "bare")
    with pytest.raises(OSError, match=r"A model should be published with its tokenizer. Found none in .*bare"):
        prepare(str(tmp_path / "bare"), folder / "report", tmp_path / "hub")
