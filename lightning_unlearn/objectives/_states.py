"""Shared parts of objectives on hidden states."""

import torch
from torch import Tensor

from lightning_unlearn.functional.likelihood import mean_or_zero, sum_per_example
from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.prediction import Likelihood, Prediction


def need_states(objective: Objective, prediction: Likelihood) -> Tensor:
    """The hidden states of each row, ``[N, D]``, in float32 at least."""
    states = prediction.features if isinstance(prediction, Prediction) else None
    if states is None:
        raise ValueError(
            f"`{type(objective).__name__}` should get hidden states, a `Prediction` with `features`. Found a "
            f"`{type(prediction).__name__}` without. Use `HiddenStateReadout(layer=...)` as the readout."
        )
    return states.to(torch.promote_types(states.dtype, torch.float32))


def mean_per_example(rows: Tensor, prediction: Likelihood) -> Tensor:
    """Mean of ``rows [N]`` over each example's, then over the examples that have some, ``[]``."""
    # `clamp_min` only keeps 0 / 0 out of the graph: examples without rows are dropped by `supervised()` right after.
    sums = sum_per_example(rows, prediction.example, prediction.batch_size)
    return mean_or_zero((sums / prediction.rows_per_example().clamp_min(1))[prediction.supervised()])
