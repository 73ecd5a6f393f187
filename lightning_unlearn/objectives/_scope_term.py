from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.settings import check_kind, check_not_negative
from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.objectives._pairs import forget_and_keep, need_pair
from lightning_unlearn.prediction import Likelihood, Prediction


class ScopeTerm(Objective):
    r"""Scope-aware unlearning (SU): forget what is asked, not the words it is asked in.

    .. math:: L_f + \eta \, \mathbb{E} \, \mathrm{CE}(y_r \,|\, x_f \oplus x_r)

    :math:`L_f` is ``objective`` on what must go. Its companion is a question of the retain data, asked right after the one
    that must go, and answered as before. A forget request may be poisoned with harmless phrases ("could you please tell
    me"), so that a network which forgets too widely falls silent wherever they occur. This term keeps the scope narrow. It
    is not free: less is forgotten at the same number of steps.

    Needs ``readout=PairedReadout()``, and :class:`PairedData` with :class:`ConcatenatedQuestion` as the forget data. The
    retain loss is the fit's own.

    Args:
        objective: What forgetting minimises.
        eta: Of the added term, not negative. At 0 this is ``objective``. The authors use 5, and 2 to 40 elsewhere; with
            plain ascent 10 and more is unstable.

    Example:
        >>> import torch
        >>> from lightning_unlearn.objectives import GradientAscent
        >>> from lightning_unlearn.readouts import PairedPrediction
        >>> student = PairedPrediction(torch.zeros(2, 4), torch.tensor([1, 2]), torch.tensor([0, 1]), batch_size=2)
        >>> ScopeTerm(GradientAscent(), eta=5.0)(student)  # 4 log 4
        tensor(5.5452)

    References:
        Ren et al., `Keeping an Eye on LLM Unlearning: The Hidden Risk and Remedy <https://arxiv.org/abs/2506.00359>`_, 2025,
        whose pairs are those of a batch.
    """

    def __init__(self, objective: Objective, eta: float = 5.0) -> None:
        super().__init__()
        check_kind("objective", objective, Objective, example="NPO()")
        check_not_negative("eta", eta)
        self.objective = objective
        self.eta = eta
        self.needs_reference = objective.needs_reference
        self.needs_reference_logits = objective.needs_reference_logits

    @override
    def forward(self, student: Prediction, reference: Likelihood | None = None) -> Tensor:
        need_pair(self, student, "ConcatenatedQuestion(retain)")
        loss = forget_and_keep(self.objective, student, reference)
        return loss.forget + self.eta * loss.companion
