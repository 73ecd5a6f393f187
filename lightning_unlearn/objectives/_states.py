"""What objectives on hidden states share."""

import torch
from torch import Tensor

from lightning_unlearn.functional.likelihood import mean_or_zero, sum_per_example
from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.prediction import Likelihood, Prediction


def need_states(objective: Objective, said: Likelihood) -> Tensor:
    """The hidden states of each row, ``[N, D]``, in float32 at least."""
    states = said.features if isinstance(said, Prediction) else None
    if states is None:
        raise ValueError(
            f"`{type(objective).__name__}` should get hidden states, a `Prediction` with `features`. Found a "
            f"`{type(said).__name__}` without. Use `HiddenStateReadout(layer=...)` as the readout."
        )
    return states.to(torch.promote_types(states.dtype, torch.float32))


def mean_per_example(rows: Tensor, said: Likelihood) -> Tensor:
    """Mean of ``rows [N]`` over each example's, then over the examples that have some, ``[]``."""
    sums = sum_per_example(rows, said.example, said.batch_size)
    return mean_or_zero((sums / said.rows_per_example().clamp_min(1))[said.supervised()])
