from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from typing_extensions import override

from lightning_unlearn.data import DataSource, loader_of
from lightning_unlearn.disruption import Disruption, neutral_batches, refuse_without_logits
from lightning_unlearn.edits._base import Edit, EditRecord
from lightning_unlearn.engine import GradientEngine, sharded_like, with_local
from lightning_unlearn.functional.bisection import largest_scale
from lightning_unlearn.functional.settings import check_kind, check_positive, check_whole
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import drop_copies, interruptible, local, uninterrupted


class WithinBudget(Edit):
    r"""Another edit, taken as far as a budget of disruption allows.

    The edit gives a direction, from the original weights :math:`W_0` to its own :math:`W_1`. The scale :math:`s` is found
    by bisection, such that with

    .. math:: W = W_0 + s \, (W_1 - W_0)

    the mean divergence of predictions on neutral data from the original's is between 95 % and 100 % of ``kl``. So ``s=1`` is
    the edit as it is; for an edit with a ``scale``, ``s`` multiplies it. Each trial starts from stored originals and is
    rounded once: in bf16, steps that are added up would drift.

    Memory: the weights that the edit changes, twice, on the CPU; about ten passes over the neutral data.

    Args:
        edit: What is done.
        kl: The budget, in nats per supervised row; see :class:`DisruptionBudget`.
        neutral: Data to measure on, as in :class:`DisruptionBudget`. Defaults to the retain data, where the divergence is
            smaller than on other text.
        batches: The most batches of them to use, the first ones.
        limit: The largest scale. Edits that lose their meaning when overdone, such as :class:`Corrupt`, need one.

    Raises:
        ValueError: When called, if the readout gives no logits, or there is nothing to measure on.

    Example:
        >>> from lightning_unlearn.edits import Corrupt
        >>> from lightning_unlearn.readouts import ClassificationReadout
        >>> layer, batch = nn.Linear(2, 3), (torch.ones(4, 2), torch.zeros(4, dtype=torch.int64))
        >>> record = WithinBudget(Corrupt(), kl=1e-4, neutral=[batch])(layer, readout=ClassificationReadout())
        >>> 0.95e-4 <= record.settings["spent"] <= 1e-4
        True

    References:
        After the adaptive step of `RepSelect <https://arxiv.org/abs/2606.17168>`_, 2026, by its code.
    """

    def __init__(
        self,
        edit: Edit,
        kl: float = 0.01,
        neutral: DataSource | None = None,
        batches: int = 16,
        limit: float | None = None,
    ) -> None:
        check_kind("edit", edit, Edit, example="RepSelect()")
        check_positive("kl", kl)
        check_whole("batches", batches)
        if limit is not None:
            check_positive("limit", limit)
        self.edit, self.kl, self.neutral, self.batches, self.limit = edit, kl, neutral, batches, limit
        self.needs_forget = edit.needs_forget  # type: ignore[misc]  # of the class for most edits; here of the one inside
        self.needs_retain = edit.needs_retain or neutral is None  # type: ignore[misc]
        self.resets_optimizer = edit.resets_optimizer  # type: ignore[misc]
        self._found: dict[str, float] = {}

    @override
    def see_original(self, network: nn.Module) -> None:
        self.edit.see_original(network)

    @override
    def settings(self) -> dict[str, Any]:
        inner = {f"edit.{name}": value for name, value in self.edit.settings().items()}
        return {"edit": type(self.edit).__name__, "kl": self.kl, "limit": self.limit, **inner}

    @override
    def new_values(
        self,
        network: nn.Module,
        *,
        forget: Sequence[Any],
        retain: Sequence[Any],
        readout: Readout | None,
        engine: GradientEngine,
    ) -> Iterator[tuple[str, Tensor]]:
        if readout is None:
            raise ValueError(
                "`WithinBudget` should get a readout to run the network on neutral data. Found none. Give "
                "`edit(network, readout=ClassificationReadout())`, or use `ApplyEdit`."
            )
        disruption = self._measured(network, retain, readout, engine)
        values = self.edit.new_values(network, forget=forget, retain=retain, readout=readout, engine=engine)
        ray = _Ray(network, values)
        self._found = {"scale": 0.0, "spent": 0.0}
        if not ray.is_flat(engine):
            with uninterrupted():
                try:
                    with interruptible():
                        self._search(ray, disruption, network)
                finally:
                    ray.write_(0.0)
        yield from ray.values(self._found["scale"])

    def _measured(
        self, network: nn.Module, retain: Sequence[Any], readout: Readout, engine: GradientEngine
    ) -> Disruption:
        refuse_without_logits(readout)
        loader = retain if self.neutral is None else loader_of(self.neutral, "neutral", engine.trainer)
        # All batches on every process, as of forget and retain data: all have to find the same scale.
        disruption = Disruption(neutral_batches(loader, engine, most=self.batches), readout, engine)
        disruption.see_original(network)
        disruption.refuse_unlike(network)
        # Or the edit would be given the weights that FSDP2 has gathered, whose memory is let go of.
        drop_copies(network)
        return disruption

    def _search(self, ray: _Ray, disruption: Disruption, network: nn.Module) -> None:
        tried: dict[float, float] = {}

        def measure(scale: float) -> float:
            ray.write_(scale)
            tried[scale] = disruption(network)
            rank_zero_info(f"`WithinBudget`: at scale {scale:.4g} the divergence is {tried[scale]:.4g} of {self.kl}.")
            return tried[scale]

        scale = largest_scale(measure, self.kl, limit=math.inf if self.limit is None else self.limit)
        self._found = {"scale": scale, "spent": tried.get(scale, 0.0)}
        if self._found["spent"] < 0.95 * self.kl:
            rank_zero_warn(
                f"`WithinBudget` should spend at least 95 % of `kl = {self.kl}`. Found {self._found['spent']:.3g} at scale "
                f"{scale:.4g}, and no scale that spends more and stays within. Weights in half precision move in jumps: "
                "edit them in float32."
            )

    @override
    def _record(self, changes: list[Tensor], written: list[Tensor], engine: GradientEngine) -> EditRecord:
        record = super()._record(changes, written, engine)
        return replace(record, settings={**record.settings, **self._found})


class _Ray:
    """From the weights as they are towards new values, and beyond. Under sharding, of this process's shards."""

    def __init__(self, network: nn.Module, values: Iterator[tuple[str, Tensor]]) -> None:
        params = dict(network.named_parameters())
        self._network = network
        self._parts: dict[str, tuple[nn.Parameter, Tensor, Tensor]] = {}
        for name, value in values:
            # Of the same errors that the edit alone would raise, only this one would pass unnoticed here.
            if name not in params or value.shape != params[name].shape:
                raise ValueError(f"An edit should give `{name}` a value of its shape. Found {tuple(value.shape)}.")
            param = params[name]
            before = local(param.detach()).to("cpu", copy=True)
            here = local(value if isinstance(value, DTensor) else sharded_like(value.to(param.device), param))
            # The difference of large numbers: in float64 before it is rounded to float32.
            direction = (here.detach().cpu().double() - before.double()).float()
            self._parts[name] = param, before, direction

    def is_flat(self, engine: GradientEngine) -> bool:
        """Whether nothing changes along it, on any process."""
        changes = torch.tensor(float(any(bool(d.any()) for _, _, d in self._parts.values())), dtype=torch.float32)
        device = next(self._network.parameters()).device
        return engine.average(changes.to(device)).item() == 0

    def write_(self, scale: float) -> None:
        """Set the weights to those at ``scale``; 0 is where they were, to the bit."""
        drop_copies(self._network)
        with torch.no_grad():
            for param, before, direction in self._parts.values():
                local(param).data.copy_(_at(before, direction, scale))
        drop_copies(self._network)

    def values(self, scale: float) -> Iterator[tuple[str, Tensor]]:
        """Names and values at ``scale``."""
        for name, (param, before, direction) in self._parts.items():
            yield name, with_local(param, _at(before, direction, scale).to(param.device))


def _at(before: Tensor, direction: Tensor, scale: float) -> Tensor:
    return before.double().add(direction, alpha=scale) if scale else before
