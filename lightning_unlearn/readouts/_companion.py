from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from typing_extensions import override

from lightning_unlearn.prediction import Prediction
from lightning_unlearn.readouts._base import Readout
from lightning_unlearn.readouts._packed_causal_lm import PackedCausalLMReadout
from lightning_unlearn.readouts._paired import _joined


class CompanionPrediction(Prediction):
    """A :class:`Prediction` of what must go, with something beside each that must stay answered.

    The first half of its examples must go; the second half stand beside them, in the same order.
    """


class CompanionReadout(Readout):
    """Run a network on what must go, and on what stands beside it.

    A batch is one of the inner readout's kind, a mapping, that holds another one of as many examples at ``companion``.
    Metrics and attacks read the former alone.

    Args:
        readout: How each of the two is read. Defaults to :class:`PackedCausalLMReadout`.

    Raises:
        ValueError: If a batch has nothing beside, or not as many examples.

    Example:
        >>> import torch
        >>> from lightning_unlearn.readouts import ClassificationReadout
        >>> part = {"x": torch.zeros(2, 3), "y": torch.tensor([0, 1])}
        >>> said = CompanionReadout(ClassificationReadout("x", "y"))(nn.Linear(3, 2), {**part, "companion": part})
        >>> said.example.tolist(), said.batch_size
        ([0, 1, 2, 3], 4)
    """

    def __init__(self, readout: Readout | None = None) -> None:
        self.readout: Readout = PackedCausalLMReadout() if readout is None else readout

    @override
    def find_network(self, module: nn.Module) -> nn.Module:
        """What the inner readout finds."""
        return self.readout.find_network(module)

    @override
    def for_measuring(self) -> Readout:
        """The inner readout: what must go alone is a plain batch."""
        return self.readout.for_measuring()

    @override
    def __call__(self, network: nn.Module, batch: Any) -> CompanionPrediction:
        forget, beside = (self.readout(network, part) for part in _parts(batch))
        if forget.batch_size != beside.batch_size:
            raise ValueError(
                "`beside` should hold one example beside each that must go. Found "
                f"{beside.batch_size} beside {forget.batch_size}."
            )
        return CompanionPrediction(**vars(_joined(forget, beside)))

    @override
    def keys(self, batch: Any) -> list[str]:
        """Keys of what must go, then of what stands beside; of a plain batch, the inner readout's."""
        if not _has_beside(batch):
            return self.readout.keys(batch)
        forget, beside = (self.readout.keys(part) for part in _parts(batch))
        # Told apart: what stands beside may well be among the retain data, which what must go may not.
        return [*forget, *(f"beside {key}" for key in beside)]


def _has_beside(batch: Any) -> bool:
    return isinstance(batch, Mapping) and "companion" in batch


def _parts(batch: Any) -> tuple[Any, Any]:
    if _has_beside(batch):
        return {name: value for name, value in batch.items() if name != "companion"}, batch["companion"]
    found = f"a mapping with keys {list(batch)}" if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
    raise ValueError(
        f"`CompanionReadout` should get a mapping with another batch at `beside`. Found {found}. `ScopeData` and "
        "`DecoupledData` make such batches."
    )
