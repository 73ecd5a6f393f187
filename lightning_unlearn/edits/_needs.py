"""What edits that look at data cannot do without, and how they count rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.prediction import Prediction
from lightning_unlearn.readouts import Readout


def needed(who: Any, readout: Readout | None, **data: Sequence[Any]) -> Readout:
    """The readout; what is missing is refused."""
    missing = [f"`{name}`" for name, batches in data.items() if not batches] + ["`readout`"] * (readout is None)
    if readout is None or missing:
        raise ValueError(
            f"`{type(who).__name__}` should get {', '.join(f'`{name}`' for name in data)} and a `readout`. Found no "
            f"{', no '.join(missing)}. Give `ApplyEdit(..., {next(iter(data))}=loader)`, or, in a script, "
            f"`edit(network, {next(iter(data))}=batches, readout=...)`."
        )
    return readout


def logits_of(who: Any, network: nn.Module, readout: Readout, batch: Any) -> Tensor:
    """The logits ``[N, V]`` of the supervised rows of a batch."""
    prediction = readout(network, batch)
    if not isinstance(prediction, Prediction):
        raise ValueError(
            f"`{type(who).__name__}` should get logits. Found `{readout!r}`, which gives likelihoods alone. Use a readout "
            "that gives a `Prediction`, such as `CausalLMReadout()` or `ClassificationReadout()`."
        )
    return prediction.logits


def mean_row(
    network: nn.Module, batches: Sequence[Any], readout: Readout, engine: GradientEngine, params: Sequence[Tensor]
) -> tuple[list[Tensor | None], float, int]:
    """Gradient of the mean loss over all rows, that mean, and the number of rows. Batches may differ in size. Collective."""
    counts: list[int] = []

    def total(batch: Any) -> Tensor:
        nll = readout(network, batch).token_nll()
        counts.append(nll.numel())
        return nll.sum()

    row, losses = engine.row(total, batches, params, divisor=1)
    # A gradient scaler may have had a pass repeated: the last ones count.
    rows = max(sum(counts[-len(batches) :]), 1)
    return [None if g is None else g / rows for g in row], float(losses.sum()) / rows, rows
