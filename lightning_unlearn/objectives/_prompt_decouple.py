from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.settings import check_kind, check_not_negative
from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.objectives._pairs import forget_and_keep, need_pair
from lightning_unlearn.prediction import Likelihood, Prediction


class PromptDecouple(Objective):
    r"""Prompt decoupling: forget the answer, not the form of the question.

    .. math:: L_f + w \, \mathrm{CE}(y_d \,|\, x_d)

    :math:`L_f` is ``objective`` on what must go. Its companion is the same question about something harmless, with its
    normal answer. Without it a network learns to refuse every question of that form; :class:`RefusalRate` on such
    questions measures that. The authors decouple a harmful text from a harmful image. Our analogue for text alone
    decouples the form of a question from the entity it is about.

    Needs ``readout=PairedReadout()``, and :class:`PairedData` with :class:`DecoupledQuestion` as the forget data. The
    retain loss is the fit's own.

    Args:
        objective: What forgetting minimises. The authors' ascent goes to minus infinity: put it in :class:`Bounded`.
        weight: Of the added term, not negative. At 0 this is ``objective``. The authors use 0.5 with ascent, 1 with
            refusals.

    Example:
        >>> import torch
        >>> from lightning_unlearn.objectives import GradientAscent
        >>> from lightning_unlearn.readouts import PairedPrediction
        >>> student = PairedPrediction(torch.zeros(2, 4), torch.tensor([1, 2]), torch.tensor([0, 1]), batch_size=2)
        >>> PromptDecouple(GradientAscent(), weight=0.5)(student)  # -log(4) / 2
        tensor(-0.6931)

    References:
        Chen et al., `SafeEraser <https://arxiv.org/abs/2502.12520>`_, 2025, and its public code.
    """

    def __init__(self, objective: Objective, weight: float = 0.5) -> None:
        super().__init__()
        check_kind("objective", objective, Objective, example="NPO()")
        check_not_negative("weight", weight)
        self.objective = objective
        self.weight = weight
        self.needs_reference = objective.needs_reference
        self.needs_reference_logits = objective.needs_reference_logits

    @override
    def forward(self, student: Prediction, reference: Likelihood | None = None) -> Tensor:
        need_pair(self, student, "DecoupledQuestion(retain)")
        loss = forget_and_keep(self.objective, student, reference)
        return loss.forget + self.weight * loss.companion
