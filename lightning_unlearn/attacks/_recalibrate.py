from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.attacks._base import Attack, BatchLoss
from lightning_unlearn.attacks._replaced import replaced
from lightning_unlearn.engine import GradientEngine, state_kept
from lightning_unlearn.functional.settings import check_whole
from lightning_unlearn.runtime import KeptTensors, eval_mode, remember_buffers


class Recalibrate(Attack):
    r"""Estimate the running statistics of norms anew on retain data, as one does before a model with BatchNorm is deployed.

    No weight changes, and no example of what was forgotten is needed. Yet if forgetting lives in the statistics, it is
    undone. They become the mean over the batches seen, as in BatchNorm with ``momentum=None``:

    .. math:: \mu \leftarrow \mu + (\mu_n - \mu) / n \quad \text{for the } n\text{-th batch}

    Norms run in training mode meanwhile, and everything else in evaluation mode. Yields the number of batches at 1, 10,
    100, ..., and after the last. A batch too small to have statistics is left out.

    In the loop of a fit, ``Unlearn(under=...)``, it is of use where norms are frozen, ``norm.eval()``. Others take the
    statistics of each batch there, whatever the running ones are, and the attack would change nothing: it fails.

    Meant are modules with ``running_mean``, ``momentum`` and ``reset_running_stats``: ``BatchNorm``, ``SyncBatchNorm``,
    ``InstanceNorm`` with ``track_running_stats``, and what is derived from them.

    Args:
        batches: Use only this many retain batches, the first ones; ``None`` for one pass over all.

    Raises:
        ValueError: If there are no retain batches, or no norm keeps running statistics, or none uses them in the loop of a
            fit: an attack that changes nothing must not count as withstood.

    Example:
        >>> norm = nn.BatchNorm1d(1)
        >>> batch = torch.tensor([[2.0], [4.0]])
        >>> with Recalibrate()(norm, batches=[batch], loss=lambda x: norm(x).sum()) as points:
        ...     next(points), norm.running_mean.item()
        (1, 3.0)
        >>> norm.running_mean.item()
        0.0

    References:
        The estimate is that of ``torch.optim.swa_utils.update_bn``.
    """

    family: ClassVar[str] = "recalibrate"
    unit: ClassVar[str] = "batches"
    needs_data: Literal["attack", "forget", "judged", "retain"] | None = "retain"

    def __init__(self, batches: int | None = None) -> None:
        if batches is not None:
            check_whole("batches", batches, why=", or `None` for all")
        self.batches = batches
        self._draw: int | None = None

    @override
    def drawn(self, generator: torch.Generator) -> Recalibrate:
        """After 1 batch to all of them, each number as likely."""
        made = replaced(self)
        made._draw = int(torch.randint(2**31, (), generator=generator))
        return made

    @override
    @contextmanager
    def __call__(
        self,
        network: nn.Module,
        *,
        batches: Iterable[Any] = (),
        loss: BatchLoss | None = None,
        engine: GradientEngine | None = None,
    ) -> Iterator[Iterator[int]]:
        norms = [m for m in network.modules() if _keeps_statistics(m)]
        if not norms:
            raise ValueError(
                "`Recalibrate` should find norms with running statistics, such as `nn.BatchNorm2d`. Found none in "
                f"`{type(network).__name__}`: the attack would change nothing. Leave it out."
            )
        if self._draw is not None and all(norm.training for norm in norms):
            raise ValueError(
                "`Recalibrate` should find norms in evaluation mode, which use their running statistics in a fit. Found all "
                f"{len(norms)} in training mode: the attack would change nothing. Freeze norms, `norm.eval()`, before the "
                "fit, or give the attack to `RecoveryCheck`."
            )
        if loss is None:
            raise ValueError("`Recalibrate` should get retain batches and a loss that runs the network. Found no loss.")
        engine = GradientEngine(network) if engine is None else engine
        # Kept for as long as the attack lasts: else each pass of the engine would put the statistics back.
        calls = dict.fromkeys(norms, 0)
        with ExitStack() as stack, torch.inference_mode(False):
            stack.enter_context(state_kept(engine.module))
            for norm in norms:
                stack.enter_context(_averaging(norm, calls))
            yield self._points(network, calls, batches, loss, engine)

    def _points(
        self,
        network: nn.Module,
        calls: dict[nn.Module, int],
        batches: Iterable[Any],
        loss: BatchLoss,
        engine: GradientEngine,
    ) -> Iterator[int]:
        count = 0
        given, most = self._given(batches)
        for batch in given:
            if not self._has_seen(network, calls, batch, loss, engine):
                continue
            count += 1
            if count == 10 ** (len(str(count)) - 1):
                yield count
            if count == most:
                break
        if count == 0:
            raise ValueError(
                "`Recalibrate` should get retain batches of at least two examples. Found none. Fit on retain data, or give "
                "`ForgetRetainData` some."
            )
        if count != 10 ** (len(str(count)) - 1):
            yield count

    def _given(self, batches: Iterable[Any]) -> tuple[Iterable[Any], int | None]:
        """The batches, and after how many of them to stop; ``None`` for after all."""
        given = islice(batches, self.batches)
        if self._draw is None:
            return given, None
        held = list(given)
        return held, 1 + self._draw % max(len(held), 1)

    def _has_seen(
        self, network: nn.Module, calls: dict[nn.Module, int], batch: Any, loss: BatchLoss, engine: GradientEngine
    ) -> bool:
        before, put_back = dict(calls), [remember_buffers(norm) for norm in calls]
        with eval_mode(network), torch.no_grad():
            for norm in calls:
                norm.training = True  # this one alone; `eval_mode` puts its mode back, too
            try:
                engine.forward(loss, batch)
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):
                    raise
                # Norms before the one that could not take the batch have taken it.
                calls.update(before)
                for restore in put_back:
                    restore()
                return False
        return True


def _keeps_statistics(module: nn.Module) -> bool:
    own = hasattr(module, "momentum") and hasattr(module, "reset_running_stats")
    return own and isinstance(getattr(module, "running_mean", None), Tensor)


@contextmanager
def _averaging(norm: Any, calls: dict[nn.Module, int]) -> Iterator[None]:
    """Let the statistics of ``norm`` start anew, as a mean over all its ``calls``. Afterwards they are what they were."""
    statistics, momentum = KeptTensors(norm.buffers(recurse=False)), norm.momentum

    def count(*_: Any) -> None:
        # Not `momentum=None`, which is torch's own way: `InstanceNorm` takes it as 0.
        calls[norm] += 1
        norm.momentum = 1 / calls[norm]

    handle = norm.register_forward_pre_hook(_while_training(norm, count))
    try:
        norm.reset_running_stats()
        yield
    finally:
        handle.remove()
        norm.momentum = momentum
        statistics.put_back()


def _while_training(norm: nn.Module, act: Callable[..., None]) -> Callable[..., None]:
    # The caller measures between two points, in evaluation mode.
    return lambda *args: act(*args) if norm.training else None
