from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar, cast

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from lightning_unlearn.engine._isolation import random_numbers_kept, state_kept
from lightning_unlearn.engine._products import Row, inner_products
from lightning_unlearn.engine._set_aside import gradients_set_aside
from lightning_unlearn.engine._strategy import process_group, strategy_kind
from lightning_unlearn.runtime import local, without_logging

T = TypeVar("T")

_SMALLEST_SCALE = 2.0**-24  # the smallest positive number of fp16
_BUCKET_BYTES = 25 << 20


class GradientEngine:
    """Extra forward and backward passes that do not disturb the step in flight, under any strategy.

    Gradients in flight are set aside by pointer, ``self.log`` is muted, and passes run in the precision of the fit. Nothing
    else moves either: each micro-batch starts from the buffers, hidden states, counters and metrics that the fit has, and
    leaves them as they were, to the bit; random generators go on as if nothing had been drawn. So BatchNorm normalises by
    the statistics of the batch where it is in training mode, and its running statistics stay. Inside of
    :func:`isolated`, which restores all this itself, passes follow on each other.

    - **DDP.** The wrapper is bypassed, so that its reducer stays idle. The result is averaged over ranks once.
    - **FSDP2.** Its hooks are on the submodules, and work as usual.
    - **FSDP1.** The pass goes through its wrapper.
    - **Gradient scaler.** The extra loss is multiplied by the scaler's factor. If the gradient is not finite on some rank,
      the pass is repeated at half of it: the scaler has already checked for infinities, and would miss these.

    All methods that run passes or averages are collective: every rank must call them, in the same order.

    Args:
        module: The module whose gradients are computed.
        trainer: The trainer it is attached to; ``None`` for plain autograd on one device.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> engine = GradientEngine(layer)
        >>> row, losses = engine.row(lambda x: layer(x).sum(), [torch.tensor([1.0, 2.0])], [layer.weight])
        >>> row[0], layer.weight.grad
        (tensor([[1., 2.]]), None)
    """

    def __init__(self, module: nn.Module, trainer: pl.Trainer | None = None) -> None:
        self.module = module
        self.trainer = trainer
        self.kind = "single" if trainer is None else strategy_kind(trainer)

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return 1 if self.trainer is None else self.trainer.world_size

    @property
    def rank(self) -> int:
        """Number of this process, over all nodes."""
        return 0 if self.trainer is None else self.trainer.global_rank

    @property
    def sharding_group(self) -> Any:
        """Process group of FSDP1's flat shards; ``None`` under every other strategy."""
        return None if self.trainer is None else process_group(self.trainer)

    def to_device(self, batch: Any) -> Any:
        """Move ``batch`` as the trainer would: in its precision, through the module's own transfer hooks."""
        # Batches of our own loaders never pass through the trainer's loops, which do this for the fit's.
        if self.trainer is None:
            return batch
        # The user's hooks may augment at random, count, and log. Without any there is no state to keep.
        state = state_kept(self.module) if _transfers_by_itself(self.module) else nullcontext()
        with random_numbers_kept(), state, without_logging(self.module):
            batch = self.trainer.precision_plugin.convert_input(batch)
            batch = self.module._on_before_batch_transfer(batch)  # type: ignore[operator]  # a LightningModule's
            device = self.trainer.strategy.root_device
            return self.trainer.strategy.batch_to_device(batch, device=device, dataloader_idx=0)

    def forward(self, function: Callable[[Any], T], batch: Any) -> T:
        """Return ``function(batch)``, called as the strategy requires. ``function`` runs the module or a part of it."""
        with random_numbers_kept(), state_kept(self.module):
            return self._forward(function, batch)

    def _forward(self, function: Callable[[Any], T], batch: Any) -> T:
        # Weights may have changed since the last pass, and whoever called may be inside autocast, which keeps its casts.
        torch.clear_autocast_cache()
        if self.trainer is None:
            return function(batch)
        strategy = self.trainer.strategy
        with without_logging(self.module), strategy.precision_plugin.train_step_context():
            if self.kind != "fsdp1":
                return function(batch)
            # FSDP1 gathers its root only when the wrapper is called. Lightning can redirect that call to a named method.
            # Past `nn.Module.__setattr__`: the method must not be registered as a part of the module.
            object.__setattr__(self.module, "_unlearn_forward", function)
            try:
                redirect: Any = strategy._forward_redirection
                return cast(T, redirect(strategy.model, self.module, "_unlearn_forward", batch))
            finally:
                object.__delattr__(self.module, "_unlearn_forward")

    def row(
        self,
        loss: Callable[[Any], Tensor],
        batches: Sequence[Any],
        params: Sequence[Tensor],
        *,
        divisor: float | None = None,
    ) -> tuple[Row, Tensor]:
        """Gradient of the sum of ``loss`` over ``batches``, divided by ``divisor``, averaged over ranks.

        Args:
            loss: From a batch to a scalar.
            batches: Micro-batches, on the device. Each is run backward before the next is run forward.
            params: The parameters whose gradients are needed.
            divisor: Defaults to the number of batches.

        Returns:
            A tensor per parameter (``None`` where it has no gradient; the local shard as a ``DTensor`` under FSDP2), and
            the losses, ``[len(batches)]``, averaged over ranks. ``p.grad`` is left as it was, the same tensors.

        Raises:
            FloatingPointError: If the losses are finite, but their gradient is not at any loss scale.
        """
        row, losses = self.own_row(loss, batches, params, divisor=divisor)
        # DDP's reducer has not seen this gradient, since its wrapper was not called. Sharded ones were reduced in backward.
        self._average_(row, params)
        return row, self.average(losses)

    def own_row(
        self,
        loss: Callable[[Any], Tensor],
        batches: Sequence[Any],
        params: Sequence[Tensor],
        *,
        divisor: float | None = None,
    ) -> tuple[Row, Tensor]:
        """As :meth:`row`, of this rank's own batches: not averaged, for what every rank has to itself."""
        if not batches:
            raise ValueError("`batches` should hold at least one micro-batch. Found none.")
        divisor = len(batches) if divisor is None else divisor
        scale = self._loss_scale()
        while True:
            row, losses = self._attempt(loss, batches, params, scale)
            # A loss that is itself not finite stays so at any scale: the caller refuses it.
            # `is_finite` asks all ranks, so all of them leave the loop, or repeat the pass, together.
            if self.scaler() is None or self.is_finite(row) or not self.is_finite([losses]):
                break
            scale /= 2
            if scale < _SMALLEST_SCALE:
                raise FloatingPointError(
                    "The extra gradient should be finite at some loss scale. Found infinities or NaN at every scale "
                    f"down to {_SMALLEST_SCALE:.0e}. Use `precision='bf16-mixed'` or `'32-true'`."
                )
        for tensor in row:
            if tensor is not None and scale * divisor != 1:
                tensor.div_(scale * divisor)
        return row, losses

    def gramian(self, rows: Sequence[Row], params: Sequence[Tensor]) -> Tensor:
        """Inner products of ``rows`` over whole parameters, ``[m, m]`` float64, the same on every rank."""
        return inner_products(rows, params, self.sharding_group)

    def backward(self, loss: Callable[[Any], Tensor], batch: Any) -> Tensor:
        """Run ``loss`` forward and backward with the gradients in flight set aside. Hooks must take what is to be kept."""
        with random_numbers_kept(), state_kept(self.module), gradients_set_aside(self.module), torch.enable_grad():
            value = self._forward(loss, batch)
            value.backward()
        return value.detach().float()

    def average(self, value: Tensor) -> Tensor:
        """Mean of ``value`` over ranks."""
        if self.world_size == 1:
            return value
        value = value.clone()  # `all_reduce` works in place, and the argument is the caller's
        torch.distributed.all_reduce(value)
        return value / self.world_size

    def smallest(self, number: int) -> int:
        """The smallest ``number`` of all ranks."""
        if self.world_size == 1:
            return number
        value = torch.tensor(number, device=self.trainer.strategy.root_device)  # type: ignore[union-attr]
        torch.distributed.all_reduce(value, op=torch.distributed.ReduceOp.MIN)
        return int(value)

    def _attempt(
        self, loss: Callable[[Any], Tensor], batches: Sequence[Any], params: Sequence[Tensor], scale: float
    ) -> tuple[Row, Tensor]:
        losses = []
        # Random numbers go on from one micro-batch to the next, and start again where an attempt is repeated.
        with random_numbers_kept(), gradients_set_aside(self.module, params), torch.enable_grad():
            for batch in batches:
                with state_kept(self.module):
                    value = self._forward(loss, batch)
                    # Gradients of several micro-batches add up in `p.grad`, as they do in the user's own accumulation.
                    (value * scale).backward()
                losses.append(value.detach().float())
            return [p.grad for p in params], torch.stack(losses)

    def scaler(self) -> Any:
        """The gradient scaler of ``precision='16-mixed'``; ``None`` in every other precision."""
        return None if self.trainer is None else getattr(self.trainer.precision_plugin, "scaler", None)

    def _loss_scale(self) -> float:
        scaler = self.scaler()
        return 1.0 if scaler is None else float(scaler.get_scale())

    def is_finite(self, row: Row) -> bool:
        """Whether ``row`` is finite in every process. Collective: every rank must call it."""
        held = [local(tensor) for tensor in row if tensor is not None]
        device = local(next(t for t in self.module.parameters())).device
        finite = torch.tensor(float(_all_finite(held, device)), device=device, dtype=torch.float32)
        return self.average(finite).item() == 1

    def _average_(self, row: Row, params: Sequence[Tensor]) -> None:
        """Mean over replicas, in place: of all under DDP. Sharded strategies have reduced the module's own already."""
        if self.world_size == 1 or not (replicated := self._replicated(params)):
            return
        # Ranks may have used different parameters, and collectives must match: first agree on which ones anybody used.
        here = [float(row[i] is not None) for i in replicated]
        present = torch.tensor(here, device=self.trainer.strategy.root_device)  # type: ignore[union-attr]
        torch.distributed.all_reduce(present)
        used = [i for i, ranks in zip(replicated, present.tolist(), strict=True) if ranks]
        for bucket in _buckets(used, params):
            # A rank that did not use a parameter still takes part, with zeros.
            tensors = [torch.zeros_like(params[i]) if (t := row[i]) is None else t for i in bucket]
            flat = torch.cat([t.reshape(-1) for t in tensors])
            torch.distributed.all_reduce(flat)
            flat.div_(self.world_size)
            for i, tensor, mean in zip(bucket, tensors, flat.split([t.numel() for t in tensors]), strict=True):
                row[i] = tensor.copy_(mean.view_as(tensor))

    def _replicated(self, params: Sequence[Tensor]) -> list[int]:
        """Which of ``params`` every rank holds whole, with a gradient of its own data only."""
        if self.kind == "ddp":
            return list(range(len(params)))
        # An attacker's adapter is no part of the module, so that no strategy knows of it.
        own = set(self.module.parameters())
        return [i for i, p in enumerate(params) if p not in own]


def _transfers_by_itself(module: nn.Module) -> bool:
    """Whether the class of ``module`` overrides a hook through which batches go to the device."""
    hooks = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
    return not all(getattr(type(module), hook).__module__.endswith(".core.hooks") for hook in hooks)


def _all_finite(tensors: Sequence[Tensor], device: torch.device) -> bool:
    # A finite sum has finite terms, and is one pass, where `isfinite` writes several masks. A sum of finite terms may be
    # too large for its type: only then is each of them looked at.
    sums = [tensor.sum().to(device) for tensor in tensors]  # a loss may be elsewhere than weights that are offloaded
    if not sums or bool(torch.stack(sums).isfinite().all()):
        return True
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def _buckets(indices: Sequence[int], params: Sequence[Tensor]) -> Iterator[list[int]]:
    """Groups of at most 25 MiB and one dtype: few collectives, and no second copy of the whole gradient."""
    bucket: list[int] = []
    size = 0
    for i in indices:
        nbytes = params[i].numel() * params[i].element_size()
        if bucket and (size + nbytes > _BUCKET_BYTES or params[i].dtype != params[bucket[0]].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(i)
        size += nbytes
    if bucket:
        yield bucket
