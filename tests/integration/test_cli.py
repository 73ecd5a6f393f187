"""The command line, three ways: our script, somebody's own script, and somebody's module nested under `unlearning`."""

from __future__ import annotations

import copy
import json
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml
from lightning.pytorch.cli import LightningCLI
from somebodys_package import Classifier, Measurements
from somebodys_package.train import main as their_script

from lightning_unlearn import NPO, GradientAscent, Quantize, Relearn, SimNPO, Unlearn, UnlearningModule, WriteReport
from lightning_unlearn.cli import UnlearnCLI, main, script
from lightning_unlearn.projectors import WeightedSum

pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed")
ROOT = Path(__file__).parents[2]
TRAINER: dict[str, Any] = {
    "max_epochs": 1,
    "limit_train_batches": 2,
    "limit_val_batches": 1,
    "limit_test_batches": 1,
    "num_sanity_val_steps": 0,
    "accelerator": "cpu",
    "devices": 1,
    "log_every_n_steps": 1,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "logs"}},
}
MODULE = {"class_path": "somebodys_package.Classifier", "init_args": {"width": 24}}
RETAIN = {"class_path": "somebodys_package.Measurements", "init_args": {"seed": 1, "n": 12}}
FORGET = {"class_path": "somebodys_package.Measurements", "init_args": {"seed": 2}}
OBJECTIVE = {"class_path": "lightning_unlearn.NPO", "init_args": {"beta": 0.3}}
RECOVERY = {"attacks": {"int4": {"class_path": "lightning_unlearn.Quantize", "init_args": {"bits": 4, "skip": []}}}}
WRAPPED = {
    "class_path": "lightning_unlearn.UnlearningModule",
    "init_args": {"network": {"class_path": "somebodys_package.Classifier", "init_args": {"width": 24}}},
}


@pytest.fixture(autouse=True)
def _command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn"])
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture
def only_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything but the fit."""
    monkeypatch.setattr(UnlearnCLI, "_run_subcommand", lambda self, subcommand: None)


def written(name: str, settings: dict[str, Any], **trainer: Any) -> str:
    Path(name).write_text(yaml.safe_dump({"trainer": {**TRAINER, **trainer}, **settings}))
    return name


def callback(class_path: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": f"lightning_unlearn.{class_path}", "init_args": init_args}


def ours() -> tuple[Any, list[str]]:
    settings = {
        "model": MODULE,
        "data": RETAIN,
        "unlearn": {"objective": OBJECTIVE, "forget": FORGET},
        "recovery": RECOVERY,
        "report": {"folder": "report"},
    }
    return main, ["--config", written("ours.yaml", settings)]


def bare_network() -> tuple[Any, list[str]]:
    module, arguments = ours()
    return module, [*arguments, "--config", written("bare.yaml", {"model": WRAPPED})]


def nested() -> tuple[Any, list[str]]:
    checks = [callback("RecoveryCheck", **RECOVERY), callback("WriteReport", folder="report")]
    arguments = {"module": MODULE, "objective": OBJECTIVE, "forget": FORGET, "checks": checks}
    settings = {"model": {"class_path": "lightning_unlearn.unlearning", "init_args": arguments}, "data": RETAIN}
    return main, ["--config", written("nested.yaml", settings)]


def their_yaml() -> tuple[Any, list[str]]:
    callbacks = [
        callback("Unlearn", objective=OBJECTIVE, forget=FORGET),
        callback("RecoveryCheck", **RECOVERY),
        callback("WriteReport", folder="report"),
    ]
    settings = {"model": MODULE["init_args"], "data": RETAIN["init_args"]}
    return their_script, ["--config", written("theirs.yaml", settings, callbacks=callbacks)]


def their_shell() -> tuple[Any, list[str]]:
    settings = {"model": MODULE["init_args"], "data": RETAIN["init_args"]}
    arguments = [
        "--trainer.callbacks+=lightning_unlearn.Unlearn",
        "--trainer.callbacks.objective=NPO",
        "--trainer.callbacks.objective.beta=0.3",
        f"--trainer.callbacks.forget={json.dumps(FORGET)}",
        "--trainer.callbacks+=lightning_unlearn.RecoveryCheck",
        "--trainer.callbacks.attacks.int4=lightning_unlearn.Quantize",
        "--trainer.callbacks.attacks.int4.bits=4",
        "--trainer.callbacks.attacks.int4.skip=[]",
        "--trainer.callbacks+=lightning_unlearn.WriteReport",
        "--trainer.callbacks.folder=report",
    ]
    return their_script, ["--config", written("theirs.yaml", settings), *arguments]


Way = Callable[[], tuple[Any, list[str]]]
WAYS: list[Way] = [ours, bare_network, nested, their_yaml, their_shell]


def parts_of(cli: Any, kind: type) -> list[Any]:
    return [c for c in cli.trainer.callbacks if isinstance(c, kind)]


def weights(cli: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in cli.model.named_parameters()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def logged(cli: Any) -> dict[str, float]:
    return {name: float(value) for name, value in cli.trainer.callback_metrics.items()}


@dataclass
class Fitted:
    """What one way gave, in a folder of its own."""

    way: Way
    cli: Any
    weights: dict[str, torch.Tensor]
    logged: dict[str, float]
    hparams: list[dict[str, Any]]
    report: dict[str, Any]


def fit_in(folder: Path, way: Way) -> Fitted:
    hparams: list[dict[str, Any]] = []
    setup = Measurements.setup

    def watched(self: Measurements, stage: str) -> None:
        hparams.append({name: self.hparams[name] for name in ("seed", "n")})
        setup(self, stage)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["lightning-unlearn"])
        patch.setattr(sys, "path", [*sys.path])
        patch.setattr(Measurements, "setup", watched)
        run, arguments = way()
        cli = run(["fit", *arguments])
    report = json.loads((folder / "report" / "report.json").read_text())
    return Fitted(way, cli, weights(cli), logged(cli), hparams, report)


@pytest.fixture(
    scope="module",
    params=[way if way in (ours, their_yaml) else pytest.param(way, marks=pytest.mark.slow) for way in WAYS],
    ids=lambda way: way.__name__,
)
def fitted_once(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Fitted, Path]:
    folder = tmp_path_factory.mktemp(request.param.__name__)
    return fit_in(folder, request.param), folder


@pytest.fixture
def fitted(fitted_once: tuple[Fitted, Path], monkeypatch: pytest.MonkeyPatch) -> Fitted:
    monkeypatch.chdir(fitted_once[1])
    return fitted_once[0]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    return fit_in(tmp_path_factory.mktemp("expected"), ours)


def test_the_saved_configuration_gives_the_same_again(fitted: Fitted) -> None:
    run, _ = fitted.way()
    again = run(["fit", "--config", str(Path(fitted.cli.trainer.log_dir) / "config.yaml")])
    (unlearn,) = parts_of(again, Unlearn)
    assert unlearn._steps == {"merged": 2, "taken": 2}
    assert repr(unlearn.objective) == "NPO(beta=0.3)"
    assert same(weights(again), fitted.weights)
    assert logged(again) == fitted.logged
    assert {"unlearn/forget", "recovery/int4/probability"} <= set(fitted.logged)


def test_every_way_is_the_same_fit(fitted: Fitted, expected: Fitted) -> None:
    if fitted.way is bare_network:
        pytest.skip("trained by our own wrapper, so with another optimizer")
    assert same(fitted.weights, expected.weights)
    assert fitted.logged == expected.logged


def test_nested_data_and_modules_have_hyper_parameters_of_their_own(fitted: Fitted) -> None:
    """LightningCLI gives those of the top to whatever it builds, and the forget set silently is the retain set."""
    assert sorted({tuple(hparams.items()) for hparams in fitted.hparams}) == [
        (("seed", 1), ("n", 12)),
        (("seed", 2), ("n", 16)),
    ]
    module = fitted.cli.model.network if fitted.way is bare_network else fitted.cli.model
    assert {name: v for name, v in module.hparams.items() if name[0] != "_"} == {"width": 24, "lr": 0.01}
    assert module.hparams.get("_class_path", "somebodys_package.Classifier") == "somebodys_package.Classifier"


def test_the_checkpoint_loads_in_the_plain_class(fitted: Fitted) -> None:
    (path,) = Path(fitted.cli.trainer.log_dir).glob("checkpoints/*.ckpt")
    plain = Classifier(width=24)
    plain.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    trained = {name.removeprefix("network."): p for name, p in fitted.weights.items()}
    assert same(dict(plain.named_parameters()), trained)
    if fitted.way is not bare_network:
        assert same(dict(Classifier.load_from_checkpoint(path).named_parameters()), trained)


def test_lightning_alone_gives_a_nested_module_the_hyper_parameters_of_the_top() -> None:
    """The day this fails, `OwnHyperparameters` can go."""
    arguments = ["--config", written("bare.yaml", {"model": WRAPPED, "data": RETAIN})]
    stock = LightningCLI(
        pl.LightningModule,
        pl.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        run=False,
        args=arguments,
    )
    assert "width" not in stock.model.network.hparams
    assert main(arguments, run=False).model.network.hparams["width"] == 24


def test_two_of_one_class_are_told_apart_by_their_arguments() -> None:
    inner = copy.deepcopy(MODULE)
    inner["init_args"]["width"] = 7
    model = {"class_path": "somebodys_package.Pair", "init_args": {"width": 24, "other": inner}}
    model["init_args"]["other"]["class_path"] = "somebodys_package.Pair"
    cli = main(["--config", written("pair.yaml", {"model": model, "data": RETAIN})], run=False)
    assert (cli.model.hparams["width"], cli.model.other.hparams["width"]) == (24, 7)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["validate", "test"])
def test_checks_run_alone_on_a_checkpoint(fitted: Fitted, stage: str) -> None:
    (path,) = Path(fitted.cli.trainer.log_dir).glob("checkpoints/*.ckpt")
    run, arguments = fitted.way()
    shutil.rmtree("report", ignore_errors=True)
    alone = run([stage, *arguments, "--ckpt_path", str(path)])
    for name in ("recovery/none/probability", "recovery/int4/probability"):
        assert logged(alone)[name] == fitted.logged[name]
    report = json.loads(Path("report/report.json").read_text())
    assert report["levels"] == fitted.report["levels"]  # the original is the one that the checkpoint remembers
    assert report["run"]["steps"] == fitted.report["run"]["steps"] == 2
    assert not parts_of(alone, Unlearn) or not hasattr(parts_of(alone, Unlearn)[0], "_stream")


def test_the_report_holds_the_configuration_and_checks_alone_leave_it_there() -> None:
    run, arguments = ours()
    run(["fit", *arguments])
    assert "lightning_unlearn.NPO" in json.loads(Path("report/report.json").read_text())["config"]
    of_fit = Path("report/config.yaml").read_text()
    run(["validate", "--config", "report/config.yaml"])
    assert Path("report/config.yaml").read_text() == of_fit
    assert "verbose" in yaml.safe_load(Path("report/config-validate.yaml").read_text())


def test_without_a_logger_a_configuration_in_the_working_folder_stays_the_users() -> None:
    run, arguments = ours()
    Path("config.yaml").write_text(mine := "trainer: {logger: false}\n")
    run(["fit", *arguments, "--config", "config.yaml"])
    assert Path("config.yaml").read_text() == mine
    assert Path("report/config.yaml").exists()


@pytest.mark.slow
@pytest.mark.parametrize("way", [ours, nested], ids=lambda way: way.__name__)
def test_resumed_equals_uninterrupted(way: Way) -> None:
    run, arguments = way()
    # What the user's own loader shuffles, Lightning does not resume.
    arguments = [*arguments, "--trainer.limit_train_batches=1.0", "--data.shuffle=false"]
    whole = run(["fit", *arguments, "--trainer.max_epochs=2"])
    first = run(["fit", *arguments])
    (path,) = Path(first.trainer.log_dir).glob("checkpoints/*.ckpt")
    resumed = run(["fit", *arguments, "--trainer.max_epochs=2", "--ckpt_path", str(path)])
    assert resumed.trainer.global_step == whole.trainer.global_step == 6
    assert parts_of(resumed, Unlearn)[0]._steps == {"merged": 6, "taken": 6}
    assert same(weights(resumed), weights(whole))


def test_the_configuration_overrules_the_checkpoint(only_built: None) -> None:
    """A checkpoint of somebody's class, or of somebody's script, may hold hyper-parameters of another module."""
    run, arguments = ours()
    torch.save({"hyper_parameters": {"width": 5, "colour": "red"}, "state_dict": {}}, "other.ckpt")
    assert run(["validate", *arguments, "--ckpt_path", "other.ckpt"]).model.hparams["width"] == 24


@pytest.mark.parametrize(
    ("arguments", "holds"),
    [
        (
            ["--unlearn.objective=NPO", "--unlearn.objective.beta=0.2"],
            lambda u, r: repr(u.objective) == "NPO(beta=0.2)",
        ),
        (
            ["--unlearn.objective.beta=0.2"],
            lambda u, r: isinstance(u.objective, NPO) and u.objective.beta == 0.2,
        ),
        (["--unlearn.objective=SimNPO"], lambda u, r: isinstance(u.objective, SimNPO)),
        (["--unlearn.weight=2"], lambda u, r: u.weight == 2.0),
        (["--unlearn.projector=WeightedSum"], lambda u, r: isinstance(u.projector, WeightedSum)),
        (["--unlearn.forget.seed=7"], lambda u, r: u.forget == {**FORGET, "seed": 7}),
        (["--recovery.attacks.int4.bits=3"], lambda u, r: r.attacks["int4"].bits == 3),
        (["--recovery.attacks.relearn=Relearn"], lambda u, r: isinstance(r.attacks["relearn"], Relearn)),
        (
            ["--recovery.every_n_epochs=3"],
            lambda u, r: r.every_n_epochs == 3 and isinstance(r.attacks["int4"], Quantize),
        ),
        (["--unlearn", "unlearn.yaml"], lambda u, r: isinstance(u.objective, GradientAscent)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_shell_overrides_the_file(arguments: list[str], holds: Any, only_built: None) -> None:
    Path("unlearn.yaml").write_text("objective: {class_path: lightning_unlearn.GradientAscent}\n")
    run, configured = ours()
    cli = run(["fit", *configured, *arguments])
    (unlearn,), (recovery,) = parts_of(cli, Unlearn), [c for c in cli.trainer.callbacks if hasattr(c, "attacks")]
    assert holds(unlearn, recovery)


def test_a_part_can_be_left_out(only_built: None) -> None:
    run, arguments = ours()
    cli = run(["fit", *arguments, "--unlearn=null"])
    assert not parts_of(cli, Unlearn)
    assert parts_of(cli, WriteReport)


def test_everything_from_the_shell() -> None:
    cli = main(
        [
            *("fit", "--config", written("trainer.yaml", {})),
            *("--model=somebodys_package.Classifier", "--model.width=6", "--data=somebodys_package.Measurements"),
            *("--unlearn.objective=GradientAscent", "--unlearn.forget.class_path=somebodys_package.Measurements"),
            *("--unlearn.forget.seed=3", "--unlearn.weight=0.5"),
        ]
    )
    (unlearn,) = parts_of(cli, Unlearn)
    assert unlearn._steps["merged"] == 2
    assert next(iter(cli.model.parameters())).shape == (6, 8)


def test_parts_stand_around_the_users_own_callbacks(only_built: None) -> None:
    run, arguments = ours()
    cli = run(["fit", *arguments, "--trainer.callbacks+=LearningRateMonitor", "--finetune_first.epochs=1"])
    names = [type(c).__name__ for c in cli.trainer.callbacks]
    assert names[:5] == ["FinetuneFirst", "Unlearn", "LearningRateMonitor", "RecoveryCheck", "WriteReport"]


def test_a_network_of_ones_own_optimizer() -> None:
    run, arguments = bare_network()
    cli = run(["fit", *arguments, "--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.5"])
    assert isinstance(cli.model, UnlearningModule)
    assert cli.trainer.optimizers[0].defaults["lr"] == 0.5


def test_an_optimizer_for_forgetting_alone_and_again_from_the_saved_configuration() -> None:
    run, arguments = ours()
    chosen = ["--unlearn.optimizer=torch.optim.SGD", "--unlearn.optimizer.lr=0.25", "--unlearn.optimizer.momentum=0.5"]
    first = run(["fit", *arguments, *chosen])
    (config,) = Path("logs").rglob("config.yaml")
    again = run(["fit", "--config", str(config)])
    for cli in (first, again):
        (unlearn,) = parts_of(cli, Unlearn)
        assert type(unlearn.forget_optimizer) is torch.optim.SGD
        assert (unlearn.forget_optimizer.defaults["lr"], unlearn.forget_optimizer.defaults["momentum"]) == (0.25, 0.5)
        assert unlearn._steps == {"merged": 2, "taken": 2}
    assert same(weights(first), weights(again))


UNKNOWN: list[tuple[dict[str, Any], str]] = [
    ({"unlearn": {"objective": OBJECTIVE, "wieght": 2}}, "Option 'wieght' is not accepted"),
    ({"unlearn": {"objective": {**OBJECTIVE, "init_args": {"bta": 2}}}}, "Option 'bta' is not accepted"),
    ({"recovry": RECOVERY}, "recovry"),
    ({"recovery": {"attacks": {"int4": callback("Quantise")}}}, "Quantise"),
    ({"model": {**MODULE, "init_args": {"widht": 2}}}, "Option 'widht' is not accepted"),
    ({"data": {"class_path": "somebodys_package.Measurement"}}, "has no attribute 'Measurement'"),
]


@pytest.mark.parametrize(("settings", "named"), UNKNOWN, ids=[named for _, named in UNKNOWN])
def test_unknown_keys_are_refused_by_name(
    settings: dict[str, Any], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, arguments = ours()
    Path("wrong.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(SystemExit, match="^2$"):
        main(["fit", *arguments, "--config", "wrong.yaml"])
    message = capsys.readouterr().err
    assert named in message
    assert "Union subtypes" not in message  # only what is wrong
    assert len(message.splitlines()) < 14


ERRORS: list[tuple[list[str], str]] = [
    (["--unlearn.weight=-2"], "`weight` should be positive"),
    (["--recovery.attacks.int4.bits=99"], "`bits` should be between 2 and 16. Found `bits = 99`."),
    (
        ["--unlearn.forget.sed=2"],
        "Measurements` should be built from its `init_args`. Found: Option 'sed'",
    ),
    (["--recovery.audits=[]"], "`audits` should hold at least one audit"),
    (["--recovery.attacks={4: {class_path: lightning_unlearn.Quantize}}"], "`attacks` should have names that are text"),
    (["--recovery=null"], "`WriteReport` should find a `RecoveryCheck` among the callbacks"),
    (["--unlearn.forget=null"], "`Unlearn` should find what to forget"),
    (["--unlearn.forget.seed=1", "--unlearn.forget.n=12"], "Forget and retain data should share no example"),
    (["--report.folder=ours.yaml/report"], "`folder` should be a folder that can be written"),
]


@pytest.mark.parametrize(("arguments", "said"), ERRORS, ids=[said for _, said in ERRORS])
def test_an_error_is_one_message_on_the_console(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, configured = ours()
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn", "fit", *configured, *arguments])
    with pytest.raises(SystemExit) as raised:
        script()
    message = str(raised.value.code)  # a text: Python prints it, and the exit status is 1
    assert said in message
    assert len(message.splitlines()) == 2
    assert "Traceback" not in message
    assert "LIGHTNING_UNLEARN_TRACEBACK=1" in message

    monkeypatch.setenv("LIGHTNING_UNLEARN_TRACEBACK", "1")
    with pytest.raises((ValueError, OSError), match=re.escape(said)):
        script()


def test_somebody_elses_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    _, arguments = ours()
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn", "fit", *arguments, "--model.lr=-1"])
    with pytest.raises(ValueError, match="Invalid learning rate"):
        script()


def test_a_bug_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is raised on purpose is meant for the user."""
    _, arguments = ours()
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn", "fit", *arguments])
    monkeypatch.setattr("lightning_unlearn.forgetting._unlearn.forget_source", lambda trainer, forget: None)
    with pytest.raises(TypeError, match="cannot unpack"):
        script()


def helped(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit, match="^0$"):
        main([*arguments])
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--help"], ["Make a model forget", "fit Unlearn: train on what must stay", "validate Run the checks alone"]),
        (
            ["fit", "--help"],
            [
                "a key twice in one is refused",
                "What forgetting minimises",
                "Arguments of RecoveryCheck",
                "--trainer.max_epochs",
            ],
        ),
        (
            ["fit", "--unlearn.help"],
            ["The objective that forgetting minimises.", "lightning_unlearn.PCGrad", "cached likelihoods"],
        ),
        (["fit", "--unlearn.objective.help", "NPO"], ["Inverse temperature, positive", "default: 0.1"]),
        (["fit", "--recovery.attacks.help", "Quantize"], ["Weights that share a scale"]),
        (["fit", "--model.help", "UnlearningModule"], ["a torchvision model, any module. (required, type: Module"]),
        (
            ["fit", "--data.help", "ForgetRetainData"],
            ["What must stay and what must go", "What an attacker has to relearn from"],
        ),
        (["fit", "--data.help", "somebodys_package.Measurements"], ["Which measurements."]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith(("fit", "-")) else "",
)
def test_help_reads_like_documentation(
    arguments: list[str], shown: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = helped(capsys, *arguments)
    for part in shown:
        assert part in text
    for markup in (":class:", ":func:", ":paramref:", "``", "<class '"):
        assert markup not in text


def test_a_configuration_to_start_from_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="^0$"):
        main(
            ["fit", "--model=UnlearningModule", "--data=ForgetRetainData", "--unlearn.objective=NPO", "--print_config"]
        )
    settings = yaml.safe_load(capsys.readouterr().out)
    assert settings["unlearn"]["init_args"]["objective"] == callback("NPO", beta=0.1)


def test_python_m(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["-m", "--help"])
    with pytest.raises(SystemExit, match="^0$"):
        runpy.run_module("lightning_unlearn", run_name="__main__")
    assert capsys.readouterr().out.startswith("usage: lightning-unlearn")


def test_the_console_script_is_the_one_with_clear_errors() -> None:
    assert 'lightning-unlearn = "lightning_unlearn_command:script"' in (ROOT / "pyproject.toml").read_text()


def test_as_a_process_with_a_module_from_the_working_folder() -> None:
    """Console scripts do not have the working folder on their path."""
    _, arguments = ours()
    shutil.copytree(ROOT / "tests" / "somebodys_package", "somebodys_package")
    command = [sys.executable, str(ROOT / "cli.py"), "fit", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert Path("report/report.html").exists()
