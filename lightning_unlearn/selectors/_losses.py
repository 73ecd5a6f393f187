"""What selectors that look at data have in common: a loss, and what they cannot do without."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from lightning_unlearn.engine import gathered
from lightning_unlearn.functional.likelihood import mean_or_zero
from lightning_unlearn.readouts import Readout

By = Literal["element", "tensor"]


def check_by(by: Any) -> None:
    """Refuse another way of scoring than by element or by tensor."""
    if by not in ("element", "tensor"):
        raise ValueError(f'`by` should be "element" or "tensor". Found `by = {by!r}`.')


def needed(who: Any, readout: Readout | None, **data: Sequence[Any]) -> Readout:
    """The readout; what is missing is refused."""
    missing = [f"`{name}`" for name, batches in data.items() if not batches] + ["`readout`"] * (readout is None)
    if readout is None or missing:
        raise ValueError(
            f"`{type(who).__name__}` should get {', '.join(f'`{name}`' for name in data)} and a `readout`. Found no "
            f"{', no '.join(missing)}. Use `TrainOnly(selector=..., {next(iter(data))}=loader)`, or give them to `scores`."
        )
    return readout


def mean_nll(network: nn.Module, readout: Readout) -> Callable[[Any], Tensor]:
    """The loss of a batch: the mean over its supervised rows."""
    return lambda batch: mean_or_zero(readout(network, batch).token_nll())


def example_loss(network: nn.Module, readout: Readout, number: int, batch: Any) -> Tensor:
    """The loss of one example of a batch: the mean over its supervised rows; zero without one."""
    likelihood = readout(network, batch)
    return likelihood.example_nll()[number] / likelihood.rows_per_example()[number].clamp_min(1)


def means(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One score for each tensor: the mean over its elements, of all shards. Collective: every rank must call it."""
    return {name: gathered(score).mean() for name, score in scores.items()}
