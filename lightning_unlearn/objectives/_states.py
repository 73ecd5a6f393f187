"""Shared parts of objectives on hidden states."""

import torch
from torch import Tensor

from lightning_unlearn.functional.likelihood import mean_or_zero, sum_per_example
from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.prediction import Likelihood, Prediction


def need_states(objective: Objective, prediction: Likelihood) -> Tensor:
    """The hidden states of each row at one layer, ``[N, D]``, in float32 at least."""
    states = _features(objective, prediction)
    if states.dim() != 2:
        raise ValueError(
            f"`{type(objective).__name__}` should get hidden states of one layer, [N, D]. Found shape "
            f"{tuple(states.shape)}. Use `HiddenStateReadout(layer=...)` as the readout."
        )
    return states


def need_layers(objective: Objective, prediction: Likelihood) -> Tensor:
    """The hidden states of each row at each layer, ``[N, L, D]``, in float32 at least. One layer counts as ``L = 1``."""
    states = _features(objective, prediction)
    return states if states.dim() == 3 else states[:, None]


def need_original_layers(objective: Objective, student: Tensor, reference: Likelihood) -> Tensor:
    """The same of the original, of the shape and precision of the student's, ``[N, L, D]``."""
    original = need_layers(objective, reference)
    if original.shape != student.shape:
        raise ValueError(
            f"`{type(objective).__name__}` should get a reference of the same layers: hidden states of shape "
            f"{tuple(student.shape)}, [N, L, D]. Found {tuple(original.shape)}."
        )
    return original.to(student)


def confusion(outputs: Tensor, original: Tensor) -> Tensor:
    """How far ``outputs [N, L, D]`` point where the original's do: mean positive dot product, by the original's length."""
    length = original.norm(dim=-1).mean(0) if len(original) else original.new_zeros(original.shape[1])
    # `clamp_min` only keeps 0 / 0 out of the graph: where the original gave nothing, all products are 0.
    aligned = (outputs * original).sum(-1).relu() / length.square().clamp_min(torch.finfo(outputs.dtype).tiny)
    return mean_or_zero(aligned)


def _features(objective: Objective, prediction: Likelihood) -> Tensor:
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
