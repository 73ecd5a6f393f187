from __future__ import annotations

from typing import Any, Literal, get_args

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelPruning
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from typing_extensions import override

from lightning_unlearn.budgets._divergence_callback import DivergenceCallback
from lightning_unlearn.checks._looks import on_its_device, weights_on_every_rank, weights_will_change
from lightning_unlearn.data import DataSource
from lightning_unlearn.disruption import refuse_without_logits
from lightning_unlearn.engine import callbacks_of, refuse_tensor_parallel, strategy_kind
from lightning_unlearn.functional.settings import check_kind, check_positive, check_whole
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import on_every_rank

OnExceed = Literal["restore_and_stop", "restore", "stop", "warn"]


class DisruptionBudget(DivergenceCallback):
    r"""Forget as much as this much damage allows: stop once predictions on neutral data are too far from the original's.

    .. math:: \frac{1}{N} \sum_{n=1}^{N} \mathrm{KL}(p^\mathrm{original}_n \,\|\, p_n) \le \text{kl}

    It is measured after every ``every``-th optimizer step, after the last step of each epoch and of the fit, and of the
    weights that the fit hands back, averaged or edited at its end as they may be. Within the budget, what training changes
    is copied to main memory. Above it, the last copy is put back and the fit stops: these weights are what the fit hands
    back, what later checks and the report see, and what the last checkpoint holds. The state of the optimizer is not put
    back: it stays that of the last step.

    Forgetting often disturbs first and is repaired by later steps. ``on_exceed="restore"`` goes on above the budget, and
    puts the last weights within it back when training ends: what ``benchmarks/robustness.py`` does for all its methods.
    Checkpoints of the fit hold the weights of their step then; ``trainer.save_checkpoint`` after it keeps those put back.

    Until the budget is exceeded the fit is, bit for bit, the one without this callback. Small budgets are spent in few
    steps: with ``every=1`` the weights come closest to it. A mean divergence of ``kl`` is a total variation of at most
    :math:`\sqrt{\mathrm{kl} / 2}` on average, 0.07 for 0.01.

    List it before :class:`RecoveryCheck` and ``WeightAveraging``, which otherwise see, or average, the weights of a step
    that is then undone. What is handed back is right in any order.

    Logged each time: ``budget/kl``, also to the progress bar.

    A resumed fit goes on with the same original, budget and copy. As for :class:`FrozenCopy`, its weights have to be in the
    module before the checkpoint is restored; they are recognised by a hash. A checkpoint that was saved between two
    measurements holds the copy, too: save at multiples of ``every`` to keep checkpoints small.

    Args:
        neutral: Data that are neither to be forgotten nor what the fit trains on: a datamodule, a loader, a data set, or,
            from YAML, a mapping with ``class_path`` and ``init_args``. For plain text, ``labels`` are the ``input_ids``.
            Defaults to the retain probe of the datamodule, else to the first batches of what the fit trains on, where the
            divergence is smaller than on other text.
        kl: The budget, in nats per supervised row.
        every: After how many optimizer steps to measure.
        on_exceed: ``"restore_and_stop"`` and ``"restore"`` as above; ``"stop"`` leaves the weights of the step that exceeded
            the budget; ``"warn"`` goes on, too.
        batches: The most batches of the neutral data to use, the first ones.
        readout: How to run the network on them; it must give logits. Defaults as in :class:`RecoveryCheck`.

    Attributes:
        history: Step and divergence of each measurement.
        spent: The divergence of the last weights within the budget.
        exceeded_at: The first step at which the budget was exceeded; ``None`` if it was not.

    Raises:
        NotImplementedError: In ``setup``, under FSDP1, DeepSpeed and tensor parallelism; and beside ``ModelPruning``, if
            weights are to be put back.
        ValueError: Before the first step, if the readout gives no logits, or the divergence
            of the original from itself is not zero; in a resumed fit, if weights are to be put back, and the checkpoint
            holds none within the budget.

    Example:
        >>> from lightning_unlearn import NPO, Unlearn
        >>> budget = DisruptionBudget(kl=0.01)  # Trainer(callbacks=[Unlearn(NPO()), budget], max_epochs=100)

    References:
        After the budget of `RepSelect <https://arxiv.org/abs/2606.17168>`_, 2026, by its code.
    """

    def __init__(
        self,
        neutral: DataSource | None = None,
        kl: float = 0.01,
        every: int = 10,
        on_exceed: OnExceed = "restore_and_stop",
        batches: int = 16,
        readout: Readout | None = None,
    ) -> None:
        check_positive("kl", kl)
        check_whole("every", every)
        check_whole("batches", batches)
        if on_exceed not in get_args(OnExceed):
            choices = '"restore_and_stop", "restore", "stop" or "warn"'
            raise ValueError(f"`on_exceed` should be {choices}. Found `on_exceed = {on_exceed!r}`.")
        if readout is not None:
            check_kind("readout", readout, Readout, example="ClassificationReadout()")
            refuse_without_logits(readout)
        super().__init__(neutral, batches, readout, keeps_copy=on_exceed in ("restore_and_stop", "restore"))
        self.kl, self.every, self.on_exceed = kl, every, on_exceed

    @property
    def changes_weights_at_end(self) -> bool:
        """Whether it may put weights back only when training ends: checks before it look again then."""
        return self.on_exceed == "restore"

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot be measured or put back."""
        if stage != "fit":
            return
        refuse_tensor_parallel(trainer, "DisruptionBudget")
        if (kind := strategy_kind(trainer)) in ("fsdp1", "deepspeed"):
            raise NotImplementedError(
                f"`DisruptionBudget` should find parameters as they are, to put them back. Found "
                f"`{type(trainer.strategy).__name__}` ({kind}). Use `strategy='ddp'` or `ModelParallelStrategy` (FSDP2)."
            )
        if self.keeps_copy and callbacks_of(trainer, ModelPruning):
            raise NotImplementedError(
                f"`DisruptionBudget(on_exceed={self.on_exceed!r})` should find parameters as they were, to put them back. "
                "Found `ModelPruning`, which replaces them. Use `on_exceed='stop'` or `'warn'`, or prune before the fit."
            )
        super().setup(trainer, pl_module, stage)

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """See the original before the first step. Until then the hooks of others may load weights."""
        self.see_original(trainer, pl_module)
        self._is_current = False

    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Copy parameters that were unfrozen since the last copy: this is their first step."""
        if self._snapshot is not None:
            self._snapshot.join()

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure, if it is time, once per optimizer step: ``global_step`` stays the same over accumulated micro-batches."""
        loop, step = trainer.fit_loop, trainer.global_step
        if loop._should_accumulate() or loop._skip_backward or step == 0 or self._last_step == step:
            return
        if step % self.every == 0 or loop.epoch_loop._is_training_done or trainer.should_stop:
            kl = self._measure(trainer, pl_module)
            pl_module.log("budget/kl", kl, prog_bar=True, logger=False, batch_size=1, rank_zero_only=False)
            self._decide(trainer, kl)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the final weights, unless that was done, or callbacks are yet to change them."""
        if not weights_will_change(trainer, self):
            self._judge_final(trainer, pl_module)

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure what the end of training has put into the module: averaged weights, or those of an edit."""
        self._judge_final(trainer, pl_module)

    @override
    def _judge_restored(self, kl: float) -> None:
        if not kl <= self.kl:  # true for NaN
            raise ValueError(
                f"`DisruptionBudget(on_exceed={self.on_exceed!r})` should go on from weights within the budget, or from a "
                f"checkpoint that holds the last ones that were. Found a divergence of {kl:.3g}, above {self.kl}, and no "
                "copy. Resume from an earlier checkpoint, or use a larger `kl`, or `on_exceed='stop'` or `'warn'`."
            )
        self.spent = kl

    def _judge_final(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._disruption is None or not trainer.global_step:
            return
        if self._snapshot is None:
            is_judged = self._measured_weights == weights_on_every_rank(pl_module)
        else:
            is_judged = all(on_every_rank(self._snapshot.is_current()))
        if not is_judged:
            with on_its_device(trainer, pl_module):
                self._decide(trainer, self._measure(trainer, pl_module), is_over=True)

    def _decide(self, trainer: pl.Trainer, kl: float, *, is_over: bool = False) -> None:
        if kl <= self.kl:  # false for NaN
            self.spent, self._is_current = kl, True
            if self._snapshot is not None:
                self._snapshot.take()
            return
        found = f"`DisruptionBudget`: at step {trainer.global_step} the divergence is {kl:.3g}, above {self.kl}."
        self._is_current = self._snapshot is not None and (is_over or self.on_exceed == "restore_and_stop")
        if self._snapshot is not None and self._is_current:
            self._snapshot.put_back()
            found += f" The last weights within the budget are put back, whose divergence is {self.spent:.3g}."
        if is_over and self._snapshot is None:
            rank_zero_warn(f"{found} These weights are handed back. To put others back, use `on_exceed='restore'`.")
        elif self.on_exceed in ("restore_and_stop", "stop"):
            trainer.should_stop = True
            rank_zero_info(f"{found} The fit stops.")
        elif is_over:
            rank_zero_info(found)
        elif self.exceeded_at is None and self.on_exceed == "restore":
            rank_zero_info(f"{found} The fit goes on; the last weights within the budget are put back at its end.")
        elif self.exceeded_at is None:
            rank_zero_warn(f"{found} The fit goes on. To stop it, use `on_exceed='restore_and_stop'`.")
        if self.exceeded_at is None:
            self.exceeded_at = trainer.global_step
