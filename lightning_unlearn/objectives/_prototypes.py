from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from lightning_unlearn.functional.divergence import kl_divergence
from lightning_unlearn.functional.likelihood import mean_or_zero
from lightning_unlearn.functional.settings import check_positive
from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.objectives._growing import fit_sizes
from lightning_unlearn.objectives._states import need_states
from lightning_unlearn.prediction import Likelihood, Prediction


class PrototypeObjective(Objective):
    r"""How far embeddings are from the prototype of their class: the mean embedding that it had in the original network.

    .. math:: D = \frac{1}{N} \sum_i \mathrm{KL}\bigl(\mathrm{softmax}(p_{y_i}) \,\|\, \mathrm{softmax}(e_i)\bigr)

    Prototypes are found by :class:`FindPrototypes`, once, before the first step, and are in the checkpoint. Rows of a class
    that has none do not count.

    Needs embeddings: ``readout=EmbeddingReadout()`` for a classifier, :class:`HiddenStateReadout` for a language model,
    where the class is a token.

    Attributes:
        prototypes: ``[C, D]``, in the order of ``classes``.
        classes: Class ids, ascending, ``[C]`` int64.
    """

    prototypes: Tensor
    classes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.clear()

    def aim(self, prototypes: Tensor, classes: Tensor) -> None:
        """Measure from these prototypes ``[C, D]`` of ``classes [C]``, ascending."""
        self.register_buffer("prototypes", prototypes.detach().clone())
        self.register_buffer("classes", classes.detach().clone())

    def clear(self) -> None:
        """Have no prototypes, as a new one."""
        self.aim(torch.empty(0, 0), torch.empty(0, dtype=torch.int64))

    @property
    def is_aimed(self) -> bool:
        """Whether it has prototypes."""
        return self.classes.numel() > 0

    def distance(self, student: Prediction) -> Tensor:
        """:math:`D`, ``[]``."""
        states = need_states(self, student)
        if not self.is_aimed:
            raise ValueError(
                f"`{type(self).__name__}` should know the prototypes of classes. Found none. Add `FindPrototypes()` to the "
                "callbacks, or call `aim`."
            )
        if states.shape[1] != self.prototypes.shape[1]:
            raise ValueError(
                f"`{type(self).__name__}` should see embeddings as wide as its prototypes, {self.prototypes.shape[1]}. "
                f"Found {states.shape[1]}: are these of another layer?"
            )
        place = torch.searchsorted(self.classes, student.labels).clamp_max(len(self.classes) - 1)
        known = self.classes[place] == student.labels
        rows = kl_divergence(states, self.prototypes[place].to(states))
        return mean_or_zero(rows[known])

    @abstractmethod
    @override
    def forward(self, student: Prediction, reference: Likelihood | None = None) -> Tensor:
        """What is made of the distance."""

    @override
    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        fit_sizes(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


class PrototypePush(PrototypeObjective):
    r"""Push embeddings of what must go away from the prototypes of their classes, up to a bound.

    .. math:: \max(0, \; b - D)

    with :math:`D` of :class:`PrototypeObjective`. Beyond the bound the gradient is exactly zero. It is zero as well where an
    embedding is its own prototype, as that of a class of one example: :class:`FindPrototypes` warns of these. It stands
    beside a loss on labels, in a second :class:`Unlearn`.

    Args:
        bound: :math:`b`, in nats. Published: 18 to 50, for embeddings of 512 dimensions that are not normalised.

    Example:
        >>> label = torch.tensor([0])
        >>> objective = PrototypePush(bound=1.0)
        >>> objective.aim(torch.zeros(1, 2), torch.tensor([0]))
        >>> objective(Prediction(torch.zeros(1, 0), label, label, batch_size=1, features=torch.zeros(1, 2)))
        tensor(1.)

    References:
        Zhao et al., `Practical Continual Forgetting for Pre-trained Vision Models <https://arxiv.org/abs/2501.09705>`_
        (GS-LoRA++), 2025, by its code: of embeddings, where the paper has logits.
    """

    def __init__(self, bound: float) -> None:
        super().__init__()
        check_positive("bound", bound)
        self.bound = bound

    @override
    def forward(self, student: Prediction, reference: Likelihood | None = None) -> Tensor:
        distance = self.distance(student)
        # A batch without supervised rows has loss 0, not `bound`, as of `Bounded`.
        return F.relu(self.bound - distance) if student.example.numel() else distance

    @override
    def __repr__(self) -> str:
        return f"PrototypePush(bound={self.bound})"


class PrototypePull(PrototypeObjective):
    """Pull embeddings of what must stay to the prototypes of their classes: the distance of :class:`PrototypeObjective`.

    As the ``retain`` of :class:`UnlearningModule`, with ``retain_readout=EmbeddingReadout()``.

    Example:
        >>> label = torch.tensor([0])
        >>> objective = PrototypePull()
        >>> objective.aim(torch.zeros(1, 2), torch.tensor([0]))
        >>> objective(Prediction(torch.zeros(1, 0), label, label, batch_size=1, features=torch.zeros(1, 2)))
        tensor(0.)

    References:
        As :class:`PrototypePush`.
    """

    @override
    def forward(self, student: Prediction, reference: Likelihood | None = None) -> Tensor:
        return self.distance(student)

    @override
    def __repr__(self) -> str:
        return "PrototypePull()"
