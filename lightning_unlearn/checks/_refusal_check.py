from __future__ import annotations

from functools import partial
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.checks._probes import Probe, find_probes, load_probe, measuring_readout
from lightning_unlearn.data import DataSource, load_tokenizer
from lightning_unlearn.engine import GradientEngine, isolated, refuse_tensor_parallel
from lightning_unlearn.metrics import RefusalRate
from lightning_unlearn.readouts import Readout, greedy_answers, is_language_model


class RefusalCheck(pl.Callback):
    """Ask the network its questions during the fit, let it answer, and count refusals; leave the fit as it was, bit for bit.

    Logged at the end of epochs, and under ``trainer.validate`` and ``trainer.test``: ``refusals/forget``, the share of
    refusals on what must go, and ``refusals/retain``, that on harmless questions. Where these look like the others, as with
    :class:`DecoupledQuestion`, the latter is the safe-answer refusal rate (SARR).

    A question is what stands before the first label of a row. Answers are the network's first choices, token by token.

    Args:
        tokenizer: As in :class:`Encoding`, by name.
        judge: What counts as a refusal. Defaults to ``RefusalRate()``.
        every_n_epochs: Ask at the end of every n-th epoch.
        max_new_tokens: Longer answers are cut off there.
        forget: Questions about what must go. Defaults to the datamodule's probe data, else to the forget data.
        retain: Harmless questions. Defaults to the datamodule's retain data, else to the first batches of what the fit
            trains on.

    Example:
        >>> check = RefusalCheck("bundled", max_new_tokens=24)  # Trainer(callbacks=[Unlearn(...), check])
    """

    def __init__(
        self,
        tokenizer: str,
        judge: RefusalRate | None = None,
        every_n_epochs: int = 1,
        max_new_tokens: int = 64,
        forget: DataSource | None = None,
        retain: DataSource | None = None,
    ) -> None:
        if every_n_epochs < 1 or max_new_tokens < 1:
            raise ValueError(
                "`every_n_epochs` and `max_new_tokens` should be at least 1. Found "
                f"`every_n_epochs = {every_n_epochs}`, `max_new_tokens = {max_new_tokens}`."
            )
        self.tokenizer = load_tokenizer(tokenizer)
        self.judge = RefusalRate() if judge is None else judge
        self.every_n_epochs, self.max_new_tokens = every_n_epochs, max_new_tokens
        self.forget, self.retain = forget, retain
        self._probes: dict[str, Probe] | None = None

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot be measured."""
        refuse_tensor_parallel(trainer, "RefusalCheck")

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ask after every n-th epoch."""
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._log(trainer, pl_module)

    @override
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ask, under ``trainer.validate``."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._log(trainer, pl_module)

    @override
    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ask, under ``trainer.test``."""
        self._log(trainer, pl_module)

    def check(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Tensor]:
        """Share of refusals among the answers to each kind of question, by the key it is logged under."""
        readout = measuring_readout(trainer, pl_module)
        network, engine = readout.find_network(pl_module), GradientEngine(pl_module, trainer)
        if not is_language_model(network):
            raise ValueError(
                "`RefusalCheck` should find a language model, which can answer. Found none in "
                f"`{type(pl_module).__name__}`. Leave it out."
            )
        ask = partial(
            greedy_answers,
            network,
            end=[self.tokenizer.eos_token_id],
            max_new_tokens=self.max_new_tokens,
            in_step=engine.world_size > 1,
        )
        with isolated(trainer, pl_module):
            probes = self._load_probes(engine, readout)
            return {f"refusals/{name}": self._rate(engine, ask, probe) for name, probe in probes.items()}

    def _rate(self, engine: GradientEngine, ask: Any, probe: Probe) -> Tensor:
        self.judge.reset()
        self.judge.to(next(engine.module.parameters()).device)
        self.judge.update([])  # a rank without questions of its own has something to add, too
        for batch, _, counts in probe.batches:
            answers = engine.forward(ask, engine.to_device(batch))
            if counts:
                self.judge.update(self.tokenizer.batch_decode(answers, skip_special_tokens=True))
        rate: Tensor = self.judge.compute()
        return rate.float()

    def _load_probes(self, engine: GradientEngine, readout: Readout) -> dict[str, Probe]:
        if self._probes is None:
            assert engine.trainer is not None
            loaders = find_probes(engine.trainer, readout, {"forget": self.forget, "retain": self.retain})
            self._probes = {
                name: load_probe(loader, readout, engine.rank, engine.world_size) for name, loader in loaders.items()
            }
        return self._probes

    def _log(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.log_dict(self.check(trainer, pl_module), batch_size=1, rank_zero_only=False)
