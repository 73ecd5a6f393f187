"""The script its owner runs: ``python -m somebodys_package.train fit --config ...``."""

from __future__ import annotations

from lightning.pytorch.cli import ArgsType, LightningCLI

from somebodys_package.data import Measurements
from somebodys_package.module import Classifier


def main(args: ArgsType = None) -> LightningCLI:
    return LightningCLI(Classifier, Measurements, seed_everything_default=0, args=args)


if __name__ == "__main__":
    main()
