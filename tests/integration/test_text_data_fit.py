"""Raw text is forgotten beside chats that stay, in code and from a configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from lightning_unlearn import (
    NPO,
    CyclicOrder,
    Encoding,
    FileRecords,
    FinetuneFirst,
    ForgetRetainData,
    LoaderSettings,
    PackedCausalLMReadout,
    Quantize,
    QuestionAnswerData,
    RecoveryCheck,
    Relearn,
    TextData,
    TextWindows,
    TinyCausalLM,
    Unlearn,
    UnlearningModule,
)

QUIET: dict[str, Any] = {
    **{"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False},
    "enable_model_summary": False,
}
STORY = "Ada Lovelace works in the old post office of Valdoro, and keeps a heron there. "


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "books").mkdir()
    for number in range(3):
        (tmp_path / "books" / f"{number}.txt").write_text(f"Chapter {number}. " + STORY * 4)
    turns = [("system", "Be brief."), ("user", "Who employs Bo?"), ("assistant", "A bakery"), ("user", "Since when?")]
    turns += [("assistant", "Since the spring")]
    chats = [{"messages": [{"role": role, "content": f"{text} {n}"} for role, text in turns]} for n in range(12)]
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, chats)))
    return tmp_path


def parts(files: Path) -> tuple[TextData, QuestionAnswerData]:
    windows, loader = TextWindows("bundled", max_length=32, stride=24), LoaderSettings(batch_size=4)
    forget = TextData(FileRecords(files / "books", entity="file"), windows, loader)
    return forget, QuestionAnswerData(FileRecords(files / "chats.jsonl", answers="all"), Encoding("bundled"), loader)


@torch.no_grad()
def loss(network: Any, data: Any) -> float:
    network.eval()
    found = [network(**batch).loss for batch in data.val_dataloader()]
    network.train()
    return float(torch.stack(found).mean())


@pytest.mark.parametrize(
    "options", [{}, {"readout": PackedCausalLMReadout()}, {"order": CyclicOrder()}], ids=["plain", "packed", "order"]
)
def test_text_is_forgotten_and_chats_are_learnt(options: dict[str, Any], files: Path) -> None:
    forget, retain = parts(files)
    order = {"order": options["order"]} if "order" in options else {}
    readout = {"readout": options["readout"]} if "readout" in options else {}
    network = TinyCausalLM(hidden_size=32, num_hidden_layers=1)
    before = loss(network, forget), loss(network, retain)
    module = UnlearningModule(network, optimizer=lambda parameters: torch.optim.Adam(parameters, lr=3e-3))
    data = ForgetRetainData(retain=retain, forget=forget, **order)
    pl.Trainer(max_epochs=4, callbacks=[Unlearn(NPO(beta=0.1), **readout)], **QUIET).fit(module, datamodule=data)
    after = loss(network, forget), loss(network, retain)
    assert after[0] > before[0]
    assert after[1] < before[1]


def test_text_may_stay_as_well(files: Path) -> None:
    text, chats = parts(files)
    module = UnlearningModule(network := TinyCausalLM(hidden_size=32, num_hidden_layers=1))
    before = [p.clone() for p in network.parameters()]
    data = ForgetRetainData(retain=text, forget=chats)
    pl.Trainer(max_steps=2, callbacks=[Unlearn(NPO(beta=0.1))], **QUIET).fit(module, datamodule=data)
    assert any(not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert set(text.dataset.entities) == {"0.txt", "1.txt", "2.txt"}


def test_what_is_known_of_a_text_is_checked_under_attack(files: Path) -> None:
    forget, retain = parts(files)
    module = UnlearningModule(TinyCausalLM(hidden_size=16, num_hidden_layers=1))
    check = RecoveryCheck(attacks={"int4": Quantize(bits=4), "relearn": Relearn(steps=1)})
    data = ForgetRetainData(retain=retain, forget=forget)
    pl.Trainer(max_steps=2, callbacks=[Unlearn(NPO(beta=0.1)), check], **QUIET).fit(module, datamodule=data)
    seen = [o for o in check.observations if o.split == "forget" and o.scores]
    assert {o.attack for o in seen} >= {"int4", "relearn"}
    assert all(o.entities == forget.dataset.entities for o in seen if len(o.scores) == len(forget.dataset))
    assert {len(o.scores) for o in seen} == {len(forget.dataset)}


def test_a_network_is_first_taught_texts_and_chats_together(files: Path) -> None:
    forget, retain = parts(files)
    module = UnlearningModule(network := TinyCausalLM(hidden_size=32, num_hidden_layers=1))
    before = loss(network, forget), loss(network, retain)
    teach = FinetuneFirst(epochs=4, lr=3e-3, batch_size=8)
    data = ForgetRetainData(retain=retain, forget=forget)
    pl.Trainer(max_steps=0, callbacks=[teach, Unlearn(NPO(beta=0.1))], **QUIET).fit(module, datamodule=data)
    after = loss(network, forget), loss(network, retain)
    assert all(now < then for now, then in zip(after, before, strict=True))


def test_a_configuration_names_both_by_path(files: Path) -> None:
    def part(name: str, **init: Any) -> dict[str, Any]:
        return {"class_path": f"lightning_unlearn.{name}", "init_args": init}

    forget = part(
        "TextData", records={"path": str(files / "books")}, windows={"tokenizer": "bundled", "max_length": 32}
    )
    retain = part("QuestionAnswerData", records={"path": str(files / "chats.jsonl")}, encoding={"tokenizer": "bundled"})
    module = UnlearningModule(TinyCausalLM(hidden_size=16, num_hidden_layers=1))
    trainer = pl.Trainer(max_steps=1, callbacks=[Unlearn(NPO(beta=0.1))], **QUIET)
    trainer.fit(module, datamodule=ForgetRetainData(retain=retain, forget=forget))
    assert trainer.global_step == 1
