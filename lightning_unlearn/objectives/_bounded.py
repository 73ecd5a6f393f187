from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from lightning_unlearn.functional.settings import check_kind, check_positive
from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.prediction import Likelihood


class Bounded(Objective):
    r"""Stop an objective that goes to minus infinity once it has passed ``-bound``: GS-LoRA's bounded cross-entropy.

    .. math:: \max(0, \; L + \mathrm{bound})

    For :class:`GradientAscent` this is :math:`\max(0, \mathrm{bound} - \mathrm{CE})`: nothing pushes any more once the
    loss of the forget batch is above ``bound``. The gradient there is exactly zero, not small; an optimizer with momentum
    still moves on for a few steps. The mean over the batch is bounded, not each row.

    Args:
        objective: What is minimised until then.
        bound: Positive, in the units of ``objective``. For ascent on plain cross-entropy, ``log(V)`` nats is what
            guessing among ``V`` classes or tokens costs.

    Example:
        >>> import torch
        >>> from lightning_unlearn import GradientAscent, Prediction
        >>> prediction = Prediction(torch.zeros(2, 4), torch.tensor([1, 2]), torch.tensor([0, 1]), batch_size=2)
        >>> Bounded(GradientAscent(), bound=2.0)(prediction)
        tensor(0.6137)
        >>> Bounded(GradientAscent(), bound=1.0)(prediction)
        tensor(0.)

    References:
        Zhao et al., `Continual Forgetting for Pre-trained Vision Models <https://arxiv.org/abs/2403.11530>`_ (GS-LoRA),
        2024, for cross-entropy; any other objective is ours.
    """

    def __init__(self, objective: Objective, bound: float) -> None:
        super().__init__()
        check_kind("objective", objective, Objective, example="GradientAscent()")
        check_positive("bound", bound, why=": the objective stops at minus it")
        self.objective = objective
        self.bound = bound
        self.needs_reference = objective.needs_reference
        self.needs_reference_logits = objective.needs_reference_logits
        self.needs_logits = objective.needs_logits
        self.needs_only_mean = objective.needs_only_mean

    @override
    def forward(self, student: Likelihood, reference: Likelihood | None = None) -> Tensor:
        loss: Tensor = self.objective(student, reference)
        # A batch without supervised rows has loss 0, not `bound`: it would raise the logged mean and has no gradient.
        return F.relu(loss + self.bound) if student.example.numel() else loss
