"""``python -m lightning_unlearn`` is ``lightning-unlearn``."""

from lightning_unlearn.cli import script

script()
