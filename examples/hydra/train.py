"""Hydra composes the method, the attacks and the trainer; each part is built where it is named, by `_target_`.

python examples/hydra/train.py
python examples/hydra/train.py unlearn=under_relearn attack=thorough trainer.max_steps=100
python examples/hydra/train.py --multirun unlearn=npo,sim_npo seed=0,1,2
"""

from __future__ import annotations

import hydra
import lightning.pytorch as pl
from omegaconf import DictConfig, OmegaConf

from lightning_unlearn import RecoveryCheck, WriteReport


def fit(config: DictConfig) -> pl.Trainer:
    """Build what the configuration names, and fit."""
    pl.seed_everything(config.seed)
    report = WriteReport(config.folder)
    report.config = OmegaConf.to_yaml(config, resolve=True)  # the report shows it, and how to make it again
    # `_convert_="all"`: plain lists and dicts, as our parts expect them.
    built = hydra.utils.instantiate(
        {name: config[name] for name in ("model", "data", "unlearn", "attack", "trainer")}, _convert_="all"
    )
    checks = RecoveryCheck(built["attack"], every_n_epochs=0)
    trainer: pl.Trainer = built["trainer"](callbacks=[built["unlearn"], checks, report])
    trainer.fit(built["model"], datamodule=built["data"])
    return trainer


@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(config: DictConfig) -> None:
    """Hydra calls it with the composed configuration."""
    fit(config)


if __name__ == "__main__":
    main()
