from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.attacks import Attack
from lightning_unlearn.audits import Audit, Measure, Probe, Specificity, load_probe
from lightning_unlearn.checks._audits_under_attack import AuditsUnderAttack, Examined, unchanged
from lightning_unlearn.checks._control import Control, find_control, refuse_control
from lightning_unlearn.checks._failures import recorder, refuse_blind_start
from lightning_unlearn.checks._probes import find_attack_data, find_probes, measuring_readout
from lightning_unlearn.checks._records import at_most_known, merged, without_old_scores
from lightning_unlearn.checks._refusals import refuse_same_names, refuse_settings, refuse_twins, refuse_undefined
from lightning_unlearn.data import DataSource, in_order
from lightning_unlearn.engine import GradientEngine, callbacks_of, refuse_tensor_parallel
from lightning_unlearn.models import swapped_weights
from lightning_unlearn.observation import Failure, Observation, Subject
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import uninterrupted


class RecoveryCheck(pl.Callback):
    """Attack the network during the fit, observe what comes back, and leave the fit bit for bit as it was.

    At the start, at intervals, and at the end, each audit is run without an attack, and at each point of each attack. Under
    ``trainer.validate`` and ``trainer.test`` only the checks run.

    Logged: ``recovery/<attack>/<metric>`` on the forget split, at the point of the attack where this split is known best.
    At the same point ``recovery/<attack>/<split>_<metric>`` for every other split. ``none`` is the model without an attack.

    An attack by relearning also teaches new things. A control, a model that never learned what must go, separates what an
    attack brought back from what it taught. Once in a run the control's weights are swapped in, attacked and audited in the
    same way, and swapped back.

    An attack or an audit that fails is kept in :attr:`failures`, and its verdict in the report is "not shown"; the fit goes
    on. Put this callback before ``WeightAveraging`` to attack the
    averaged weights, after it to attack the raw ones.

    Args:
        attacks: The attacks, by their names in the log.
        audits: The audits. Defaults to ``Measure()`` and ``Specificity()``.
        control: Weights of a model of the same kind that never learned what must go: a Lightning checkpoint, a
            ``.safetensors`` file, or a Hugging Face folder. Defaults to what ``FinetuneFirst(control=True)`` made, if it is
            among the callbacks.
        every_n_epochs: Check at the end of every n-th epoch; 0 for never.
        every_n_steps: Check after every n-th optimizer step as well; 0 for never.
        readout: How to run the network. Defaults to what fits the module, as in :class:`Unlearn`.
        probes: Data for the audits, by split. ``forget`` and ``retain`` default to the datamodule's probes, else to the
            forget data and the first batches of what the fit trains on.
        attack_data: Data that an attacker relearns from. Defaults to the datamodule's attack data, else to the forget data.

    Raises:
        ValueError: If two metrics would be logged under one name, a name is empty or has a ``/``, or an attack is called
            ``none``. In ``setup``, if ``control`` holds no weights.
        NotImplementedError: In ``setup``, under tensor parallelism, and with a control under FSDP1.

    Example:
        >>> from lightning_unlearn import Quantize, Relearn
        >>> check = RecoveryCheck({"int4": Quantize(bits=4), "relearn": Relearn(steps=20)})
        >>> sorted(check.definitions())
        ['loss', 'probability', 'specificity', 'token_nll']
    """

    def __init__(
        self,
        attacks: dict[str, Attack] | None = None,
        audits: list[Audit] | None = None,
        control: str | None = None,
        every_n_epochs: int = 1,
        every_n_steps: int = 0,
        readout: Readout | None = None,
        probes: dict[str, DataSource] | None = None,
        attack_data: DataSource | None = None,
    ) -> None:
        every = {"every_n_epochs": every_n_epochs, "every_n_steps": every_n_steps}
        refuse_settings(attacks, audits, probes, readout, control, every)
        self.attacks = dict(attacks or {})
        self.audits = [Measure(), Specificity()] if audits is None else list(audits)
        refuse_same_names(self.audits, ["forget", "retain", *(probes or {})])
        self.control = control
        self.every_n_epochs, self.every_n_steps = every_n_epochs, every_n_steps
        self.readout = readout
        self.probes, self.attack_data = dict(probes or {}), attack_data
        self.observations: list[Observation] = []
        self.failures: list[Failure] = []
        self.restored: bool | None = None
        self.control_source: str | None = None
        self._checked_step = -1
        self._loaded = {"global_step": 0, "epoch": 0}
        self._opened: dict[str, Probe] | None = None

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot be measured."""
        refuse_tensor_parallel(trainer, "RecoveryCheck")
        refuse_twins(self, callbacks_of(trainer, RecoveryCheck))
        if find_control(trainer, self.control) is not None:
            refuse_control(trainer, pl_module, self.control)

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Observe the original before the first step. Until then the hooks of others may load weights."""
        self.see_original(trainer, pl_module)

    def see_original(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Observe the original, unless that was done: before the first step, or before an edit."""
        # A resumed fit has its observations already, and its weights are no longer the original's.
        if not self.observations:
            self._send(trainer, self._check(trainer, pl_module, "original"))
            refuse_blind_start(self.failures, self.observations)

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check after every n-th optimizer step, once: ``global_step`` stays the same over accumulated micro-batches."""
        if (
            self.every_n_steps
            and self._checked_step < trainer.global_step
            and trainer.global_step % self.every_n_steps == 0
        ):
            self._log(pl_module, self.check(trainer, pl_module))

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check after every n-th epoch, early enough for ``ModelCheckpoint`` and ``EarlyStopping`` to monitor it."""
        # `_checked_step`: a check after the epoch's last step must not run twice.
        due = self.every_n_epochs and (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if due and self._checked_step < trainer.global_step:
            self._log(pl_module, self.check(trainer, pl_module))

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the final model, if that was not just done. ``self.log`` is not allowed here: write to the loggers."""
        if self._checked_step < trainer.global_step:
            self._send(trainer, self.check(trainer, pl_module))

    @override
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check under ``trainer.validate``; not in the validation of a fit."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._log(pl_module, self.check(trainer, pl_module))

    @override
    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check under ``trainer.test``."""
        self._log(pl_module, self.check(trainer, pl_module))

    def check(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Tensor]:
        """Observe the model without and under each attack, and the control, if that was not done before.

        Collective: every rank must call it.

        Returns:
            Values to log, by key. Every observation is kept in :attr:`observations`. An older one of the same subject at
            the same step is replaced.
        """
        return self._check(trainer, pl_module, "unlearned")

    def about_data(self) -> dict[str, dict[str, Any]]:
        """Size, entities and content hash of each probe, for the report."""
        return {
            split: {"n": probe.size, "entities": len(set(probe.entities)), "content_hash": probe.content_hash}
            for split, probe in (self._opened or {}).items()
        }

    def definitions(self) -> dict[str, str]:
        """What each metric of the audits means, for the report."""
        return {name: words for audit in self.audits for name, words in audit.definitions().items()}

    @override
    def state_dict(self) -> dict[str, Any]:
        """Every observation so far, as plain values."""
        return {
            "observations": [asdict(observation) for observation in self.observations],
            "failures": [asdict(failure) for failure in self.failures],
            "checked_step": self._checked_step,
            "control_source": self.control_source,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the observations of the interrupted run, also those of the control, which is not checked again."""
        self.observations = [Observation(**observation) for observation in state_dict["observations"]]
        self.failures = [Failure(**failure) for failure in state_dict["failures"]]
        self._checked_step = state_dict["checked_step"]
        self.control_source = state_dict["control_source"]

    @override
    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember step and epoch of the checkpoint: outside a fit the trainer does not know them."""
        self._loaded = {name: int(checkpoint[name]) for name in ("global_step", "epoch")}

    def _check(self, trainer: pl.Trainer, pl_module: pl.LightningModule, subject: Subject) -> dict[str, Tensor]:
        examined = self._examined(trainer, pl_module)
        step, epoch = self._when(trainer)
        before, self.restored = self.restored, False  # stays `False` if an exception ends this check
        self.observations = without_old_scores(self.observations)
        values: dict[str, Tensor] = {}
        record = recorder(self.failures, subject, step, epoch)
        for observations in AuditsUnderAttack(self.attacks, self.audits, record)(examined):
            values |= at_most_known(observations)
            made = [replace(o, subject=subject, step=step, epoch=epoch) for o in observations]
            refuse_undefined(made)
            self.observations = merged(self.observations, made)
        self._observe_control(examined, step, epoch)
        self.restored = before is not False  # one failure in a run is never forgotten
        self._checked_step = step
        return values

    def _observe_control(self, examined: Examined, step: int, epoch: int) -> None:
        """Observe the control, once in a run, interruptions included: it does not change, and neither would the results."""
        control: Control | None = find_control(examined.trainer, self.control)
        if control is None or any(o.subject == "control" for o in self.observations):
            return
        weights = control.load(examined.network)
        # `unchanged` outside: it sees the weights before the swap and after the swap back.
        record = recorder(self.failures, "control", step, epoch)
        with (
            uninterrupted(),
            unchanged(examined.module, "The control"),
            swapped_weights(examined.network, weights),
        ):
            observations = [o for each in AuditsUnderAttack(self.attacks, self.audits, record)(examined) for o in each]
        made = [replace(o, subject="control", step=step, epoch=epoch) for o in observations]
        self.observations = merged(self.observations, made)
        self.control_source = control.source

    def _examined(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Examined:
        readout = measuring_readout(trainer, pl_module, self.readout, self.probes)
        engine = GradientEngine(pl_module, trainer)

        def attack_batches() -> list[Any]:
            return [engine.to_device(batch) for batch in in_order(find_attack_data(trainer, self.attack_data))]

        network, probes = readout.find_network(pl_module), self._open(trainer, readout)
        return Examined(trainer, pl_module, network, readout, probes, attack_batches)

    def _open(self, trainer: pl.Trainer, readout: Readout) -> dict[str, Probe]:
        # Opened once: every check of a run asks the same questions, and their hash is in the report.
        if self._opened is None:
            rank, world_size = trainer.global_rank, trainer.world_size
            loaders = find_probes(trainer, readout, self.probes)
            refuse_same_names(self.audits, loaders)
            self._opened = {s: load_probe(loader, readout, rank, world_size) for s, loader in loaders.items()}
        return self._opened

    def _when(self, trainer: pl.Trainer) -> tuple[int, int]:
        """Step and epoch of the model that is checked."""
        if trainer.state.fn == TrainerFn.FITTING:
            return trainer.global_step, trainer.current_epoch
        return max(trainer.global_step, self._loaded["global_step"]), max(trainer.current_epoch, self._loaded["epoch"])

    def _log(self, pl_module: pl.LightningModule, values: Mapping[str, Tensor]) -> None:
        # The same on every rank, so `EarlyStopping` finds the key on each of them.
        pl_module.log_dict(dict(values), batch_size=1, rank_zero_only=False)

    def _send(self, trainer: pl.Trainer, values: Mapping[str, Tensor]) -> None:
        # Before the first step and after the last there is nothing to monitor. And values logged through the module at the
        # start of training would appear again, out of date, at the end of the first epoch.
        for logger in trainer.loggers:
            logger.log_metrics({key: float(value) for key, value in values.items()}, step=trainer.global_step)
