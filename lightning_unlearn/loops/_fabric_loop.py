from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Literal, Self

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from lightning_unlearn.functional.settings import check_whole
from lightning_unlearn.loops._fabric_refusals import refuse_fabric
from lightning_unlearn.loops._forwarding_logger import ForwardingLogger
from lightning_unlearn.loops._guest_module import GuestModule, Loss
from lightning_unlearn.loops._outer_loop import OuterLoop


class FabricLoop:
    """Forgetting, guards and checks in a training loop of your own, written with Lightning Fabric.

    The loop stays yours: model, optimizer, loss, clipping, schedule. Three lines change::

        with FabricLoop(fabric, model, optimizer, retain, [Unlearn(NPO(), forget=forget), StepGuard()]) as loop:
            for batch in loop.batches():        # instead of `for batch in retain`, once an epoch
                loss = my_loss(model, batch)
                loop.backward(loss)             # instead of `fabric.backward(loss)`
                fabric.clip_gradients(model, optimizer, max_norm=1.0)
                optimizer.step()
                optimizer.zero_grad()

    After :meth:`backward` of the last micro-batch of a step, ``p.grad`` holds what :class:`Unlearn` makes of both gradients.
    Guards act in ``optimizer.step()``. Checks are made when the next batch is asked for, and move nothing. What callbacks
    log goes to ``fabric.log_dict``.

    To accumulate gradients, say so here, divide the loss by the same number, and go by :attr:`accumulates`::

        with fabric.no_backward_sync(model, enabled=loop.accumulates):
            loop.backward(loss / 4)
        if not loop.accumulates:
            optimizer.step()
            optimizer.zero_grad()

    To save and resume, put it into the state: ``fabric.save(path, {"model": model, "optimizer": optimizer, "loop": loop})``
    inside of ``with``, and ``fabric.load`` before it.

    Args:
        fabric: In one process, or with DDP.
        model: What ``fabric.setup`` has returned.
        optimizer: What ``fabric.setup`` has returned.
        retain: What the loop trains on: what must stay. With several processes, as ``fabric.setup_dataloaders`` returns it.
        callbacks: :class:`Unlearn` with its ``forget`` data, :class:`StepGuard`, :class:`RecoveryCheck`, and others that
            change or observe steps.
        loss: Your loss, ``(network, batch) -> scalar``, where ``network`` is the bare one. With it, the readout is checked
            against what you train on, as in a Lightning fit; and objectives can use it, where no readout fits.
        accumulate_grad_batches: Micro-batches per optimizer step.
        log_every_n_steps: How often callbacks log.

    Raises:
        NotImplementedError: Under a strategy, a precision or a callback that was not tried here.
        TypeError: If ``model`` or ``optimizer`` are not Fabric's.

    Example:
        >>> from lightning.fabric import Fabric
        >>> from lightning_unlearn import GradientAscent, Unlearn
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> fabric = Fabric(accelerator="cpu", devices=1)
        >>> network = nn.Linear(2, 2)
        >>> model, optimizer = fabric.setup(network, torch.optim.SGD(network.parameters(), lr=0.1))
        >>> retain = DataLoader(TensorDataset(torch.eye(2), torch.tensor([0, 1])), batch_size=1)
        >>> forget = DataLoader(TensorDataset(torch.ones(2, 2), torch.tensor([0, 0])), batch_size=1)
        >>> with FabricLoop(fabric, model, optimizer, retain, [Unlearn(GradientAscent(), forget=forget)]) as loop:
        ...     for x, y in loop.batches():
        ...         loop.backward(nn.functional.cross_entropy(model(x), y))
        ...         optimizer.step()
        ...         optimizer.zero_grad()
        >>> loop.global_step
        2
    """

    def __init__(
        self,
        fabric: Any,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        retain: Iterable[Any],
        callbacks: Sequence[pl.Callback],
        *,
        loss: Loss | None = None,
        accumulate_grad_batches: int = 1,
        log_every_n_steps: int = 50,
    ) -> None:
        check_whole("log_every_n_steps", log_every_n_steps, least=0)
        refuse_fabric(fabric, model, optimizer, accumulate_grad_batches)
        self._fabric, self._retain = fabric, retain
        self._optimizer: torch.optim.Optimizer = optimizer.optimizer  # type: ignore[attr-defined]
        self._accumulate = accumulate_grad_batches
        self._restored: dict[str, Any] | None = None
        self._epoch, self._saw_load = 0, False
        self._loop = OuterLoop(
            GuestModule(model.module, loss),  # type: ignore[arg-type]
            callbacks,
            device=fabric.device,
            precision=fabric.strategy.precision.precision,
            logger=ForwardingLogger(fabric.log_dict),
            log_every_n_steps=log_every_n_steps,
        )
        # Now, and not when training starts: `fabric.load` may replace the original in between.
        self._loop.set_up(getattr(retain, "_dataloader", retain))
        self._watch = model.module.register_load_state_dict_pre_hook(self._before_load)  # type: ignore[union-attr]

    @property
    def global_step(self) -> int:
        """How many optimizer steps were taken."""
        return self._loop.trainer.global_step

    @property
    def accumulates(self) -> bool:
        """Whether other micro-batches follow in the same optimizer step."""
        return self._loop.accumulates

    @property
    def should_stop(self) -> bool:
        """Whether a callback asks to stop, such as :class:`DisruptionBudget`. ``batches`` ends then."""
        return self._loop.trainer.should_stop

    def __enter__(self) -> Self:
        """Training starts."""
        self._watch.remove()
        self._loop.start(self._optimizer, checkpoint=self._restored)
        self._epoch = self._loop.trainer.current_epoch
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        """Training is over. Callbacks check that every step forgot, and take their hooks off."""
        try:
            if error is not None:
                self._loop.fail(error)
            else:
                self._loop.end()
        finally:
            self._loop.tear_down()
        return False

    def batches(self) -> Iterator[Any]:
        """The batches of one epoch of ``retain``, with their hooks around what you do with them."""
        self._loop.epoch_starts(self._epoch)
        total = self._loop.trainer.num_training_batches
        for number, batch in enumerate(self._retain):
            if self.should_stop:
                break
            is_last = number + 1 == total or (number + 1) % self._accumulate == 0
            self._loop.batch_starts(batch, number, micro_batches=self._accumulate, accumulates=not is_last)
            yield batch
            self._loop.batch_ends()
        self._loop.epoch_ends()
        self._epoch += 1

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """``fabric.backward(loss)``; at the end of a step, ``p.grad`` is then what callbacks make of it."""
        with self._loop.backward(loss):
            self._fabric.backward(loss, **kwargs)
        if not self.accumulates:
            self._loop.gradient_is_ready()

    def state_dict(self) -> dict[str, Any]:
        """What callbacks need to go on, for ``fabric.save``. Every rank must call it."""
        return self._loop.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep it until training starts."""
        self._restored = state

    def _before_load(self, *args: Any) -> None:
        if not self._saw_load:
            self._saw_load = True
            self._loop.will_restore({"weights": "from Fabric"})
