from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.attacks import Attack, AttackGrid, expanded
from lightning_unlearn.audits import Audit, Measure, Specificity
from lightning_unlearn.checks._attackers_data import AttackersData
from lightning_unlearn.checks._control import may_come, refuse_control
from lightning_unlearn.checks._failures import refuse_blind_start
from lightning_unlearn.checks._looks import floats, on_its_device, weights_will_change
from lightning_unlearn.checks._monitors import Monitors
from lightning_unlearn.checks._observing_callback import ObservingCallback
from lightning_unlearn.checks._refusals import refuse_same_names, refuse_settings, refuse_twins
from lightning_unlearn.checks._shown_control import refuse_missing_control
from lightning_unlearn.checks._worst import WORST
from lightning_unlearn.data import DataSource
from lightning_unlearn.engine import callbacks_of, clean_weights, refuse_tensor_parallel
from lightning_unlearn.forgetting import ShownOriginal
from lightning_unlearn.readouts import Readout


class RecoveryCheck(ObservingCallback):
    """Attack the network during the fit, observe what comes back, and leave the fit bit for bit as it was.

    Each audit is run without an attack, and at each point of each attack:

    - at the start of training, before the first step: the original;
    - at intervals, once per optimizer step at most;
    - right before a callback or a scheduler reads a ``recovery/...`` value that it monitors: at the end of a validation, at
      the end of an epoch or after a step, whichever it does;
    - at the end, of the weights that the fit hands back, if these were not checked yet: after each ``on_train_end`` and
      ``on_fit_end``, in which averaged weights, for one, are put into the module. A resumed fit that has no step left to
      take makes this check, too.

    The sanity check before a fit is no such moment. Under ``trainer.validate`` and ``trainer.test`` only the checks run.

    Logged: ``recovery/<attack>/<metric>`` on the forget split, at the point of the attack where this split is known best.
    At the same point ``recovery/<attack>/<split>_<metric>`` for every other split. ``none`` is the model without an attack.
    And one number to stop at or to choose a checkpoint by, ``recovery/worst``: the largest share of what unlearning took
    away that any of the attacks brought back, by the metric that the report leads with. Where a control was attacked, too,
    what the attack taught it is taken off; elsewhere that counts as recovered. It is 1 as long as less than a twentieth of
    the metric's range is gone, and no gate of the report is applied to it. An attack that failed has no part in it.
    Loggers get the values of each check once, at the number of optimizer steps that the model had taken.

    An attack by relearning also teaches new things. A control, a model that never learned what must go, separates what an
    attack brought back from what it taught. Once in a run the control's weights are swapped in, attacked and audited in the
    same way, and swapped back.

    An attack or an audit that fails is kept in :attr:`failures`, and its verdict in the report is "not shown"; the fit goes
    on. In the validations of a fit, put this callback before
    ``WeightAveraging`` to attack the averaged weights, after it to attack the raw ones. Elsewhere in a fit they are the raw
    ones, at its end the averaged ones.

    A trainer can have several of these, with attacks of different names: cheap looks often, dear ones at the start and the
    end. All are in one report. Put the cheap one first: ``recovery/worst`` is over the attacks of the first that has any,
    and what several could tell is made ready for a monitor by the first, so that no dear look is made for it::

        often = RecoveryCheck({"int4": Quantize(bits=4)}, every_n_steps=50)
        at_end = RecoveryCheck({"relearn": Relearn(steps=200)}, every_n_epochs=0)
        said = RecoveryCheck(audits=[Generation("folder")], every_n_epochs=0)

    Args:
        attacks: The attacks, by their names in the log. An :class:`AttackGrid` stands for each of its cells.
        audits: The audits. Defaults to ``Measure()`` and ``Specificity()``.
        control: Weights of a model of the same kind that never learned what must go: a Lightning checkpoint, a
            ``.safetensors`` file, or a Hugging Face folder. Defaults to what ``FinetuneFirst(control=True)`` made, if it is
            among the callbacks.
        every_n_epochs: Check at the end of every n-th epoch; 0 for none of them.
        every_n_steps: Check after every n-th optimizer step as well; 0 for none of them. From several looks the report says
            when each entity was forgotten, and whether it came back.
        readout: How to run the network. Defaults to what fits the module, as in :class:`Unlearn`.
        probes: Data for the audits, by split. ``forget`` and ``retain`` default to the datamodule's probes, else to the
            forget data and the first batches of what the fit trains on. ``holdout``, examples of the same kind that nobody
            was trained on, is what :class:`Membership` compares with.
        attack_data: Data that an attacker relearns from. Defaults to the datamodule's attack data, else to the forget data.
            Several by name, ``{"paraphrase": data, ...}``, beside that default are for attacks that say which they take:
            ``Relearn(data="paraphrase")``. Names of the datamodule's, ``ForgetRetainData(attack={...})``, can be said, too.

    Raises:
        ValueError: If two metrics would be logged under one name, a name is empty or has a ``/``, or an attack is called
            ``none``. In ``setup``, if ``control`` holds no weights, an audit needs a control and there is none, or an attack
            names data that are not there.
        NotImplementedError: In ``setup``, under tensor parallelism, and with a control under FSDP1.

    Example:
        >>> from lightning_unlearn import Quantize, Relearn
        >>> check = RecoveryCheck({"int4": Quantize(bits=4), "relearn": Relearn(steps=20)})
        >>> sorted(check.definitions())
        ['loss', 'probability', 'specificity', 'token_nll']
    """

    def __init__(
        self,
        attacks: dict[str, Attack | AttackGrid] | None = None,
        audits: list[Audit] | None = None,
        control: str | None = None,
        every_n_epochs: int = 1,
        every_n_steps: int = 0,
        readout: Readout | None = None,
        probes: dict[str, DataSource] | None = None,
        attack_data: DataSource | dict[str, DataSource] | None = None,
    ) -> None:
        every = {"every_n_epochs": every_n_epochs, "every_n_steps": every_n_steps}
        single: Any = expanded(attacks) if isinstance(attacks, Mapping) else attacks
        refuse_settings(single, audits, probes, readout, control, every)
        audits = [Measure(), Specificity()] if audits is None else audits
        refuse_same_names(audits, ["forget", "retain", *(probes or {})])
        super().__init__(single or {}, audits, control, readout, probes or {}, attack_data)
        self.every_n_epochs, self.every_n_steps = every_n_epochs, every_n_steps
        self._fit_has_ended = False
        self._original = ShownOriginal([*self.attacks.values(), *self.audits])

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot be measured."""
        self._fit_has_ended = False
        refuse_tensor_parallel(trainer, "RecoveryCheck")
        refuse_twins(self, callbacks_of(trainer, RecoveryCheck))
        AttackersData(self.attack_data).refuse_unknown(trainer, self.attacks)
        control = self._find_control(trainer)
        if not may_come(trainer):
            refuse_missing_control(control, self.audits)
        if control is not None:
            refuse_control(trainer, pl_module, self.control)
        if stage == "fit":
            self._original.setup(trainer, pl_module)

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show attacks and audits the original of a fit that is resumed under a strategy that shards."""
        self._original.start(trainer, pl_module)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start afresh if what was observed is of another fit."""
        self._original.training_starts()
        if self._reached["global_step"] != trainer.global_step:  # else it is resumed
            self._reached = {"global_step": trainer.global_step, "epoch": trainer.current_epoch}
        # At step 0 an earlier fit may have ended, too, after its look at the original.
        is_new = trainer.global_step == 0 and not self._original.goes_on
        if is_new or self._last.step > trainer.global_step:
            self._forget_observations()

    @override
    def state_dict(self) -> dict[str, Any]:
        """As of every observing callback, and what tells whether a resumed fit has shown attacks its original."""
        return {**super().state_dict(), "original": self._original.state_dict()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what an interrupted run has observed."""
        super().load_state_dict(state_dict)
        self._original.load_state_dict(state_dict["original"])

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Observe the original before the first step. Until then the hooks of others may load weights."""
        self.see_original(trainer, pl_module)
        # A fit that is resumed from its checkpoint of the last step of an epoch is not told that this epoch ends.
        ended = self._reached["epoch"]
        if ended < trainer.current_epoch and self._is_due(ended) and self._last.step < trainer.global_step:
            with clean_weights(pl_module):  # their hash is kept, too
                self._send(trainer, self.check(trainer, pl_module))

    def see_original(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Observe the original, unless that was done: before the first step, or before an edit."""
        # A resumed fit has its observations already, and its weights are no longer the original's.
        if self._last.step < 0 or not any(o.subject == "original" for o in self.observations):
            self._original.before_first_step(trainer, pl_module)
            self._send(trainer, self._check(trainer, pl_module, "original"))
            refuse_blind_start(self.failures, self.observations)

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check after every n-th optimizer step, once: ``global_step`` stays the same over accumulated micro-batches."""
        self._reached = {"global_step": trainer.global_step, "epoch": trainer.current_epoch}
        if trainer.fit_loop._should_accumulate() or trainer.global_step == 0:
            return
        due = self.every_n_steps and trainer.global_step % self.every_n_steps == 0
        if due or self._monitors(trainer).read_after_step(batch_idx):
            self._look(trainer, pl_module)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check after every n-th epoch, early enough for ``ModelCheckpoint`` and ``EarlyStopping`` to monitor it."""
        if self._is_due(trainer.current_epoch) or self._monitors(trainer).read_after_epoch():
            self._look(trainer, pl_module)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the final model, unless callbacks are yet to change it: averages, or an edit."""
        # The strategy, and Lightning's way with signals, are at work only until here: this is the better place.
        if not weights_will_change(trainer, self):
            self.check_final(trainer, pl_module)

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the final model if the end of training has changed it, or if there was no training: in a resumed fit."""
        self._fit_has_ended = True
        self.check_final(trainer, pl_module)

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave no hook on the module."""
        self._original.end_watch()

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check the final model if another ``on_fit_end`` has changed it, and leave no hook on the module."""
        self._original.end_watch()
        if self._fit_has_ended:  # `Tuner` tears down a fit that did not run
            self.check_final(trainer, pl_module)
            self._fit_has_ended = False

    @override
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check under ``trainer.validate``; in the validation of a fit if its end is when a value is read."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._log(trainer, pl_module, self.check(trainer, pl_module))
        elif not trainer.sanity_checking and self._monitors(trainer).read_after_validation():
            self._look(trainer, pl_module)

    @override
    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check under ``trainer.test``."""
        self._log(trainer, pl_module, self.check(trainer, pl_module))

    def check_final(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Observe the model that the fit hands back, unless these very weights were the last to be checked.

        Collective: every rank must call it. A fit without a look at the original gets none at its end.
        """
        if (self.observations or self.failures) and not self._last.is_of(trainer.global_step, pl_module):
            with on_its_device(trainer, pl_module):
                values = self.check(trainer, pl_module)
            self._send(trainer, values)

    def _look(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check, unless that was done at this step, and show the values to those who monitor them."""
        if self._last.step < trainer.global_step:
            self._send(trainer, self.check(trainer, pl_module))
        # Again if they are of an earlier hook: Lightning keeps those of a step from who reads at the end of the epoch.
        self._log(trainer, pl_module, self._last.values, logger=False)

    def _is_due(self, epoch: int) -> bool:
        return self.every_n_epochs > 0 and (epoch + 1) % self.every_n_epochs == 0

    def _monitors(self, trainer: pl.Trainer) -> Monitors:
        return Monitors(trainer, self.attacks, {key for check in self._earlier(trainer) for key in check._last.values})

    def _earlier(self, trainer: pl.Trainer) -> list[RecoveryCheck]:
        checks = callbacks_of(trainer, RecoveryCheck)
        return checks[: checks.index(self)] if self in checks else []

    def _log(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, values: Mapping[str, Any], logger: bool | None = None
    ) -> None:
        # The same on every rank, so `EarlyStopping` finds the key on each of them. Plain numbers, which Lightning puts on
        # the module's device: NCCL cannot synchronise tensors of the CPU.
        own = floats(self._without_those_of_others(trainer, values))
        # They are equal already: synchronised only since Lightning warns of an epoch's values that are not.
        several = trainer.world_size > 1
        pl_module.log_dict(own, logger=logger, batch_size=1, rank_zero_only=False, sync_dist=several)

    def _send(self, trainer: pl.Trainer, values: Mapping[str, Tensor]) -> None:
        # Past the module: not all hooks allow `self.log`, and what it takes in a step reaches a logger only in every n-th.
        own = floats(self._without_those_of_others(trainer, values))
        for logger in trainer.loggers:
            logger.log_metrics(own, step=trainer.global_step)

    def _without_those_of_others(self, trainer: pl.Trainer, values: Mapping[str, Any]) -> dict[str, Any]:
        """Leave out what an earlier check tells: the worst case, and the model without an attack at this step."""
        earlier = self._earlier(trainer)
        theirs = {key for c in earlier if c._last.step == self._last.step for key in c._last.values}
        theirs |= {WORST} & {key for c in earlier for key in c._last.values}
        return {key: value for key, value in values.items() if key not in theirs}
