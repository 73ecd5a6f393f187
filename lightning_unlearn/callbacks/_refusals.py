"""The refusals of `WriteReport`, each by name and with the way out."""

from __future__ import annotations

import os
from typing import Any

import lightning.pytorch as pl

from lightning_unlearn.checks import RecoveryCheck
from lightning_unlearn.engine import callbacks_of


def refuse_settings(folder: Any, notes: Any) -> None:
    """Refuse arguments of `WriteReport` that are of the wrong kind."""
    if not isinstance(folder, str | os.PathLike) or not str(folder):
        raise TypeError(f"`folder` should be the path of a folder. Found `folder = {folder!r}`.")
    if isinstance(notes, str) or not all(isinstance(note, str) for note in notes or ()):
        raise TypeError(f"`notes` should be a list of sentences, such as `['Half of the data.']`. Found `{notes!r}`.")


def refuse_nothing_to_report(trainer: pl.Trainer, stage: str) -> None:
    """Refuse to write a report of a trainer without a check: there would be nothing in it."""
    if stage in ("fit", "validate", "test") and not callbacks_of(trainer, RecoveryCheck):
        raise ValueError(
            "`WriteReport` should find a `RecoveryCheck` among the callbacks: a report is made of what it observes. Found "
            'none. Add `RecoveryCheck({"int4": Quantize(bits=4)})`, in YAML `recovery: {}`, or leave the report out.'
        )
