"""Each selector in a fit: from YAML, under LoRA, in two processes. What it does not choose stays, bit for bit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml
from _modules import SomebodysModule, loader, quiet
from _ranks import run_ranks
from _sharded_fits import fsdp2
from lightning.pytorch.strategies import DDPStrategy
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

from lightning_unlearn import TrainOnly, selectors
from lightning_unlearn.cli import main
from lightning_unlearn.data import in_order
from lightning_unlearn.engine import GradientEngine, gathered, isolated
from lightning_unlearn.models import TinyCausalLM
from lightning_unlearn.readouts import ClassificationReadout
from lightning_unlearn.selectors import Selector

SIZES = {"hidden_size": 16, "num_hidden_layers": 3}
LAYERS, SHARE = {"TopLayers": {"number": 1}}, {"TopShare": {"share": 0.2}}
# Settings, choice, and whether it scores an adapter.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "Random": ({"by": "tensor"}, SHARE, True),
    "LastLayers": ({}, LAYERS, True),
    "GradientSaliency": ({}, SHARE, True),
    "FisherRatio": ({"over": "retain"}, SHARE, True),
    "ConditionNumber": ({"shape_matched": True}, SHARE, True),
    "TopUpdate": ({"base": "before.safetensors"}, SHARE, False),
    "ModuleDrift": ({}, SHARE, True),
    "LayerAblation": ({}, LAYERS, True),
    "CausalTrace": ({"window": 1, "part": "mlp"}, LAYERS, True),
}
FITS = [(name, adapter) for name, case in CASES.items() for adapter in (False, True) if case[2] or not adapter]


def part(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {"class_path": f"lightning_unlearn.{name}", "init_args": settings}


def people(first: int, last: int) -> dict[str, Any]:
    records = {"path": "bundled:people", "rows": [first, last]}
    return part("QuestionAnswerData", {"records": records, "encoding": {"tokenizer": "bundled"}})


def fit(selector: str, adapter: bool) -> Any:
    settings, choice, _ = CASES[selector]
    only: dict[str, Any] = {"selector": part(f"selectors.{selector}", settings)}
    ((choice_name, choice_settings),) = choice.items()
    only["choice"] = part(f"selectors.{choice_name}", choice_settings)
    kind = getattr(selectors, selector)
    only |= {"forget": people(0, 8)} if kind.needs_forget else {}
    only |= {"retain": people(8, 24)} if kind.needs_retain else {}
    network = part("TinyCausalLM", SIZES)
    if adapter:
        network = {"class_path": "test_selectors_in_fits.adapted", "init_args": {}}
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-2, "weight_decay": 0.1}}
    config = {
        "seed_everything": 0,
        "model": part("UnlearningModule", {"network": network, "optimizer": optimizer}),
        "data": part("ForgetRetainData", {"retain": people(8, 24), "forget": people(0, 8)}),
        "unlearn": {"objective": part("GradientAscent", {})},
        "recovery": {"every_n_epochs": 0},
        "trainer": {
            "max_steps": 2,
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "limit_val_batches": 0,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [part("TrainOnly", only)],
        },
    }
    Path("fit.yaml").write_text(yaml.safe_dump(config))
    return main(["fit", "--config", "fit.yaml"])


def adapted() -> nn.Module:
    """A network that is built by its import path, with an adapter."""
    from lightning_unlearn.models import LoRA

    return LoRA(r=2).wrap(TinyCausalLM(**SIZES))


@pytest.mark.parametrize(("selector", "adapter"), FITS, ids=lambda value: str(value))
def test_from_a_file_it_trains_what_it_chooses_and_nothing_else(
    selector: str, adapter: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn"])
    start = dict((adapted() if adapter else TinyCausalLM(**SIZES)).named_parameters())
    save_file({name: p.detach() * 1.01 for name, p in start.items()}, "before.safetensors")
    cli = fit(selector, adapter)
    (only,) = (c for c in cli.trainer.callbacks if isinstance(c, TrainOnly))
    mask = only.state_dict()["mask"]
    end = {name.removeprefix("network."): p.detach() for name, p in cli.model.named_parameters()}
    assert end.keys() == start.keys()
    moved = 0
    for name, value in end.items():
        changed = value.view(torch.int32) != start[name].detach().view(torch.int32)
        chosen = mask["parts"].get(f"network.{name}", torch.tensor(f"network.{name}" in mask["whole"]))
        assert not (changed & ~chosen).any()
        moved += int(changed.sum())
    assert moved
    assert moved < 0.75 * sum(p.numel() for p in start.values() if p.requires_grad)


def test_every_selector_is_fitted() -> None:
    kinds = {
        name
        for name in selectors.__all__
        if isinstance(kind := getattr(selectors, name), type) and issubclass(kind, Selector)
    }
    assert kinds - {"Selector"} == set(CASES)


# Two processes


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(x).tanh()


class Deep(SomebodysModule):
    def __init__(self) -> None:
        super().__init__("sgd")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.body = nn.Sequential(nn.Linear(8, 16), nn.ModuleList([Residual(), Residual()]))
        del self.unused

    def forward(self, x: Tensor) -> Tensor:
        x = self.body[0](x)
        for block in self.body[1]:
            x = block(x)
        return self.head(x)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class DeepSharded(Deep):
    def configure_model(self) -> None:
        mesh = self.device_mesh["data_parallel"]
        for part in (*self.body[1], self.head):
            fully_shard(part, mesh=mesh)
        fully_shard(self, mesh=mesh)


STRATEGIES: dict[str, Any] = {
    "ddp": (Deep, DDPStrategy),
    "fsdp2": (DeepSharded, lambda: fsdp2(False)),
}
SCORED = {
    **{name: getattr(selectors, name)(**case[0]) for name, case in CASES.items() if name != "TopUpdate"},
    "random matrices": selectors.Random(seed=2, by="matrix"),
    "random blocks": selectors.Random(seed=2, by="block"),
    "saliency by tensor": selectors.GradientSaliency(by="tensor"),
    "ratio by example": selectors.FisherRatio(per="example", over="retain", by="tensor"),
    "trace of blocks": selectors.CausalTrace(window=2),
}


class Scores(pl.Callback):
    """Asks every selector while the network is sharded, as `TrainOnly` does, with all data on every process."""

    def __init__(self, base: str) -> None:
        self.asked = {
            **SCORED,
            "update": selectors.TopUpdate(base),
            "mean update": selectors.TopUpdate(base, by="tensor"),
        }
        self.found: dict[str, dict[str, Tensor]] = {}

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if self.found:
            return
        engine = GradientEngine(module, trainer)
        forget, retain = ([engine.to_device(b) for b in in_order(loader(seed=s, n=12))] for s in (2, 3))
        for name, selector in self.asked.items():
            with isolated(trainer, module):
                found = selector.scores(
                    module, forget=forget, retain=retain, readout=ClassificationReadout(), engine=engine
                )
                self.found[name] = {n: gathered(s).cpu() for n, s in found.items()}


@pytest.mark.parametrize("kind", list(STRATEGIES))
def test_processes_score_alike_and_as_one_does(kind: str, tmp_path: Path) -> None:
    base = str(tmp_path / "before.safetensors")
    save_file({name: p.detach() * 1.5 for name, p in Deep().named_parameters()}, base)

    def run(rank: int, world: int) -> Any:
        module_class, strategy = STRATEGIES[kind] if world > 1 else (Deep, lambda: "auto")
        scores, module = Scores(base), module_class()
        quiet(callbacks=[scores], strategy=strategy(), devices=world, max_steps=1).fit(module, loader(seed=1))
        end = {n: gathered(p).detach() for n, p in module.named_parameters()}
        return scores.found, {n: torch.equal(p, dict(Deep().named_parameters())[n]) for n, p in end.items()}

    expected, _ = run(0, 1)
    for found, stays in run_ranks(run):
        assert all(stays.values())  # the learning rate is 0, and drift is put back
        assert found.keys() == expected.keys()
        for name, of_one in expected.items():
            assert found[name].keys() == of_one.keys(), name
            for parameter, score in of_one.items():
                torch.testing.assert_close(found[name][parameter], score, rtol=2e-3, atol=1e-6)
