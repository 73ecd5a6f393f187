from __future__ import annotations

import lightning.pytorch as pl
from typing_extensions import override

from lightning_unlearn.forgetting._refusals import refuse_empty_retain
from lightning_unlearn.forgetting._resumed import ResumedCallback
from lightning_unlearn.models import explain_checkpoint
from lightning_unlearn.transforms import StepChain


class EndingCallback(ResumedCallback):
    """What ``Unlearn`` does at the end of a fit, however it ends: nothing of it stays behind."""

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A fit without a single batch calls no hook of training: find out here."""
        refuse_empty_retain(trainer)

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave no hook behind, and explain a damaged checkpoint."""
        self._end(trainer)
        explain_checkpoint(trainer.ckpt_path, exception)

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """A tuner ends its run before it trains: none of the hooks above is called."""
        if stage == "fit":
            self._end(trainer)

    def _end(self, trainer: pl.Trainer) -> None:
        StepChain.close(trainer)
        if hasattr(self, "_original"):
            self._original.end_watch()
        if hasattr(self, "_stream"):
            self._stream.close()
