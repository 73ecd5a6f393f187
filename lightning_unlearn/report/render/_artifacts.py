"""A report's files, handed to the loggers of the trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from matplotlib.image import imread

from lightning_unlearn.report.render._model_card import to_model_card
from lightning_unlearn.report.schema import RobustnessReport

PAGE, PLOTS = "report.html", "curves.png"
FILES = (PAGE, "report.json", "scores.jsonl", "model_card.md", PLOTS)
"""Files of a report that loggers keep, where they keep files."""
NAME = "robustness-report"
"""What a report is called among a run's artifacts."""


def send_artifacts(loggers: Iterable[Any], report: RobustnessReport, folder: Path) -> None:
    """Give each logger what it can keep: W&B and MLflow the files, TensorBoard the tables as text and the plots.

    W&B shows page and plots among the run's panels, too.

    Other loggers get nothing. An error of a logger is a warning: the files are on disk already.

    Args:
        loggers: Of the trainer; of ``lightning`` or ``pytorch_lightning``.
        report: What is reported.
        folder: Where its files are.
    """
    files = [path for path in (folder / file for file in FILES) if path.is_file()]
    for logger in loggers:
        try:
            _sender(logger)(logger, report, files)
        except Exception as error:  # theirs may raise anything: no network, no space, a run that was ended
            rank_zero_warn(
                f"The report should reach `{type(logger).__name__}`. Found {type(error).__name__}: {error}. Its files are "
                f"in `{folder}`: add them by hand."
            )


def _sender(logger: Any) -> Callable[[Any, RobustnessReport, Sequence[Path]], None]:
    # By name: none of these packages has to be installed, and each logger exists in two packages of Lightning's.
    kinds = (kind.__name__ for kind in type(logger).__mro__)
    return next((_SENDERS[name] for name in kinds if name in _SENDERS), _send_nothing)


def _to_wandb(logger: Any, report: RobustnessReport, files: Sequence[Path]) -> None:
    import wandb

    run = logger.experiment
    whole = wandb.Artifact(f"{NAME}-{run.id}", type=NAME)  # one name in a project is one artifact, whoever logs it
    for path in files:
        whole.add_file(str(path))
    run.log_artifact(whole)
    page, plots = (next(path for path in files if path.name == name) for name in (PAGE, PLOTS))
    run.log({f"{NAME}/page": wandb.Html(str(page)), f"{NAME}/curves": wandb.Image(str(plots))})


def _to_mlflow(logger: Any, report: RobustnessReport, files: Sequence[Path]) -> None:
    for path in files:
        logger.experiment.log_artifact(logger.run_id, str(path), artifact_path=NAME)


def _to_tensorboard(logger: Any, report: RobustnessReport, files: Sequence[Path]) -> None:
    step = int(report.run.get("steps", 0))
    logger.experiment.add_text(NAME, to_model_card(report), global_step=step)
    plots = next(path for path in files if path.name == PLOTS)
    logger.experiment.add_image(f"{NAME}/curves", imread(plots), global_step=step, dataformats="HWC")
    logger.experiment.flush()


def _send_nothing(logger: Any, report: RobustnessReport, files: Sequence[Path]) -> None:
    pass


_SENDERS: dict[str, Callable[[Any, RobustnessReport, Sequence[Path]], None]] = {
    "WandbLogger": _to_wandb,
    "MLFlowLogger": _to_mlflow,
    "TensorBoardLogger": _to_tensorboard,
}
