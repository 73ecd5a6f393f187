from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from transformers.trainer_callback import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint
from typing_extensions import override

from lightning_unlearn.loops._collated import collated
from lightning_unlearn.loops._forwarding_logger import ForwardingLogger
from lightning_unlearn.loops._guest_module import ForgettingGuest, GuestModule
from lightning_unlearn.loops._hugging_face_loss import collections_of, own_loss_of
from lightning_unlearn.loops._hugging_face_refusals import refuse_hugging_face
from lightning_unlearn.loops._outer_loop import OuterLoop
from lightning_unlearn.loops._replaced import replaced

_STATE = "lightning_unlearn.pt"


class UnlearnTrainerCallback(TrainerCallback):  # type: ignore[misc]  # transformers has no types for mypy
    """Forgetting, guards and checks in a ``transformers.Trainer``, or one of TRL's, that you have already.

    Model, data, collator, loss, optimizer, schedule, logs and checkpoints stay as they are. One line is added::

        trainer = transformers.Trainer(model, args, train_dataset=retain, data_collator=collator)
        trainer.add_callback(UnlearnTrainerCallback(trainer, [Unlearn(NPO(beta=0.1), forget=forget), StepGuard()]))
        trainer.train()

    What the trainer trains on is what must stay. The forget gradient is added when the gradients of a step are accumulated
    and reduced, and before they are clipped. As in Lightning, it is the mean over as many micro-batches as the step had;
    where the trainer weighs its loss by tokens (``num_items_in_batch``), that holds for the retain gradient alone.

    Guards act in the optimizer's step, checks after it. What callbacks log is in the trainer's next log line. Checkpoints of
    the trainer have one more file, ``lightning_unlearn.pt``; ``train(resume_from_checkpoint=...)`` goes on from it.

    Args:
        trainer: The trainer. Its ``train`` is wrapped from now on; during it, ``training_step``, ``log`` and
            the accelerator's ``backward`` are, and are put back afterwards.
        callbacks: :class:`Unlearn`, :class:`StepGuard`, :class:`RecoveryCheck`, and others that change or observe steps.
        forget: What must go, as the trainer takes data sets: its collator and batch size are used. For those callbacks that
            are not given data of their own.

    Raises:
        NotImplementedError: Here and in ``train()``, under DeepSpeed, FSDP, tensor parallelism, ``DataParallel`` or fp16; in
            ``train()``, with callbacks that need Lightning's own loop. Each by name.
        TypeError: If ``trainer`` is none of transformers'.

    Example:
        >>> trainer = transformers.Trainer(model, args, train_dataset=retain)  # doctest: +SKIP
        >>> trainer.add_callback(UnlearnTrainerCallback(trainer, [Unlearn(NPO())], forget=rows))  # doctest: +SKIP
    """

    def __init__(self, trainer: Any, callbacks: Sequence[pl.Callback], *, forget: Any = None) -> None:
        refuse_hugging_face(trainer)
        self._trainer, self._callbacks, self._forget = trainer, list(callbacks), forget
        self._loop: OuterLoop | None = None
        self._batch_idx = 0
        self._checkpoint: dict[str, Any] | None = None
        self._logged: dict[str, float] = {}
        self._train = trainer.train
        trainer.train = self._wrapped_train

    @property
    def loop(self) -> OuterLoop:
        """What tells callbacks where the trainer is."""
        if self._loop is None:
            raise RuntimeError(
                "`UnlearnTrainerCallback` should be in the trainer that it was made for. Found another one."
            )
        return self._loop

    def _wrapped_train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """`trainer.train`, with the callbacks set up before it loads a checkpoint, and torn down whatever happens."""
        refuse_hugging_face(self._trainer)
        self._refuse_not_added()
        loop = self._loop = self._made()
        try:
            self._set_up(loop, resume_from_checkpoint)
            with ExitStack() as stack:
                stack.enter_context(replaced(self._trainer, "training_step", self._with_forgetting))
                stack.enter_context(replaced(self._trainer.accelerator, "backward", self._with_hooks))
                stack.enter_context(replaced(self._trainer, "log", self._with_our_values))
                return self._train(resume_from_checkpoint, *args, **kwargs)
        except BaseException as error:
            loop.fail(error)
            raise
        finally:
            loop.tear_down()
            self._loop = self._checkpoint = None

    @override
    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Training starts: model and optimizer are prepared, and a checkpoint is loaded."""
        optimizer = kwargs["optimizer"]
        self.loop.start(
            getattr(optimizer, "optimizer", optimizer), checkpoint=self._checkpoint, max_steps=state.max_steps
        )

    @override
    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """An epoch starts."""
        self._batch_idx = 0
        self.loop.epoch_starts(int((state.epoch or 0) + 1e-6))  # a float, of which whole numbers are epochs

    @override
    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A micro-batch is done."""
        self._batch_ends()

    @override
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """An optimizer step is done: check, log, and stop if a callback asks for it."""
        self._batch_ends()
        control.should_training_stop |= self.loop.trainer.should_stop

    @override
    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """An epoch is over."""
        self.loop.epoch_ends()
        control.should_training_stop |= self.loop.trainer.should_stop

    @override
    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Put the state of the callbacks into the checkpoint that was just written."""
        saved = self.loop.state_dict()  # every process takes part
        if state.is_world_process_zero and not args.save_only_model:
            torch.save(saved, Path(args.output_dir) / f"checkpoint-{state.global_step}" / _STATE)

    @override
    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Training is over; `load_best_model_at_end` has loaded what it does."""
        self.loop.end()

    def _with_forgetting(self, training_step: Any) -> Any:
        def step(model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
            accumulates = not self._trainer.accelerator.sync_gradients
            micro_batches = self._trainer.current_gradient_accumulation_steps
            self.loop.batch_starts(inputs, self._batch_idx, micro_batches=micro_batches, accumulates=accumulates)
            loss: Tensor = training_step(model, inputs, *args, **kwargs)
            # Now: clipping comes next, and the event before the optimizer's step only after that.
            if not accumulates:
                self.loop.gradient_is_ready()
            return loss

        return step

    def _with_hooks(self, backward: Any) -> Any:
        def wrapped(loss: Tensor, **kwargs: Any) -> None:
            with self.loop.backward(loss):
                backward(loss, **kwargs)

        return wrapped

    def _with_our_values(self, log: Any) -> Any:
        def wrapped(logs: Mapping[str, float], *args: Any, **kwargs: Any) -> None:
            ours, self._logged = self._logged, {}
            log({**logs, **ours}, *args, **kwargs)

        return wrapped

    def _batch_ends(self) -> None:
        self.loop.batch_ends()
        self._batch_idx += 1

    def _made(self) -> OuterLoop:
        trainer = self._trainer
        network, loss, around = (
            trainer.accelerator.unwrap_model(trainer.model),
            own_loss_of(trainer),
            collections_of(trainer),
        )
        forget = collated(trainer, self._forget)
        module = (
            GuestModule(network, loss, around) if forget is None else ForgettingGuest(network, loss, around, forget)
        )
        every = trainer.args.logging_steps
        return OuterLoop(
            module,
            self._callbacks,
            device=trainer.args.device,
            # Accelerate puts the forward method of the whole model into autocast, and no part of it that is run alone.
            precision="bf16-mixed" if trainer.accelerator.mixed_precision == "bf16" else "32-true",
            logger=ForwardingLogger(lambda values, step: self._logged.update(values)),
            log_every_n_steps=int(every) if every >= 1 else 50,
        )

    def _set_up(self, loop: OuterLoop, resume_from_checkpoint: str | bool | None) -> None:
        folder: Any = resume_from_checkpoint or None
        if folder is True:
            folder = get_last_checkpoint(self._trainer.args.output_dir)
        path = None if folder is None else Path(folder) / _STATE
        loop.set_up(collated(self._trainer, self._trainer.train_dataset), resumes_from=path)
        if path is None:
            return
        if path.exists():
            self._checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        else:
            rank_zero_warn(
                f"A checkpoint that is resumed should hold `{_STATE}`, which `UnlearnTrainerCallback` writes. Found none in "
                f"`{folder}`: its weights count as the original, and the forget data start anew."
            )
        loop.will_restore(self._checkpoint or {"weights": "of a fit without forgetting"})

    def _refuse_not_added(self) -> None:
        if not any(callback is self for callback in self._trainer.callback_handler.callbacks):
            raise RuntimeError(
                "`UnlearnTrainerCallback` should be among the callbacks of the trainer it was made for. Found it left out: "
                "nothing would be forgotten. Call `trainer.add_callback(callback)`."
            )
