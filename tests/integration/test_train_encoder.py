"""`benchmarks/train_encoder.py` writes files that the configuration of `EncodedMatch` takes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
import yaml

from lightning_unlearn import Unlearn
from lightning_unlearn.cli import main, read_config
from lightning_unlearn.objectives import EncodedMatch, encoders

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "train_encoder.py"
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}


def written(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file that the script writes, in few steps."""
    spec = importlib.util.spec_from_file_location("train_encoder", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    out = tmp_path / f"{kind}.safetensors"
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--kind", kind, "--size", "24", "--steps", "20", "--out", str(out)])
    script.main()
    return out


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "named", "tensor"), [("sae", "SAE", "encoder"), ("pca", "PCA", "components")])
def test_the_configuration_takes_what_it_writes(
    kind: str,
    named: str,
    tensor: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = written(kind, monkeypatch, tmp_path)
    assert "states of 128 dimensions, 24 latents: missed variance 0." in capsys.readouterr().out
    settings = read_config("bundled:encoded_match")
    for part in ("finetune_first", "report", "recovery"):
        del settings[part]
    encoder = {"class_path": f"lightning_unlearn.objectives.encoders.{named}", "init_args": {"path": str(out)}}
    settings["unlearn"]["objective"]["init_args"]["encoder"] = encoder
    settings["trainer"]["callbacks"][0]["init_args"]["count"] = 4
    settings["trainer"].update({**QUIET, "max_steps": 1, "max_epochs": -1})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn"])
    cli = main(["--config", str(tmp_path / "config.yaml")], run=False)
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)

    (unlearn,) = (callback for callback in cli.trainer.callbacks if isinstance(callback, Unlearn))
    objective = unlearn.objective
    assert isinstance(objective, EncodedMatch)
    assert type(objective.encoder) is getattr(encoders, named)
    assert getattr(objective.encoder, tensor).shape == (128, 24)
    assert 0 < objective.chosen.numel() <= 8
    assert unlearn._steps == {"merged": 1, "taken": 1}
    assert torch.isfinite(cli.trainer.callback_metrics["unlearn/forget"])
