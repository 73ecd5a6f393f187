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
from lightning_unlearn.checks._probes import find_attack_data, find_probes, measuring_readout
from lightning_unlearn.checks._records import at_most_known, merged, without_old_scores
from lightning_unlearn.data import DataSource, in_order
from lightning_unlearn.engine import GradientEngine, refuse_tensor_parallel
from lightning_unlearn.models import swapped_weights
from lightning_unlearn.observation import NOT_ATTACKED, Observation, Subject
from lightning_unlearn.readouts import Readout


class RecoveryCheck(pl.Callback):
    """Attack the network during the fit, observe what comes back, and leave the fit bit for bit as it was.

    At the start, every so often, and at the end, each audit is run on the network alone, and at each point of each attack.
    Under ``trainer.validate`` and ``trainer.test`` the checks run alone.

    Logged: ``recovery/<attack>/<metric>`` on the forget split, at the attack's point of most knowledge, and
    ``recovery/<attack>/<split>_<metric>`` there for every other split; ``none`` is the model left alone.

    Relearning teaches, too. With a control, a model that never knew what must go, the report can tell what an attack
    brought back from what it taught: once in a run the control's weights are swapped in, attacked and audited in the
    same way, and swapped back.

    An attack that fails is reported and skipped: the fit goes on, undisturbed. Put this callback before
    ``WeightAveraging`` to attack the averaged weights, after it to attack the raw ones.

    Args:
        attacks: What is done to the network, by the name it is logged under.
        audits: What is observed. Defaults to ``Measure()`` and ``Specificity()``.
        control: Weights of a model of the same kind that never knew: a Lightning checkpoint, a ``.safetensors`` file, or a
            Hugging Face folder. Defaults to what ``FinetuneFirst(control=True)`` made, if it is in the trainer.
        every_n_epochs: Check at the end of every n-th epoch; 0 for never.
        every_n_steps: Check after every n-th optimizer step as well; 0 for never.
        readout: How to run the network. Defaults to what fits the module, as in :class:`Unlearn`.
        probes: What is asked, by split, beside or instead of ``forget`` and ``retain``. These default to the datamodule's
            probe and retain data, else to the forget data, and the first batches of what the fit trains on.
        attack_data: What an attacker relearns from. Defaults to the datamodule's attack data, else to the forget data.

    Raises:
        ValueError: If two audits have a metric of one name, or an attack is called ``none``; in ``setup``, if ``control``
            holds no weights.
        NotImplementedError: In ``setup``, under tensor parallelism, and with a control under FSDP1.

    Example:
        >>> from lightning_unlearn import Quantize, Relearn
        >>> check = RecoveryCheck({"int4": Quantize(bits=4), "relearn": Relearn(steps=20)})
        >>> sorted(check.definitions())
        ['probability', 'specificity', 'token_nll']
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
        if every_n_epochs < 0 or every_n_steps < 0:
            raise ValueError(
                "`every_n_epochs` and `every_n_steps` should be at least 0. Found "
                f"`every_n_epochs = {every_n_epochs}`, `every_n_steps = {every_n_steps}`."
            )
        self.attacks = dict(attacks or {})
        if NOT_ATTACKED in self.attacks:
            raise ValueError(f'`attacks` should not use the name "{NOT_ATTACKED}": it is the model left alone.')
        self.audits = [Measure(), Specificity()] if audits is None else list(audits)
        _refuse_same_names(self.audits)
        self.control = control
        self.every_n_epochs, self.every_n_steps = every_n_epochs, every_n_steps
        self.readout = readout
        self.probes, self.attack_data = dict(probes or {}), attack_data
        self.observations: list[Observation] = []
        self.restored: bool | None = None
        self.control_source: str | None = None
        self._checked_step = -1
        self._loaded = {"global_step": 0, "epoch": 0}
        self._opened: dict[str, Probe] | None = None

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot be measured."""
        refuse_tensor_parallel(trainer, "RecoveryCheck")
        if find_control(trainer, self.control) is not None:
            refuse_control(trainer, pl_module, self.control)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Observe the original."""
        if not self.observations:
            self._send(trainer, self._check(trainer, pl_module, "original"))

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check after every n-th step; never between the micro-batches of one."""
        if (
            self.every_n_steps
            and self._checked_step < trainer.global_step
            and trainer.global_step % self.every_n_steps == 0
        ):
            self._log(pl_module, self.check(trainer, pl_module))

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check after every n-th epoch, in time for ``ModelCheckpoint`` and ``EarlyStopping`` to monitor it."""
        due = self.every_n_epochs and (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if due and self._checked_step < trainer.global_step:
            self._log(pl_module, self.check(trainer, pl_module))

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check what came out, if that was not just done. Nothing can be monitored any more: straight to the loggers."""
        if self._checked_step < trainer.global_step:
            self._send(trainer, self.check(trainer, pl_module))

    @override
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The checks alone, under ``trainer.validate``."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._log(pl_module, self.check(trainer, pl_module))

    @override
    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The checks alone, under ``trainer.test``."""
        self._log(pl_module, self.check(trainer, pl_module))

    def check(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Tensor]:
        """Observe the model alone and under each attack, and the control, if that was not done before.

        Returns:
            What is to be logged, by key. Every observation is kept in :attr:`observations`; one that was made before at
            the same step, of the same subject, is replaced.
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
            "checked_step": self._checked_step,
            "control_source": self.control_source,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the observations of the interrupted run back, those of the control among them."""
        self.observations = [Observation(**observation) for observation in state_dict["observations"]]
        self._checked_step = state_dict["checked_step"]
        self.control_source = state_dict["control_source"]

    @override
    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember how long its model was trained: outside a fit the trainer does not know."""
        self._loaded = {name: int(checkpoint[name]) for name in ("global_step", "epoch")}

    def _check(self, trainer: pl.Trainer, pl_module: pl.LightningModule, subject: Subject) -> dict[str, Tensor]:
        examined = self._examined(trainer, pl_module)
        step, epoch = self._when(trainer)
        before, self.restored = self.restored, False  # until all went well
        self.observations = without_old_scores(self.observations)
        values: dict[str, Tensor] = {}
        for observations in AuditsUnderAttack(self.attacks, self.audits)(examined):
            values |= at_most_known(observations)
            made = [replace(o, subject=subject, step=step, epoch=epoch) for o in observations]
            self.observations = merged(self.observations, made)
        self._observe_control(examined, step, epoch)
        self.restored = before is not False
        self._checked_step = step
        return values

    def _observe_control(self, examined: Examined, step: int, epoch: int) -> None:
        """Once in a run, interruptions included: what never knew and is attacked in one way knows the same each time."""
        control: Control | None = find_control(examined.trainer, self.control)
        if control is None or any(o.subject == "control" for o in self.observations):
            return
        weights = control.load(examined.network)
        with unchanged(examined.module, "The control"), swapped_weights(examined.network, weights):
            found = [o for each in AuditsUnderAttack(self.attacks, self.audits)(examined) for o in each]
        made = [replace(o, subject="control", step=step, epoch=epoch) for o in found]
        self.observations = merged(self.observations, made)
        self.control_source = control.source

    def _examined(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Examined:
        readout = measuring_readout(trainer, pl_module, self.readout)
        engine = GradientEngine(pl_module, trainer)

        def attack_batches() -> list[Any]:
            return [engine.to_device(batch) for batch in in_order(find_attack_data(trainer, self.attack_data))]

        network, probes = readout.find_network(pl_module), self._open(trainer, readout)
        return Examined(trainer, pl_module, network, readout, probes, attack_batches)

    def _open(self, trainer: pl.Trainer, readout: Readout) -> dict[str, Probe]:
        if self._opened is None:
            rank, world_size = trainer.global_rank, trainer.world_size
            loaders = find_probes(trainer, readout, self.probes)
            self._opened = {s: load_probe(loader, readout, rank, world_size) for s, loader in loaders.items()}
        return self._opened

    def _when(self, trainer: pl.Trainer) -> tuple[int, int]:
        """Step and epoch of the model at hand."""
        if trainer.state.fn == TrainerFn.FITTING:
            return trainer.global_step, trainer.current_epoch
        return max(trainer.global_step, self._loaded["global_step"]), max(trainer.current_epoch, self._loaded["epoch"])

    def _log(self, pl_module: pl.LightningModule, values: Mapping[str, Tensor]) -> None:
        pl_module.log_dict(dict(values), batch_size=1, rank_zero_only=False)

    def _send(self, trainer: pl.Trainer, values: Mapping[str, Tensor]) -> None:
        # Before the first step and after the last there is nothing to monitor; and what is logged through the module at
        # the start of training would come back, stale, at the end of the first epoch.
        for logger in trainer.loggers:
            logger.log_metrics({key: float(value) for key, value in values.items()}, step=trainer.global_step)


def _refuse_same_names(audits: list[Audit]) -> None:
    names = [name for audit in audits for name in audit.definitions()]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"Each metric should come from one of `audits`. Found `{'`, `'.join(twice)}` more than once in {audits}. Leave "
            "one out, or give it other names: `Measure({'other_name': ...})`."
        )
