"""What a fit shows while it runs."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info

from lightning_unlearn.runtime import someone_looks_on


def has_seen_bar(trainer: pl.Trainer) -> bool:
    """Whether the trainer has a progress bar that somebody sees. A bar in a file shows nothing until it ends."""
    bar: Any = trainer.progress_bar_callback
    return bar is not None and getattr(bar, "is_enabled", True) and someone_looks_on()


def tell(trainer: pl.Trainer, line: str) -> None:
    """Say a line during the training of a fit: above its bar, or to Lightning's log where nobody sees one."""
    if has_seen_bar(trainer):
        bar: Any = trainer.progress_bar_callback
        bar.print(line)
    else:
        rank_zero_info(line)
