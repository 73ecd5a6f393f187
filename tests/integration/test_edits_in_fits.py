"""Each edit in a fit: from YAML, in two processes, resumed; and in a check, which undoes it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml
from _modules import SomebodysModule, loader, quiet, same
from _ranks import run_ranks
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from safetensors.torch import save_file
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_unlearn import ApplyEdit, RecoveryCheck, edits
from lightning_unlearn.cli import main
from lightning_unlearn.edits import Dampen, Edit, Edited, ResetNeurons
from lightning_unlearn.models import TinyCausalLM

BASE = "somebodys.safetensors"
SIZES = {"hidden_size": 16, "num_hidden_layers": 2}
CASES: dict[str, dict[str, Any]] = {
    "BucketMargin": {"margin": 0.1},
    "Corrupt": {"alpha": 0.1},
    "Dampen": {"alpha": 1.2},
    "DampenUnlabelled": {"alpha": 1.1},
    "NegateLearnedVector": {"steps": 4},
    "NegateTaskVector": {"base": "before.safetensors"},
    "NewtonInfluence": {"decay": 0.1, "steps": 5},
    "OneStepAscent": {"lr": 0.1},
    "ProjectNeurons": {"share": 0.2},
    "RepSelect": {
        "collapse": {
            "class_path": "lightning_unlearn.transforms.SpectralCollapse",
            "init_args": {"q": 2, "pattern": "mlp"},
        }
    },
    "ResetNeurons": {},
    "SignAscent": {},
    "WithinBudget": {"edit": {"class_path": "lightning_unlearn.edits.SignAscent"}, "kl": 0.1, "batches": 1},
}


def people(first: int, last: int) -> dict[str, Any]:
    records = {"path": "bundled:people", "rows": [first, last]}
    encoding = {"tokenizer": "bundled"}
    return part("QuestionAnswerData", {"records": records, "encoding": encoding, "loader": {"batch_size": 4}})


def part(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {"class_path": f"lightning_unlearn.{name}", "init_args": settings}


class Images(pl.LightningDataModule):
    """For edits of classifiers."""

    def train_dataloader(self) -> Any:
        return loader(seed=1)

    def forget_dataloader(self) -> Any:
        return loader(seed=2, n=8)


CLASSIFIER = {"model": {"class_path": "_modules.SomebodysModule"}, "data": {"class_path": f"{__name__}.Images"}}


def run(parts: Any = None, **trainer: Any) -> Any:
    network = part("TinyCausalLM", SIZES)
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}}
    usual = {"max_steps": 2, "accelerator": "cpu", "devices": 1, "logger": False, "limit_val_batches": 0}
    silent = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    config = {
        "seed_everything": 0,
        "model": part("UnlearningModule", {"network": network, "optimizer": optimizer}),
        "data": part("ForgetRetainData", {"retain": people(8, 16), "forget": people(0, 4)}),
        "recovery": {"every_n_epochs": 0},
        "trainer": {**usual, **silent, **trainer},
        **(parts or {}),
    }
    Path("fit.yaml").write_text(yaml.safe_dump(config))
    return main(["fit", "--config", "fit.yaml"])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn"])
    save_file({name: p.detach() * 0.9 for name, p in SomebodysModule().named_parameters()}, BASE)


@pytest.mark.parametrize("edit", CASES)
def test_from_a_file_it_edits_once_and_the_fit_goes_on(edit: str) -> None:
    network = TinyCausalLM(**SIZES)
    save_file({name: p.detach() * 0.9 for name, p in network.named_parameters()}, "before.safetensors")
    parts = CLASSIFIER if edit == "NewtonInfluence" else None
    cli = run(parts, callbacks=[part("ApplyEdit", {"edit": part(f"edits.{edit}", CASES[edit])})])
    (callback,) = (c for c in cli.trainer.callbacks if isinstance(c, ApplyEdit))
    assert callback.record.edit == edit
    assert callback.record.elements
    assert cli.trainer.global_step == 2
    assert all(p.isfinite().all() for p in cli.model.parameters())


def test_every_edit_is_fitted() -> None:
    kinds = {n for n in edits.__all__ if isinstance(k := getattr(edits, n), type) and issubclass(k, Edit)}
    assert kinds - {"Edit"} == set(CASES)


# In a check


def test_from_a_file_a_check_looks_at_edits_side_by_side() -> None:
    attacks = {name: part("edits.Edited", {"edit": part(f"edits.{name}", CASES[name])}) for name in IN_CHECKS}
    cli = run(callbacks=[part("RecoveryCheck", {"attacks": attacks, "every_n_steps": 2})])
    plain = run()
    assert same(cli.model, plain.model)
    check = next(c for c in cli.trainer.callbacks if isinstance(c, RecoveryCheck) and c.attacks)
    seen = {o.attack for o in check.observations}
    assert seen >= {"none", *IN_CHECKS}
    assert not check.failures
    wanted = ("token_nll", "forget", "unlearned")
    found = {o.attack: o.value for o in check.observations if (o.metric, o.split, o.subject) == wanted and o.step == 2}
    assert len(set(found.values())) == len(IN_CHECKS) + 1


IN_CHECKS = ["Dampen", "ResetNeurons", "ProjectNeurons", "OneStepAscent"]

# In two processes, and resumed


EDITS: dict[str, Any] = {
    "Dampen": lambda: Dampen(alpha=1.2),
    "DampenUnlabelled": lambda: edits.DampenUnlabelled(alpha=1.1),
    "NegateLearnedVector": lambda: edits.NegateLearnedVector(steps=4, lr=0.01, rank=2),
    "NegateTaskVector": lambda: edits.NegateTaskVector(base=BASE, scale=0.5),
    "NewtonInfluence": lambda: edits.NewtonInfluence(decay=0.1),
    "OneStepAscent": lambda: edits.OneStepAscent(lr=0.5),
    "ProjectNeurons": lambda: edits.ProjectNeurons("body", share=0.5),
    "ResetNeurons": ResetNeurons,
    "SignAscent": lambda: edits.SignAscent(lr=0.01),
}


def apply(edit: str, **kwargs: Any) -> Any:
    module, callback = SomebodysModule(), ApplyEdit(EDITS[edit](), loader(seed=2, n=8), loader(seed=1))
    quiet(callbacks=[callback], max_steps=0, **kwargs).fit(module, loader(seed=1))
    return callback.record, {name: p.detach() for name, p in module.named_parameters()}


@pytest.mark.slow
def test_two_processes_edit_as_one_does() -> None:
    def ranks(rank: int, world: int) -> Any:
        found = {}
        for edit in EDITS:
            strategy = DDPStrategy(find_unused_parameters=True)
            found[edit] = apply(edit, strategy=strategy, devices=world)
        return found

    one, other = run_ranks(ranks)
    for edit in EDITS:
        record, weights = apply(edit)
        assert one[edit][0] == other[edit][0]
        for name, value in weights.items():
            assert torch.equal(one[edit][1][name], other[edit][1][name]), edit
            assert_close(one[edit][1][name], value, rtol=1e-5, atol=1e-6, msg=lambda m, e=edit: f"{e}: {m}")
        assert record.tensors == one[edit][0].tensors


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("edit", EDITS)
def test_a_resumed_fit_has_edited_already_and_goes_on_as_an_uninterrupted_one(edit: str) -> None:
    def fit(**kwargs: Any) -> Any:
        module, callback = SomebodysModule(), ApplyEdit(EDITS[edit](), forget=loader(seed=2, n=8))
        ckpt_path = kwargs.pop("ckpt_path", None)
        saves = ModelCheckpoint(".", filename="{step}", save_top_k=-1, every_n_epochs=1)
        quiet(callbacks=[callback, saves], enable_checkpointing=True, **kwargs).fit(
            module, loader(seed=1), ckpt_path=ckpt_path
        )
        return module, callback

    whole, callback = fit(max_epochs=2)
    resumed, again = fit(max_epochs=2, ckpt_path="step=6.ckpt")
    assert same(whole, resumed)
    assert again.record == callback.record


def test_the_published_gate_is_a_check_at_two_scales() -> None:
    """Forget data read at scale 2 and retain data at 0.05: as two networks say that were edited by hand."""
    module, scales = SomebodysModule(), {"forget": 2.0, "retain": 0.05}
    attacks = {split: Edited(edits.NegateTaskVector(finetuned=BASE, scale=scale)) for split, scale in scales.items()}
    check = RecoveryCheck(attacks=attacks, every_n_steps=1, probes=PROBES)
    quiet(max_steps=1, callbacks=[check]).fit(module, loader(seed=1))
    weights = {name: p.detach() for name, p in module.named_parameters()}
    origin = {name: p.detach() for name, p in SomebodysModule().named_parameters()}  # nine tenths of it are in the file
    for split, scale in scales.items():
        (found,) = (
            o.value
            for o in check.observations
            if (o.attack, o.split, o.metric, o.step) == (split, split, "token_nll", 1)
        )
        by_hand = {name: w - scale * (0.9 * origin[name] - w) for name, w in weights.items()}
        assert found == pytest.approx(nll(by_hand, PROBES[split]), rel=1e-4)


def nll(weights: dict[str, Tensor], batches: Any) -> float:
    module = SomebodysModule().eval()
    with torch.no_grad():
        rows = [F.cross_entropy(functional_call(module, weights, (x,)), y, reduction="none") for x, y in batches]
    return float(torch.cat(rows).mean())


def test_a_check_with_an_edit_leaves_no_edit_behind_when_it_fails() -> None:
    class Broken(ResetNeurons):
        def new_values(self, network: Any, **data: Any) -> Any:
            yield from list(super().new_values(network, **data))[:1]
            raise RuntimeError("half way")

    plain, checked = SomebodysModule(), SomebodysModule()
    quiet(max_steps=2).fit(plain, loader(seed=1))
    check = RecoveryCheck(attacks={"broken": Edited(Broken(layers="head"))}, every_n_steps=1, probes=PROBES)
    with pytest.warns(UserWarning, match="half way"):
        quiet(max_steps=2, callbacks=[check]).fit(checked, loader(seed=1))
    assert check.failures
    assert same(plain, checked)


PROBES = {"forget": loader(seed=2), "retain": loader(seed=1)}
