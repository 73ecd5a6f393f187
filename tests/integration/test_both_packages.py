"""The core of the suite under `pytorch_lightning`: whichever package somebody imports, the results are the same bits."""

from __future__ import annotations

import copy
import json
import pickle
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import lightning.pytorch
import pytest
import torch
from _modules import CLASSES, examples, loader
from _ranks import run_ranks
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from lightning_unlearn import (
    NPO,
    Bounded,
    FinetuneFirst,
    ForgetRetainData,
    GradientAscent,
    HalfSpace,
    LoaderSettings,
    Quantize,
    QuestionAnswerData,
    RandomOrder,
    RecoveryCheck,
    Relearn,
    StepGuard,
    TinyCausalLM,
    Unlearn,
    UnlearningModule,
    WriteReport,
    unlearning,
)
from lightning_unlearn.data import Encoding, FileRecords, build
from lightning_unlearn.runtime import in_each_package, lightning_class

other = pytest.importorskip("pytorch_lightning", reason="`pytorch_lightning` is not installed")
PACKAGES = [lightning.pytorch, other]
pytestmark = pytest.mark.filterwarnings("ignore:You defined a .validation_step. but have no .val_dataloader.")
each_package = pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)


class Values(lightning.pytorch.loggers.logger.DummyLogger):
    """Everything that was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step, dict(metrics)))


@cache
def module_of(package: Any) -> type[Any]:
    class Somebodys(package.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.net = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, CLASSES))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = F.cross_entropy(self(batch[0]), batch[1])
            self.log("my_loss", loss, on_step=True, on_epoch=True, sync_dist=True)
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

        test_step = validation_step

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    return Somebodys


@cache
def data_of(package: Any) -> type[Any]:
    class SomebodysData(package.LightningDataModule):
        def __init__(self, seed: int = 0, n: int = 24) -> None:
            super().__init__()
            self.save_hyperparameters()

        def setup(self, stage: str) -> None:
            self.rows = examples(self.hparams.seed, self.hparams.n)

        def train_dataloader(self) -> Any:
            return DataLoader(self.rows, batch_size=4)

        val_dataloader = test_dataloader = train_dataloader

    return SomebodysData


def trainer_of(package: Any, *callbacks: Any, **kwargs: Any) -> Any:
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    settings = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 2,
        "log_every_n_steps": 1,
        "logger": Values(),
        **quiet,
    }
    torch.manual_seed(3)
    return package.Trainer(callbacks=list(callbacks), **{**settings, **kwargs})


def bare() -> UnlearningModule:
    torch.manual_seed(1)
    return UnlearningModule(nn.Linear(8, CLASSES))


def forget(**kwargs: Any) -> Unlearn:
    return Unlearn(Bounded(GradientAscent(), bound=4.0), **kwargs)


def fitted(package: Any, *callbacks: Any, module: Any = None, data: Any = None, **kwargs: Any) -> dict[str, Any]:
    trainer = trainer_of(package, *callbacks, **kwargs)
    module = module_of(package)() if module is None else module
    trainer.fit(module, datamodule=data or ForgetRetainData(retain=loader(0), forget=loader(1, n=12)))
    logged = trainer.logger.rows if isinstance(trainer.logger, Values) else []
    assert lightning_class(trainer, "Trainer") is package.Trainer
    return {"weights": {k: v.clone() for k, v in module.state_dict().items()}, "logged": logged}


def summed(package: Any) -> Any:
    return fitted(package, forget())


def accumulated_clipped_and_mixed(package: Any) -> Any:
    return fitted(package, forget(), accumulate_grad_batches=2, gradient_clip_val=0.5, precision="bf16-mixed")


def projected(package: Any) -> Any:
    return fitted(package, Unlearn(NPO(beta=0.1), projector=HalfSpace()))


def guarded(package: Any) -> Any:
    return fitted(package, forget(), StepGuard())


def attacked_and_reported(package: Any) -> Any:
    attacks = {"int4": Quantize(bits=4), "relearn": Relearn(steps=2)}
    check = RecoveryCheck(attacks)
    found = fitted(package, forget(), check, WriteReport(f"of-{package.__name__}"))
    written = json.loads(Path(f"of-{package.__name__}/report.json").read_text())
    assert written["observations"]
    return {**found, "observations": written["observations"]}


def resumed(package: Any, begun_with: Any = None) -> Any:
    def data() -> ForgetRetainData:
        return ForgetRetainData(retain=loader(0), forget=loader(1, n=12), order=RandomOrder())

    path, first = f"{package.__name__}.ckpt", begun_with or package
    trainer = trainer_of(first, Unlearn(NPO(beta=0.1)), StepGuard(), max_steps=4)
    trainer.fit(module_of(first)(), datamodule=data())
    trainer.save_checkpoint(path)
    trainer = trainer_of(package, Unlearn(NPO(beta=0.1)), StepGuard(), max_steps=8, max_epochs=4)
    module = module_of(package)()
    trainer.fit(module, datamodule=data(), ckpt_path=path, weights_only=False)
    assert trainer.global_step == 8
    return {"weights": dict(module.state_dict()), "logged": trainer.logger.rows}


def taught_first(package: Any) -> Any:
    return fitted(package, FinetuneFirst(epochs=2, batch_size=4), forget(), module=bare())


def bare_network(package: Any) -> Any:
    """No validation data, but a `validation_step`: Lightning must see which loaders are ours, and which its own."""
    return fitted(package, forget(), module=bare())


def datamodules_inside(package: Any) -> Any:
    data = ForgetRetainData(retain=data_of(package)(seed=0), forget=data_of(package)(seed=1, n=12))
    module, check = module_of(package)(), RecoveryCheck({"int4": Quantize(bits=4)})
    found = fitted(package, forget(), check, module=module, data=data)
    assert any("val_loss" in row for _, row in found["logged"])
    trainer = trainer_of(package, RecoveryCheck({"int4": Quantize(bits=4)}))
    return {**found, "validated": trainer.validate(module, data), "tested": trainer.test(module, data)}


def monitored(package: Any) -> Any:
    best = package.callbacks.ModelCheckpoint(
        tempfile.mkdtemp(dir="."), monitor="recovery/int4/probability", filename="best"
    )
    patience = package.callbacks.EarlyStopping("recovery/int4/probability", patience=1, min_delta=10.0)
    check = RecoveryCheck({"int4": Quantize(bits=4)})
    found = fitted(package, forget(), check, best, patience, max_epochs=6, enable_checkpointing=True)
    assert patience.stopped_epoch == 1
    return {**found, "best": best.best_model_score, "at": Path(best.best_model_path).name}


def averaged(package: Any) -> Any:
    return fitted(package, forget(), package.callbacks.StochasticWeightAveraging(1e-3, 1), max_epochs=4)


def averaged_all_along(package: Any) -> Any:
    return fitted(package, package.callbacks.EMAWeightAveraging(decay=0.5), forget(), StepGuard())


def attached(package: Any) -> Any:
    module = unlearning(module_of(package)(), NPO(beta=0.1), forget=loader(1, n=12))
    return fitted(package, module=module, data=data_of(package)())


def language_model(package: Any) -> Any:
    def people(group: str) -> QuestionAnswerData:
        records = FileRecords("bundled:people", entity="entity", where={"group": [group]})
        return QuestionAnswerData(records, Encoding("bundled"), LoaderSettings(batch_size=6))

    data = ForgetRetainData(retain=people("retain"), forget=people("forget"))
    return fitted(package, Unlearn(NPO(beta=0.1)), module=UnlearningModule(TinyCausalLM()), data=data, max_steps=2)


CORE: list[Any] = [
    summed,
    accumulated_clipped_and_mixed,
    projected,
    guarded,
    pytest.param(attacked_and_reported, marks=pytest.mark.slow),
    resumed,
    taught_first,
    bare_network,
    datamodules_inside,
    monitored,
    averaged,
    averaged_all_along,
    attached,
    pytest.param(language_model, marks=pytest.mark.slow),
]


def plain(value: Any) -> str:
    """As JSON, whose numbers are exact, and in which NaN equals itself."""
    return json.dumps(value, default=lambda tensor: tensor.tolist())


@pytest.mark.parametrize("run", CORE, ids=lambda run: run.__name__)
def test_the_core_gives_the_same_bits_under_both_one_after_the_other(run: Callable[[Any], Any]) -> None:
    of_lightning, of_other, again = (run(package) for package in (*PACKAGES, lightning.pytorch))
    assert of_lightning["weights"]
    for found in (of_other, again):
        assert plain(found) == plain(of_lightning)


def test_a_checkpoint_of_one_package_is_resumed_under_the_other() -> None:
    results = {plain(resumed(package, begun_with)) for package, begun_with in product(PACKAGES, PACKAGES)}
    assert len(results) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:It is recommended to use .self.log.*sync_dist=True")
def test_the_same_under_two_processes() -> None:
    def fits(rank: int, world_size: int) -> Any:
        parts = [(forget(), StepGuard(), RecoveryCheck({"relearn": Relearn(steps=2)})) for _ in PACKAGES]
        pairs = zip(PACKAGES, parts, strict=True)
        return [plain(fitted(package, *some, devices=2, strategy="ddp")) for package, some in pairs]

    for of_lightning, of_other in run_ranks(fits):
        assert of_lightning == of_other


@each_package
@pytest.mark.parametrize("kind", ["LightningModule", "LightningDataModule", "Callback"])
def test_our_classes_are_those_of_either_package(package: Any, kind: str) -> None:
    ours = {
        "LightningModule": [UnlearningModule],
        "LightningDataModule": [ForgetRetainData, QuestionAnswerData],
        "Callback": [Unlearn, StepGuard, RecoveryCheck, WriteReport, FinetuneFirst],
    }
    assert all(issubclass(cls, getattr(package, kind)) for cls in ours[kind])


def test_hooks_that_are_not_overridden_are_those_of_the_trainers_package() -> None:
    """Lightning compares them with its own: by an inherited hook of the other package it would take ours for overridden."""
    data, module = ForgetRetainData(retain=loader(0), forget=loader(1)), bare()
    for package in (*PACKAGES, lightning.pytorch):
        data.trainer = module.trainer = trainer_of(package)
        hooks = ("val_dataloader", "test_dataloader", "configure_model", "predict_step")
        assert all(getattr(type(module), hook) is getattr(package.LightningModule, hook) for hook in hooks)
        assert type(data).val_dataloader is package.LightningDataModule.val_dataloader
        assert type(data).train_dataloader is ForgetRetainData.__dict__["train_dataloader"]


@each_package
def test_a_nested_datamodule_of_either_package_gives_its_hooks_and_its_own_hyperparameters(package: Any) -> None:
    inside = data_of(package)(seed=2)
    data = ForgetRetainData(retain=inside, forget=loader(1))
    assert data.val_dataloader == inside.val_dataloader
    assert "predict_dataloader" not in vars(data)
    variables = in_each_package("core.mixins.hparams_mixin._given_hyperparameters")
    tokens = [variable.set({"seed": 5, "_instantiator": "mine"}) for variable in variables]  # as LightningCLI leaves it
    try:
        spec = {"class_path": f"{__name__}.{package.__name__.partition('.')[0].title()}Data", "init_args": {"seed": 2}}
        assert build(spec, lightning.pytorch.LightningDataModule).hparams.seed == 2
    finally:
        for variable, token in zip(variables, tokens, strict=True):
            variable.reset(token)


LightningData, Pytorch_LightningData = (data_of(package) for package in PACKAGES)


@each_package
def test_a_combined_loader_of_either_package_is_read_as_one(package: Any) -> None:
    combined = package.utilities.CombinedLoader([loader(0), loader(1)], "min_size")
    batches = list(ForgetRetainData(retain=combined, forget=loader(1)).retain.loader())
    assert [len(parts) for parts in batches] == [2] * 6


def test_data_of_one_package_inside_a_fit_of_the_other() -> None:
    def fit(package: Any, inside: Any) -> Any:
        data = ForgetRetainData(retain=data_of(inside)(seed=0), forget=data_of(inside)(seed=1, n=12))
        return plain(fitted(package, forget(), data=data))

    assert len({fit(package, inside) for package in PACKAGES for inside in PACKAGES}) == 1


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda data: pickle.loads(pickle.dumps(data))], ids=["copy", "pickle"]
)
@each_package
def test_what_a_trainer_of_either_package_has_used_can_be_copied(copied: Callable[[Any], Any], package: Any) -> None:
    module = bare()
    found = fitted(package, forget(), module=module)
    module.trainer = None
    again = copied(module)
    assert type(again) is UnlearningModule
    assert plain(dict(again.state_dict())) == plain(found["weights"])


@each_package
def test_a_module_of_the_other_package_gets_lightnings_own_error(package: Any) -> None:
    mixed = next(p for p in PACKAGES if p is not package)
    with pytest.raises(TypeError, match="`model` must be a `LightningModule`"):
        fitted(package, forget(), module=module_of(mixed)())


def in_a_process(code: str, *arguments: str) -> str:
    """What somebody's script prints, in a process that has imported nothing yet."""
    Path("script.py").write_text(code)
    made = subprocess.run([sys.executable, "script.py", *arguments], capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    return made.stdout


ORDERS = {
    "ours first": "import lightning_unlearn, pytorch_lightning as pl",
    "theirs first": "import pytorch_lightning as pl, lightning_unlearn",
    "looked for in between": "import lightning_unlearn, importlib.util as u; u.find_spec('pytorch_lightning')\n"
    "import pytorch_lightning as pl",
}


@pytest.mark.slow
@pytest.mark.parametrize("imports", ORDERS.values(), ids=ORDERS)
def test_either_may_be_imported_first(imports: str) -> None:
    printed = in_a_process(
        f"""{imports}
import sys, lightning.pytorch
for package in (pl, lightning.pytorch):
    assert issubclass(lightning_unlearn.UnlearningModule, package.LightningModule)
    assert issubclass(lightning_unlearn.ForgetRetainData, package.LightningDataModule)
    assert issubclass(lightning_unlearn.Unlearn, package.Callback)
print([type(finder).__name__ for finder in sys.meta_path])
"""
    )
    assert "WhenImported" not in printed


@pytest.mark.slow
def test_it_is_never_imported_by_us_not_by_the_command_line_either() -> None:
    assert "False" in in_a_process(
        """
import sys, lightning_unlearn.cli
lightning_unlearn.cli.main([f"--config=bundled:quickstart"], run=False)
print("pytorch_lightning" in sys.modules)
"""
    )


SOMEBODYS = """
import {package} as pl, torch
from torch.utils.data import DataLoader, TensorDataset

class Lit(pl.LightningModule):
    def __init__(self, width: int = 8):
        super().__init__()
        self.save_hyperparameters()
        self.net = torch.nn.Linear(width, 4)
    def forward(self, x):
        return self.net(x)
    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)

class Data(pl.LightningDataModule):
    def __init__(self, seed: int = 0, n: int = 32):
        super().__init__()
        self.save_hyperparameters()
    def train_dataloader(self):
        g = torch.Generator().manual_seed(self.hparams.seed)
        x, y = torch.randn(self.hparams.n, 8, generator=g), torch.randint(0, 4, (self.hparams.n,), generator=g)
        return DataLoader(TensorDataset(x, y), batch_size=8)
"""
CONFIG = """
model:
  class_path: somebodys_{name}.Lit
data:
  class_path: lightning_unlearn.ForgetRetainData
  init_args:
    retain: {{class_path: somebodys_{name}.Data, init_args: {{seed: 1}}}}
    forget: {{class_path: somebodys_{name}.Data, init_args: {{seed: 2, n: 16}}}}
trainer:
  max_epochs: 4
  accelerator: cpu
  logger: false
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
  - class_path: lightning_unlearn.Unlearn
    init_args: {{objective: {{class_path: lightning_unlearn.NPO}}}}
  - class_path: lightning_unlearn.RecoveryCheck
    init_args: {{attacks: {{int4: {{class_path: lightning_unlearn.Quantize, init_args: {{bits: 4}}}}}}}}
  - class_path: {package}.callbacks.ModelCheckpoint
    init_args: {{monitor: recovery/int4/probability, dirpath: checkpoints_{name}}}
  - class_path: {package}.callbacks.EarlyStopping
    init_args: {{monitor: recovery/int4/probability, min_delta: 10.0, patience: 1}}
"""
SCRIPT = """
import lightning_unlearn  # first, as tools that sort imports have it
from {package}.cli import LightningCLI

cli = LightningCLI(save_config_callback=None, seed_everything_default=0)
assert isinstance(cli.datamodule, lightning_unlearn.ForgetRetainData)
print(cli.trainer.global_step, cli.trainer.checkpoint_callback.best_model_score.item(), cli.model.hparams.width)
print(dict(cli.datamodule.retain.source.hparams), dict(cli.datamodule.forget.source.hparams))
print({{name: p.tolist() for name, p in cli.model.named_parameters()}})
"""


def written_for(package: Any) -> dict[str, str]:
    """Module, configuration and script of somebody who imports ``package``."""
    names = {"package": package.__name__, "name": package.__name__.replace(".", "_")}
    Path(f"somebodys_{names['name']}.py").write_text(SOMEBODYS.format(**names))
    Path(f"{names['name']}.yaml").write_text(CONFIG.format(**names))
    return names


@pytest.mark.slow
def test_somebodys_command_line_of_either_package_prints_the_same() -> None:
    def printed(package: Any) -> str:
        names = written_for(package)
        return in_a_process(SCRIPT.format(**names), "fit", f"--config={names['name']}.yaml")

    of_lightning, of_other = map(printed, PACKAGES)
    assert "{'seed': 1, 'n': 32} {'seed': 2, 'n': 16}" in of_lightning
    assert of_other == of_lightning


@pytest.mark.slow
def test_our_command_line_says_what_to_do_about_the_other_package() -> None:
    config = f"--config={written_for(other)['name']}.yaml"
    command = [sys.executable, "-m", "lightning_unlearn", "fit", config]
    made = subprocess.run(command, capture_output=True, text=True)
    assert made.returncode == 2
    way_out = (
        r"`somebodys_pytorch_lightning.Lit` is of `pytorch_lightning`.* Import it from `lightning.pytorch`; or keep"
    )
    assert re.search(way_out, made.stderr)
