from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import lightning
import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.data import sized_len
from lightning.pytorch.loggers import Logger
from lightning.pytorch.trainer import call
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch import Tensor

from lightning_unlearn.functional.settings import check_whole
from lightning_unlearn.loops._guest_module import GuestModule
from lightning_unlearn.loops._joined_trainer import joined_trainer
from lightning_unlearn.loops._refusals import refuse_callbacks


class OuterLoop:
    """Tells callbacks of Lightning where the training loop of somebody else is: it calls their hooks, and runs nothing.

    The trainer that callbacks see is Lightning's own. It trains nothing, launches nothing, and wraps nothing; it knows the
    device, the processes, the optimizer, the data, and how far the loop is. In the order of a fit::

        set_up             while the network is the original
        will_restore       right before the loop loads the weights of a checkpoint
        start              the optimizer exists, the weights are those that training starts from
          epoch_starts
            batch_starts   of each micro-batch
            backward       around the backward pass
            gradient_is_ready   accumulated, reduced, not yet clipped
            batch_ends
          epoch_ends
        end
        tear_down          also after an error

    Args:
        module: The network, and the loss of the loop.
        callbacks: Lightning callbacks.
        device: Where the network is.
        precision: As in Lightning's ``Trainer``: that of the loop's forward pass. ``32-true`` if the network brings its own.
        logger: Receives what callbacks log.
        log_every_n_steps: How often that is.
    """

    def __init__(
        self,
        module: GuestModule,
        callbacks: Sequence[pl.Callback],
        *,
        device: torch.device,
        precision: Any = "32-true",
        logger: Logger | None = None,
        log_every_n_steps: int = 50,
    ) -> None:
        check_whole("log_every_n_steps", log_every_n_steps, least=0)
        refuse_callbacks(callbacks)
        self.module = module
        self.trainer = joined_trainer(
            module, callbacks, device=device, precision=precision, logger=logger, log_every_n_steps=log_every_n_steps
        )
        self.accumulates = False
        self.trainer.fit_loop._should_accumulate = lambda: self.accumulates  # type: ignore[method-assign]
        self._batch: Any = None
        self._batch_idx, self._is_in_batch = 0, False
        self._loss: Tensor | None = None
        self._has_stepped = False
        self._handle: Any = None

    def set_up(self, retain: Iterable[Any] | None, *, resumes_from: Any = None) -> None:
        """Let callbacks refuse what cannot work, and see the original.

        Args:
            retain: What the loop trains on, for those that look at it. It is not iterated in the course of training.
            resumes_from: The checkpoint that will be restored, if that is known.
        """
        trainer = self.trainer
        trainer.state.fn, trainer.state.status = TrainerFn.FITTING, TrainerStatus.RUNNING
        trainer.training = True
        trainer._checkpoint_connector._ckpt_path = resumes_from
        trainer._data_connector.attach_data(self.module, train_dataloaders=retain)
        length = sized_len(retain)
        trainer.fit_loop.max_batches = float("inf") if length is None else length
        trainer._callback_connector._attach_model_logging_functions()
        call._call_setup_hook(trainer)

    def will_restore(self, checkpoint: Mapping[str, Any]) -> None:
        """The weights of ``checkpoint`` are about to be loaded: let those look who want to see the original before that."""
        self.trainer._checkpoint_connector._loaded_checkpoint = dict(checkpoint)
        # They wait for Lightning to load the module, which happens elsewhere: its own weights change nothing.
        self.module.load_state_dict(self.module.state_dict())

    def start(
        self, optimizer: torch.optim.Optimizer, *, checkpoint: dict[str, Any] | None = None, max_steps: int = -1
    ) -> None:
        """Training starts, or goes on.

        Args:
            optimizer: The loop's, without the wrappers of that loop.
            checkpoint: What :meth:`state_dict` gave to the interrupted loop.
            max_steps: How many optimizer steps there will be, if that is known.
        """
        trainer = self.trainer
        trainer.fit_loop.epoch_loop.max_steps = max_steps
        trainer.strategy.optimizers = [optimizer]
        if checkpoint is not None:
            self._reach(checkpoint["global_step"], checkpoint["epoch"])
            call._call_callbacks_on_load_checkpoint(trainer, checkpoint)
            call._call_callbacks_load_state_dict(trainer, checkpoint)
        trainer._logger_connector.reset_results()
        trainer._logger_connector.reset_metrics()
        self._call("on_fit_start")
        loader = CombinedLoader(trainer.fit_loop._data_source.instance, "max_size_cycle")
        trainer.fit_loop._combined_loader = loader
        self._handle = optimizer.register_step_post_hook(self._stepped)
        self._call("on_train_start")

    def epoch_starts(self, epoch: int) -> None:
        """Epoch number ``epoch`` starts."""
        self._settle()
        self._reach(self.trainer.global_step, epoch)
        self.trainer._logger_connector.epoch_end_reached()
        self._call("on_train_epoch_start")

    def batch_starts(self, batch: Any, batch_idx: int, *, micro_batches: int, accumulates: bool) -> None:
        """A micro-batch starts.

        Args:
            batch: The micro-batch, on the device.
            batch_idx: Its number in the epoch.
            micro_batches: By what the loop divides its loss.
            accumulates: Whether others follow in the same optimizer step.
        """
        self._batch, self._batch_idx, self._loss = batch, batch_idx, None
        self._is_in_batch = True
        self.accumulates, self.trainer.accumulate_grad_batches = accumulates, micro_batches
        self.trainer._logger_connector.on_batch_start(batch)
        self._call("on_train_batch_start", batch, batch_idx)

    @contextmanager
    def backward(self, loss: Tensor) -> Iterator[None]:
        """Around the backward pass of ``loss``, as the loop has divided it."""
        self._loss = loss.detach()
        self._call("on_before_backward", loss)
        yield
        self._call("on_after_backward")

    def gradient_is_ready(self) -> None:
        """The gradient of an optimizer step is there, and not yet clipped."""
        self._call("on_before_optimizer_step", self.trainer.optimizers[0])

    def batch_ends(self) -> None:
        """A micro-batch, and the optimizer step that it ended, are done."""
        if self._has_stepped:
            self._has_stepped = False
            self._reach(self.trainer.global_step + 1, self.trainer.current_epoch)
        outputs = {} if self._loss is None else {"loss": self._loss}
        self._call("on_train_batch_end", outputs, self._batch, self._batch_idx)
        self._batch, self._is_in_batch = None, False
        self.trainer._logger_connector.on_batch_end()
        self.trainer._logger_connector.update_train_step_metrics()
        self.trainer.fit_loop.epoch_loop._batches_that_stepped = self.trainer.global_step

    def epoch_ends(self) -> None:
        """An epoch is over."""
        self.trainer._logger_connector.epoch_end_reached()
        self._call("on_train_epoch_end")
        self.trainer._logger_connector.on_epoch_end()
        self.trainer._logger_connector.update_train_epoch_metrics()
        self._reach(self.trainer.global_step, self.trainer.current_epoch + 1)

    def end(self) -> None:
        """Training is over: the weights are those that the loop hands back."""
        self._settle()
        self._call("on_train_end")
        self._call("on_fit_end")

    def fail(self, error: BaseException) -> None:
        """Training ended by an error."""
        self.trainer.state.status = TrainerStatus.INTERRUPTED
        self._call("on_exception", error)

    def tear_down(self) -> None:
        """Leave nothing behind. The network stays where it is."""
        if self._handle is not None:
            self._handle.remove()
        call._call_teardown_hook(self.trainer)
        self.trainer.state.stage = None

    def state_dict(self) -> dict[str, Any]:
        """What is needed to go on: of callbacks, and how far the loop was. Every rank must call it."""
        trainer = self.trainer
        checkpoint: dict[str, Any] = {"global_step": trainer.global_step, "epoch": trainer.current_epoch}
        checkpoint["pytorch-lightning_version"] = (
            lightning.__version__
        )  # Lightning asks for it before it hands states out
        checkpoint["callbacks"] = call._call_callbacks_state_dict(trainer)
        call._call_callbacks_on_save_checkpoint(trainer, checkpoint)
        return checkpoint

    def _settle(self) -> None:
        """End a micro-batch after which the loop was left: its step was taken."""
        if self._is_in_batch:
            self.batch_ends()

    def _call(self, hook: str, *args: Any) -> None:
        call._call_callback_hooks(self.trainer, hook, *args)

    def _reach(self, step: int, epoch: int) -> None:
        self.trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = step
        self.trainer.fit_loop.epoch_progress.current.completed = epoch

    def _stepped(self, *args: Any) -> None:
        self._has_stepped = True
