from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.edits._base import Edit
from lightning_unlearn.edits._needs import needed
from lightning_unlearn.edits._output_neurons import Neurons, all_linear, neurons_of, plain
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.conjugate_gradients import conjugate_gradients
from lightning_unlearn.functional.settings import check_finite, check_positive, check_whole
from lightning_unlearn.prediction import Prediction
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import eval_without_grad


class NewtonInfluence(Edit):
    r"""Take forget data out of a linear classifier by one Newton step, as their influence function says.

    .. math:: \theta \leftarrow \theta + \text{scale} \cdot H_r^{-1} \sum_{x \in f} \nabla \ell(x), \qquad
        H_r = \sum_{x \in r} \nabla^2 \ell(x) + \lambda n_r I

    of weight and bias of one layer, on the features that go into it, in float64. The cross-entropy is convex in them. If the
    layer is at the optimum of all data, with the same weight decay, this is the first step of Newton's method towards the
    optimum of the retain data alone: exact to first order, and far nearer than any gradient step. For a layer that is not at
    an optimum it removes what the forget data pull, and nothing else.

    For classifiers: the output head of a language model is computed in chunks past its layer, which this refuses by name.
    All that is below the layer stays, bit for bit: what features know of the forget data is not removed. The Hessian is not
    formed; each product with it is two products with the features, which are held in memory.

    Args:
        layer: Name of the linear layer whose outputs are the logits. Defaults to the last linear layer.
        decay: :math:`\lambda`, the weight decay that the layer was trained with, per example, of weight and bias. It also
            keeps the system solvable: without decay a softmax has directions that no data decide.
        scale: How much of the step is taken.
        steps: The most products with the Hessian.
        tolerance: When to stop: the residual over the right-hand side.

    Raises:
        ValueError: When called, without forget data, retain data or a readout; if the layer's outputs are not the logits.

    Example:
        >>> from lightning_unlearn.readouts import ClassificationReadout
        >>> layer = nn.Linear(2, 2)
        >>> here, there = ((torch.eye(2)[i : i + 1], torch.tensor([i])) for i in range(2))
        >>> NewtonInfluence(decay=0.1)(layer, forget=[here], retain=[there], readout=ClassificationReadout()).tensors
        2

    References:
        Koh and Liang, `Understanding Black-box Predictions via Influence Functions <https://arxiv.org/abs/1703.04730>`_,
        2017, section 2.1; Guo et al., `Certified Data Removal <https://arxiv.org/abs/1911.03030>`_, 2020, eq. 3.
    """

    needs_forget: ClassVar[bool] = True
    needs_retain: ClassVar[bool] = True

    def __init__(
        self,
        layer: str | None = None,
        decay: float = 1e-4,
        scale: float = 1.0,
        steps: int = 200,
        tolerance: float = 1e-8,
    ) -> None:
        check_positive("decay", decay)
        check_finite("scale", scale)
        check_whole("steps", steps)
        check_positive("tolerance", tolerance)
        self.layer, self.decay, self.scale, self.steps, self.tolerance = layer, decay, scale, steps, tolerance

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
        readout = needed(self, readout, forget=forget, retain=retain)
        if not self.scale:
            return
        head = self._head(network)
        inputs, probabilities, labels = _seen(network, head, forget, readout, engine)
        pull = (probabilities - nn.functional.one_hot(labels, head.number)).T @ inputs
        inputs, probabilities, _ = _seen(network, head, retain, readout, engine)
        curve = _hessian(inputs, probabilities, self.decay * len(inputs))
        step = self.scale * conjugate_gradients(curve, pull, steps=self.steps, tolerance=self.tolerance)
        rows, shifts = head.rows(), head.shifts()
        rows = rows.double() + step[:, : rows.shape[1]]
        yield from head.values(rows, None if shifts is None else shifts.double() + step[:, -1])

    def _head(self, network: nn.Module) -> Neurons:
        found = neurons_of(network, None)
        found = found[-1:] if self.layer is None else [n for n in found if n.name == self.layer]
        if not found:
            raise ValueError(
                f"`layer` should name a linear layer. Found none for {self.layer!r}. There are "
                f"{all_linear(network) or 'none'}."
            )
        return plain(self, found)[0]


def _hessian(inputs: Tensor, probabilities: Tensor, damping: float) -> Callable[[Tensor], Tensor]:
    """From a direction ``[C, D]`` to its product with the Hessian of the summed cross-entropy, and the damping."""

    def product(direction: Tensor) -> Tensor:
        moved = inputs @ direction.T
        curved = probabilities * (moved - (probabilities * moved).sum(1, keepdim=True))
        return curved.T @ inputs + damping * direction

    return product


@torch.no_grad()
def _seen(
    network: nn.Module, head: Neurons, batches: Sequence[Any], readout: Readout, engine: GradientEngine
) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs of the head with a column of ones for a bias ``[N, D]``, probabilities ``[N, C]`` and labels ``[N]``."""
    parts = []
    for batch in batches:
        with eval_without_grad(network), _inputs_of(head) as held:
            prediction = engine.forward(lambda b: readout(network, b), batch)
        if not isinstance(prediction, Prediction) or len(held) != 1 or not _is_head(head, held[0], prediction):
            raise ValueError(
                f"`layer` should be the layer whose outputs are the logits, once for each supervised row. Found that those "
                f"of `{head.name}` are not. Name the classifier's last layer; a network that scales or moves its logits "
                "is not a linear classifier."
            )
        rows = held[0].double()
        rows = rows if head.bias is None else torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
        parts.append((rows[_supervised(rows, prediction)], prediction.logits.double().softmax(-1), prediction.labels))
    inputs, probabilities, labels = zip(*parts, strict=True)
    return torch.cat(inputs), torch.cat(probabilities), torch.cat(labels)


def _supervised(rows: Tensor, prediction: Prediction) -> Tensor:
    """Which rows of the head's inputs are supervised: all, or those of examples that are."""
    if len(rows) == len(prediction.labels):
        return torch.arange(len(rows), device=rows.device)
    return prediction.example


def _is_head(head: Neurons, inputs: Tensor, prediction: Prediction) -> bool:
    if inputs.dim() != 2 or len(inputs) not in (len(prediction.labels), prediction.batch_size):
        return False
    shifts = head.shifts()
    outputs = inputs.double() @ head.rows().double().T + (0 if shifts is None else shifts.double())
    outputs = outputs[_supervised(inputs, prediction)]
    logits = prediction.logits.double()
    return outputs.shape == logits.shape and bool(
        (outputs - logits).norm() <= _tolerance(prediction.logits) * (1 + logits.norm())
    )


def _tolerance(logits: Tensor) -> float:
    return max(1e-3, 4 * torch.finfo(logits.dtype).eps)


@contextmanager
def _inputs_of(head: Neurons) -> Iterator[list[Tensor]]:
    held: list[Tensor] = []

    def hook(layer: nn.Module, args: Any, kwargs: Any) -> None:
        inputs = args[0] if args else next(iter(kwargs.values()))
        held.append(inputs.detach())

    handle = head.layer.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield held
    finally:
        handle.remove()
