from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from lightning_unlearn.prediction import Likelihood, Prediction


class Objective(nn.Module, ABC):
    """What forgetting, or retaining, minimises: a scalar of what the network said.

    A new objective is a subclass with a ``forward``; YAML builds it by its ``class_path``, wherever it lives.

    Attributes:
        needs_reference: Whether ``forward`` wants to know how likely the *original* model found the labels.
        needs_reference_logits: Whether it wants the original model's whole distribution. Cached likelihoods do not
            suffice then: an adapter that can be switched off, or a frozen copy, is used.

    Example:
        >>> import torch
        >>> class Confidence(Objective):
        ...     def forward(self, student, reference=None):
        ...         return student.logits.softmax(-1).amax(-1).mean()
        >>> Confidence()(Prediction(torch.zeros(2, 4), torch.tensor([0, 1]), torch.tensor([0, 1]), 2))
        tensor(0.2500)
    """

    needs_reference: ClassVar[bool] = False
    needs_reference_logits: ClassVar[bool] = False

    @abstractmethod
    def forward(self, student: Prediction, reference: Likelihood | None = None) -> Tensor:
        """Compute the loss.

        Args:
            student: What the network in training said.
            reference: What the original model said of the same rows, if :attr:`needs_reference`.

        Returns:
            A scalar ``[]``, smaller when the objective is met better; a finite zero with a graph if the batch has no
            supervised row.
        """
