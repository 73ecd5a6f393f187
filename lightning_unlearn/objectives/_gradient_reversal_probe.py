from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from lightning_unlearn.functional.likelihood import mean_or_zero
from lightning_unlearn.functional.reversal import reverse_gradient
from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.objectives._states import need_states
from lightning_unlearn.prediction import Likelihood, Prediction


class GradientReversalProbe(Objective):
    r"""Make a probe fail that reads the answer off a hidden state: a reconstruction from an abstract and digests.

    The paper's text and code could not be had: the probe, its steps and where it reads are ours.

    .. math:: \mathbb{E}_n \, \mathrm{CE}\bigl(W R_\lambda(h_n) + b, \; y_n\bigr)

    :math:`R_\lambda` is the identity forwards, and multiplies the gradient by :math:`-\lambda` backwards: the value is the
    probe's loss, which the network *raises*. The class :math:`y` of a row is its label. Rows whose label the probe has no
    class for do not count.

    The probe belongs to the callback :class:`LiveProbe`, which trains it, on the rows that were seen here, to read better,
    and says how strong :math:`\lambda` is. Here it is held constant. Its loss has no upper bound, and neither has the
    gradient: give ``Unlearn`` a small ``weight``, or clip. What must stay is held by the fit's own retain loss.

    Needs hidden states from before the answer: ``readout=PromptEndReadout(HiddenStateReadout("layers.7"))``.

    A live probe at chance proves nothing: it may have lost a race that the next probe wins. :func:`decodability` trains
    fresh ones.

    Example:
        >>> states, label = torch.ones(1, 2, requires_grad=True), torch.tensor([7])
        >>> prediction = Prediction(states[:, :0], label, torch.tensor([0]), batch_size=1, features=states)
        >>> objective, probe = GradientReversalProbe(), nn.Linear(2, 2)
        >>> objective.face(probe, labels=torch.tensor([3, 7]), strength=0.5)
        >>> objective(prediction).shape
        torch.Size([])

    References:
        Digital Metabolism (RLCP), `arXiv 2601.10810 <https://arxiv.org/abs/2601.10810>`_, 2026, by its abstract. Gradient
        reversal: Ganin and Lempitsky, `Unsupervised Domain Adaptation by Backpropagation
        <https://arxiv.org/abs/1409.7495>`_, 2015.
    """

    def __init__(self) -> None:
        super().__init__()
        # In a tuple, or torch would take the probe for a part of the objective, and keep it in its state.
        self._probe: tuple[nn.Linear] | None = None
        self._labels = torch.empty(0, dtype=torch.int64)
        self._strength = 0.0
        self._seen: list[tuple[Tensor, Tensor]] = []

    def face(self, probe: nn.Linear, labels: Tensor, strength: float) -> None:
        r"""Work against ``probe`` from now on.

        Args:
            probe: From a hidden state to a score per class.
            labels: The label of each class, ``[K]`` int64, in ascending order.
            strength: :math:`\lambda`.
        """
        self._probe, self._labels, self._strength = (probe,), labels, strength

    def take_seen(self) -> tuple[Tensor, Tensor] | None:
        """Hidden states ``[N, D]`` and classes ``[N]`` of all rows since the last call, without a graph."""
        seen, self._seen = self._seen, []
        if not seen:
            return None
        states, classes = (torch.cat(parts) for parts in zip(*seen, strict=True))
        return states, classes

    @override
    def forward(self, student: Prediction, reference: Likelihood | None = None) -> Tensor:
        states = need_states(self, student)
        if self._probe is None:
            raise ValueError(
                "`GradientReversalProbe` should have a probe to work against. Found none. Add `LiveProbe()` to the "
                "callbacks."
            )
        rows, classes = classes_of(student.labels, self._labels.to(student.labels.device))
        states = states[rows]
        self._seen.append((states.detach(), classes))
        (probe,) = self._probe
        weight, bias = (p.detach().to(states) for p in (probe.weight, probe.bias))
        scores = F.linear(reverse_gradient(states, self._strength), weight, bias)
        return mean_or_zero(F.cross_entropy(scores, classes, reduction="none"))


def classes_of(labels: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Rows whose label is among the ``known`` ones, and the place of each there.

    Args:
        labels: ``[N]``.
        known: In ascending order, ``[K]``.

    Example:
        >>> classes_of(torch.tensor([7, 5, 3]), torch.tensor([3, 7]))
        (tensor([0, 2]), tensor([1, 0]))
    """
    place = torch.searchsorted(known, labels).clamp_max(len(known) - 1)
    rows = (known[place] == labels).nonzero()[:, 0]
    return rows, place[rows]
